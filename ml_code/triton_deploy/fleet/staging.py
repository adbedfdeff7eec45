"""The staging Triton: a candidate is tried on a Triton without clients, in the same way as on a serving one.

It is one more Triton on the same repository, started in explicit mode and without ``--load-model``, so
that it starts empty. One deployment uses it at a time. A candidate that ends it, or hangs in it, harms no
client.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from ..clients.triton import Triton
from ..errors import (
    DeployError,
    EndedTriton,
    LeaseHeld,
    Misconfigured,
    StorageFailed,
    Superseded,
    Unavailable,
)
from ..repository import ModelFolder, models_in
from ..repository.lease import STAGING, Lease
from ..rules.deployment import Deployment
from ..rules.moments import utc_text
from ..rules.names import engine_name, model_of
from ..rules.triton_errors.row import OtherShapes
from ..rules.version_files import Manifest
from ..settings import Settings
from .fleet import Fleet
from .model_on_triton import NOT_TOLD

log = logging.getLogger(__name__)

POLL_S = 0.5


@dataclass
class _Trial:
    """One deployment's trial in the staging Triton.

    Attributes:
        manifest: the candidate.
        deploy_id: the candidate's deployment.
        holder: the deployment's name in the lease of the staging Triton.
        keep_lease: renews the deployment's own lease.
        note: records the trial.
        ended_before: whether the candidate has ended the staging Triton in this or an earlier trial.
        waited_s: how long another deployment used the staging Triton, seconds.
        emptied: names that were found loaded, and were unloaded.
    """

    manifest: Manifest
    deploy_id: str
    holder: str
    keep_lease: Callable[[], object]
    note: Callable[[Mapping[str, Any]], None]
    ended_before: bool
    waited_s: float = 0.0
    emptied: list[str] = field(default_factory=list)


class Staging:
    """The staging Triton as one deployment uses it.

    Args:
        triton: the server.
        folder: the model's place in the repository.
        settings: deadlines, and whether the staging Triton is required.
        clock: returns the aware time.
        sleep: waits a number of seconds.
    """

    def __init__(
        self,
        triton: Triton,
        folder: ModelFolder,
        settings: Settings,
        clock: Callable[[], datetime],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._triton = triton
        self._folder = folder
        # Latency is no evidence on a machine without clients, and there is only one staging Triton.
        self._settings = replace(
            settings,
            smoke=replace(settings.smoke, latency_limit_s=float("inf")),
            triton=replace(settings.triton, quorum="all"),
        )
        self._required = settings.triton.staging == "required"
        self._clock = clock
        self._sleep = sleep
        self._lease = Lease(settings.repository_root, "the staging Triton", STAGING)
        self._left: set[str] = set()
        """Names that may be loaded without being listed: Triton lists only models that have a folder."""

    def try_out(
        self,
        manifest: Manifest,
        deploy_id: str,
        keep_lease: Callable[[], object],
        note: Callable[[Mapping[str, Any]], None],
        before: Mapping[str, Any],
    ) -> None:
        """Load a candidate's engine and switch, ask both, and unload them.

        Args:
            manifest: the candidate.
            deploy_id: the candidate's deployment.
            keep_lease: renews the deployment's own lease; raises Superseded when the deployment has lost it.
            note: records the trial: ``result`` (``passed``, ``rejected``, ``ended``, ``unreachable``,
                ``stuck`` or ``busy``), ``waited_s`` (wait for another deployment, seconds), ``emptied``
                (names that were found loaded), ``at_utc``.
            before: the record of an earlier trial of the same deployment.

        Raises:
            EndedTriton: the candidate ended the staging Triton twice.
            ArtifactRejected, VerificationFailed: the candidate can't be served.
            Unavailable: the staging Triton can't be used, and is required; the model is not blamed.
            Misconfigured: the Triton does not look like a staging Triton.
            Superseded: the deployment, or its turn, is over.
        """
        if before.get("result") == "passed":
            return
        holder = f"{self._folder.model}:{deploy_id}"
        trial = _Trial(manifest, deploy_id, holder, keep_lease, note, before.get("result") == "ended")
        try:
            trial.waited_s = self._take(trial)
        except LeaseHeld as error:
            self._record(trial, "busy")
            self._go_on_or(error)
            return
        try:
            self._try_within(trial)
        finally:
            self._give_back(trial)

    def _try_within(self, trial: _Trial) -> None:
        """Try the candidate, and once more after it has ended the staging Triton."""
        while self._make_ready(trial):
            try:
                self._run(trial)
            except EndedTriton as error:
                self._record(trial, "ended")
                if trial.ended_before:
                    raise EndedTriton(
                        f"The candidate ended the staging Triton twice: {error.message}",
                        hint="Nobody was served there. See that Triton's log; the model needs repair.",
                        suspect=False,
                    ) from error
                log.warning("%s It is tried there once more.", error.message)
                trial.ended_before = True
                self._wait_until_back(trial)
            except (StorageFailed, Superseded):
                raise
            except OtherShapes as error:
                self._record(trial, "rejected")
                raise self._with_shapes(trial, error) from error
            except DeployError as error:
                # Even if staging is optional: a candidate that hangs or is lost there is not tried on
                # serving Tritons.
                self._record(
                    trial,
                    "rejected" if error.blames_artifact else "stuck" if self._left else "unreachable",
                )
                raise self._there(error) from error
            else:
                self._record(trial, "passed")
                log.info("version %s came through the staging Triton", trial.manifest.version)
                return

    def _make_ready(self, trial: _Trial) -> bool:
        """Empty the staging Triton; returns false if that fails and the deploy goes on without it."""
        self._keep(trial)
        try:
            trial.emptied = self._empty()
        except _Stuck as error:
            self._record(trial, "stuck")
            self._go_on_or(error)
            return False
        except Unavailable as error:
            self._record(trial, "ended" if trial.ended_before else "unreachable")
            self._go_on_or(error)
            return False
        self._keep(trial)
        return True

    def _record(self, trial: _Trial, result: str) -> None:
        facts = {"waited_s": trial.waited_s, "emptied": trial.emptied}
        trial.note({"result": result, **facts, "at_utc": utc_text(self._clock())})

    def _run(self, trial: _Trial) -> None:
        manifest = trial.manifest
        serving = Fleet(self._folder, [self._triton], self._settings)
        try:
            serving.load_candidate(manifest, trial.deploy_id, fresh=True)
            self._keep(trial)
            serving.wait_ready(manifest.version)
            serving.smoke(manifest.version)
            self._keep(trial)
            serving.switch_to(manifest)
        finally:
            for name in (self._folder.model, engine_name(self._folder.model, manifest.version)):
                try:
                    self._triton.unload(name, self._settings.triton.switch_timeout_s)
                except DeployError as error:
                    self._left.add(name)
                    log.warning(
                        "%s is left in the staging Triton, and the next deploy takes it out: %s", name, error
                    )

    def _with_shapes(self, trial: _Trial, refused: OtherShapes) -> OtherShapes:
        """Return a refusal with the staging Triton's shapes of the candidate, as far as they are known."""
        refused = refused.worded(f"In the staging Triton: {refused.message}")
        if trial.manifest.deploy_id != trial.deploy_id:
            return refused
        self._keep(trial)
        try:
            refused.reported = Fleet(self._folder, [self._triton], self._settings).ask_shapes(trial.manifest)
        except NOT_TOLD as error:
            log.warning("the staging Triton does not tell its own shapes: %s", error)
        self._keep(trial)
        return refused

    def _take(self, trial: _Trial) -> float:
        """Wait for the lease of the staging Triton, and take it; returns the wait, seconds."""
        began = time.monotonic()
        while True:
            holder, in_force = self._lease.last(self._clock())
            record = self._record_of(holder) if holder else None
            if holder is not None and (not in_force or (record is not None and record.finished)):
                # The last holder is silent, was rolled back, or could not unload its candidate: its names
                # are unloaded below. If that holder wakes up, it fails to renew the lease.
                if record is not None:
                    self._left |= {record.model, engine_name(record.model, record.version)}
                self._lease.release(holder)
            try:
                self._lease.acquire(trial.holder, self._clock(), self._lease_s)
                return round(time.monotonic() - began, 3)
            except (LeaseHeld, Superseded):
                waited_s = time.monotonic() - began
                if waited_s >= self._settings.triton.staging_wait_s:
                    raise LeaseHeld(
                        f"The staging Triton at {self._triton.url} was in use by {holder or 'another deployment'} for {waited_s:.0f} s.",
                        hint="Deploy again, or raise TRITON_DEPLOY_STAGING_WAIT_S.",
                    ) from None
            trial.keep_lease()
            self._sleep(POLL_S)

    def _give_back(self, trial: _Trial) -> None:
        if not self._left:
            self._lease.release(trial.holder)
            return
        # Expired and not released: its holder tells the next deployment which names are left.
        with contextlib.suppress(DeployError):
            self._lease.renew(trial.holder, self._clock(), 0)

    def _record_of(self, holder: str) -> Deployment | None:
        """Return the deployment of a holder, if its record can be read."""
        model, _, deploy_id = holder.partition(":")
        with contextlib.suppress(DeployError):
            return ModelFolder.at(self._settings.repository_root, model).journal.find(deploy_id)
        return None

    def _keep(self, trial: _Trial) -> None:
        trial.keep_lease()
        self._lease.renew(trial.holder, self._clock(), self._lease_s)

    @property
    def _lease_s(self) -> float:
        # Long enough for the longest call.
        settings = self._settings
        return (
            max(settings.triton.load_timeout_s, 6 * settings.triton.infer_timeout_s)
            + settings.triton.ready_timeout_s
            + 60
        )

    def _empty(self) -> list[str]:
        """Unload everything that earlier deployments left; returns the names."""
        busy = self._busy()
        self._refuse_others([name for name in busy if name not in self._left])
        names = sorted({*busy, *self._left})
        # Public names first: Triton keeps an engine while a switch points at it.
        for name in sorted(names, key=lambda name: ".v" in name):
            self._triton.unload(name, self._settings.triton.switch_timeout_s)
        deadline = time.monotonic() + self._settings.triton.switch_timeout_s
        self._left.clear()
        while names and (left := self._busy()):
            if time.monotonic() >= deadline:
                raise _Stuck(
                    f"The staging Triton at {self._triton.url} does not let go of {', '.join(left)}.",
                    hint="Restart the staging Triton, then deploy again.",
                )
            self._sleep(POLL_S)
        if names:
            log.warning("the staging Triton was not empty: took %s out", ", ".join(names))
        return names

    def _refuse_others(self, names: Sequence[str]) -> None:
        """Raise Misconfigured, before anything is unloaded, when the Triton looks like a serving one."""
        root = self._settings.repository_root
        # An empty staging Triton, the usual case, needs no list of folders.
        ours = set(models_in(root)) if names else set()
        for name in names:
            model = model_of(name)
            live = ModelFolder.at(root, model).releases.latest() if model in ours else None
            if model not in ours or (
                name == model and live and live.active_version in self._triton.ready_versions(name)
            ):
                raise Misconfigured(
                    f"The Triton at {self._triton.url} has {name} loaded as those that serve have it, or for somebody else: it does not look like "
                    "a staging Triton, and nothing was taken out of it.",
                    hint="Correct TRITON_DEPLOY_STAGING_GRPC_URL; if it is the staging Triton, restart it without --load-model.",
                )

    def _busy(self) -> list[str]:
        """Return the names that are loaded, or are being loaded or unloaded."""
        return sorted(self._triton.index().held)

    def _wait_until_back(self, trial: _Trial) -> None:
        deadline = time.monotonic() + self._settings.triton.load_timeout_s
        while time.monotonic() < deadline:
            self._keep(trial)
            try:
                self._triton.states()
                return
            except Unavailable:
                self._sleep(POLL_S)

    def _there(self, error: DeployError) -> DeployError:
        hint = (
            "Restart the staging Triton: it does not let go of the candidate." if self._left else error.hint
        )
        return type(error)(f"In the staging Triton: {error.message}", hint=hint)

    def _go_on_or(self, error: DeployError) -> None:
        if self._required:
            raise type(error)(
                error.message,
                hint=f"{error.hint} Nothing is known against the model, and what serves was not touched. "
                "TRITON_DEPLOY_STAGING=optional would go on without the staging Triton.",
            ) from error
        log.warning("goes on without the staging Triton (TRITON_DEPLOY_STAGING=optional): %s", error)


class _Stuck(Unavailable):
    """A model in the staging Triton can't be unloaded."""
