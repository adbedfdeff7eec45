"""Follows the live releases in current.json.

A release of an earlier generation is never followed, and the last good release stays while the file is torn
or gone.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from ...triton_deploy.errors import DeployError
from ...triton_deploy.repository import ModelFolder, models_in
from ...triton_deploy.rules.canary import Exposure, exposure
from ...triton_deploy.rules.names import is_model
from ...triton_deploy.rules.release import Release
from ...triton_deploy.rules.schema import Schema, breaking_changes


@dataclass(frozen=True)
class Followed:
    """The last release of a model that this process read.

    Attributes:
        release: the content of current.json.
        schema: inputs and outputs of its version; None when its manifest can't be read.
        seen_at: when the file was last read whole, seconds of the follower's clock.
        fits_before: whether the predecessor can answer the release's clients, by the schemas of both.
        swaps: changes of the version since this process first read a release.
        exposed: the candidate that shares in the traffic, as last read; see ``ReleaseFollower.exposure``.
        exposed_until: when the candidate's share ends, seconds of the follower's clock.
    """

    release: Release
    schema: Schema | None
    seen_at: float
    fits_before: bool = False
    swaps: int = 0
    exposed: Exposure | None = None
    exposed_until: float = 0.0


class ReleaseFollower:
    """Follows every model of a repository.

    Each look opens, reads and closes the file, so that it sees a rename on any file system, NFS included.
    ``look`` blocks on the file system and belongs in a thread; the other methods read memory.

    Args:
        root: the model repository; only read.
        clock: a monotonic clock, seconds.
        now: returns the time, with its time zone.
    """

    def __init__(
        self,
        root: Path,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._root = root
        self._clock = clock
        self._now = now
        self._followed: Mapping[str, Followed] = {}
        self._deployed: tuple[str, ...] = ()
        # Of two looks at once in two threads, the earlier one could overwrite the releases of the later one.
        self._looking = threading.Lock()

    def get(self, model: str) -> Followed | None:
        """Return the last release of a model, or None without one."""
        return self._followed.get(model)

    def exposure(self, model: str) -> Exposure | None:
        """Return the candidate that shares in a model's traffic, or None; its share ends after a while."""
        followed = self._followed.get(model)
        if followed is None or followed.exposed is None or self._clock() >= followed.exposed_until:
            return None
        return followed.exposed

    def predecessor(self, model: str, younger_than_s: float, *, for_clients: bool = False) -> int | None:
        """Return the version before a model's release, if it is still loaded and the release is young enough.

        Args:
            model: public model name.
            younger_than_s: largest age of the release, seconds.
            for_clients: clients are to get its answers, so its inputs and outputs have to fit the release's.
        """
        followed = self._followed.get(model)
        if followed is None or (for_clients and not followed.fits_before):
            return None
        release, now = followed.release, self._now()
        before = release.previous_version
        # After a revert the version before is the bad one: no release is compared with it.
        if before is None or before not in release.warm_versions or before > release.active_version:
            return None
        age_s = (now - datetime.fromisoformat(release.updated_at_utc)).total_seconds()
        return before if age_s < younger_than_s else None

    @property
    def models(self) -> tuple[str, ...]:
        """Models with a release, sorted by name."""
        return tuple(sorted(self._followed))

    @property
    def deployed(self) -> tuple[str, ...]:
        """Models that were ever deployed, with a release or without, sorted by name."""
        return self._deployed

    def staleness_s(self, model: str) -> float:
        """Return the time since current.json was last read whole, seconds."""
        followed = self._followed[model]
        return self._clock() - followed.seen_at

    def look(self) -> None:
        """Read every current.json once; a model whose file can't be read stays as it was."""
        with self._looking:
            followed = dict(self._followed)
            # ModelFolder refuses a folder that was made by hand, under a name that no model can have.
            names = {*followed, *models_in(self._root)}
            for model in names:
                with contextlib.suppress(DeployError):
                    seen = self._look_at(model)
                    if seen is not None:
                        followed[model] = self._with_candidate(seen)
            self._followed = followed
            self._deployed = tuple(sorted(filter(is_model, names)))

    def _look_at(self, model: str) -> Followed | None:
        folder = ModelFolder.at(self._root, model)
        release, known = folder.releases.projected(), self._followed.get(model)
        if release is None or release.model != model:
            return None
        if known is None:
            return self._followed_anew(folder, release, 0)
        if release.generation < known.release.generation:
            # An old file, from a cache or a backup: keep the later release, and let its age grow.
            return known
        if release.generation == known.release.generation and known.schema is not None:
            return replace(known, seen_at=self._clock())
        moved = release.active_version != known.release.active_version
        return self._followed_anew(folder, release, known.swaps + (1 if moved else 0))

    def _followed_anew(self, folder: ModelFolder, release: Release, swaps: int) -> Followed:
        schema = self._schema(folder, release.active_version)
        before = self._schema(folder, release.previous_version) if release.previous_version else None
        # Clients may use new outputs of the release, which the predecessor must not lack.
        fits = schema is not None and before is not None and not breaking_changes(schema, before)
        return Followed(release, schema, self._clock(), fits, swaps)

    def _with_candidate(self, followed: Followed) -> Followed:
        """Add the candidate of the deployment that holds the lease; an unreadable one gets nothing."""
        exposed = None
        with contextlib.suppress(DeployError, ValueError, TypeError, KeyError):
            folder, now = ModelFolder.at(self._root, followed.release.model), self._now()
            deploy_id, _ = folder.lease.last(now)
            if deploy_id is not None:
                exposed = exposure(folder.journal.find(deploy_id), followed.release.generation, now)
        until = self._clock() + exposed.left_s if exposed else 0.0
        return replace(followed, exposed=exposed, exposed_until=until)

    def _schema(self, folder: ModelFolder, version: int) -> Schema | None:
        with contextlib.suppress(DeployError, KeyError, TypeError):
            manifest = folder.versions.manifest(version)
            return manifest.offer.public if manifest else None
        return None
