"""Held-out rows that somebody replaced in the artifact store: whoever can write artifacts, and no tags, promotes nothing."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable

import numpy as np
import pytest
import requests

from ml_code.gate.__main__ import EXIT_KEPT, main
from ml_code.training.heldout import ARTIFACT_PATH, DIGEST_TAG, HeldOut
from ml_code.triton_deploy.clients.mlflow_board import MlflowBoard
from ml_code.triton_deploy.deploy.deployer import Deployer
from ml_code.triton_deploy.deploy.request import DeployRequest
from ml_code.triton_deploy.settings import Settings
from stack import Stack
from tests.support.labelled import BAD, GOOD, classifier, labelled
from tests.support.servers.publisher import Publisher

pytestmark = [pytest.mark.integration, pytest.mark.soak]

Says = Callable[..., tuple[int, str]]


class Shelf:
    """A model of MLflow whose versions have held-out rows, and the gate on it.

    Args:
        stack: MLflow, S3 and Triton.
    """

    def __init__(self, stack: Stack) -> None:
        self.model = f"m_{uuid.uuid4().hex[:12]}"
        self.settings = Settings.from_env(stack.environment)
        self._publisher = Publisher(stack.environment)
        self._api = f"{stack.environment['MLFLOW_TRACKING_URI']}/api/2.0/mlflow"

    def version(self, weights: object, rows: HeldOut, *, pinned: bool = True) -> int:
        """Register a version with its rows, as training does; unpinned as earlier code did."""
        version = self._publisher.publish(self.model, {"model.onnx": classifier(weights).SerializeToString()})
        self.put(version, rows)
        if pinned:
            digest = hashlib.sha256(rows.to_bytes()).hexdigest()
            body = {"run_id": self._run(version), "key": DIGEST_TAG, "value": digest}
            requests.post(f"{self._api}/runs/set-tag", json=body, timeout=30).raise_for_status()
        return version

    def put(self, version: int, rows: HeldOut) -> None:
        """Write a version's rows into S3, whatever was there."""
        answer = requests.get(f"{self._api}/runs/get", params={"run_id": self._run(version)}, timeout=30)
        root = answer.json()["run"]["info"]["artifact_uri"]
        self._publisher._put(f"{root}/{ARTIFACT_PATH}", rows.to_bytes())

    def _run(self, version: int) -> str:
        return MlflowBoard(self.settings).versions(self.model)[version].origin.run_id


@pytest.fixture
def shelf(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    """Version 1, a good one, is live."""
    for name, value in stack.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GATE_MAX_LATENCY_RATIO", "0")
    monkeypatch.setenv("GATE_MAX_ECE_INCREASE", "1")
    found = Shelf(stack)
    found.version(GOOD, labelled(0, 1))
    Deployer(found.settings).deploy(DeployRequest(model=found.model, alias="A", deploy_id="d1"))
    return found


@pytest.fixture
def says(shelf: Shelf, capsys: pytest.CaptureFixture[str]) -> Says:
    def of(version: int, rules: str = "{}") -> tuple[int, str]:
        code = main([shelf.model, str(version), "--rules", rules])
        done = capsys.readouterr()
        print(f"exit code {code}: {done.out}{done.err}")
        return code, done.out + done.err

    return of


FORGED = labelled(1, 2)
"""Rows by which a bad model is good."""


def test_replaced_rows_decide_nothing(shelf: Shelf, says: Says) -> None:
    """Before: a much worse version was promoted, exit code 0."""
    version = shelf.version(BAD, labelled(0, 3))
    assert says(version)[0] == EXIT_KEPT
    shelf.put(version, FORGED)
    code, said = says(version)
    assert code == 4
    assert "are not those that training recorded" in said


def test_a_legacy_version_is_judged_by_the_champions_rows_as_well(shelf: Shelf, says: Says) -> None:
    version = shelf.version(BAD, FORGED, pinned=False)
    code, said = says(version)
    assert code == EXIT_KEPT
    assert "on the champion's own held-out rows log_loss worsens by" in said
    assert "training recorded no digest of the held-out rows" in said
    assert says(version, '{"champion_rows": "note"}')[0] == 0
    good = shelf.version([[-9.0, 9.0], [0.0, 0.0]], labelled(0, 5), pinned=False)
    assert says(good)[0] == 0
    assert says(good, '{"unpinned_rows": "refuse"}')[0] == EXIT_KEPT


def test_a_champion_whose_rows_were_replaced_has_no_say_with_them(
    shelf: Shelf, says: Says, caplog: pytest.LogCaptureFixture
) -> None:
    shelf.put(1, FORGED)
    better = shelf.version([[-9.0, 9.0], [0.0, 0.0]], labelled(0, 4))
    code, said = says(better)
    assert code == 0
    assert "no held-out rows that can be used" in said
    assert "the held-out rows of the live version can't be used" in caplog.text


def test_other_labels_of_known_inputs_refuse_rows_that_nobody_pinned(shelf: Shelf, says: Says) -> None:
    theirs = labelled(0, 1)
    target = theirs.target.copy()
    target[:40] = 1 - target[:40]
    version = shelf.version(GOOD, HeldOut(theirs.inputs, np.asarray(target), "classification"), pinned=False)
    code, said = says(version)
    assert code == EXIT_KEPT
    assert "40 held-out rows are also held out by the champion's run, with another target" in said
