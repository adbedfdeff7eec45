"""What the deployer's records say, for Prometheus: a deploy's tasks have ended before anybody could scrape them.

Read at the scrape, so that it is true also of what was done by hand, by another Airflow, or while nobody scraped.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from ...triton_deploy.errors import DeployError
from ...triton_deploy.repository import ModelFolder, models_in
from ...triton_deploy.repository.verdicts import BAKE, CANARY, bad_versions, judged
from ...triton_deploy.rules.records import Bake, BakeVerdict, Deployment, ReconcileNote, Release, State
from ...triton_deploy.rules.standing import ALIAS_DRIFT

STEPS = {
    "materialize": (State.PINNED, State.MATERIALIZED),
    "load": (State.MATERIALIZED, State.LOADED),
    "ready": (State.LOADED, State.READY),
    "smoke": (State.READY, State.VERIFIED),
    "canary": (State.VERIFIED, State.TRIED),
    # Without a canary, see _tell_ended.
    "commit": (State.TRIED, State.COMMITTED),
    "rollback": (State.ROLLING_BACK, State.ROLLED_BACK),
}
"""Between which states each step is."""

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
"""Every metric, without its prefix: what it says, and its labels besides ``model``."""


class Families:
    """The metrics of one scrape."""

    def __init__(self) -> None:
        self._families = {
            name: GaugeMetricFamily(f"triton_deploy_{name}", text, labels=["model", *labels])
            for name, (text, labels) in FAMILIES.items()
        }

    def add(self, name: str, model: str, value: float, *labels: str) -> None:
        """Add a number."""
        self._families[name].add_metric([model, *labels], value)

    def __iter__(self) -> Iterator[Metric]:
        return iter(self._families.values())


@dataclass
class _Known:
    """What is remembered of one model from scrape to scrape: deployments that have ended never change."""

    ended: dict[str, Deployment] = field(default_factory=dict)


class DeployMetrics:
    """Reads the records of every model of a repository.

    Args:
        root: the model repository; only read.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[str, _Known] = {}
        self._one_at_a_time = threading.Lock()

    def text(self) -> bytes:
        """Return everything in Prometheus' text format; belongs in a thread."""
        registry = CollectorRegistry()
        with self._one_at_a_time:
            registry.register(self)
            return generate_latest(registry)

    def describe(self) -> list[Metric]:
        """Return nothing: to register needs no reading."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics, as they are now."""
        families, now = Families(), datetime.now(UTC)
        for model in self._models():
            folder = ModelFolder.at(self._root, model)
            unreadable = False
            for tell in (self._release, self._deployments, self._quarantine, self._bake, self._reconcile):
                try:
                    tell(folder, families, now)
                except DeployError:
                    # The rest is as true as before.
                    unreadable = True
            families.add("unreadable", model, unreadable)
        return iter(families)

    def _models(self) -> Iterator[str]:
        for model in models_in(self._root):
            try:
                ModelFolder.at(self._root, model)
            except DeployError:
                # A folder that was made by hand under a name that no model can have.
                continue
            yield model

    def _release(self, folder: ModelFolder, families: Families, now: datetime) -> None:
        live: Release | None = folder.releases.latest()
        if live is not None:
            families.add("live_version", folder.model, live.active_version)
            families.add("generation", folder.model, live.generation)
            families.add("release_timestamp_seconds", folder.model, _seconds(live.updated_at_utc))

    def _deployments(self, folder: ModelFolder, families: Families, now: datetime) -> None:
        known = self._known.setdefault(folder.model, _Known())
        ids = folder.journal.ids()
        known.ended = {deploy_id: known.ended[deploy_id] for deploy_id in ids if deploy_id in known.ended}
        unfinished = []
        for deploy_id in ids:
            record = known.ended.get(deploy_id) or folder.journal.find(deploy_id)
            if record is not None and record.finished:
                known.ended[deploy_id] = record
            elif record is not None:
                unfinished.append(record)
        silent_s = [(now - record.last_sign_of_life).total_seconds() for record in unfinished]
        families.add("unfinished", folder.model, len(unfinished))
        families.add("unfinished_age_seconds", folder.model, max([0.0, *silent_s]))
        _tell_ended(list(known.ended.values()), folder.model, families)

    def _quarantine(self, folder: ModelFolder, families: Families, now: datetime) -> None:
        families.add("quarantined", folder.model, sum(1 for _ in folder.versions.quarantined()))

    def _bake(self, folder: ModelFolder, families: Families, now: datetime) -> None:
        bake: Bake | None = folder.bakes.latest()
        for verdict in BakeVerdict if bake is not None else ():
            families.add("bake_result", folder.model, verdict is bake.verdict, verdict)  # type: ignore[union-attr]
        for bad in bad_versions(folder):
            families.add("taken_back", folder.model, 1, str(bad.version))
        live: Release | None = folder.releases.latest()
        if live is not None:
            missing = judged(folder, live).without_verdict
            for judge in (CANARY, BAKE):
                families.add("release_without_verdict", folder.model, judge in missing, judge)

    def _reconcile(self, folder: ModelFolder, families: Families, now: datetime) -> None:
        note: ReconcileNote | None = folder.last_reconcile.read()
        if note is not None:
            families.add("reconcile_timestamp_seconds", folder.model, _seconds(note.at_utc))
            families.add("reconcile_problems", folder.model, len(note.problems))
            families.add("reconcile_repairs", folder.model, len(note.done))
            families.add("stuck_engines", folder.model, len(note.stuck))
            families.add("alias_drift", folder.model, ALIAS_DRIFT in note.notices)


def _tell_ended(ended: list[Deployment], model: str, families: Families) -> None:
    ended.sort(key=lambda record: record.last_time)
    counts = Counter(
        (record.state, record.failure.step if record.failure and record.state is State.ROLLED_BACK else "")
        for record in ended
    )
    for (state, step), count in sorted(counts.items()):
        families.add("deployments", model, count, state, step)
    good = [record for record in ended if record.state is not State.ROLLED_BACK]
    bad = [record for record in ended if record.state is State.ROLLED_BACK]
    for name, records in (("last_success", good), ("last_failure", bad)):
        if records:
            families.add(f"{name}_timestamp_seconds", model, records[-1].last_time.timestamp())
    done = [record for record in ended if record.state is not State.UNCHANGED]
    _tell_staging(ended, model, families)
    for step, (begin, end) in STEPS.items() if done else ():
        times = done[-1].times_utc
        began = begin if begin in times or begin is not State.TRIED else State.VERIFIED
        if began in times and end in times:
            families.add("step_duration_seconds", model, _seconds(times[end]) - _seconds(times[began]), step)


def _tell_staging(ended: list[Deployment], model: str, families: Families) -> None:
    """Add what the staging Triton said last; a deployment that did not ask it says nothing."""
    asked = [record.staging for record in ended if record.staging]
    if not asked:
        return
    last = asked[-1]
    families.add("staging_timestamp_seconds", model, _seconds(last["at_utc"]))
    families.add("staging_result", model, 1, last["result"])
    families.add("staging_waited_seconds", model, last.get("waited_s", 0.0))
    families.add("staging_emptied", model, len(last.get("emptied", ())))


def _seconds(utc_text: str) -> float:
    return datetime.fromisoformat(utc_text).timestamp()
