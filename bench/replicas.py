"""The cost of a deploy over 1 to 8 Tritons, beside the cost of the load alone.

The Tritons are real (Python-based backend, one instance) and share the machine's cores, so eight loads take
longer than one in any case. The limit is therefore the bare load: the same model, by gRPC, on the same
Tritons at the same time, measured in turn with the deploy. Our own share is the deploy without its load
step, by the times of its record. Fakes replace MLflow and S3.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from ml_code.triton_deploy.clients.triton import tritons_of
from ml_code.triton_deploy.model import model_config
from ml_code.triton_deploy.repository import ModelFolder
from ml_code.triton_deploy.rules.deployment import Deployment, State
from ml_code.triton_deploy.rules.names import engine_name
from ml_code.triton_deploy.rules.schema import Schema
from ml_code.triton_deploy.settings import Settings
from stack import Stack
from tests.support.fakes import FakeStore, fake_store

from .series import Series
from .site_in_memory import Publisher, settings_at

STEPS = {
    "snapshot and materialize": ("", State.MATERIALIZED),
    "load": (State.MATERIALIZED, State.LOADED),
    "ready": (State.LOADED, State.READY),
    "smoke": (State.READY, State.VERIFIED),
    "commit": (State.VERIFIED, ""),
}
"""The states between which each step lies; empty: the start of the call, and its return."""
LOAD_TIMEOUT_S = 120.0


@dataclass
class Measured:
    """Durations over a number of Tritons, milliseconds, a value for each round."""

    deploy: list[float] = field(default_factory=list)
    bare_load: list[float] = field(default_factory=list)
    steps: dict[str, list[float]] = field(default_factory=lambda: {step: [] for step in STEPS})

    @property
    def ours(self) -> list[float]:
        """The deploys without their loads."""
        return [whole - load for whole, load in zip(self.deploy, self.steps["load"], strict=True)]


def run(quick: bool) -> list[Series]:
    """Measure deploys over one Triton and over several, and bare loads on as many, in turn.

    Args:
        quick: on two Tritons only, and a few rounds.

    Returns:
        For each number of Tritons: the deploy, the bare load, the deploy without its load, and each step.
    """
    counts, rounds = ((1, 2), 2) if quick else ((1, 2, 4, 8), 16)
    with _tritons(max(counts)) as (repository, urls), fake_store() as store:
        over = {count: _Over(repository, urls[:count], store) for count in counts}
        measured = {count: Measured() for count in counts}
        for number in range(rounds + 1):
            print(f"  replicas: round {number} of {rounds}", flush=True)
            for count in counts:
                # The first round warms up, and creates the model of the bare load.
                over[count].measure(measured[count] if number else Measured())
    return series_of(measured)


def series_of(measured: Mapping[int, Measured]) -> list[Series]:
    """Return the series for each number of Tritons; the first number is the baseline of our figures."""
    first = next(iter(measured))
    series = []
    for count, figures in measured.items():

        def add(what: str, values: Sequence[float], baseline: str = "", count: int = count) -> None:
            base = baseline or (what.format(n=first) if count != first else "")
            series.append(Series(name=what.format(n=count), unit="ms", values=tuple(values), baseline=base))

        add("{n} Tritons: bare load, by gRPC at once", figures.bare_load)
        add("{n} Tritons: deploy", figures.deploy, f"{count} Tritons: bare load, by gRPC at once")
        add("{n} Tritons: deploy without its load", figures.ours)
        for step, values in figures.steps.items():
            add(f"{{n}} Tritons: step {step}", values)
    return series


def steps_ms(began: datetime, record: Deployment, returned: datetime) -> dict[str, float]:
    """Return the milliseconds of each step of a deploy; the record's times are exact to a millisecond.

    Args:
        began: time of the call, with a time zone.
        record: the record that the deploy returned.
        returned: time of the return, with a time zone.
    """

    def at(state: str, otherwise: datetime) -> datetime:
        return datetime.fromisoformat(record.times_utc[state]) if state else otherwise

    return {
        step: 1000 * (at(end, returned) - at(begin, began)).total_seconds()
        for step, (begin, end) in STEPS.items()
    }


@contextlib.contextmanager
def _tritons(count: int) -> Iterator[tuple[Path, list[str]]]:
    """Start Tritons on one repository; yield the repository and the address of each Triton."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, contextlib.ExitStack() as running:
        repository = Path(folder) / "model-repo"
        stacks = []
        for number in range(count):
            home = Path(folder) / str(number)
            home.mkdir()
            stacks.append(running.enter_context(Stack(home, ["triton"], model_repository=repository)))
        yield repository, [stack.url("triton-grpc") for stack in stacks]


class _Over:
    """Some of the Tritons, with a model that only these serve.

    Args:
        repository: the repository of all Tritons.
        urls: addresses of these Tritons.
        store: the store of the artifacts.
    """

    def __init__(self, repository: Path, urls: Sequence[str], store: FakeStore) -> None:
        self._settings: Settings = settings_at(repository, *urls)
        self._model = f"over_{len(urls)}"
        self._bare = f"bare_{len(urls)}"
        self._publisher = Publisher(store, self._settings)
        self._versions = itertools.count(1)
        self._tritons = tritons_of(self._settings)

    def measure(self, into: Measured) -> None:
        """Deploy the next version, and load an equal model without the deployer."""
        began_s, began = time.perf_counter(), datetime.now().astimezone()
        record = self._publisher.deploy(self._model, next(self._versions))
        into.deploy.append(1000 * (time.perf_counter() - began_s))
        for step, took_ms in steps_ms(began, record, datetime.now().astimezone()).items():
            into.steps[step].append(took_ms)
        into.bare_load.append(self._load_bare(record.version))

    def _load_bare(self, version: int) -> float:
        self._copy(version)
        name = engine_name(self._bare, version)
        with ThreadPoolExecutor(len(self._tritons)) as pool:
            began_s = time.perf_counter()
            list(pool.map(lambda triton: triton.load(name, LOAD_TIMEOUT_S), self._tritons))
            took_ms = 1000 * (time.perf_counter() - began_s)
            list(pool.map(lambda triton: triton.unload(name, LOAD_TIMEOUT_S), self._tritons))
        return took_ms

    def _copy(self, version: int) -> None:
        """Copy the model's files to another name, which no deploy touches."""
        ours = ModelFolder.at(self._settings.repository_root, self._model).versions
        bare = ModelFolder.at(self._settings.repository_root, self._bare)
        shutil.copytree(ours.path(version), bare.versions.path(version))
        manifest = ours.require(version)
        config = model_config.engine_config(
            self._bare, version, Schema.from_dict(manifest.schema), dict(manifest.options)
        )
        bare.engines.complete(version, model_config.to_pbtxt(config))
