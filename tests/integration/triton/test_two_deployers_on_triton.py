"""The model-based test of tests/faults on a real Triton, which is killed and started again; MLflow, S3 and time stay fakes.

REAL_TRITON_EXAMPLES and REAL_TRITON_SEED make it longer and different.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from ml_code.triton_deploy.clients.triton import GrpcTriton, Inference
from ml_code.triton_deploy.errors import DeployError
from stack import Stack
from tests.support.fakes import fake_store, ones
from tests.support.faults.figures import record
from tests.support.faults.two_deployers import TwoDeployers
from tests.support.world import MODEL

pytestmark = [pytest.mark.integration, pytest.mark.soak]

EXAMPLES = int(os.environ.get("REAL_TRITON_EXAMPLES", "40"))
SEED = int(os.environ.get("REAL_TRITON_SEED", "1"))
STEPS = 60
"""Steps of one example."""
PATIENCE_S = 60.0
"""What the fake does at once takes a busy machine its time: shorter deadlines are prolonged to this."""


class AskedTriton(GrpcTriton):
    """A real Triton whose clients ask the public name after everything that is done to it; refuses what ``fail`` names."""

    def __init__(self, url: str, seen: Callable[[tuple[int, float] | None], None]) -> None:
        super().__init__(url, PATIENCE_S)
        self._seen = seen
        self.fail: dict[str, Exception] = {}

    def load(self, model: str, timeout_s: float, config: str | None = None) -> None:
        try:
            self._refuse("load", model)
            super().load(model, max(timeout_s, PATIENCE_S), config)
        finally:
            self._seen(self.public())

    def unload(self, model: str, timeout_s: float) -> None:
        try:
            self._refuse("unload", model)
            super().unload(model, max(timeout_s, PATIENCE_S))
        finally:
            self._seen(self.public())

    def loaded(self) -> dict[str, tuple[int, ...]]:
        self._refuse("loaded", "")
        return super().loaded()

    def ready_versions(self, model: str) -> tuple[int, ...]:
        self._refuse("ready_versions", model)
        return super().loaded().get(model, ())

    def infer(
        self, model: str, inputs: Mapping[str, Any], timeout_s: float, version: int | None = None
    ) -> Inference:
        self._refuse("infer", model)
        return super().infer(model, inputs, max(timeout_s, PATIENCE_S), version)

    def public(self) -> tuple[int, float] | None:
        """What a client gets: the version and its answer to 1, or None for an error."""
        try:
            answer = GrpcTriton.infer(self, MODEL, ones(), PATIENCE_S)
        except DeployError:
            return None
        return answer.version, float(answer.outputs["y"][0, 0])

    def empty(self) -> None:
        """Unload everything."""
        for model in GrpcTriton.loaded(self):
            GrpcTriton.unload(self, model, PATIENCE_S)

    def _refuse(self, operation: str, model: str) -> None:
        error = self.fail.get(f"{operation} {model}") or self.fail.get(operation)
        if error is not None:
            raise error


class TwoDeployersOnTriton(TwoDeployers):
    stack: ClassVar[Stack]
    restarts: ClassVar[int] = 0
    triton: AskedTriton

    def __init__(self) -> None:
        super().__init__()
        shutil.rmtree(self.world.root)
        self.world.root = root = self.stack.model_repository
        self.world.settings = replace(self.world.settings, repository=root)
        self.model = root / MODEL
        self.triton = AskedTriton(self.stack.url("triton-grpc"), self._client_saw)
        self.world.triton = self.triton

    def teardown(self) -> None:
        try:
            if not self.violations:
                self._settle()
        finally:
            # Triton first: it can't unload what it does not find any more.
            self.triton.empty()
            for path in self.world.root.iterdir():
                shutil.rmtree(path)

    def _restart(self, what: str) -> None:
        self.disturbed = True
        type(self).restarts += 1
        # Before that supervisord takes it for a start that failed, and gives up after a few.
        while self.stack.states()["triton"].state != "RUNNING":
            time.sleep(0.05)
        self.stack.kill("triton")
        self.stack.wait_ready("triton")
        self._until_reached()
        # Its command line loads everything.
        if what != "everything":
            self.triton.empty()
        if what == "the public name" and (self.model / "config.pbtxt").is_file():
            with_refusals, self.triton.fail = self.triton.fail, {}
            try:
                self.triton.load(MODEL, PATIENCE_S)
            except DeployError:
                self.violations.append("a Triton that was restarted does not serve")
            finally:
                self.triton.fail = with_refusals

    def _until_reached(self) -> None:
        while True:
            try:
                GrpcTriton.loaded(self.triton)
                return
            except DeployError:
                continue


@pytest.fixture
def one_triton(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    """A Triton of its own. Nothing here loses power: what fsync does is not looked at, only that a process may die at it."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    with Stack(tmp_path_factory.mktemp("triton"), ["triton"]) as stack:
        yield stack


@pytest.mark.timeout(3600)
def test_two_deployers_and_every_accident_on_a_real_triton(one_triton: Stack) -> None:
    machine = seed(SEED)(TwoDeployersOnTriton)
    machine.stack = one_triton
    with fake_store() as store:
        machine.store = store
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.generate],
                report_multiple_bugs=False,
            ),
        )
    record(
        "concurrency",
        "two deployers and every accident, on a real Triton",
        {
            "seed": SEED,
            "steps": machine.steps,
            "restarts_of_triton": machine.restarts,
            "violations": 0,
            "outcomes": machine.outcomes,
        },
    )
