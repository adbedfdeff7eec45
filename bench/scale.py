"""The growth of cost with the models of a repository, and with the releases of a model.

The library fills repositories of every size before the measurement; then they are measured in turn. A
thousand models do not fit into a real Triton here, so a fake answers in its place (see site_in_memory.py);
a real Triton with a few models is measured beside it. There is no MLflow: reconcile and status would send
it one or two requests for each model.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from ml_code.gateway.front.deploy_metrics import DeployMetrics
from ml_code.triton_deploy.fleet.index_cache import IndexCache
from ml_code.triton_deploy.report.mlflow_tags import MlflowTags
from ml_code.triton_deploy.repository import ModelFolder, models_in
from ml_code.triton_deploy.settings import Settings
from ml_code.triton_deploy.upkeep.reconcile import Reconciler
from ml_code.triton_deploy.upkeep.status import model_status
from tests.support.fakes import FakeTriton, fake_store

from .series import Series
from .site import MODEL, servers
from .site_in_memory import Publisher, fill, served, settings_at

STOOD_IN = "Triton stood in for"
REAL = "real Triton"
PAGE = 20
"""Releases that ``triton-deploy history`` shows by default."""


@dataclass(frozen=True)
class Task:
    """An operation to measure.

    Attributes:
        act: runs the operation once.
        of: number of items that the operation handles; the time is divided by it.
        times: repetitions in a round; their median counts.
        unit: unit of the quotient, for example milliseconds for each model.
    """

    act: Callable[[], object]
    of: int = 1
    times: int = 1
    unit: str = "ms"

    def measure(self) -> float:
        """Return the duration, milliseconds for each item."""
        spent_s = []
        for _ in range(self.times):
            began_s = time.perf_counter()
            self.act()
            spent_s.append(time.perf_counter() - began_s)
        return 1000 * statistics.median(spent_s) / self.of


Sized = Mapping[str, Mapping[int, Task]]
"""Tasks by operation and by size; the other sizes are compared with the first."""


def run(quick: bool) -> list[Series]:
    """Measure reconcile, status, metrics, history and deploys on repositories of several sizes.

    Args:
        quick: smaller repositories, and a few rounds only.

    Returns:
        A series for each task and size, by task; a value for each round.
    """
    rounds = 2 if quick else 5
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        root = Path(folder)
        series = _measured(
            "models", _many_models(root / "models", (1, 20) if quick else (1, 100, 1000)), rounds
        )
        series += _measured("real Triton", _few_models((1, 4) if quick else (1, 12)), rounds)
        counts = (10, 100) if quick else (10, 10_000)
        series += _measured("releases", _many_releases(root / "releases", counts), rounds)
        return series + _measured("deploys", _deploys(root / "releases", counts), rounds)


def _measured(what: str, tasks: contextlib.AbstractContextManager[Sized], rounds: int) -> list[Series]:
    print(f"  scale: making the repositories: {what}", flush=True)
    with tasks as sized:
        print(f"  scale: {what}, {rounds} rounds", flush=True)
        return in_turn(sized, rounds)


def in_turn(sized: Sized, rounds: int) -> list[Series]:
    """Measure tasks round by round, all sizes of a task one after the other; a first round warms up.

    Returns:
        A series for each task and size, named after both; the first size is the baseline of the others.
    """
    values: dict[tuple[str, int], list[float]] = {
        (what, size): [] for what, by_size in sized.items() for size in by_size
    }
    for number in range(rounds + 1):
        for what, by_size in sized.items():
            for size, task in by_size.items():
                took_ms = task.measure()
                if number:
                    values[what, size].append(took_ms)
    return [
        Series(
            name=_name(what, size),
            unit=task.unit,
            values=tuple(values[what, size]),
            baseline="" if size == next(iter(by_size)) else _name(what, next(iter(by_size))),
        )
        for what, by_size in sized.items()
        for size, task in by_size.items()
    ]


def _name(what: str, size: int) -> str:
    return what.format(n=f"{size:,}")


def _by_task(by_size: Mapping[int, Mapping[str, Task]]) -> Sized:
    """Return the tasks of each size by task."""
    tasks: dict[str, dict[int, Task]] = {}
    for size, of_size in by_size.items():
        for what, task in of_size.items():
            tasks.setdefault(what, {})[size] = task
    return tasks


@contextlib.contextmanager
def _many_models(root: Path, sizes: tuple[int, ...]) -> Iterator[Sized]:
    root.mkdir()
    with contextlib.ExitStack() as running:
        by_size = {}
        for size in sizes:
            repository = root / str(size)
            fill(repository, size)
            settings = settings_at(repository, running.enter_context(served(repository)))
            metrics = _per_model(DeployMetrics(repository).text, size)
            by_size[size] = {
                **_of_repository(settings, STOOD_IN),
                "/metrics/deployments, {n} models": metrics,
            }
        yield _by_task(by_size)


@contextlib.contextmanager
def _few_models(sizes: tuple[int, ...]) -> Iterator[Sized]:
    with contextlib.ExitStack() as running:
        store = running.enter_context(fake_store())
        by_size = {}
        for size in sizes:
            stack = running.enter_context(servers("triton"))
            settings = settings_at(stack.model_repository, stack.url("triton-grpc"))
            publisher = Publisher(store, settings)
            for number in range(size):
                publisher.deploy(f"model_{number:04d}", 1)
            by_size[size] = _of_repository(settings, REAL)
        yield _by_task(by_size)


def _of_repository(settings: Settings, where: str) -> dict[str, Task]:
    models = models_in(settings.repository_root)
    reconciler = Reconciler(settings)
    feedback = MlflowTags(settings)

    def reconcile() -> None:
        for result in reconciler.run_all():
            if result.done or result.problems or result.under_way:
                raise RuntimeError(f"not healthy: {result}")

    def status_of_all() -> None:
        survey = IndexCache(settings.repository_root)
        for model in models:
            if not model_status(settings, model, feedback, survey).agrees:
                raise RuntimeError(f"{model} is not served")

    return {
        f"reconcile of all, {{n}} models, nothing to do ({where})": _per_model(reconcile, len(models)),
        f"status of all, {{n}} models ({where})": _per_model(status_of_all, len(models)),
        f"status of one of {{n}} models ({where})": Task(
            lambda: model_status(settings, models[-1], feedback), times=20
        ),
    }


def _per_model(act: Callable[[], object], models: int) -> Task:
    return Task(act, of=models, times=max(1, 20 // models), unit="ms/model")


@contextlib.contextmanager
def _many_releases(root: Path, counts: tuple[int, ...]) -> Iterator[Sized]:
    root.mkdir()
    with contextlib.ExitStack() as running:
        by_count = {}
        for count in counts:
            repository = root / str(count)
            fill_with_releases(repository, count)
            settings = settings_at(repository, running.enter_context(served(repository)))
            by_count[count] = _of_history(settings, count)
        yield _by_task(by_count)


def fill_with_releases(root: Path, count: int) -> None:
    """Deploy one model to a repository, and repeat its release until there are ``count`` releases."""
    root.mkdir()
    with fake_store() as store:
        Publisher(store, settings_at(root), [FakeTriton(root)]).deploy(MODEL, 1)
    releases = ModelFolder.at(root, MODEL).releases
    live = releases.latest()
    assert live is not None
    for generation in range(2, count + 1):
        live = replace(live, generation=generation, deploy_id=f"bench-{generation}")
        releases.publish(live)
    releases.project(live)


def _of_history(settings: Settings, count: int) -> dict[str, Task]:
    releases = ModelFolder.at(settings.repository_root, MODEL).releases
    reconciler = Reconciler(settings)
    environment = {
        **os.environ,
        "TRITON_DEPLOY_REPOSITORY": str(settings.repository_root),
        "TRITON_DEPLOY_GRPC_URLS": ",".join(settings.triton.grpc_urls),
    }

    def command(name: str) -> Task:
        line = [sys.executable, "-m", "ml_code.triton_deploy.cli", name, MODEL]
        return Task(lambda: subprocess.run(line, env=environment, stdout=subprocess.DEVNULL, check=True))

    return {
        "what is live, {n} releases": Task(releases.latest, times=100),
        "status, {n} releases": Task(lambda: model_status(settings, MODEL), times=20),
        "reconcile, {n} releases": Task(reconciler.run_all, times=10),
        "history, the first page, {n} releases": Task(
            lambda: list(islice(releases.history(), PAGE)),
            of=min(PAGE, count),
            times=20,
            unit="ms/release shown",
        ),
        "history, all of it, {n} releases": Task(
            lambda: list(releases.history()), of=count, times=max(1, 500 // count), unit="ms/release"
        ),
        "`triton-deploy status`, {n} releases": command("status"),
        "`triton-deploy history`, {n} releases": command("history"),
    }


@contextlib.contextmanager
def _deploys(root: Path, counts: tuple[int, ...]) -> Iterator[Sized]:
    with fake_store() as store:
        yield {
            f"deploy of a new version, {{n}} releases ({STOOD_IN})": {
                count: _deploy_of_the_next(
                    Publisher(store, settings_at(root / str(count)), [_restarted(root / str(count))])
                )
                for count in counts
            }
        }


def _restarted(root: Path) -> FakeTriton:
    triton = FakeTriton(root)
    triton.restart(MODEL)
    return triton


def _deploy_of_the_next(publisher: Publisher) -> Task:
    versions = iter(range(2, 1000))
    return Task(lambda: publisher.deploy(MODEL, next(versions)), times=3)
