"""A canary in a running Airflow: the triggerer watches it, and whatever ends it ends the run as any failed step does."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from ml_code.triton_deploy.deploy.deployer import Deployer
from ml_code.triton_deploy.rules.canary import Exposure, exposure
from ml_code.triton_deploy.rules.deployment import State
from stack import Stack
from tests.support.airflow.models import ALL_WENT_WELL, Model, failed_at
from tests.support.airflow.runs import AirflowCommand, AirflowServer
from tests.support.waiting import await_value

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]


@pytest.fixture
def server(stack_with_airflow: Stack) -> AirflowServer:
    stack_with_airflow.start(["triggerer"])
    return AirflowServer(stack_with_airflow)


def exposed(model: Model) -> Exposure | None:
    """What gateways make of the record of the deploy d2 now."""
    return exposure(model.folder.journal.find("d2"), 1, datetime.now(UTC))


def held_for(model: Model) -> str:
    """What the canary of the deploy d2 waits for; empty while it does not."""
    record = model.folder.journal.find("d2")
    return record.canary.held_for if record and record.canary else ""


@pytest.mark.soak
def test_a_canary_that_goes_well_is_committed_also_in_a_command_of_ci(
    live: Model, airflow: AirflowCommand
) -> None:
    live.register()
    ended, run = airflow.deploy(
        model=live.name, deploy_id="d2", canary="5,50", canary_minutes=0.1, bake_minutes=0
    )
    assert (ended.code, run.tasks) == (0, ALL_WENT_WELL), ended.output
    record = live.folder.journal.get("d2")
    assert record.state is State.COMMITTED
    assert record.canary is not None
    assert (record.canary.step, record.canary.share_percent) == (2, 50)


def test_a_canary_waits_for_a_person_who_says_go_on_in_another_run(
    live: Model, server: AirflowServer, stack_with_airflow: Stack
) -> None:
    live.register()
    run_id = server.deploy(
        model=live.name, deploy_id="d2", canary="50,pause", canary_minutes=0.05, bake_minutes=0
    )
    await_value(lambda: held_for(live) or None, "the canary waits", limit_s=600)
    decide = AirflowServer(stack_with_airflow, "decide_canary")
    said = decide.deploy(model=live.name, decision="promote", reason="it looks well")
    assert decide.ended(said, limit_s=300).state == "success"
    assert "X-Model-Candidate" in decide.log(said, "decide")
    run = server.ended(run_id, limit_s=600)
    assert (run.state, run.tasks) == ("success", ALL_WENT_WELL)
    record = live.folder.journal.get("d2")
    assert record.state is State.COMMITTED
    assert record.canary is not None
    assert (record.canary.step, record.canary.share_percent) == (1, 50)
    assert f"airflow:{said} (it looks well) promoted it" in record.canary.unjudged[0], "no Prometheus is here"


@pytest.mark.soak
def test_a_canary_that_somebody_pauses_and_aborts_in_other_runs_ends_its_run(
    live: Model, server: AirflowServer, stack_with_airflow: Stack
) -> None:
    live.register()
    before = live.current
    decide = AirflowServer(stack_with_airflow, "decide_canary")

    def said(decision: str) -> tuple[str | None, str]:
        """How a run ended that says something of the canary, and its log."""
        run_id = decide.deploy(model=live.name, decision=decision, reason="it looks odd")
        return decide.ended(run_id, limit_s=300).state, decide.log(run_id, "decide")

    state, log = said("pause")
    assert state == "failed"
    assert f"No canary of {live.name} is under way" in log
    run_id = server.deploy(model=live.name, deploy_id="d2", canary="50", canary_minutes=30)
    await_value(lambda: exposed(live), "a share", limit_s=600)
    state, log = said("pause")
    assert state == "success", log
    await_value(lambda: held_for(live) or None, "the canary waits", limit_s=60)
    assert exposed(live), "it is watched on"
    state, log = said("status")
    assert "(it looks odd) paused it" in log, log
    state, log = said("resume")
    assert state == "success", log
    assert not held_for(live)
    state, log = said("abort")
    assert state == "success", log
    assert exposed(live) is None
    run = server.ended(run_id, limit_s=600)
    assert (run.state, run.tasks) == ("failed", failed_at("canary"))
    record = live.folder.journal.get("d2")
    assert record.state is State.ROLLED_BACK
    assert record.failure is not None
    assert (record.failure.kind, record.failure.blames_artifact) == ("canary_aborted", False)
    assert "(it looks odd) aborted the canary of version 2" in record.failure.error
    assert live.current == before


@pytest.mark.soak
def test_a_canary_that_somebody_rolls_back_fails_its_run(live: Model, server: AirflowServer) -> None:
    live.register()
    before = live.current
    run_id = server.deploy(model=live.name, deploy_id="d2", canary="50", canary_minutes=30)
    await_value(lambda: exposed(live), "a share", limit_s=600)
    await_value(
        lambda: server.run(run_id).tasks["canary_release"] == "deferred" or None,
        "the wait in the triggerer",
        limit_s=300,
    )
    Deployer(live.settings).rollback(live.name, "d2")
    assert exposed(live) is None
    run = server.ended(run_id, limit_s=600)
    assert (run.state, run.tasks) == ("failed", failed_at("canary"))
    assert live.state("d2") is State.ROLLED_BACK
    assert live.current == before
