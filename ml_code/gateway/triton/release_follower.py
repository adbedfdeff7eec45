"""What is live, by current.json: never backwards in generation, and the last good one while the file is torn or gone."""

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
from ...triton_deploy.rules.records import Release
from ...triton_deploy.rules.schema import Schema, Tensor, breaking_changes
from ...triton_deploy.rules.version_files import Manifest


@dataclass(frozen=True)
class Followed:
    """A release as this process last saw it.

    Attributes:
        release: what current.json said.
        schema: inputs and outputs of its version; None when its manifest can't be read.
        seen_at: when the file was last read whole, seconds of the follower's clock.
        fits_before: whether the version before can answer the release's clients, by the inputs and outputs of both.
        swaps: how often the version changed since this process first saw one.
        exposed: the candidate that shares in its traffic, as last read; see ``ReleaseFollower.exposure``.
        exposed_until: until when, seconds of the follower's clock.
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

    Each look opens, reads and closes the file, so that a rename on any file system, NFS included, is seen. ``look``
    blocks on the file system and belongs in a thread; the rest reads memory.

    Args:
        root: the model repository; only read.
        clock: seconds that only go forward.
        now: the time, aware.
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
        # Two looks at once, from two threads, could put back what the later one of them saw.
        self._looking = threading.Lock()

    def get(self, model: str) -> Followed | None:
        """Return what is live of a model, or None when nothing is known to be."""
        return self._followed.get(model)

    def exposure(self, model: str) -> Exposure | None:
        """Return the candidate that shares in a model's traffic, or None; also when it could not be read for too long."""
        followed = self._followed.get(model)
        if followed is None or followed.exposed is None or self._clock() >= followed.exposed_until:
            return None
        return followed.exposed

    def predecessor(self, model: str, younger_than_s: float, *, for_clients: bool = False) -> int | None:
        """Return the version that was live before a model's release, if it is still loaded and the release is that young.

        Args:
            model: public model name.
            younger_than_s: largest age of the release, seconds.
            for_clients: clients are to get its answers; so it has to fit what the release takes and gives.
        """
        followed = self._followed.get(model)
        if followed is None or (for_clients and not followed.fits_before):
            return None
        release, now = followed.release, self._now()
        before = release.previous_version
        # Who went back to an earlier version did so because the later one is bad: that is no measure.
        if before is None or before not in release.warm_versions or before > release.active_version:
            return None
        age_s = (now - datetime.fromisoformat(release.updated_at_utc)).total_seconds()
        return before if age_s < younger_than_s else None

    @property
    def models(self) -> tuple[str, ...]:
        """Models that have a release, by name."""
        return tuple(sorted(self._followed))

    def staleness_s(self, model: str) -> float:
        """Return how long ago current.json was last read whole, seconds."""
        followed = self._followed[model]
        return self._clock() - followed.seen_at

    def look(self) -> None:
        """Read every current.json once; what can't be read leaves its model as it was."""
        with self._looking:
            followed = dict(self._followed)
            # A name that was made by hand and can't be a model is nobody's release.
            names = {*followed, *models_in(self._root)}
            for model in names:
                with contextlib.suppress(DeployError):
                    seen = self._look_at(model)
                    if seen is not None:
                        followed[model] = self._with_candidate(seen)
            self._followed = followed

    def _look_at(self, model: str) -> Followed | None:
        folder = ModelFolder.at(self._root, model)
        release, known = folder.releases.projected(), self._followed.get(model)
        if release is None or release.model != model:
            return None
        if known is None:
            return self._followed_anew(folder, release, 0)
        if release.generation < known.release.generation:
            # An old file, from a cache or a backup. The release that was seen before stays, and its age grows.
            return known
        if release.generation == known.release.generation and known.schema is not None:
            return replace(known, seen_at=self._clock())
        moved = release.active_version != known.release.active_version
        return self._followed_anew(folder, release, known.swaps + (1 if moved else 0))

    def _followed_anew(self, folder: ModelFolder, release: Release, swaps: int) -> Followed:
        schema = self._schema(folder, release.active_version)
        before = self._schema(folder, release.previous_version) if release.previous_version else None
        # Clients that use what the release brought must not meet a version without it.
        fits = schema is not None and before is not None and not breaking_changes(schema, before)
        return Followed(release, schema, self._clock(), fits, swaps)

    def _with_candidate(self, followed: Followed) -> Followed:
        """Add the candidate, which the record of the deployment says that has the lease; what can't be read gets nothing."""
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
            return public_schema(manifest) if manifest else None
        return None


def public_schema(manifest: Manifest) -> Schema:
    """Return the shapes that Triton's clients send and get: where the model has a scalar, they have a list of one.

    See ``model_config``: Triton has no empty dims.
    """
    schema = Schema.from_dict(manifest.schema)
    rank = 1 if manifest.options.get("max_batch_size") else 0

    def public(tensor: Tensor) -> Tensor:
        return replace(tensor, shape=(*tensor.shape, 1)) if len(tensor.shape) == rank else tensor

    return Schema(tuple(map(public, schema.inputs)), tuple(map(public, schema.outputs)))
