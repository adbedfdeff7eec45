"""The main job end to end on real servers: two deploys, a rollback and a revert, without a failed request."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from . import Stack, StackError
from .airflow_api import AirflowApi
from .servers import DEPLOY_DAG, REPO
from .services.tritons import STAGING

MODEL = "best_model"
ALIAS = "A"
REVERT_DAG = "revert_triton"
RUN_TIMEOUT_S = 120
PAUSE_S = 0.01
"""Between two requests of the client that keeps calling."""


def main(argv: Sequence[str] = ()) -> int:
    """Run the demo; returns 0 when every step did what it should."""
    if argv:
        print("usage: python -m stack demo", file=sys.stderr)
        return 2
    state_dir = REPO / ".stack" / "demo"
    step = Steps()
    # Fresh, so that MLflow numbers the versions from 1.
    stack = Stack(state_dir, report=lambda line: print(f"    {line}", flush=True), fresh=True)
    try:
        with step("start S3, MLflow, Triton, a staging Triton and Airflow"):
            stack.start(["s3", "postgres", "mlflow", "triton", STAGING, "airflow"])
        os.environ.update(stack.environment)
        Demo(stack, step).run()
    except Exception as error:
        what = str(error) if isinstance(error, StackError) else f"{type(error).__name__}: {error}"
        print(f"\nFAILED at: {step.current}\n{what}\nlogs: {state_dir / 'logs'}", file=sys.stderr)
        return 1
    finally:
        print("stopping everything ...", flush=True)
        stack.stop()
    print(f"done; what was written stays in {state_dir.relative_to(REPO)} until the next demo")
    print(
        "Next: `make up` starts the same servers and leaves them running, with a login for each. docs/tutorial.md goes on from there."
    )
    return 0


class Steps:
    """Prints and times each step, and remembers the running one."""

    def __init__(self) -> None:
        self.current = ""
        self._number = 0

    @contextlib.contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        """Run the block as the step ``what``."""
        self._number += 1
        self.current = what
        print(f"[{self._number}] {what} ...", flush=True)
        started = time.monotonic()
        yield
        print(f"    {time.monotonic() - started:.1f} s", flush=True)


@dataclass
class Client:
    """A client that sends requests to the public name from ``start`` to ``stop``."""

    url: str
    inputs: dict[str, Any]
    answers: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest_s: float = 0.0

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def start(self) -> None:
        """Start to send requests."""
        self._thread.start()

    def stop(self) -> None:
        """Stop, and return after the last answer."""
        self._stop.set()
        self._thread.join(timeout=60)

    def version_now(self) -> str:
        """Send one request, and return the version that answered."""
        from tritonclient.grpc import InferenceServerClient

        with contextlib.closing(InferenceServerClient(self.url)) as triton:
            return self._infer(triton)

    def _ask(self) -> None:
        from tritonclient.grpc import InferenceServerClient

        with contextlib.closing(InferenceServerClient(self.url)) as triton:
            while not self._stop.wait(PAUSE_S):
                started = time.perf_counter()
                try:
                    self.answers[self._infer(triton)] += 1
                except Exception as error:  # every kind of error counts: a client saw it
                    self.failures.append(f"{type(error).__name__}: {error}")
                self.slowest_s = max(self.slowest_s, time.perf_counter() - started)

    def _infer(self, triton: Any) -> str:
        from tritonclient.grpc import InferInput
        from tritonclient.utils import np_to_triton_dtype

        tensors = []
        for name, array in self.inputs.items():
            tensor = InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
            tensor.set_data_from_numpy(array)
            tensors.append(tensor)
        return str(triton.infer(MODEL, tensors, client_timeout=30).get_response().model_version)


class Demo:
    """Deploys two versions, fails to deploy a broken one, reverts, and shows that no request failed."""

    def __init__(self, stack: Stack, step: Steps) -> None:
        self._stack = stack
        self._step = step
        self._airflow = AirflowApi(stack.url("airflow"), stack.airflow_login)
        self._folder = stack.model_repository / MODEL
        self._rows: list[tuple[str, ...]] = []

    def run(self) -> None:
        """Run all steps; StackError at the first unexpected result."""
        with self._step("train two versions of a classifier and register them in MLflow"):
            trained = self._train()
        client = Client(self._stack.url("triton-grpc"), trained.inputs)
        with self._step(f"deploy alias {ALIAS}, which is version 1, through Airflow"):
            self._deploy("success", live=1)
            _expect(client.version_now() == "1", "clients do not get version 1")
            print("    clients get version 1; one of them keeps asking from here on", flush=True)
        client.start()
        try:
            first, second = trained.accuracies
            _expect(second > first, f"version 2 is not better: {second:.3f} after {first:.3f}")
            with self._step(
                f"move alias {ALIAS} to version 2, which is right about {second:.1%} of unseen rows instead of {first:.1%}, and deploy it"
            ):
                trained.set_alias(2)
                self._deploy("success", live=2)
                _expect(client.version_now() == "2", "clients do not get version 2")
                print("    clients get version 2", flush=True)
            with self._step(
                "register version 3, broken on purpose (its weights have the wrong sign), and deploy it"
            ):
                trained.register_broken()
                self._deploy("failed", live=2)
                self._show_quarantine()
                _expect(client.version_now() == "2", "clients do not get version 2 any more")
                print("    clients still get version 2", flush=True)
            with self._step("go back to version 1, as if somebody had found version 2 to be bad after all"):
                self._revert(to=1)
                _expect(client.version_now() == "1", "clients do not get version 1 again")
                print(
                    "    clients get version 1 again; it was still loaded, and MLflow was not asked",
                    flush=True,
                )
        finally:
            client.stop()
        self._table(client)

    def _train(self) -> Trained:
        log = self._stack.log_path("mlflow").with_name("training.log")
        print(f"    importing scikit-learn and mlflow takes some seconds; log: {log}", flush=True)
        return Trained(log)

    def _deploy(self, expected: str, live: int) -> None:
        """Run the deploy DAG; check its end, and the live version after it."""
        self._run(DEPLOY_DAG, {"alias": ALIAS, "model": MODEL}, expected, live)

    def _revert(self, to: int) -> None:
        """Run the revert DAG; check that version ``to`` is live after it."""
        conf = {"model": MODEL, "to": to, "reason": "the demo goes back"}
        self._run(REVERT_DAG, conf, "success", live=to)

    def _run(self, dag: str, conf: Mapping[str, Any], expected: str, live: int) -> None:
        run_id = self._airflow.trigger(dag, conf)
        print(f"    run {run_id}", flush=True)
        started = time.monotonic()
        state = self._airflow.wait(
            dag,
            run_id,
            timeout_s=RUN_TIMEOUT_S,
            report=lambda task, end: print(f"      {task}: {end}", flush=True),
        )
        seconds = time.monotonic() - started
        _expect(state == expected, f"the run ended {state}, expected {expected}")
        current = json.loads((self._folder / "current.json").read_text())
        _expect(
            current["active_version"] == live,
            f"current.json says version {current['active_version']}, expected {live}",
        )
        record = self._record(f"{run_id}-1" if dag == REVERT_DAG else run_id)
        _tell_staging(record)
        self._rows.append(
            (
                str(record.version),
                "revert" if dag == REVERT_DAG else "deploy",
                record.state,
                f"{seconds:.1f} s",
                _step_times(record.times_utc),
                str(live),
            )
        )

    def _record(self, key: str) -> Any:
        """Return the record of a run; each try of a revert has a record of its own."""
        from ml_code.triton_deploy.repository import ModelFolder
        from ml_code.triton_deploy.rules.names import deploy_id_for

        return ModelFolder.at(self._folder.parent, MODEL).journal.get(deploy_id_for(key))

    def _show_quarantine(self) -> None:
        kept = sorted(self._folder.glob("3.failed_*"))
        _expect(len(kept) == 1, f"expected one quarantined directory of version 3, found {len(kept)}")
        failure = json.loads((kept[0] / "failure.json").read_text())
        _expect(
            failure["step"] == "load" and failure["error"].startswith("In the staging Triton"),
            f"it failed at {failure['step']}, expected the staging Triton: {failure['error']}",
        )
        print(f"    quarantined: {kept[0].name}\n    {failure['step']}: {failure['error']}", flush=True)

    def _table(self, client: Client) -> None:
        from rich.console import Console
        from rich.table import Table

        table = Table(title="What happened", title_justify="left")
        for column in ("version", "what", "end", "run in Airflow", "steps, seconds", "live after it"):
            table.add_column(column)
        for row in self._rows:
            table.add_row(*row)
        print()
        Console(width=100).print(table)
        served = ", ".join(f"version {version}: {count}" for version, count in sorted(client.answers.items()))
        print(
            f"client: {client.answers.total()} requests answered ({served}), {len(client.failures)} failed, "
            f"slowest {client.slowest_s * 1000:.0f} ms",
            flush=True,
        )
        ends = [(what, end) for _, what, end, *_ in self._rows]
        expected = [("deploy", "committed")] * 2 + [("deploy", "rolled_back"), ("revert", "committed")]
        _expect(ends == expected, f"the runs ended as {ends}, expected {expected}")
        _expect(
            not client.failures,
            f"{len(client.failures)} client requests failed, the first: {client.failures[:1]}",
        )
        _expect("3" not in client.answers, "a client got the broken version")


class Trained:
    """Versions 1 and 2 in MLflow, and the broken version 3.

    Attributes:
        accuracies: test accuracy of versions 1 and 2, as a share.
        inputs: one row of each input, by name.

    Args:
        log: file for the output of MLflow and scikit-learn.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self._uri = os.environ["MLFLOW_TRACKING_URI"]
        from ml_code.training.request import TrainingRequest

        self._request = TrainingRequest(model=MODEL, alias=ALIAS)
        self.accuracies: list[float] = []
        with self._quiet():
            from ml_code.training.trainer import train

            # Strong regularization makes version 1 worse than version 2.
            self._register(train(replace(self._request, options={"regularization": 1000.0})), ALIAS)
            self._second = train(self._request)
            self._register(self._second, "candidate")
        self.inputs = {name: array[:1] for name, array in self._second.examples.items()}

    def set_alias(self, version: int) -> None:
        """Move the alias."""
        with self._quiet():
            import mlflow

            mlflow.MlflowClient(self._uri).set_registered_model_alias(MODEL, ALIAS, str(version))

    def register_broken(self) -> None:
        """Register version 2's model with flipped signs of its weights, and version 2's golden answers."""
        import onnx

        model = onnx.load_model_from_string(self._second.onnx)
        for node in model.graph.node:
            for attribute in node.attribute:
                if attribute.name == "coefficients":
                    attribute.floats[:] = [-weight for weight in attribute.floats]
        with self._quiet():
            # The metrics are version 2's: do not print them for version 3.
            self._register(replace(self._second, onnx=model.SerializeToString()), ALIAS, measured=False)

    def _register(self, trained: Any, alias: str, measured: bool = True) -> None:
        from ml_code.training.registration import publish

        registered = publish(trained, replace(self._request, alias=alias), self._uri)
        said = f"    version {registered.version}, alias {alias}"
        if measured:
            accuracy = registered.metrics["test_accuracy"]
            self.accuracies.append(accuracy)
            said += f", test accuracy {accuracy:.3f}"
        # Print to the terminal, not to the log: the user waits for this progress.
        print(said, file=sys.__stdout__, flush=True)

    @contextlib.contextmanager
    def _quiet(self) -> Iterator[None]:
        with self._log.open("a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            yield


def _tell_staging(record: Any) -> None:
    """Print the result of the staging Triton, if any: a revert to a warm version needs no such trial."""
    if staging := record.staging:
        said = {
            "passed": "it loaded there and answered",
            "rejected": "it failed there, so no Triton that serves got it",
        }
        result = said.get(staging["result"], staging["result"])
        print(f"    version {record.version} was tried in the staging Triton first: {result}", flush=True)


def _step_times(times_utc: Mapping[str, str]) -> str:
    """Return the duration of each step from the recorded times of the states; includes Airflow's share."""
    names = {
        "materialized": "materialize",
        "loaded": "load",
        "ready": "ready",
        "verified": "smoke",
        "committed": "commit",
        "rolled_back": "rollback",
    }
    moments = [(names.get(state, ""), datetime.fromisoformat(text)) for state, text in times_utc.items()]
    named = [moments[0], *((name, moment) for name, moment in moments[1:] if name)]
    spans = pairwise(named)
    return ", ".join(f"{name} {(end - begin).total_seconds():.1f}" for (_, begin), (name, end) in spans)


def _expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise StackError(otherwise)
