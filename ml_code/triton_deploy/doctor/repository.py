"""Checks the model repository: whether this user can write it, and whether Triton can read it."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from ..errors import StorageFailed
from ..repository import ModelFolder, models_in, traps
from ..repository.durable import FILE_MODE, create_file, fsync_directory, rename
from ..repository.engines import engines_in
from ..rules.names import PLAIN_PATH, engine_name, needs_quoting
from ..settings import Settings
from ..storage import storage_failed
from .check import Finding, Report, first_of
from .probe import Probe, remove_forgotten

SHOWN = 10
"""Most names in one finding."""


class RepositoryCheck:
    """Writes, links, renames and removes in its own folder, and checks the modes of the loaded files.

    Args:
        settings: the place of the repository, and the space that must be free.
    """

    name = "repository"
    needs = ("TRITON_DEPLOY_REPOSITORY",)
    deadline_s = 15.0

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._probe = Probe(settings.repository)
        self._report = Report(self.name)

    def look(self) -> Iterator[Finding]:
        """See DoctorCheck.look."""
        root = self._settings.repository_root
        yield from self._named(root)
        yield from self._writable(root)
        yield from self._room(root)
        yield from self._readable(root)
        yield from self._foreign(root)
        yield from self._traps(root)
        if forgotten := remove_forgotten(root):
            yield self._report.ok(f"Removed what a doctor that was killed had left: {', '.join(forgotten)}.")

    def clean_up(self) -> None:
        """See DoctorCheck.clean_up."""
        self._probe.remove()

    def _named(self, root: Path) -> Iterator[Finding]:
        if odd := needs_quoting(str(root)):
            yield self._report.failed(
                f"The path of the repository, {str(root)!r}, has {odd} in it. Triton's Python backend starts its processes by a "
                "line of shell in which it does not quote that: a load there hangs until its deadline.",
                f"Move the repository to a path of {PLAIN_PATH} only, for Triton as well.",
            )

    def _writable(self, root: Path) -> Iterator[Finding]:
        try:
            folder = self._probe.make()
            if not create_file(folder / "linked", "1") or create_file(folder / "linked", "2"):
                yield self._report.failed(
                    f"Of two links of one name in {root} not exactly one was made.",
                    "Use a file system on which link(2) is atomic: every decision of a deploy is one.",
                )
                return
            (folder / "one").mkdir()
            rename(folder / "one", folder / "two")
            fsync_directory(folder)
        except OSError as error:
            failure = storage_failed(error, f"writing {root} as a deploy does, as user {os.geteuid()}")
            yield self._report.failed(failure.message, failure.hint)
        else:
            yield self._report.ok(f"{root} can be written, and link, rename and fsync work.")

    def _room(self, root: Path) -> Iterator[Finding]:
        free, wanted = shutil.disk_usage(root).free, self._settings.transfer.min_free_bytes
        if free < wanted:
            yield self._report.failed(
                f"{root} has {free} bytes free, and {wanted} must remain beside a new version.",
                "Free space ('triton-deploy gc'), or lower TRITON_DEPLOY_MIN_FREE_BYTES.",
            )

    def _traps(self, root: Path) -> Iterator[Finding]:
        for folder in sorted(path for path in root.iterdir() if path.is_dir()):
            # A folder that this user can't list belongs to another user.
            with contextlib.suppress(StorageFailed):
                for trap in traps.traps_in([folder]):
                    yield self._report.failed(f"{trap.why}.", traps.WHAT_TO_DO)

    def _foreign(self, root: Path) -> Iterator[Finding]:
        foreign = foreign_models(root)
        if foreign:
            yield self._report.ok(
                f"{root} has models that this deployer did not make: {first_of(foreign, SHOWN)}. It leaves them alone, and refuses a first "
                "deploy by one of these names (foreign)."
            )

    def _readable(self, root: Path) -> Iterator[Finding]:
        private = [path for path in _what_triton_reads(root) if not _for_all(path)]
        if not private:
            yield self._report.ok("Triton can read what is loaded, whatever user it runs as.")
            return
        named = first_of([str(path) for path in private], SHOWN)
        yield self._report.warning(
            f"Only their owner or group can read {named}: a Triton that runs as another user can't.",
            f"chmod a+rX them (files {FILE_MODE:o}, folders 755), or run Triton as user {private[0].stat().st_uid}.",
        )


def foreign_models(root: Path) -> list[str]:
    """Return the names of the folders in a repository that the deployer did not make, sorted."""
    ours = set(models_in(root))
    found = {path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")} - ours
    for model, versions in engines_in(root).items():
        if model in ours:
            folder = ModelFolder.at(root, model)
            found -= {
                engine_name(model, version) for version in versions if not folder.engines.foreign(version)
            }
    return sorted(found)


def _what_triton_reads(root: Path) -> Iterator[Path]:
    """Yield the folders and files that a restarted Triton needs for the live and warm versions."""
    yield root
    for model in models_in(root):
        folder = ModelFolder.at(root, model)
        live = folder.releases.latest()
        if live is None:
            continue
        switch = root / model / "config.pbtxt"
        yield from (path for path in (root / model, switch) if path.exists())
        for version in live.loaded_versions:
            engine = root / f"{model}.v{version}"
            # The walk does not follow the engine's link: the version's folder is walked by itself.
            for top in (engine, folder.versions.path(version)):
                for at, _, names in os.walk(top):
                    yield Path(at)
                    yield from (Path(at) / name for name in names)


def _for_all(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except OSError:
        # A concurrent gc or deploy removed it, or it is a dangling link, which reconcile reports.
        return True
    wanted = stat.S_IROTH | (stat.S_IXOTH if stat.S_ISDIR(mode) else 0)
    return mode & wanted == wanted
