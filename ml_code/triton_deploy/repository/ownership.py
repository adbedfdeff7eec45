"""Ownership of names in the repository and in Triton: the deployer changes and removes only its own entries.

A name alone proves nothing: another tool may have a model of that name, or a folder ``best_model.v7``. An
entry is this deployer's if it holds only files that this package writes, and a deployment, a release or a
manifest knows of it. Any other entry is foreign.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from ..errors import DeployError, Foreign
from ..rules.deployment import State
from ..rules.names import OUR_FOLDERS, is_deploy_id
from ..rules.version_files import SMOKE_CASE
from ..storage import storage_errors
from . import durable
from .engines import Engines
from .journal import Journal
from .origins import FAILURE, MANIFEST
from .quarantine import QUARANTINED, Quarantine
from .releases import Releases
from .versions import Versions

OUR_FILES = frozenset({"current.json", "reconcile.json"})
BESIDE_THE_ARTIFACT = frozenset({MANIFEST, SMOKE_CASE, FAILURE, "serving_input_example.json"})
"""Files in a version's directory besides those of its manifest."""


class Ownership:
    """Tells which entries of one model are this deployer's.

    Args:
        root: the model repository.
        model: public model name.
        releases: the model's releases.
        journal: the model's deployments.
        versions: the model's installed versions.
        quarantine: the model's quarantined directories.
        engines: the model's engines.
    """

    def __init__(
        self,
        root: Path,
        model: str,
        releases: Releases,
        journal: Journal,
        versions: Versions,
        quarantine: Quarantine,
        engines: Engines,
    ) -> None:
        self._root = root
        self._model = model
        self._releases = releases
        self._journal = journal
        self._versions = versions
        self._quarantine = quarantine
        self._engines = engines

    def knows(self, version: int) -> bool:
        """Whether this deployer has a deployment, a release or a manifest of a version.

        Raises:
            StorageFailed: a folder can't be listed.
        """
        return (
            self._has_manifest(version)
            or self._is_quarantined(version)
            or any(record.version == version for record in self._journal.readable())
            or self._was_released(version)
        )

    def owns_engine(self, version: int) -> bool:
        """Whether a version's engine may be removed: it has no foreign entry, and the version is known."""
        return not self._engines.foreign(version) and self.knows(version)

    def owns_stage(self, deploy_id: str) -> bool:
        """Whether a staging directory belongs to a deployment of this deployer."""
        return bool(is_deploy_id(deploy_id) and deploy_id in self._journal.ids())

    def may_have_flipped(self, version: int | None = None) -> bool:
        """Whether a deployment of this deployer may have loaded the public name: it reached the switch.

        Args:
            version: only deployments of this version; by default of any.
        """
        return any(
            State.SWITCHING in record.times_utc and version in (None, record.version)
            for record in self._journal.readable()
        )

    def lost(self, serving: Iterable[int]) -> list[int]:
        """Return the versions that a Triton serves under the public name although no release is known.

        Only a release can have made the name serve such a version, so the release is lost.

        Args:
            serving: versions that Triton has ready under the public name.
        """
        return [
            version
            for version in serving
            if self._has_manifest(version)
            and not self.may_have_flipped(version)
            and not self._releases.releases_version(version)
        ]

    def foreign_files(self) -> list[Path]:
        """Return the entries in the model's folder that this package does not write before a first release.

        A file in the folder's place is one as well.
        """
        folder = self._root / self._model
        with storage_errors(f"listing {folder}"):
            if not os.path.lexists(folder):
                return []
            if not folder.is_dir():
                return [folder]
            return sorted(path for path in folder.iterdir() if not self._is_ours_before_a_release(path))

    def foreign_of_version(self, version: int) -> list[Path]:
        """Return the foreign entries in the places that a deploy of a version needs."""
        path = self._versions.path(version)
        found = self._engines.foreign(version)
        if os.path.lexists(path) and not self._is_version(path) and not self.knows(version):
            found.append(path)
        return found

    def foreign_in_version(self, version: int) -> list[Path]:
        """Return the files in a version's directory that no deployment brought.

        When the manifest is gone or can't be read, which files those are is not known: return the
        manifest's path.
        """
        folder = self._versions.path(version)
        try:
            manifest = self._versions.manifest(version)
        except DeployError:
            manifest = None
        if manifest is None:
            return [folder / MANIFEST]
        ours = {*(entry.path for entry in manifest.files), *BESIDE_THE_ARTIFACT}
        with storage_errors(f"listing {folder}"):
            return sorted(
                path
                for path in folder.rglob("*")
                if (path.is_symlink() or not path.is_dir())
                and path.relative_to(folder).as_posix() not in ours
                and not path.name.startswith(".nfs")
            )

    def foreign_in_deployment(self, deploy_id: str) -> list[Path]:
        """Return the entries in a deployment's folder that are not its records."""
        folder = self._journal.path(deploy_id)
        with storage_errors(f"listing {folder}"):
            return sorted(
                path
                for path in folder.iterdir()
                if not re.fullmatch(r"[0-9]+\.json", path.name) and not durable.is_temporary(path)
            )

    def refuse_version(self, version: int) -> None:
        """Raise Foreign when a place that a deploy of a version needs has a foreign entry."""
        self.refuse_files(self.foreign_of_version(version))

    def refuse_files(self, paths: Iterable[Path], loaded: str = "") -> None:
        """Raise Foreign when there is a foreign entry or a foreign model is loaded.

        Args:
            paths: foreign files and folders.
            loaded: a sentence that names the Triton with a foreign model; empty when there is none.
        """
        named = [str(path) for path in paths]
        if named or loaded:
            there = f"{', '.join(named[:5])}{' and more' if named[5:] else ''}"
            raise Foreign(
                " ".join(
                    filter(
                        None,
                        (
                            loaded,
                            f"The repository has what this deployer did not make: {there}." if named else "",
                            "Nothing was changed.",
                        ),
                    )
                ),
                hint=f"Deploy by another name. Or, if {self._model} may be replaced, take what is there out of Triton and move it away first. "
                "If this deployer did release it, TRITON_DEPLOY_REPOSITORY is not the folder that Triton was started with (--model-repository).",
            )

    def _was_released(self, version: int) -> bool:
        # A history that can't be read proves nothing.
        with contextlib.suppress(DeployError):
            return self._releases.releases_version(version)
        return False

    def _has_manifest(self, version: int) -> bool:
        try:
            manifest = self._versions.manifest(version)
        except DeployError:
            # The manifest is there, but damaged.
            return True
        return manifest is not None and manifest.version == version

    def _is_quarantined(self, version: int) -> bool:
        return any(name.split(".")[0] == str(version) for name in self._quarantine.contents())

    def _is_version(self, path: Path) -> bool:
        with storage_errors(f"listing {path}"):
            if path.is_symlink() or not path.is_dir():
                return False
            names = os.listdir(path)
        # The rename that installs a version replaces an empty folder.
        return not names or self._has_manifest(int(path.name))

    def _is_ours_before_a_release(self, path: Path) -> bool:
        if path.name.startswith("."):
            return True
        if path.name in OUR_FOLDERS:
            return path.is_dir()
        if path.name in OUR_FILES or path.match(QUARANTINED):
            return True
        return bool(re.fullmatch("[1-9][0-9]{0,9}", path.name)) and self._is_version(path)
