"""The cost of a deploy as a whole process: ours, the naive way and NVIDIA's plugin, in turn.

Each way deploys a model that is new to Triton, directly from S3 or through MLflow's proxy, in sizes from 1
KB to 1 GB. The model is unloaded and its files are removed before the next deploy.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from unittest import mock

from tritonclient.grpc import InferenceServerClient

from ml_code.triton_deploy.deploy.deployer import Deployer
from ml_code.triton_deploy.deploy.request import DeployRequest
from ml_code.triton_deploy.model.model_config import engine_config, to_pbtxt
from ml_code.triton_deploy.repository import ModelFolder
from ml_code.triton_deploy.rules.schema import Schema, Tensor
from ml_code.triton_deploy.settings import Settings
from stack import Stack

from .artifacts import LARGE, LARGE_EXTERNAL, MEDIUM, SMALL, Logged, Registry, Size
from .deploy_tables import STEPS
from .measured import Cost
from .process_tree import written_bytes
from .processes import run as run_process
from .series import Series
from .site import servers

OURS, NAIVE, PLUGIN, AGAIN = "ours", "naive", "plugin", "ours, same files again"
DIRECT, PROXIED = "direct", "proxied"


@dataclass(frozen=True)
class Deployed:
    """One deploy as a process.

    Attributes:
        cost: cost of the process.
        parts: seconds of each part, by name; ``load`` is Triton's load.
        served_bytes: bytes that the MLflow server wrote meanwhile.
    """

    cost: Cost
    parts: Mapping[str, float]
    served_bytes: int = 0

    @property
    def own_s(self) -> float:
        """Seconds without Triton's load."""
        return self.cost.wall_s - self.parts["load"]


@dataclass
class Case:
    """A size, a place and a way, with the measured deploys."""

    size: Size
    place: str
    way: str
    measured: list[Deployed] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Name in the tables."""
        return f"{self.size.name}, {self.place}: {self.way}"


def run(quick: bool) -> list[Series]:
    """Measure deploys of every size, from both places, by each way.

    Args:
        quick: one round of the smallest size only.

    Returns:
        For each case: seconds of the whole process, with and without Triton's load; peak memory in MiB;
            bytes written by the process
        and the MLflow server, for each byte of the model. For our deploys also the seconds of each step,
        and of deploys in a running process.
    """
    sizes = {SMALL: 1} if quick else {SMALL: 8, MEDIUM: 4, LARGE: 4, LARGE_EXTERNAL: 4}
    with servers("s3", "mlflow", "triton") as stack:
        bench = _Bench(stack)
        series: list[Series] = []
        for size, rounds in sizes.items():
            series += bench.measure(size, rounds)
    return series


class _Bench:
    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._registry = Registry(stack)
        self._environment = {**os.environ, **stack.environment}
        self._triton = InferenceServerClient(stack.url("triton-grpc"))
        self._models = 0

    def measure(self, size: Size, rounds: int) -> list[Series]:
        """Return the series of one size."""
        logged = {
            DIRECT: self._registry.log(size, direct=True),
            PROXIED: self._registry.log(size, direct=False),
        }
        # The plugin is measured only where it is fastest.
        ways = [(DIRECT, OURS), (DIRECT, NAIVE), (DIRECT, PLUGIN), (PROXIED, OURS), (PROXIED, NAIVE)]
        if size.external:
            ways = ways[:2]
        cases = [Case(size, place, way) for place, way in ways]
        again = Case(size, DIRECT, AGAIN)
        running: list[float] = []
        for number in range(rounds):
            print(f"  deploy: {size.name}, round {number + 1} of {rounds}", flush=True)
            for case in cases:
                self._models += 1
                model = f"bench-{self._models}"
                self._registry.register(model, logged[case.place])
                before = self._server_wrote()
                deployed = WAYS[case.way](self, model, size)
                case.measured.append(Deployed(deployed.cost, deployed.parts, self._server_wrote() - before))
                if (case.place, case.way) == (DIRECT, OURS):
                    again.measured.append(self._again(model, logged[DIRECT], size))
                self._clean_up()
            self._models += 1
            self._registry.register(f"bench-{self._models}", logged[DIRECT])
            running.append(self._in_this_process(f"bench-{self._models}"))
            self._clean_up()
        for one in logged.values():
            self._registry.remove(one)
        names = {case.name for case in cases}
        return [
            *(one for case in cases for one in _series(case, logged[case.place].size_bytes, names)),
            *_series(again, logged[DIRECT].size_bytes, names),
            Series(name=running_name(size), unit="s", values=tuple(running)),
        ]

    def ours(self, model: str, size: Size) -> Deployed:
        """``triton-deploy deploy``."""
        program = str(Path(sys.executable).with_name("triton-deploy"))
        cost, output = run_process(
            [program, "deploy", model, "--alias", "A", "--json", "--quiet"], self._environment
        )
        return Deployed(cost, steps(json.loads(output)["times_utc"], cost.began_s, cost.ended_s))

    def naive(self, model: str, size: Size) -> Deployed:
        """``bench.naive``."""
        return self._script("bench.naive", model, size)

    def plugin(self, model: str, size: Size) -> Deployed:
        """``bench.plugin``."""
        return self._script("bench.plugin", model, size)

    def _script(self, module: str, model: str, size: Size) -> Deployed:
        folder = self._stack.model_repository / model
        folder.mkdir()
        folder.joinpath("config.pbtxt").write_text(plain_config(model, size))
        arguments = [model, "A", str(self._stack.model_repository), self._stack.url("triton")]
        cost, output = run_process([sys.executable, "-m", module, *arguments], self._environment)
        return Deployed(cost, json.loads(output.splitlines()[-1]))

    def _again(self, model: str, logged: Logged, size: Size) -> Deployed:
        """Deploy a new version that has the files of the live one, and whose digest training recorded."""
        folder = ModelFolder.at(self._stack.model_repository, model)
        self._registry.register(model, logged, digest=folder.versions.require(1).digest)
        return self.ours(model, size)

    def _in_this_process(self, model: str) -> float:
        """Deploy in this process, where all modules are imported; return the seconds without the load."""
        request = DeployRequest(model=model, alias="A", deploy_id=f"bench-{model}", actor="bench")
        with mock.patch.dict(os.environ, self._environment):
            deployer = Deployer(Settings.from_env())
            began_s, started_s = time.time(), time.perf_counter()
            record = deployer.deploy(request)
            wall_s = time.perf_counter() - started_s
        return wall_s - steps(record.times_utc, began_s, began_s + wall_s)["load"]

    def _clean_up(self) -> None:
        index = self._triton.get_model_repository_index().models
        # Unload ensembles before their members, which Triton needs for them.
        for entry in sorted(index, key=lambda entry: entry.name):
            if entry.state == "READY":
                self._triton.unload_model(entry.name)
        for folder in self._stack.model_repository.iterdir():
            shutil.rmtree(folder)

    def _server_wrote(self) -> int:
        """Return the bytes that MLflow's server and its workers have written."""
        return written_bytes(self._stack.pid("mlflow"))


WAYS: dict[str, Callable[[_Bench, str, Size], Deployed]] = {
    OURS: _Bench.ours,
    NAIVE: _Bench.naive,
    PLUGIN: _Bench.plugin,
}


def running_name(size: Size) -> str:
    """Return the name of the series of deploys in a process that has imported all modules."""
    return f"{size.name}, {DIRECT}: ours in a running process, without Triton's load"


def plain_config(model: str, size: Size) -> str:
    """Return the ``config.pbtxt`` of a plain model: our engine's without its version policy."""
    rows = (-1, size.width)
    schema = Schema((Tensor("x", "FP32", rows),), (Tensor("y", "FP32", rows),))
    config = engine_config(model, 1, schema, {})
    del config["version_policy"]
    return to_pbtxt({**config, "name": model})


def steps(times_utc: Mapping[str, str], began_s: float, ended_s: float) -> dict[str, float]:
    """Return the seconds of each step and of the end of the process; the first step includes the start.

    Args:
        times_utc: the time of each state, from the deployment's record.
        began_s: start of the process, seconds since the epoch.
        ended_s: end of the process, seconds since the epoch.
    """
    reached = {state: datetime.fromisoformat(text).timestamp() for state, text in times_utc.items()}
    ends = [began_s, *(reached[state] for state in STEPS.values())]
    took = {step: end - start for step, start, end in zip(STEPS, ends, ends[1:], strict=False)}
    return {**took, "end": ended_s - ends[-1]}


def _series(case: Case, size_bytes: int, names: set[str]) -> list[Series]:
    naive = f"{case.size.name}, {case.place}: {NAIVE}"
    baseline = naive if case.name != naive and naive in names else ""

    def series(what: str, unit: str, values: Sequence[float]) -> Series:
        return Series(
            name=f"{case.name}, {what}",
            unit=unit,
            values=tuple(values),
            baseline=f"{baseline}, {what}" if baseline else "",
        )

    measured = case.measured
    written = [one.cost.written_bytes + one.served_bytes for one in measured]
    found = [
        series("whole process", "s", [one.cost.wall_s for one in measured]),
        series("without Triton's load", "s", [one.own_s for one in measured]),
        series("peak memory", "MiB", [one.cost.peak_mib for one in measured]),
        # For a small model the records are larger than the model.
        series("written", "KiB", [count / 1024 for count in written])
        if size_bytes < 1 << 20
        else series("written", "x size", [count / size_bytes for count in written]),
    ]
    if case.way == OURS:
        found += [
            Series(name=f"{case.name}, {step}", unit="s", values=tuple(one.parts[step] for one in measured))
            for step in measured[0].parts
        ]
    return found
