"""Bake a release: watch it, record the verdict, and take the release back when it is bad."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from ..deploy.deployer import Deployer
from ..deploy.request import RevertRequest
from ..errors import BakeFailed, BakeHeld, DeployError, LeaseHeld, NotFound, Superseded
from ..repository import ModelFolder
from ..rules.bake_record import Bake, BakeVerdict
from ..rules.deployment import Deployment
from ..rules.release import BAKED_BADLY, NOT_JUDGED, Release
from ..settings import Settings
from ..watch.policy import BakePolicy
from ..watch.release_watch import Watch

log = logging.getLogger(__name__)

LEASE_POLL_S = 5.0
"""Pause between attempts to take a bad release back while another deploy has the lease, seconds."""


@dataclass(frozen=True, kw_only=True)
class Baked:
    """The result of a bake that did not fail.

    Attributes:
        bake: the record of the bake; None when no bake was due.
        text: the result in a sentence.
    """

    bake: Bake | None
    text: str


class Baking:
    """The bakes of one model's releases.

    Args:
        settings: see ``Settings``.
        model: its name.
        policy: how its releases are watched.
        deployer: takes bad releases back; by default that of the settings.
        actor: name of the user or run that bakes, for the history.
    """

    def __init__(
        self,
        settings: Settings,
        model: str,
        policy: BakePolicy,
        *,
        deployer: Deployer | None = None,
        actor: str = "",
    ) -> None:
        self._settings, self._policy, self._actor = settings, policy, actor
        self._deployer = deployer or Deployer(settings)
        self._folder = ModelFolder.at(settings.repository_root, model)

    @property
    def is_due(self) -> bool:
        """Whether releases are watched at all."""
        return self._policy.duration_s > 0

    def release_of(self, record: Deployment) -> Release | None:
        """Return the release that a deployment committed, or None; raises StorageFailed."""
        return self._folder.releases.of_deployment(record.deploy_id, record.generation)

    def live(self) -> Release:
        """Return the live release; raises NotFound when there is none."""
        live = self._folder.releases.latest()
        if live is None:
            raise NotFound(
                f"No version of {self._folder.model} is live.", hint="Deploy one: triton-deploy deploy."
            )
        return live

    def recorded(self, generation: int) -> Bake | None:
        """Return the record of a release's bake, or None before its end."""
        return self._folder.bakes.find(generation)

    def watch(self, generation: int) -> Watch:
        """Return the watch over a release; see Watch.of."""
        return Watch.of(self._settings, self._folder.model, generation, self._policy)

    def note_watch(self, release: Release) -> None:
        """Note for the gateway's page that a release is watched, and until when. Never raises."""
        until = datetime.fromisoformat(release.updated_at_utc) + timedelta(seconds=self._policy.duration_s)
        try:
            self._folder.bakes.note_watch(release.generation, until)
        except DeployError as error:
            log.warning("%s: the gateway's page does not show the bake: %s", self._folder.model, error)

    def run(
        self, generation: int, *, pause: Callable[[float], object] = time.sleep, act: bool = True
    ) -> Baked:
        """Watch a release to the end of its bake, in this process, and conclude.

        Args:
            generation: the release.
            pause: waits a number of seconds.
            act: record the verdict, and take a bad release back; False changes nothing.

        Raises:
            BakeFailed, BakeHeld: see conclude.
            DeployError: the release is bad and could not be taken back; it is live.
        """
        if not self.is_due:
            return Baked(bake=None, text=self.not_due)
        bake = self.recorded(generation) if act else None
        if bake is None:
            watch = self.watch(generation)
            if act:
                self.note_watch(watch.release)
            while (bake := watch.look()) is None:
                pause(self._policy.interval_s)
        if not act:
            return self._judged(bake, "nothing was changed")
        waited_s = 0.0
        while True:
            try:
                return self.conclude(bake)
            except LeaseHeld as error:
                if waited_s > self._settings.lease_s:
                    raise
                log.warning("%s: the bad release is not taken back yet: %s", self._folder.model, error)
                pause(LEASE_POLL_S)
                waited_s += LEASE_POLL_S

    def conclude(self, bake: Bake) -> Baked:
        """Record the end of a bake, and take the release back if it is bad. Safe to repeat.

        Args:
            bake: the end of a watch.

        Raises:
            BakeFailed: the release was bad, and is not live any more; or no version was live before it.
            BakeHeld: the release could not be judged, and the policy wants a person to decide.
            LeaseHeld: another deploy is under way; repeat it when that has ended.
            DeployError: the release is bad and could not be taken back; repeat it.
        """
        bake = self._folder.bakes.add(bake)
        unjudged = bake.verdict is BakeVerdict.NO_DATA and self._policy.fate(bake) == "revert"
        if unjudged or bake.verdict is BakeVerdict.FAILED:
            raise self._take_back(bake)
        return self._judged(bake, "it stays live")

    @property
    def not_due(self) -> str:
        """Why no release is watched."""
        if not self._settings.bake.prometheus_url:
            return "Not watched: TRITON_DEPLOY_PROMETHEUS_URL is not set."
        return "Not watched: the bake takes 0 minutes."

    def _judged(self, bake: Bake, then: str) -> Baked:
        name, why = (
            f"Release {bake.generation} (version {bake.version}) of {bake.model}",
            "; ".join(bake.reasons),
        )
        if bake.verdict is BakeVerdict.PASSED:
            return Baked(bake=bake, text=f"{name} passed its bake: {why}.")
        if bake.verdict is BakeVerdict.SUPERSEDED:
            return Baked(bake=bake, text=f"{name} is not watched any more: {why}.")
        if bake.verdict is BakeVerdict.FAILED:
            raise BakeFailed(f"{name} {BAKED_BADLY}{why}; {then}.", hint="Run it again without --dry-run.")
        text = f"{name} could not be judged: {why}; {then}."
        if self._policy.fate(bake) == "hold":
            raise BakeHeld(
                text,
                hint=f"Decide: leave it, or take it back with 'triton-deploy revert {bake.model}'.",
            )
        log.warning("%s", text)
        return Baked(bake=bake, text=text)

    def _take_back(self, bake: Bake) -> BakeFailed:
        """Take a release back, and return the error for the caller to raise."""
        failed = bake.verdict is BakeVerdict.FAILED
        why = (BAKED_BADLY if failed else NOT_JUDGED) + ("; ".join(bake.reasons) or "nobody saw it")
        message = f"Release {bake.generation} (version {bake.version}) of {bake.model} {why}."
        hint = (
            "Repair the model and register a new version; this one is not deployed again without --force."
            if failed
            else "Nothing is known against the model: deploy it again when it can be judged."
        )
        try:
            reverted = self._revert(bake, why)
        except Superseded:
            return BakeFailed(f"{message} It is not live any more.", hint=hint)
        except NotFound as error:
            return BakeFailed(
                f"{message} It stays live, because there is nothing to go back to: {error.message}",
                hint="Deploy a better version.",
            )
        except DeployError:
            log.error("%s It is still live: it could not be taken back yet.", message)
            raise
        return BakeFailed(f"{message} Version {reverted.version} is live again.", hint=hint)

    def _revert(self, bake: Bake, reason: str) -> Deployment:
        ids = (f"bake-{bake.generation}-{number}" for number in range(1, 10_000))
        earlier = []
        for deploy_id in ids:
            if self._folder.journal.find(deploy_id) is None:
                break
            earlier.append(deploy_id)
        request = RevertRequest(
            model=bake.model,
            deploy_id=deploy_id,
            actor=self._actor,
            reason=reason[:500],
            only_generation=bake.generation,
        )
        return self._deployer.revert(request, earlier)
