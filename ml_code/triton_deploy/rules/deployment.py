"""A deployment: its states, the only legal ways from one to the next, and what it remembers.

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
    """The alias was resolved once; nothing was touched."""
    MATERIALIZED = "materialized"
    """The version's directory is complete, verified and durable."""
    LOADED = "loaded"
    """Triton has the candidate beside the live version."""
    READY = "ready"
    """Every Triton says that exactly this version is ready."""
    VERIFIED = "verified"
    """The candidate's answers are right."""
    TRIED = "tried"
    """A canary ended well: a share of the clients' requests, step by step, went to the candidate. Without one: skipped."""
    SWITCHING = "switching"
    """Intent: clients may reach the candidate. A crash here is undone."""
    COMMITTING = "committing"
    """Decision: the candidate answered through the public name. From here only forward."""
    COMMITTED = "committed"
    """The release is written and current.json says so."""
    ROLLING_BACK = "rolling_back"
    """Decision: this deployment will never commit."""
    ROLLED_BACK = "rolled_back"
    """Everything is as it was; what failed is in quarantine."""
    UNCHANGED = "unchanged"
    """The version was live already; nothing was done."""


TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.PINNED: frozenset({State.MATERIALIZED, State.ROLLING_BACK}),
    State.MATERIALIZED: frozenset({State.LOADED, State.ROLLING_BACK}),
    State.LOADED: frozenset({State.READY, State.ROLLING_BACK}),
    State.READY: frozenset({State.VERIFIED, State.ROLLING_BACK}),
    State.VERIFIED: frozenset({State.TRIED, State.SWITCHING, State.ROLLING_BACK}),
    State.TRIED: frozenset({State.SWITCHING, State.ROLLING_BACK}),
    State.SWITCHING: frozenset({State.COMMITTING, State.ROLLING_BACK}),
    # Back from COMMITTING only when another release took the generation: see Deployments.finish.
    State.COMMITTING: frozenset({State.COMMITTED, State.ROLLING_BACK}),
    State.ROLLING_BACK: frozenset({State.ROLLED_BACK}),
    State.COMMITTED: frozenset(),
    State.ROLLED_BACK: frozenset(),
    State.UNCHANGED: frozenset(),
}
"""The one transition table: every edge that exists, checked in ``advance`` alone."""


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
"""The step that was due or running when a deployment was last seen in a state; see also ``Deployment.due_step``."""


@dataclass(frozen=True, kw_only=True)
class Pinned:
    """What an alias meant at the moment of the snapshot.

    Attributes:
        version: MLflow's model version, the version that Triton will report.
        run_id: MLflow run that made it; empty when it was registered without one.
        alias: the alias that was resolved.
        artifact_uri: directory that holds ``model.onnx``, as the artifact store addresses it.
        fingerprint: sha256 over the location and the listing (paths, sizes in bytes): identity before any byte is read.
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
    """Why a step did not end well.

    Attributes:
        step: name of the step.
        kind: ``DeployError.kind``, ``crashed`` when a process ended without a word, or ``unexpected``.
        error: what the user was told.
        at_utc: when.
        blames_artifact: whether the model itself is at fault.
        suspect: it is blamed on suspicion: a Triton ended while it had the model, and a restart by hand looks the same.
    """

    step: str
    kind: str
    error: str
    at_utc: str
    blames_artifact: bool = False
    suspect: bool = False


@dataclass(frozen=True, kw_only=True)
class Canary:
    """How much of the clients' traffic a candidate gets before it is committed; the rules are in canary.py.

    Attributes:
        shares_percent: shares of the requests that it answers, one after the other.
        shadow_percent: share of the requests that are mirrored to it before the first of those; 0 for none.
        step_s: how long each step is watched, seconds.
        step: how many steps have begun, the mirroring included.
        share_percent: share that it answers now.
        mirrored_percent: share that is mirrored to it now.
        since_utc: when the step began.
        until_utc: when both shares end unless somebody prolongs them, who goes on watching.
        judgment: what was last seen of the step: ``verdict``, ``why``, and the figures.
        triton: gRPC address of the one Triton on which the candidate meets clients; empty before that, and in records of
            earlier code: there it is any of them.
        tritons: gRPC addresses of all that serve, in the deployer's order: a gateway knows them by other addresses.
        key: a random secret. It decides which clients meet the candidate first, and opens it to testers that send it. Empty
            before the first step, and in records of earlier code.
        waits: the steps that end only when a person says so, by their number (1 for the first).
        told: what a person said last, and what is still to be done or kept: ``what`` (see ``canary.Decision``), ``by``, ``at_utc``,
            ``reason``; empty when there is nothing.
        held_utc: since when the step waits for requests, for a measurement or for a person, beyond its time; empty while it does not.
        held_for: what it waits for, a sentence; empty while it does not.
        unjudged: why steps ended that nobody had judged, a sentence each.
        counted: what each gateway had counted of the version before the first step, by its address; see ``canary_floor``.
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
        pinned: what is being deployed.
        base_generation: generation that was live at the snapshot; 0 before the first release.
        base_version: version that was live at the snapshot, or None.
        actor: who asked, for the history.
        reason: why, for the history.
        allow_schema_change: breaking changes of inputs and outputs are accepted.
        force: a quarantined digest is accepted.
        unverified: the version's files are not compared with what was released: somebody asked for that in an emergency.
        digest: digest of the artifact, once materialized.
        manifest_digest: sha256 of the version's manifest, once materialized; empty in records of earlier code.
        hashed_utc: when every byte of files that this deployment did not bring was compared with the manifest.
        staging: what came of the trial in the staging Triton (see staging.Staging.try_out); empty without one.
        given: when the candidate was given to the Triton that met it first, by that one's address.
        smoke: what the smoke test measured (see Fleet.smoke).
        canary: what of the clients' traffic it gets before the commit, if that was asked for.
        away: why a Triton was passed over when the others were flipped, by its address.
        unanswered: flips that got no answer and may still arrive: when, by the Triton's address.
        ended: Tritons that ended while they had the candidate: when, by the Triton's address.
        failure: the last failure, if any.
        quarantine: name of the quarantined directory, if something was put aside.
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
        """The step that is due or running, or None when none is."""
        if self.state is State.VERIFIED and self.canary is not None:
            return "canary"
        return STEP_AFTER.get(self.state)

    @property
    def finished(self) -> bool:
        """Whether nothing remains to be done."""
        return not TRANSITIONS[self.state]

    @property
    def last_time(self) -> datetime:
        """When it reached the last of its states."""
        return max(datetime.fromisoformat(text) for text in self.times_utc.values())

    @property
    def last_sign_of_life(self) -> datetime:
        """When somebody went on with it last; of one that watches a canary, a little later."""
        watched = self.canary.until_utc if self.canary else ""
        return max(self.last_time, datetime.fromisoformat(watched)) if watched else self.last_time

    @property
    def generation(self) -> int:
        """Generation that this deployment commits, if it commits."""
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
    """Return ``record`` in state ``to`` with the facts that came with it.

    Args:
        record: the deployment as last read.
        to: the state that is now true.
        now: aware time.
        facts: other attributes that change with the state.

    Raises:
        IllegalTransition: no such edge in TRANSITIONS.
    """
    if to not in TRANSITIONS[record.state]:
        raise IllegalTransition(
            f"Deployment {record.deploy_id} is {record.state} and can't become {to}.",
            hint="Run the steps in order; a finished deployment is not taken up again: start a new one.",
        )
    return replace(record, state=to, times_utc={**record.times_utc, to: utc_text(now)}, **facts)
