"""Metrics of the deployer's records, for Prometheus: a deploy's tasks end before a scrape could reach them.

The records are read at each scrape. So the metrics include deploys by hand and by another Airflow, and
deploys that ended between two scrapes.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from ...triton_deploy.errors import DeployError
from ...triton_deploy.repository import ModelFolder, models_in
from ...triton_deploy.repository.verdicts import BAKE, CANARY, bad_versions, judged
from ...triton_deploy.rules.bake_record import Bake, BakeVerdict
from ...triton_deploy.rules.deployment import Deployment, State
from ...triton_deploy.rules.reconcile_note import ReconcileNote
from ...triton_deploy.rules.release import Release
from ...triton_deploy.rules.standing import ALIAS_DRIFT

STEPS = {
    "materialize": (State.PINNED, State.MATERIALIZED),
    "load": (State.MATERIALIZED, State.LOADED),
    "ready": (State.LOADED, State.READY),
    "smoke": (State.READY, State.VERIFIED),
    "canary": (State.VERIFIED, State.TRIED),
    # A deployment without a canary goes from VERIFIED to COMMITTED, see _of_last_steps.
    "commit": (State.TRIED, State.COMMITTED),
    "rollback": (State.ROLLING_BACK, State.ROLLED_BACK),
}
"""The states at the beginning and at the end of each step."""

FAMILIES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "live_version": ("Version that is live.", ()),
    "generation": ("Generation of the release that is live.", ()),
    "release_timestamp_seconds": ("When it was committed, seconds since 1970.", ()),
    "last_success_timestamp_seconds": ("When a deployment last ended well, seconds since 1970.", ()),
    "last_failure_timestamp_seconds": ("When a deployment was last rolled back, seconds since 1970.", ()),
    "deployments": (
        "Deployments whose records are kept, by how they ended and, if they failed, in which step.",
        ("outcome", "step"),
    ),
    "step_duration_seconds": (
        "Time from the end of the step before to the end of this one, in the last deployment that ended; the pauses of what "
        "runs the steps are in it.",
        ("step",),
    ),
    "unfinished": ("Deployments that have not ended.", ()),
    "unfinished_age_seconds": (
        "Since the last sign of life of the one that has been silent longest; 0 without one.",
        (),
    ),
    "quarantined": ("Directories in quarantine.", ()),
    "staging_timestamp_seconds": (
        "When the staging Triton was asked about a candidate last, by a deployment that has ended, seconds since 1970.",
        (),
    ),
    "staging_result": (
        "1 for how that ended: passed, rejected (the candidate's fault), ended (the candidate ended it), unreachable, stuck or busy.",
        ("result",),
    ),
    "staging_waited_seconds": (
        "How long that deployment waited while another one used the staging Triton.",
        (),
    ),
    "staging_emptied": ("Models that it found loaded in the staging Triton, and unloaded.", ()),
    "bake_result": ("1 for how the bake of the last release that has one ended.", ("verdict",)),
    "release_without_verdict": (
        "1 while what is live was committed without a verdict of what was to judge it: its canary, its bake.",
        ("judge",),
    ),
    "taken_back": (
        "1 for each version that a bake found bad: it is not deployed again without force.",
        ("version",),
    ),
    "reconcile_timestamp_seconds": ("When reconcile last looked, seconds since 1970.", ()),
    "reconcile_problems": ("What the last reconcile could not put right.", ()),
    "reconcile_repairs": ("What the last reconcile put right.", ()),
    "stuck_engines": (
        "Engines that a Triton neither serves nor lets go, by the last reconcile; each Triton's count by themselves.",
        (),
    ),
    "alias_drift": (
        "1 while the alias that was deployed names another version than serves, by the last reconcile.",
        (),
    ),
    "unreadable": ("1 while the records of the model can't be read whole.", ()),
}
"""Every metric by its name without the prefix: help text, and labels besides ``model``."""


class Sample(NamedTuple):
    """One number of a model.

    Attributes:
        name: metric, a key of FAMILIES.
        value: the number.
        labels: values of the labels besides ``model``.
    """

    name: str
    value: float
    labels: tuple[str, ...] = ()


class DeployMetrics:
    """Reads the records of every model of a repository.

    Args:
        root: the model repository; only read.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        # By model and id. An ended deployment never changes, so its record is read once.
        self._ended: dict[str, dict[str, Deployment]] = {}
        self._one_at_a_time = threading.Lock()

    def text(self) -> bytes:
        """Return everything in Prometheus' text format; belongs in a thread."""
        registry = CollectorRegistry()
        with self._one_at_a_time:
            registry.register(self)
            return generate_latest(registry)

    def describe(self) -> list[Metric]:
        """Return nothing, so that registering reads no records."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics, as they are now."""
        families = {
            name: GaugeMetricFamily(f"triton_deploy_{name}", text, labels=["model", *labels])
            for name, (text, labels) in FAMILIES.items()
        }
        now = datetime.now(UTC)
        for model in self._models():
            for sample in self._samples(ModelFolder.at(self._root, model), now):
                families[sample.name].add_metric([model, *sample.labels], sample.value)
        yield from families.values()

    def _models(self) -> Iterator[str]:
        for model in models_in(self._root):
            try:
                ModelFolder.at(self._root, model)
            except DeployError:
                # A folder that was made by hand, under a name that no model can have.
                continue
            yield model

    def _samples(self, folder: ModelFolder, now: datetime) -> Iterator[Sample]:
        unreadable = False
        for samples in (
            _of_release(folder),
            self._of_deployments(folder, now),
            _of_quarantine(folder),
            _of_bakes(folder),
            _of_reconcile(folder),
        ):
            try:
                yield from samples
            except DeployError:
                # The other records are still valid.
                unreadable = True
        yield Sample("unreadable", unreadable)

    def _of_deployments(self, folder: ModelFolder, now: datetime) -> Iterator[Sample]:
        ids = folder.journal.ids()
        known = self._ended.get(folder.model, {})
        ended = self._ended[folder.model] = {id_: known[id_] for id_ in ids if id_ in known}
        unfinished = []
        for deploy_id in ids:
            record = ended.get(deploy_id) or folder.journal.find(deploy_id)
            if record is not None and record.finished:
                ended[deploy_id] = record
            elif record is not None:
                unfinished.append(record)
        silent_s = [(now - record.last_sign_of_life).total_seconds() for record in unfinished]
        yield Sample("unfinished", len(unfinished))
        yield Sample("unfinished_age_seconds", max([0.0, *silent_s]))
        yield from _of_ended(sorted(ended.values(), key=lambda record: record.last_time))


def _of_release(folder: ModelFolder) -> Iterator[Sample]:
    live: Release | None = folder.releases.latest()
    if live is not None:
        yield Sample("live_version", live.active_version)
        yield Sample("generation", live.generation)
        yield Sample("release_timestamp_seconds", _seconds(live.updated_at_utc))


def _of_ended(ended: Sequence[Deployment]) -> Iterator[Sample]:
    """Yield the samples of the ended deployments of a model, given oldest first."""
    counts = Counter(
        (record.state, record.failure.step if record.failure and record.state is State.ROLLED_BACK else "")
        for record in ended
    )
    for outcome_and_step, count in sorted(counts.items()):
        yield Sample("deployments", count, outcome_and_step)
    good = [record for record in ended if record.state is not State.ROLLED_BACK]
    bad = [record for record in ended if record.state is State.ROLLED_BACK]
    for name, records in (("last_success", good), ("last_failure", bad)):
        if records:
            yield Sample(f"{name}_timestamp_seconds", records[-1].last_time.timestamp())
    yield from _of_staging(ended)
    yield from _of_last_steps(ended)


def _of_staging(ended: Sequence[Deployment]) -> Iterator[Sample]:
    """Yield the last result of the staging Triton, from the last deployment that asked it."""
    asked = [record.staging for record in ended if record.staging]
    if asked:
        last = asked[-1]
        yield Sample("staging_timestamp_seconds", _seconds(last["at_utc"]))
        yield Sample("staging_result", 1, (last["result"],))
        yield Sample("staging_waited_seconds", last.get("waited_s", 0.0))
        yield Sample("staging_emptied", len(last.get("emptied", ())))


def _of_last_steps(ended: Sequence[Deployment]) -> Iterator[Sample]:
    """Yield the durations of the steps of the last deployment that changed anything."""
    changed = [record for record in ended if record.state is not State.UNCHANGED]
    if changed:
        times = changed[-1].times_utc
        for step, (begin, end) in STEPS.items():
            began = begin if begin in times or begin is not State.TRIED else State.VERIFIED
            if began in times and end in times:
                yield Sample("step_duration_seconds", _seconds(times[end]) - _seconds(times[began]), (step,))


def _of_quarantine(folder: ModelFolder) -> Iterator[Sample]:
    yield Sample("quarantined", sum(1 for _ in folder.quarantine.failures()))


def _of_bakes(folder: ModelFolder) -> Iterator[Sample]:
    bake: Bake | None = folder.bakes.latest()
    if bake is not None:
        for verdict in BakeVerdict:
            yield Sample("bake_result", verdict is bake.verdict, (verdict,))
    for bad in bad_versions(folder):
        yield Sample("taken_back", 1, (str(bad.version),))
    live: Release | None = folder.releases.latest()
    if live is not None:
        missing = judged(folder, live).without_verdict
        for judge in (CANARY, BAKE):
            yield Sample("release_without_verdict", judge in missing, (judge,))


def _of_reconcile(folder: ModelFolder) -> Iterator[Sample]:
    note: ReconcileNote | None = folder.last_reconcile.read()
    if note is not None:
        yield Sample("reconcile_timestamp_seconds", _seconds(note.at_utc))
        yield Sample("reconcile_problems", len(note.problems))
        yield Sample("reconcile_repairs", len(note.done))
        yield Sample("stuck_engines", len(note.stuck))
        yield Sample("alias_drift", ALIAS_DRIFT in note.notices)


def _seconds(utc_text: str) -> float:
    return datetime.fromisoformat(utc_text).timestamp()
