"""The last release of a model, and the files and Tritons that have to follow it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from ..clients.triton import Triton
from ..errors import DeployError
from ..fleet.fleet import Fleet
from ..repository import ModelFolder
from ..rules.deployment import Deployment, Pinned
from ..rules.identity import has_content_of
from ..rules.release import Release
from ..rules.version_files import Manifest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LastRelease:
    """Brings files and Tritons to the last release of one model.

    A process may sleep past its lease between its look at the last release and its act, and another
    deployment may commit meanwhile. So each act is repeated until the release is still the last one
    afterwards (``_act``).

    Attributes:
        folder: the model's place in the repository.
        serving: gives the model's Tritons; called only when they are needed.
    """

    folder: ModelFolder
    serving: Callable[[], Fleet]

    def what_serves(self) -> str:
        """Return a sentence that names the live version, for messages."""
        live = self.folder.releases.latest()
        if live is None:
            return f"no version of {self.folder.model} is live."
        return f"version {live.active_version} of {self.folder.model} is live (generation {live.generation})."

    def manifest_of(self, live: Release | None) -> Manifest | None:
        """Return the live version's manifest; None if no version is live, or its files are gone (logged)."""
        if live is None:
            return None
        manifest = self.folder.versions.readable_manifest(live.active_version)
        if manifest is None:
            log.error(
                "the files of version %s of %s, which is live, are gone: restore %s from a backup, or deploy another version",
                live.active_version,
                self.folder.model,
                self.folder.versions.path(live.active_version),
            )
        return manifest

    def is_served(self, live: Release, pinned: Pinned) -> bool:
        """Whether the live release is exactly the pinned version, and every Triton serves it."""
        if live.active_version != pinned.version:
            return False
        manifest = self.folder.versions.manifest(live.active_version)
        if manifest is None or live.run_id != pinned.run_id or not has_content_of(manifest, pinned):
            # The files are not those of the release: materialize compares them, and refuses.
            return False
        return self.serving().serves(live.active_version)

    def project(self) -> None:
        """Write current.json and the switch on disk from the last release.

        The switch stays as it is when the live version's files are gone.

        Raises:
            StorageFailed: the repository can't be written; repeat it.
        """

        def write(live: Release | None) -> None:
            assert live is not None
            self.folder.releases.project(live)
            manifest, serving = self.manifest_of(live), self.serving()
            if manifest is None:
                return
            # First the engine: a Triton that restarts in between must find everything that the switch
            # points at.
            serving.files.complete_engine(manifest)
            serving.files.write_switch(manifest)

        self._act(write)

    def restore(self, triton: Triton | None = None, spared: Collection[str] = ()) -> None:
        """Make the public name point at the last release on every Triton where it points elsewhere.

        For a live version whose files are gone see Fleet.restore_without_files.

        Args:
            triton: restore on this Triton alone; by default on all of them.
            spared: addresses of Tritons that may be away: see Fleet.restore.

        Raises:
            Unavailable: a Triton does not answer; repeat it.
        """

        def point(live: Release | None) -> None:
            manifest = self.manifest_of(live)
            if live is not None and manifest is None:
                if triton is None:
                    self.serving().restore_without_files(live.active_version, spared)
                else:
                    self.serving().on(triton).restore_without_files(live.active_version)
            elif triton is None:
                self.serving().restore(manifest, spared)
            else:
                self.serving().on(triton).restore(manifest)

        self._act(point)

    def try_to_restore(self) -> None:
        """Restore at once, and log a failure; the rollback or reconcile repeats it."""
        try:
            self.restore()
        except DeployError as error:
            log.error(
                "the switch is not back yet, the rollback or the next reconcile will see to it: %s", error
            )

    def follow(self) -> None:
        """Bring files and Tritons to the last release, after this process may have taken a part of it away.

        Raises:
            Unavailable: a Triton does not answer; repeat it, or leave it to the next reconcile.
            StorageFailed: the repository can't be written.
        """

        def bring(live: Release | None) -> None:
            assert live is not None
            self.project()
            for version in live.loaded_versions:
                manifest = self.folder.versions.readable_manifest(version)
                if manifest is not None:
                    self.serving().hold(manifest)
            self.restore()

        self._act(bring)

    def give_back(self, record: Deployment) -> None:
        """Follow the last release if it is newer than a deployment and holds the deployment's candidate.

        A process that sleeps past its lease may unload a version that another deployment has made live since.
        """
        live = self.folder.releases.latest()
        if live and live.generation > record.base_generation and record.version in live.loaded_versions:
            self._try_to_follow()

    def retire(self, versions: Sequence[int]) -> None:
        """Take versions out of the Tritons, but for those that the last release holds."""
        before = self.folder.releases.latest()
        kept = before.loaded_versions if before else ()
        ours = self.folder.ownership.knows
        self.serving().retire([version for version in versions if version not in kept and ours(version)])
        if self.folder.releases.latest() != before:
            self._try_to_follow()

    def _try_to_follow(self) -> None:
        try:
            self.follow()
        except DeployError as error:
            log.error("a release came meanwhile; the next reconcile brings everything to it: %s", error)

    def _act(self, act: Callable[[Release | None], None]) -> None:
        """Act on the last release, and again until it is still the last one afterwards.

        So the last process to act has seen the last release.         An act may fail because its release
        was replaced meanwhile: such a failure is no error.
        """
        while True:
            live = self.folder.releases.latest()
            try:
                act(live)
            except DeployError:
                if self.folder.releases.latest() == live:
                    raise
                continue
            if self.folder.releases.latest() == live:
                return
