"""The DAG that retrains, night after night, by a running scheduler: what is better is deployed, anything else changes nothing."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import pytest
import requests

from ml_code.gate.promotion import MlflowAliases
from ml_code.triton_deploy.clients.registry import MlflowRegistry
from ml_code.triton_deploy.deploy.deployer import Deployer
from ml_code.triton_deploy.deploy.request import DeployRequest
from ml_code.triton_deploy.errors import NotFound
from ml_code.triton_deploy.repository import ModelFolder
from ml_code.triton_deploy.settings import Settings
from stack import Stack
from tests.support.airflow.dag_copies import IMPATIENT, RETRAIN_DAG
from tests.support.airflow.runs import AirflowServer, Run
from tests.support.airflow.tables import DULL, SHARP
from tests.support.models import files, golden, times
from tests.support.servers.publisher import Publisher

pytestmark = [pytest.mark.integration, pytest.mark.timeout(3000)]

LIMIT_S = 900
OWN = ["train", "evaluate", "gate"]
DEPLOY = [
    "snapshot_current",
    "materialize_repo",
    "triton_load",
    "triton_ready",
    "triton_infer_smoke",
    "canary_release",
    "commit_current",
    "bake_release",
]
AFTER = ["deployed", "settle_alias", "retrained"]


class Model:
    """A model of one test, retrained by the session's Airflow."""

    def __init__(self, stack: Stack, server: AirflowServer) -> None:
        self.name = f"m_{uuid.uuid4().hex[:12]}"
        self.server = server
        self.settings = Settings.from_env(stack.environment)
        self.folder = ModelFolder.at(self.settings.repository_root, self.name)
        self._mlflow = f"{stack.url('mlflow')}/api/2.0/mlflow"

    def trigger(self, options: Mapping[str, Any] = SHARP, **conf: Any) -> str:
        return self.server.deploy(model=self.name, options=options, **conf)

    def night(self, options: Mapping[str, Any] = SHARP, **conf: Any) -> Run:
        return self.server.ended(self.trigger(options, **conf), LIMIT_S, pause_s=1)

    @property
    def aliases(self) -> Mapping[str, int]:
        return MlflowAliases(self.settings).named(self.name)

    @property
    def live(self) -> int | None:
        release = self.folder.releases.latest()
        return release.active_version if release else None

    @property
    def current(self) -> bytes:
        return (self.settings.repository_root / self.name / "current.json").read_bytes()

    def version(self, number: int) -> Mapping[str, Any]:
        params = {"name": self.name, "version": str(number)}
        answer = requests.get(f"{self._mlflow}/model-versions/get", params=params, timeout=30)
        found: Mapping[str, Any] = answer.json().get("model_version", {})
        return found

    def tags(self, number: int) -> Mapping[str, str]:
        return {tag["key"]: tag["value"] for tag in self.version(number).get("tags", [])}

    def run_metrics(self, number: int) -> Mapping[str, float]:
        run_id = self.version(number)["run_id"]
        answer = requests.get(f"{self._mlflow}/runs/get", params={"run_id": run_id}, timeout=30)
        return {metric["key"]: metric["value"] for metric in answer.json()["run"]["data"]["metrics"]}

    def run_files(self, number: int) -> set[str]:
        params = {"run_id": self.version(number)["run_id"], "path": "gate"}
        answer = requests.get(f"{self._mlflow}/artifacts/list", params=params, timeout=30)
        return {file["path"] for file in answer.json().get("files", [])}


@pytest.fixture(scope="module")
def server(stack_with_airflow: Stack) -> AirflowServer:
    server = AirflowServer(stack_with_airflow, RETRAIN_DAG)
    # It is created paused.
    server.pause(False)
    return server


@pytest.fixture
def model(stack_with_airflow: Stack, server: AirflowServer) -> Model:
    return Model(stack_with_airflow, server)


def went(run: Run, **others: str | None) -> dict[str, str | None]:
    """The states of a run whose every task did its part, but for ``others``."""
    usual = {**dict.fromkeys([*OWN, "promote", *DEPLOY, *AFTER], "success")}
    skipped = {"approve_promotion": "skipped", "rollback_minimal": "skipped"}
    # What a deploy has besides is skipped or done, whatever it is.
    besides = {name: run.tasks[name] for name in set(run.tasks) - {*usual, *skipped}}
    return {**usual, **skipped, **besides, **others}


def kept() -> dict[str, str]:
    """The states of the tasks behind a gate or an approval that let nothing through."""
    return dict.fromkeys(
        ["promote", *DEPLOY, "deployed", "rollback_minimal", "settle_alias", "retrained"], "skipped"
    )


@pytest.mark.soak
def test_three_nights(model: Model) -> None:
    before = model.night(DULL)
    assert (before.state, before.tasks) == ("success", went(before))
    assert "nothing serves yet" in model.server.result(before.run_id, "evaluate")["headline"]
    assert (model.live, model.aliases) == (1, {"A": 1})

    better = model.night(SHARP)
    assert (better.state, better.tasks) == ("success", went(better))
    assert (model.live, model.aliases) == (2, {"A": 2})
    release = model.folder.releases.latest()
    assert release is not None
    assert "log_loss improves by 0." in release.reason
    assert model.tags(2)["gate.verdict"] == "promote"
    measured = model.run_metrics(2)
    assert (
        0
        < measured["gate.improvement.low"]
        < measured["gate.improvement"]
        < measured["gate.improvement.high"]
    )
    assert measured["gate.champion.log_loss"] - measured["gate.challenger.log_loss"] == pytest.approx(
        measured["gate.improvement"]
    )
    assert model.run_files(2) == {"gate/verdict.json", "gate/verdict.md"}
    served = model.current

    worse = model.night(DULL)
    assert (worse.state, worse.tasks) == ("success", went(worse, **kept()))
    assert (model.current, model.aliases) == (served, {"A": 2})
    reason = model.server.result(worse.run_id, "evaluate")["headline"]
    assert reason.startswith(
        f"Do not promote version 3 of {model.name}, version 2 is kept: log_loss improves by -0."
    )
    assert reason in model.server.log(worse.run_id, "gate")
    assert model.tags(3)["gate.verdict"] == "keep"
    page = model.server.result(worse.run_id, "evaluate")["page"]
    assert "100% of them are known to be held out from version 2 too" in page

    broken = model.night(SHARP, trainer="broken_export")
    following = [*OWN[1:], "approve_promotion", "promote", *DEPLOY, "deployed", "retrained"]
    assert broken.state == "failed"
    states = dict.fromkeys(following, "upstream_failed")
    assert broken.tasks == went(
        broken, train="failed", **states, rollback_minimal="success", settle_alias="skipped"
    )
    assert "the ONNX export differs from the trained model" in model.server.log(broken.run_id, "train")
    assert "had not begun: nothing to roll back" in model.server.log(broken.run_id, "rollback_minimal")
    assert (model.current, model.aliases) == (served, {"A": 2})
    assert model.version(4) == {}


def test_an_alias_goes_back_when_its_version_can_not_be_deployed(stack: Stack, model: Model) -> None:
    """A model of other inputs passes a gate that does not insist on a comparison; clients of what serves would break."""
    Publisher(stack.environment).publish(model.name, files(times(1.0), triton__golden_json=golden(1.0)))
    Deployer(model.settings).deploy(DeployRequest(model=model.name, alias="A", deploy_id="before"))
    served = model.current
    run = model.night(SHARP, rules={"incomparable": "floor"})
    failed = dict.fromkeys([*DEPLOY[2:], "deployed", "retrained"], "upstream_failed")
    assert run.state == "failed"
    assert run.tasks == went(
        run, materialize_repo="failed", **failed, rollback_minimal="success", settle_alias="success"
    )
    decision = model.server.result(run.run_id, "evaluate")
    assert "what serves can't be compared" in decision["page"]
    assert model.server.result(run.run_id, "promote")["version"] == 2
    assert (
        f"Alias A of {model.name} named version 2, which does not serve: it names version 1 again"
        in model.server.log(run.run_id, "settle_alias")
    )
    assert (model.current, model.aliases) == (served, {"A": 1})


@pytest.mark.soak
def test_a_person_refuses_and_another_approves(model: Model) -> None:
    refused = model.trigger(approval=True)
    question = model.server.question(refused, "approve_promotion", LIMIT_S)
    assert question["subject"] == f"Promote version 1 of {model.name} to alias A, and deploy it?"
    assert "| log_loss (decides) | 0." in question["body"]
    assert model.aliases == {}
    model.server.answer(refused, "approve_promotion", "Reject")
    run = model.server.ended(refused, LIMIT_S, pause_s=1)
    assert (run.state, run.tasks) == ("success", went(run, approve_promotion="success", **kept()))
    assert (model.live, model.aliases) == (None, {})

    approved = model.trigger(approval=True)
    model.server.question(approved, "approve_promotion", LIMIT_S)
    model.server.answer(approved, "approve_promotion", "Approve")
    run = model.server.ended(approved, LIMIT_S, pause_s=1)
    assert (run.state, run.tasks) == ("success", went(run, approve_promotion="success"))
    assert (model.live, model.aliases) == (2, {"A": 2})


@pytest.mark.soak
def test_an_approval_that_nobody_gives_in_time_is_refused(stack_with_airflow: Stack) -> None:
    impatient = AirflowServer(stack_with_airflow, IMPATIENT)
    impatient.pause(False)
    model = Model(stack_with_airflow, impatient)
    run = model.night(approval=True)
    assert (run.state, run.tasks) == ("success", went(run, approve_promotion="success", **kept()))
    assert (model.live, model.aliases) == (None, {})


# The registry itself


def test_aliases_and_versions_of_a_real_registry(mlflow_stack: Stack) -> None:
    settings, publisher = Settings.from_env(mlflow_stack.environment), Publisher(mlflow_stack.environment)
    aliases, registry = MlflowAliases(settings), MlflowRegistry(settings)
    name = f"m_{uuid.uuid4().hex[:12]}"
    with pytest.raises(NotFound):
        aliases.named(name)
    first = publisher.publish(name, files(times(1.0)), alias=None)
    assert aliases.named(name) == {}
    aliases.point(name, "A", first)
    second = publisher.publish(name, files(times(2.0)), alias="B")
    assert aliases.named(name) == {"A": first, "B": second}
    assert registry.find(name, first) == registry.resolve(name, "A")
    assert registry.find(name, first) != registry.find(name, second)
    with pytest.raises(NotFound, match="not found"):
        registry.find(name, 3)
    aliases.point(name, "A", second)
    assert aliases.named(name) == {"A": second, "B": second}
    aliases.point(name, "B", None)
    assert aliases.named(name) == {"A": second}
