"""The releases and failed deployments of a model, for the page and ``/model-info``; belongs in a thread."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ...triton_deploy.errors import DeployError
from ...triton_deploy.repository import ModelFolder
from ...triton_deploy.repository.verdicts import in_a_line
from ...triton_deploy.rules.bake_record import Bake
from ...triton_deploy.rules.deployment import State
from ...triton_deploy.rules.moments import utc_text
from ...triton_deploy.rules.release import Release
from ..backend import FailedDeploy
from .under_way import under_way

SHOWN = 20
PATIENCE = timedelta(minutes=10)
"""Time for the last looks of a bake; a note that is older was left by a watch that was ended."""


class DeployHistory:
    """Reads the past of one model; an ended deployment is read once.

    Args:
        root: the model repository.
        model: its name.
    """

    def __init__(self, root: Path, model: str) -> None:
        self._folder = ModelFolder.at(root, model)
        self._deployments = root / model / "deployments"
        self._ended: set[str] = set()
        self._verdicts: dict[int, str] = {}
        self.releases: tuple[Release, ...] = ()
        self.failures: tuple[FailedDeploy, ...] = ()
        self._under_way: dict[str, Any] | None = None
        self._bake: Bake | None = None
        self._baking: datetime | None = None

    def look(self, generation: int) -> None:
        """Read the new records.

        Args:
            generation: generation of the live release, 0 without one; when it changes, the releases are read
                again.
        """
        if generation and (not self.releases or self.releases[0].generation != generation):
            self.releases = tuple(self._newest_releases())
        self._verdicts = self._read_verdicts()
        found = {
            failure.deploy_id: failure
            # The record of a deployment says more than the quarantine.
            for failure in (*self._quarantined(), *self.failures, *self._rolled_back())
        }
        self.failures = tuple(
            sorted(found.values(), key=lambda failure: failure.at_utc, reverse=True)[:SHOWN]
        )
        self._look_at_present(generation, datetime.now(UTC))

    def _look_at_present(self, generation: int, now: datetime) -> None:
        """Read the deployment that is under way, and the bake of the live release."""
        self._under_way = self._bake = self._baking = None
        with contextlib.suppress(DeployError):
            self._under_way = under_way(self._folder, now)
        with contextlib.suppress(DeployError):
            self._bake = self._folder.bakes.find(generation) if generation else None
        until = self._folder.bakes.watched_until(generation) if generation and not self._bake else None
        if until and now < until + PATIENCE:
            self._baking = until

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values, newest first; see ``Backend.history``."""
        return {
            "releases": [
                asdict(release) | {"verdict": self._verdicts.get(release.generation, "")}
                for release in self.releases
            ],
            "failures": [asdict(failure) for failure in self.failures],
            "under_way": self._under_way,
            "bake": self._verdict(),
            "baking": {"until_utc": utc_text(self._baking)} if self._baking else None,
        }

    def _verdict(self) -> dict[str, Any] | None:
        """Return the verdict on the live release, or None."""
        bake = self._bake
        if bake is None:
            return None
        return {
            "verdict": str(bake.verdict),
            "reasons": list(bake.reasons),
            "ended_at_utc": bake.ended_at_utc,
        }

    def _read_verdicts(self) -> dict[int, str]:
        """Return a line about the verdict on each release, by generation; older verdicts are read once."""
        found = {}
        for place, release in enumerate(self.releases):
            known = self._verdicts.get(release.generation)
            # The bakes of the two newest releases may end yet, the second one without a verdict.
            found[release.generation] = (
                in_a_line(self._folder, release) if known is None or place < 2 else known
            )
        return found

    def _newest_releases(self) -> list[Release]:
        releases: list[Release] = []
        try:
            for release in self._folder.releases.history():
                releases.append(release)
                if len(releases) == SHOWN:
                    break
        except DeployError:
            # An unreadable release hides the releases before it, but not the live one.
            pass
        return releases

    def _quarantined(self) -> list[FailedDeploy]:
        """Return the failures with a directory in quarantine, even if their deployment's record is gone."""
        return [
            FailedDeploy(
                version=int(failure.get("version", 0)),
                step=str(failure.get("step", "")),
                error=str(failure.get("error", "")),
                at_utc=str(failure.get("at_utc", "")),
                deploy_id=str(failure.get("deploy_id", path.name)),
                run_id=str(failure.get("run_id", "")),
            )
            for path, failure in self._folder.quarantine.failures()
        ]

    def _rolled_back(self) -> list[FailedDeploy]:
        failures = []
        names = {path.name for path in self._deployments.iterdir()} if self._deployments.is_dir() else set()
        for name in names - self._ended:
            try:
                record = self._folder.journal.find(name)
            except DeployError:
                continue
            if record is None or not record.finished:
                continue
            self._ended.add(name)
            if record.state is State.ROLLED_BACK and record.failure:
                failure = record.failure
                failures.append(
                    FailedDeploy(
                        version=record.version,
                        step=failure.step,
                        error=failure.error,
                        at_utc=failure.at_utc,
                        deploy_id=record.deploy_id,
                        alias=record.pinned.alias,
                        run_id=record.pinned.run_id,
                        actor=record.actor,
                        reason=record.reason,
                    )
                )
        return failures
