"""The staging Triton: a candidate is tried where nobody is served, through all that clients will meet.

It is one more Triton on the same repository, started in explicit mode and without ``--load-model``, so that it starts empty. One
deployment uses it at a time. What ends it, or hangs in it, has harmed no client.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
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
from ..rules.version_files import Manifest
from ..settings import Settings
from .fleet import Fleet

log = logging.getLogger(__name__)

POLL_S = 0.5


class Staging:
    """The staging Triton as one deployment uses it.

    Args:
        triton: the server.
        folder: the model's place in the repository.
        settings: deadlines, and what to do when it is away.
        clock: gives the time, aware.
        sleep: waits so many seconds.
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
        # A busy machine that serves nobody may answer slowly; there is one of it.
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
        """What may be loaded in it without being listed: Triton lists only what has a folder."""

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
            deploy_id: its deployment.
            keep_lease: renews the deployment's own lease; raises Superseded when it lost it.
            note: records what came of it: ``result`` (``passed``, ``rejected``, ``ended``, ``unreachable``, ``stuck`` or ``busy``),
                ``waited_s`` seconds for another deployment, ``emptied`` (names that were found in it), ``at_utc``.
            before: what an earlier try of the same deployment recorded.

        Raises:
            EndedTriton: the candidate ended it, and once more when it was tried again.
            ArtifactRejected, VerificationFailed: the candidate can't be served.
            Unavailable: it can't be used, and is required; nobody is blamed.
            Misconfigured: it does not look like a staging Triton.
            Superseded: the deployment, or its turn, is over.
        """
        if before.get("result") == "passed":
            return
        me = f"{self._folder.model}:{deploy_id}"
        facts: dict[str, Any] = {"waited_s": 0.0, "emptied": []}

        def ended(result: str) -> None:
            note({"result": result, **facts, "at_utc": utc_text(self._clock())})

        try:
            facts["waited_s"] = self._take(me, keep_lease)
        except LeaseHeld as error:
            ended("busy")
            self._go_on_or(error)
            return
        try:
            self._try_within(manifest, deploy_id, lambda: self._keep(me, keep_lease), facts, ended, before)
        finally:
            self._give_back(me)

    def _try_within(
        self,
        manifest: Manifest,
        deploy_id: str,
        keep: Callable[[], object],
        facts: dict[str, Any],
        ended: Callable[[str], None],
        before: Mapping[str, Any],
    ) -> None:
        ended_before = before.get("result") == "ended"
        while True:
            keep()
            try:
                facts["emptied"] = self._empty()
            except _Stuck as error:
                ended("stuck")
                self._go_on_or(error)
                return
            except Unavailable as error:
                ended("ended" if ended_before else "unreachable")
                self._go_on_or(error)
                return
            keep()
            try:
                self._run(manifest, deploy_id, keep)
            except EndedTriton as error:
                ended("ended")
                if ended_before:
                    raise EndedTriton(
                        f"The candidate ended the staging Triton twice: {error.message}",
                        hint="Nobody was served there. See that Triton's log; the model needs repair.",
                        suspect=False,
                    ) from error
                log.warning("%s It is tried there once more.", error.message)
                ended_before = True
                self._wait_until_back(keep)
                continue
            except (StorageFailed, Superseded):
                raise
            except DeployError as error:
                # Also where it is optional: what hangs there, or is lost there, is not tried on those who serve.
                ended("rejected" if error.blames_artifact else "stuck" if self._left else "unreachable")
                raise self._there(error) from error
            ended("passed")
            log.info("version %s came through the staging Triton", manifest.version)
            return

    def _run(self, manifest: Manifest, deploy_id: str, keep: Callable[[], object]) -> None:
        serving = Fleet(self._folder, [self._triton], self._settings)
        try:
            serving.load_candidate(manifest, deploy_id, fresh=True)
            keep()
            serving.wait_ready(manifest.version)
            serving.smoke(manifest.version)
            keep()
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

    def _take(self, me: str, keep_lease: Callable[[], object]) -> float:
        """Wait for the staging Triton, and take it; returns how long that took, seconds."""
        began = time.monotonic()
        while True:
            holder, in_force = self._lease.last(self._clock())
            record = self._record_of(holder) if holder else None
            if holder is not None and (not in_force or (record is not None and record.finished)):
                # Who had it is silent, was rolled back, or could not take its candidate out: that is done below. If it wakes up,
                # its renewal fails.
                if record is not None:
                    self._left |= {record.model, engine_name(record.model, record.version)}
                self._lease.release(holder)
            try:
                self._lease.acquire(me, self._clock(), self._lease_s)
                return round(time.monotonic() - began, 3)
            except (LeaseHeld, Superseded):
                waited_s = time.monotonic() - began
                if waited_s >= self._settings.triton.staging_wait_s:
                    raise LeaseHeld(
                        f"The staging Triton at {self._triton.url} was in use by {holder or 'another deployment'} for {waited_s:.0f} s.",
                        hint="Deploy again, or raise TRITON_DEPLOY_STAGING_WAIT_S.",
                    ) from None
            keep_lease()
            self._sleep(POLL_S)

    def _give_back(self, me: str) -> None:
        if not self._left:
            self._lease.release(me)
            return
        # Not in force, and not given back: the next one learns from it what is left.
        with contextlib.suppress(DeployError):
            self._lease.renew(me, self._clock(), 0)

    def _record_of(self, holder: str) -> Deployment | None:
        """Return the deployment that has it, if it can be read."""
        model, _, deploy_id = holder.partition(":")
        with contextlib.suppress(DeployError):
            return ModelFolder.at(self._settings.repository_root, model).journal.find(deploy_id)
        return None

    def _keep(self, me: str, keep_lease: Callable[[], object]) -> None:
        keep_lease()
        self._lease.renew(me, self._clock(), self._lease_s)

    @property
    def _lease_s(self) -> float:
        # As long as one call may take.
        settings = self._settings
        return (
            max(settings.triton.load_timeout_s, 6 * settings.triton.infer_timeout_s)
            + settings.triton.ready_timeout_s
            + 60
        )

    def _empty(self) -> list[str]:
        """Take out what others left in it; returns the names."""
        busy = self._busy()
        self._refuse_others([name for name in busy if name not in self._left])
        names = sorted({*busy, *self._left})
        # The public names first: Triton keeps an engine while a switch points at it.
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
        """Raise Misconfigured when a Triton that is about to be emptied looks like one that serves: nothing of it may be taken out."""
        root = self._settings.repository_root
        # Mostly it is empty, and no folder has to be listed for that.
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
        """Return what is loaded in it, or on its way in or out."""
        return sorted(self._triton.index().held)

    def _wait_until_back(self, keep: Callable[[], object]) -> None:
        deadline = time.monotonic() + self._settings.triton.load_timeout_s
        while time.monotonic() < deadline:
            keep()
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
    """Something in the staging Triton can't be taken out."""
