"""The files of a version on their way into the repository: fetched, or linked to equal files."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

from ..clients.fetch_version import Artifact, Fetcher
from ..repository.versions import Versions, sha256_of
from ..rules.version_files import GOLDEN, MOST_EXAMPLE_BYTES, SERVING_EXAMPLE, FileEntry, Manifest
from ..settings import Settings
from ..storage import storage_errors

log = logging.getLogger(__name__)

Report = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""


class IncomingFiles:
    """Brings the files of one version into its staging directory.

    Args:
        artifact: the listed files in the store.
        staging: the directory.
        settings: limits of the transfer.
        versions: the model's versions.
        twin: an installed version with the same digest, whose files need no copy; None when there is none.
        report: called as the bytes come.
    """

    def __init__(
        self,
        artifact: Artifact,
        staging: Path,
        settings: Settings,
        versions: Versions,
        twin: Manifest | None,
        report: Report,
    ) -> None:
        self._artifact = artifact
        self._versions = versions
        self._report = report
        self._twin = twin
        self._total_bytes = sum(file.size_bytes for file in artifact.listed.values())
        self._done_bytes = 0
        self._fetch = Fetcher(artifact, staging, settings, self._progress)

    def bring(self, path: str) -> FileEntry:
        """Bring one of the listed files; raises the errors of Fetcher."""
        return self._from_twin(path) or self._fetch(path)

    def bring_example(self) -> None:
        """Bring the input example that MLflow keeps with the model, unless it is too large to be read."""
        example = self._artifact.listed.get(SERVING_EXAMPLE)
        if example is None:
            return
        if example.size_bytes <= MOST_EXAMPLE_BYTES:
            self.bring(SERVING_EXAMPLE)
        else:
            log.warning(
                "%s is not used: it has %s bytes. Inputs are invented instead; log %s",
                SERVING_EXAMPLE,
                example.size_bytes,
                GOLDEN,
            )

    def _progress(self, count: int) -> None:
        self._done_bytes += count
        self._report(min(self._done_bytes, self._total_bytes), self._total_bytes)

    def _from_twin(self, path: str) -> FileEntry | None:
        """Give a file of the twin a second name in the staging directory; None when it has to be fetched."""
        twin, size_bytes = self._twin, self._artifact.listed[path].size_bytes
        same = (entry for entry in twin.files if entry.path == path) if twin else iter(())
        known = next(same, None)
        if twin is None or known is None or known.size_bytes != size_bytes:
            return None
        source, target = self._versions.path(twin.version) / path, self._fetch.target(path)
        if _linked(source, target, known, lambda: self._progress(0)):
            self._progress(known.size_bytes)
            return known
        log.warning(
            "version %s has the same files, but its %s is damaged: it is read from %s instead. See 'triton-deploy reconcile --deep'",
            twin.version,
            path,
            self._artifact.uri,
        )
        return None


def _linked(source: Path, target: Path, known: FileEntry, still_at_it: Callable[[], object]) -> bool:
    """Give an installed file a second name, unless its bytes are not the known ones.

    Args:
        source: the installed file.
        target: its second name.
        known: its entry in the manifest.
        still_at_it: called for every block that was read.

    Returns:
        Whether the file has its second name.
    """
    with storage_errors(f"linking {target}"):
        if source.is_symlink() or not source.is_file():
            return False
        os.link(source, target)
        # A block that can't be read any more is damage as well.
        with contextlib.suppress(OSError):
            if sha256_of(target, lambda count: still_at_it()) == known.sha256:
                return True
        target.unlink()
        return False
