"""A deployment: its states, the only legal ways from one state to the next, and the facts that it records.

Pure rules: standard library only, no I/O, time is an argument. All times are UTC in ISO 8601.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from ..errors import IllegalTransition
from . import reader
from .moments import utc_text
from .reader import Count, DeployId, Moment, MomentOrEmpty, Version


class State(StrEnum):
    """A fact about a deployment that outlives a crash."""

    PINNED = "pinned"
    """The alias was resolved; nothing was changed."""
    MATERIALIZED = "materialized"
    """The version's directory is complete, verified and durable."""
    LOADED = "loaded"
    """Triton has the candidate beside the live version."""
    READY = "ready"
    """Every Triton says that exactly this version is ready."""
    VERIFIED = "verified"
    """The candidate's answers are as expected."""
    TRIED = "tried"
    """A canary ended well: a growing share of the clients' requests went to the candidate. Skipped
    without a canary."""
    SWITCHING = "switching"
    """Intent: clients may reach the candidate. A crash here is undone."""
    COMMITTING = "committing"
    """Decision: the candidate answered through the public name. From here the deployment only goes
    forward."""
    COMMITTED = "committed"
    """The release is written, and current.json names it."""
    ROLLING_BACK = "rolling_back"
    """Decision: this deployment will never commit."""
    ROLLED_BACK = "rolled_back"
    """Everything is as before the deployment; the failed version is in quarantine."""
    UNCHANGED = "unchanged"
    """The version was already live; nothing was done."""


TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.PINNED: frozenset({State.MATERIALIZED, State.ROLLING_BACK}),
    State.MATERIALIZED: frozenset({State.LOADED, State.ROLLING_BACK}),
    State.LOADED: frozenset({State.READY, State.ROLLING_BACK}),
    State.READY: frozenset({State.VERIFIED, State.ROLLING_BACK}),
    State.VERIFIED: frozenset({State.TRIED, State.SWITCHING, State.ROLLING_BACK}),
    State.TRIED: frozenset({State.SWITCHING, State.ROLLING_BACK}),
    State.SWITCHING: frozenset({State.COMMITTING, State.ROLLING_BACK}),
    # Back from COMMITTING only if another release took the generation: see Deployments.finish.
    State.COMMITTING: frozenset({State.COMMITTED, State.ROLLING_BACK}),
    State.ROLLING_BACK: frozenset({State.ROLLED_BACK}),
    State.COMMITTED: frozenset(),
    State.ROLLED_BACK: frozenset(),
    State.UNCHANGED: frozenset(),
}
"""The only transition table; ``advance`` alone checks it."""


STEP_AFTER: Mapping[State, str] = {
    State.PINNED: "materialize",
    State.MATERIALIZED: "load",
    State.LOADED: "ready",
    State.READY: "smoke",
    State.VERIFIED: "commit",
    State.TRIED: "commit",
    State.SWITCHING: "commit",
    State.COMMITTING: "commit",
}
"""The step that is due or running while a deployment is in a state; see also ``Deployment.due_step``."""


@dataclass(frozen=True, kw_only=True)
class Pinned:
    """The version that an alias named at the moment of the snapshot.

    Attributes:
        version: MLflow's model version, which is also the version that Triton will report.
        run_id: MLflow run that made the version; empty if it was registered without a run.
        alias: the alias that was resolved.
        artifact_uri: directory that holds ``model.onnx``, as the artifact store addresses it.
        fingerprint: sha256 over the location and the listing (paths, sizes in bytes): an identity before
            any byte is read.
        expected_digest: the digest that training recorded on the version, or empty.
    """

    version: Version
    run_id: str
    alias: str
    artifact_uri: str
    fingerprint: str
    expected_digest: str = ""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """The failure of a step.

    Attributes:
        step: name of the step.
        kind: ``DeployError.kind``, ``crashed`` if the process ended without an error, or ``unexpected``.
        error: the error's text, as the user saw it.
        at_utc: time of the failure.
        blames_artifact: whether the model itself is at fault.
        suspect: whether the model is only suspected: a Triton ended while it had the model, and a restart
            by hand looks the same.
    """

    step: str
    kind: str
    error: str
    at_utc: str
    blames_artifact: bool = False
    suspect: bool = False


@dataclass(frozen=True, kw_only=True)
class Canary:
    """The canary of a deployment: the traffic of its candidate before the commit; see canary.py.

    Attributes:
        shares_percent: shares of the requests that the candidate answers, one share a step.
        shadow_percent: share of the requests that is mirrored to the candidate before the first of these
            steps; 0 for none.
        step_s: duration of each step, seconds.
        step: number of steps that have begun, the mirroring included.
        share_percent: share that the candidate answers now.
        mirrored_percent: share that is mirrored to the candidate now.
        since_utc: when the step began.
        until_utc: when both shares end, unless the watcher prolongs them.
        judgment: the last judgment of the step: ``verdict``, ``why``, and the figures.
        triton: gRPC address of the one Triton on which the candidate meets clients. Empty before the
            first step, and in records of earlier code, whose candidates meet clients on any Triton.
        tritons: gRPC addresses of all serving Tritons in the deployer's order: a gateway knows them by
            other addresses.
        key: a random secret. It decides which clients meet the candidate first, and testers that send it
            get the candidate. Empty before the first step, and in records of earlier code.
        waits: the steps that only a person ends, by their number (1 for the first).
        told: a person's last decision, as long as it counts: ``what`` (see ``canary.Decision``), ``by``,
            ``at_utc`` and ``reason``; empty without a decision.
        held_utc: since when the step waits beyond its time for requests, a measurement or a person; empty
            while it does not.
        held_for: the reason of that wait, a sentence; empty while the step does not wait.
        unjudged: for each step that ended without a judgment the reason, a sentence.
        counted: each gateway's counts of the version before the first step, by the gateway's address; see
            ``canary_floor``.
    """

    shares_percent: tuple[int, ...]
    shadow_percent: int
    step_s: float
    step: Count = 0
    share_percent: int = 0
    mirrored_percent: int = 0
    since_utc: MomentOrEmpty = ""
    until_utc: MomentOrEmpty = ""
    judgment: Mapping[str, Any] = field(default_factory=dict)
    triton: str = ""
    tritons: tuple[str, ...] = ()
    key: str = field(default="", repr=False)
    waits: tuple[Count, ...] = ()
    told: Mapping[str, str] = field(default_factory=dict)
    held_utc: MomentOrEmpty = ""
    held_for: str = ""
    unjudged: tuple[str, ...] = ()
    counted: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """One deploy from snapshot to its end; ``advance`` is the only way to change its state.

    Attributes:
        deploy_id: id that ties the steps together.
        model: public model name.
        state: the last fact.
        pinned: the version that is being deployed.
        base_generation: generation that was live at the snapshot; 0 before the first release.
        base_version: version that was live at the snapshot, or None.
        actor: the user that asked for it, for the history.
        reason: the user's reason, for the history.
        allow_schema_change: whether breaking changes of inputs and outputs are accepted.
        force: whether a quarantined digest is accepted.
        unverified: whether the check of the version's files is skipped, at a user's request in an emergency.
        digest: digest of the artifact, once materialized.
        manifest_digest: sha256 of the version's manifest, once materialized; empty in records of earlier
            code.
        hashed_utc: when all bytes of a version that an earlier deployment installed were compared with
            the manifest.
        staging: result of the trial in the staging Triton (see staging.Staging.try_out); empty without a
            staging Triton.
        shapes: the shapes that replaced those of the version's manifest, because a Triton refused these (see
            shapes.shape_facts); empty where no Triton did.
        given: when a Triton was about to meet the candidate alone, by the Triton's address.
        smoke: result of the smoke test (see Fleet.smoke).
        canary: the candidate's share of the clients' traffic before the commit; None without a canary.
        away: why a Triton was passed over when the others were flipped, by the Triton's address.
        unanswered: when a flip got no answer, and may still arrive, by the Triton's address.
        ended: when a Triton ended while it had the candidate, by the Triton's address.
        failure: the last failure, if any.
        quarantine: name of the quarantined directory, if there is one.
        times_utc: when each state was reached.
    """

    deploy_id: DeployId
    model: str
    state: State
    pinned: Pinned
    base_generation: Count
    base_version: Version | None
    actor: str
    reason: str = ""
    allow_schema_change: bool = False
    force: bool = False
    unverified: bool = False
    digest: str = ""
    manifest_digest: str = ""
    hashed_utc: MomentOrEmpty = ""
    staging: Mapping[str, Any] = field(default_factory=dict)
    shapes: Mapping[str, Any] = field(default_factory=dict)
    given: Mapping[str, str] = field(default_factory=dict)
    smoke: Mapping[str, Any] = field(default_factory=dict)
    canary: Canary | None = None
    away: Mapping[str, str] = field(default_factory=dict)
    unanswered: Mapping[str, str] = field(default_factory=dict)
    ended: Mapping[str, str] = field(default_factory=dict)
    failure: Failure | None = None
    quarantine: str = ""
    times_utc: Mapping[str, Moment] = field(default_factory=dict)

    @property
    def version(self) -> int:
        """Version being deployed."""
        return self.pinned.version

    @property
    def due_step(self) -> str | None:
        """The step that is due or running; None after the last step."""
        if self.state is State.VERIFIED and self.canary is not None:
            return "canary"
        return STEP_AFTER.get(self.state)

    @property
    def finished(self) -> bool:
        """Whether nothing remains to be done."""
        return not TRANSITIONS[self.state]

    @property
    def last_time(self) -> datetime:
        """When the deployment reached its present state."""
        return max(datetime.fromisoformat(text) for text in self.times_utc.values())

    @property
    def last_sign_of_life(self) -> datetime:
        """When a process last worked on the deployment; a little later while a canary is watched."""
        watched = self.canary.until_utc if self.canary else ""
        return max(self.last_time, datetime.fromisoformat(watched)) if watched else self.last_time

    @property
    def generation(self) -> int:
        """Generation of the release that this deployment would commit."""
        return self.base_generation + 1

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a record back; raises ValueError when ``text`` is not one."""
        record = reader.decode(text, cls)
        if not record.times_utc:
            raise ValueError("times_utc is empty, and has to say when it began")
        if record.state is State.ROLLING_BACK and (
            record.failure is None or record.state not in record.times_utc
        ):
            raise ValueError("it is rolling_back, and does not say since when and why")
        return record


def advance(record: Deployment, to: State, now: datetime, **facts: Any) -> Deployment:
    """Return ``record`` in state ``to``, with the facts of that state.

    Args:
        record: the deployment as last read.
        to: the state that is now true.
        now: aware time.
        facts: attributes that change together with the state.

    Raises:
        IllegalTransition: no such edge in TRANSITIONS.
    """
    if to not in TRANSITIONS[record.state]:
        raise IllegalTransition(
            f"Deployment {record.deploy_id} is {record.state} and can't become {to}.",
            hint="Run the steps in order; a finished deployment is not taken up again: start a new one.",
        )
    return replace(record, state=to, times_utc={**record.times_utc, to: utc_text(now)}, **facts)
