"""A candidate that ends the Triton that loads or runs it: one Triton at most meets it, and nobody takes the same bytes again unasked."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ml_code.triton_deploy.clients.triton.lifeline import Life
from ml_code.triton_deploy.deploy import failures
from ml_code.triton_deploy.deploy.boot import booted_at
from ml_code.triton_deploy.deploy.request import RevertRequest
from ml_code.triton_deploy.errors import EndedTriton, Quarantined, Unavailable
from ml_code.triton_deploy.repository import ModelFolder
from ml_code.triton_deploy.rules.deployment import State
from ml_code.triton_deploy.upkeep.reconcile import Reconciler
from tests.support.fakes import FakeTriton, unavailable
from tests.support.world import MODEL, World

CANDIDATE = "best_model.v2"


@pytest.fixture(autouse=True)
def booted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything that happens here."""
    monkeypatch.setattr(failures, "booted_at", lambda: datetime(2025, 1, 1, tzinfo=UTC))


@pytest.fixture
def two(world: World) -> list[FakeTriton]:
    """Two Tritons that serve version 1; version 2 is registered."""
    tritons = [FakeTriton(world.root, f"fake:{number}") for number in (1, 2)]
    world.register_times(1)
    world.deployer(tritons=tritons).deploy(world.request("d1"))
    world.register_times(2)
    return tritons


def ends_at(tritons: list[FakeTriton], call: str) -> None:
    for triton in tritons:
        triton.ends_at = {call: math.inf}


def begin(world: World, tritons: list[FakeTriton], *steps: str) -> None:
    """Run so many steps of a deploy of version 2, whose worker does nothing more."""
    deployer = world.deployer(tritons=tritons)
    deployer.snapshot(world.request("d2"))
    for step in steps:
        getattr(deployer, step)(MODEL, "d2")


def live_everywhere(world: World, tritons: list[FakeTriton]) -> None:
    for triton in tritons:
        triton.ends_at = {}
        assert triton.ready_versions(MODEL) == (1,)
        assert CANDIDATE not in triton.loaded()
    assert world.engines == {"best_model.v1"}
    assert json.loads(world.current or "")["active_version"] == 1


@pytest.mark.parametrize(
    ("call", "step"),
    [
        (f"load {CANDIDATE}", "load"),
        (f"infer {CANDIDATE}", "load"),
        (f"load {MODEL}", "commit"),
        (f"infer {MODEL}", "commit"),
    ],
)
def test_one_triton_ends_and_the_model_is_suspected(
    world: World, two: list[FakeTriton], call: str, step: str
) -> None:
    ends_at(two, call)
    with pytest.raises(EndedTriton, match=r"fake:1 ended while .* A restart by hand .* --force"):
        world.deployer(tritons=two).deploy(world.request("d2"))
    assert [triton.starts for triton in two] == [2, 1], "the second one never met it"
    live_everywhere(world, two)
    record = world.folder.journal.get("d2")
    assert record.state is State.ROLLED_BACK
    assert record.failure is not None
    assert (record.failure.step, record.failure.kind) == (step, "ended_triton")
    assert record.failure.suspect
    assert json.loads((world.root / MODEL / record.quarantine / "failure.json").read_text())["suspect"]
    with pytest.raises(Quarantined, match="restart by hand"):
        world.deployer(tritons=two).deploy(world.request("d3"))
    taken = world.deployer(tritons=two).deploy(world.request("d4", force=True))
    assert taken.state is State.COMMITTED


def test_one_that_ends_at_a_later_request_ends_one_triton(world: World, two: list[FakeTriton]) -> None:
    real = two[0].infer
    asked = []

    def infer(model: str, *args: object, **kwargs: object) -> object:
        asked.append(model)
        if asked.count(CANDIDATE) == 9:
            two[0].ends_at = {f"infer {CANDIDATE}": 1}
        return real(model, *args, **kwargs)  # type: ignore[arg-type]

    two[0].infer = infer  # type: ignore[assignment, method-assign]
    with pytest.raises(EndedTriton):
        world.deployer(tritons=two).deploy(world.request("d2"))
    assert two[1].starts == 1
    assert f"infer {CANDIDATE}" not in two[1].calls


def test_clients_of_one_triton_meet_a_version_before_those_of_the_rest(
    world: World, two: list[FakeTriton]
) -> None:
    """What a client sends ends it, and no golden input does."""
    second: list[tuple[int, ...]] = []

    def a_client_asks(seconds: float) -> None:
        if seconds == 7.0:
            second.append(two[1].ready_versions(MODEL))
            two[0].restart_with_all()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ml_code.triton_deploy.fleet.fleet.time.sleep", a_client_asks)
        with pytest.raises(EndedTriton):
            world.deployer(tritons=two, triton__settle_s=7.0).deploy(world.request("d2"))
    assert second == [(1,)]
    assert two[1].starts == 1
    live_everywhere(world, two)


def test_a_version_that_clients_have_met_is_flipped_to_at_once(world: World, two: list[FakeTriton]) -> None:
    world.deployer(tritons=two).deploy(world.request("d2"))
    with pytest.MonkeyPatch.context() as patch:
        slept: list[float] = []
        patch.setattr("ml_code.triton_deploy.fleet.fleet.time.sleep", slept.append)
        deployer = world.deployer(tritons=two, triton__settle_s=7.0)
        deployer.revert(RevertRequest(model=MODEL, deploy_id="r1", actor="me"))
    assert 7.0 not in slept


def test_a_triton_that_is_still_away_keeps_no_rollback_waiting(world: World, two: list[FakeTriton]) -> None:
    """It ended at the flip: when it is back it serves what the files say."""
    ends_at(two, f"infer {MODEL}")
    end = two[0].restart_with_all

    def gone() -> None:
        end()
        two[0].fail = dict.fromkeys(
            ("load", "unload", "loaded", "ready_versions", "infer", "lifeline"), unavailable()
        )

    two[0].restart_with_all = gone  # type: ignore[method-assign]
    with pytest.raises(EndedTriton):
        world.deployer(tritons=two).deploy(world.request("d2"))
    assert world.folder.journal.get("d2").state is State.ROLLED_BACK
    two[0].fail = {}
    live_everywhere(world, two)


def test_a_triton_that_says_that_it_goes_blames_nobody(
    world: World, two: list[FakeTriton], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.support import fakes

    monkeypatch.setattr(fakes.FakeLifeline, "look", lambda self: Life.LEFT)
    with pytest.raises(Unavailable, match="was stopped by somebody"):
        world.deployer(tritons=two).deploy(world.request("d2"))
    record = world.folder.journal.get("d2")
    assert record.failure is not None
    assert not record.failure.blames_artifact


def test_a_restart_at_any_moment_loads_nothing_that_clients_do_not_get(
    world: World, two: list[FakeTriton]
) -> None:
    deployer = world.deployer(tritons=two)
    deployer.snapshot(world.request("d2"))
    for step in (deployer.materialize, deployer.load, deployer.ready, deployer.smoke):
        step(MODEL, "d2")
        two[1].restart_with_all()
        assert two[1].loaded() == {MODEL: (1,), "best_model.v1": (1,)}
        two[1].load(CANDIDATE, 1, two_config(world)) if step != deployer.materialize else None
    deployer.commit(MODEL, "d2")
    two[1].restart_with_all()
    assert two[1].ready_versions(MODEL) == (2,)
    assert {path.name for path in world.root.glob("best_model.v2/*")} == {"2", "config.pbtxt"}


def two_config(world: World) -> str:
    from ml_code.triton_deploy.model import model_config
    from ml_code.triton_deploy.rules.schema import Schema

    manifest = ModelFolder.at(world.root, MODEL).versions.require(2)
    return model_config.to_json(model_config.engine_config(MODEL, 2, Schema.from_dict(manifest.schema), {}))


def test_a_worker_that_died_over_a_candidate_that_ended_its_triton_tells_by_the_triton(
    world: World, two: list[FakeTriton]
) -> None:
    begin(world, two, "materialize", "load")
    two[0].restart_with_all()
    world.later(10_000)
    reconcile(world, two)
    failure = world.folder.journal.get("d2").failure
    assert failure is not None
    assert (failure.kind, failure.blames_artifact, failure.suspect) == ("crashed", True, True)
    assert "fake:1 was started anew" in failure.error
    with pytest.raises(Quarantined):
        world.deployer(tritons=two).deploy(world.request("d3"))


def test_a_power_cut_that_ended_both_blames_nobody(
    world: World, two: list[FakeTriton], monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(world, two, "materialize", "load")
    world.later(60)
    monkeypatch.setattr(failures, "booted_at", lambda now=world.now: now)
    for triton in two:
        triton.restart_with_all()
    world.later(10_000)
    reconcile(world, two)
    failure = world.folder.journal.get("d2").failure
    assert failure is not None
    assert not failure.blames_artifact


def test_this_machine_was_started_before_this_test() -> None:
    started = booted_at()
    assert started is not None
    assert datetime(2020, 1, 1, tzinfo=UTC) < started < datetime.now(UTC)


def test_a_worker_that_died_while_its_triton_lived_blames_nobody(world: World, two: list[FakeTriton]) -> None:
    begin(world, two, "materialize", "load")
    world.later(10_000)
    reconcile(world, two)
    failure = world.folder.journal.get("d2").failure
    assert failure is not None
    assert not failure.blames_artifact


def reconcile(world: World, tritons: list[FakeTriton]) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    found = Reconciler(world.settings, tritons=tritons, clock=lambda: world.now).run(MODEL)
    return found.done, found.problems, found.under_way


def test_in_an_emergency_a_lease_in_force_does_not_count(world: World, two: list[FakeTriton]) -> None:
    begin(world, two, "materialize", "load")
    assert reconcile(world, two)[2] == "d2"
    two[0].restart()
    assert reconcile(world, two)[2] == "d2", "one of them serves"
    two[1].restart()
    done, problems, under_way = reconcile(world, two)
    assert (problems, under_way) == ((), "")
    assert "settle the abandoned deployment d2" in done
    live_everywhere(world, two)
    failure = world.folder.journal.get("d2").failure
    assert failure is not None
    assert failure.error.startswith("No Triton answered with the live version while this candidate")


def test_an_emergency_ends_no_deployment_that_clients_may_have_reached(
    world: World, two: list[FakeTriton]
) -> None:
    """Verified, it has loaded and answered: what is away now, it did not take away."""
    begin(world, two, "materialize", "load", "ready", "smoke")
    for triton in two:
        triton.restart()
    assert reconcile(world, two)[2] == "d2"


def test_what_hangs_in_a_triton_is_told_and_stays_listed(
    world: World, two: list[FakeTriton], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml_code.triton_deploy.upkeep.look.SETTLE_S", 0)
    real = two[0].load

    def hangs(model: str, timeout_s: float, config: str | None = None) -> None:
        if model == CANDIDATE:
            two[0]._states[model] = "LOADING"
            two[0].fail[f"unload {model}"] = unavailable()
            raise unavailable()
        real(model, timeout_s, config)

    # The unload before the load is let through.
    two[0].load = hangs  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        world.deployer(tritons=two).deploy(world.request("d2"))
    _, problems, _ = reconcile(world, two)
    assert problems == (
        "best_model.v2 on fake:1 is LOADING, and no deployment is under way: it computes there, or hangs. Restart that Triton",
    )
    note = Path(world.root / MODEL / "reconcile.json")
    Reconciler(world.settings, tritons=two, clock=lambda: world.now).run_all([MODEL])
    assert json.loads(note.read_text())["stuck"] == {"best_model.v2 on fake:1": "LOADING"}
    two[0].fail = {}
    two[0].load = real  # type: ignore[method-assign]
    two[0].restart_with_all()
    done, problems, _ = reconcile(world, two)
    assert (done, problems) == (("remove the engine of version 2",), ())
