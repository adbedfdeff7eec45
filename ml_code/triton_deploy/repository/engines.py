"""Engines: the Triton models that hold one version's weights each, beside the switch that clients call.

Everything in an engine is derived from the version, and can be made anew::

    best_model.v13/                   the Triton model
      13 -> ../best_model/13
      config.pbtxt -> ../best_model/engines/13/config.pbtxt
    best_model/engines/13/            its configurations
      config.pbtxt -> candidate.pbtxt, from the flip on -> verified.pbtxt
      candidate.pbtxt                 a text that Triton can't parse
      verified.pbtxt                  the configuration that the load carries

A restarted Triton loads every model in the repository, so it would also load the candidate that has just
ended it. Until clients get a version, its engine therefore has a configuration that Triton can't parse,
and the load request carries the true one.

Why the links: when Triton loads the switch, it looks at the engine behind the switch once more. It reads
the engine's file again if anything in the folder, links followed, has changed since the load (by the
greater of mtime and ctime, so setting a date back does not help). It would find the candidate's
configuration, and the flip would fail. So nothing in that folder changes after the load: the link that is
turned lies outside, and its new target was written before the load. Sources:
``ModelRepositoryManager::InitializeModelInfo`` and ``LocalFileSystem::FileModificationTime`` of
triton-inference-server/core.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from ..errors import Foreign
from ..rules.names import engine_name, engine_version
from ..storage import storage_errors
from . import durable

CONFIG = "config.pbtxt"
CANDIDATE = "candidate.pbtxt"
VERIFIED = "verified.pbtxt"
_UNPARSABLE = "# A candidate: "


def engines_in(root: Path) -> dict[str, list[int]]:
    """Return, for each model of a repository, the versions with an entry of an engine's name, ascending.

    Such an entry need not be this deployer's: see Engines.foreign.
    """
    found: dict[str, list[int]] = {}
    with storage_errors(f"listing {root}"):
        names = os.listdir(root) if root.is_dir() else []
        for name in names:
            model = name.rpartition(".v")[0]
            version = engine_version(model, name)
            if version is not None:
                found.setdefault(model, []).append(version)
    return {model: sorted(versions) for model, versions in found.items()}


def is_link_to(engine: Path, model: str, version: int) -> bool:
    """Whether an engine's folder has one of the links that this package makes for a version of a model."""
    ours = {f"../{model}/{version}", f"../{model}/engines/{version}/{CONFIG}"}
    with contextlib.suppress(OSError), os.scandir(engine) as entries:
        return any(entry.is_symlink() and os.readlink(entry) in ours for entry in entries)
    return False


class Engines:
    """The engines of one model.

    Args:
        root: the model repository.
        model: public model name.
    """

    def __init__(self, root: Path, model: str) -> None:
        self._root = root
        self._model = model

    def write_candidate(self, version: int, deploy_id: str, config: str) -> None:
        """Make the engine of a version that clients do not get yet.

        Only a load request that carries the configuration can load it.

        Args:
            version: the version.
            deploy_id: its deployment, for a person who reads the file or Triton's log.
            config: text of the ``config.pbtxt`` that the engine gets with ``complete``.
        """
        self._write(version, {VERIFIED: config, CANDIDATE: self._unparsable(version, deploy_id)}, CANDIDATE)

    def complete(self, version: int, config: str) -> None:
        """Make the engine of a version that clients get: a restarted Triton loads it.

        Args:
            version: the version.
            config: text of the engine's ``config.pbtxt``.
        """
        self._write(version, {VERIFIED: config}, VERIFIED)

    def is_whole(self, version: int, config: str = "") -> bool:
        """Whether a restarted Triton can load the version.

        Args:
            version: the version.
            config: required text of the engine's ``config.pbtxt``; by default any but a candidate's.
        """
        engine = self._folder(version)
        path = engine / CONFIG
        with storage_errors(f"reading {engine}"):
            if (
                engine.is_symlink()
                or not path.is_file()
                or _target(engine / str(version)) != self._files(version)
            ):
                return False
            text = path.read_text(encoding="utf-8", errors="replace")
        return text == config if config else not text.startswith(_UNPARSABLE)

    def foreign(self, version: int) -> list[Path]:
        """Return the foreign entries in an engine or in its place: this package did not write them.

        An engine without any may be removed.
        """
        engine, configurations = self.folders(version)
        return [
            *self._others(engine, lambda path: self._wrote_into_engine(path, version)),
            *self._others(configurations, _wrote_configuration),
        ]

    def remove(self, version: int) -> None:
        """Remove a version's engine, but not the files that it links to.

        An engine with a foreign entry stays.
        """
        if self.foreign(version):
            return
        for path in self.folders(version):
            with storage_errors(f"removing {path}"):
                if path.exists():
                    shutil.rmtree(path)
                    durable.fsync_directory(path.parent)

    def versions(self) -> list[int]:
        """Return the versions that have an engine, ascending."""
        return engines_in(self._root).get(self._model, [])

    def configured(self) -> list[int]:
        """Return the versions that have configurations, ascending.

        The engine may be gone: earlier code removed it alone.
        """
        path = self._configurations(0).parent
        with storage_errors(f"listing {path}"):
            names = os.listdir(path) if path.is_dir() else ()
            return sorted(int(name) for name in names if re.fullmatch("0|[1-9][0-9]{0,9}", name))

    def folders(self, version: int) -> tuple[Path, Path]:
        """Return the folders of a version's engine and of its configurations."""
        return self._folder(version), self._configurations(version)

    def _write(self, version: int, texts: dict[str, str], now: str) -> None:
        engine, configurations = self.folders(version)
        with storage_errors(f"writing {engine}"):
            for folder, names in ((configurations, (*texts, CONFIG)), (engine, (CONFIG, str(version)))):
                _require_folder(folder)
                durable.make_directory(folder)
                for name in names:
                    _make_room(folder / name)
            if os.path.lexists(engine / str(version)) and not (engine / str(version)).is_symlink():
                raise _in_the_way(engine / str(version))
            for name, text in texts.items():
                durable.ensure_content(configurations / name, text)
            durable.point(configurations / CONFIG, now)
            durable.point(engine / CONFIG, os.path.relpath(configurations / CONFIG, engine))
            durable.point(engine / str(version), self._files(version))

    def _files(self, version: int) -> str:
        return os.path.join("..", self._model, str(version))

    def _others(self, folder: Path, is_ours: Callable[[Path], bool]) -> list[Path]:
        with storage_errors(f"listing {folder}"):
            if not os.path.lexists(folder):
                return []
            if folder.is_symlink() or not folder.is_dir():
                return [folder]
            return sorted(
                path for path in folder.iterdir() if not durable.is_temporary(path) and not is_ours(path)
            )

    def _wrote_into_engine(self, path: Path, version: int) -> bool:
        target = _target(path)
        if path.name == str(version):
            return target is not None and target.startswith(os.path.join("..", self._model, ""))
        if path.name != CONFIG:
            return False
        if target is not None:
            return target == os.path.relpath(self._configurations(version) / CONFIG, path.parent)
        # Earlier code wrote the file itself.
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        return text.startswith(_UNPARSABLE) or f'name: "{path.parent.name}"' in text.splitlines()

    def _unparsable(self, version: int, deploy_id: str) -> str:
        return (
            f"{_UNPARSABLE}deployment {deploy_id} brought version {version} of {self._model}, and clients do not get it yet.\n"
            "# Triton can't parse this, and is not meant to: a Triton that is restarted now does not load the candidate.\n"
            "not verified\n"
        )

    def _folder(self, version: int) -> Path:
        return self._root / engine_name(self._model, version)

    def _configurations(self, version: int) -> Path:
        return self._root / self._model / "engines" / str(version)


def _wrote_configuration(path: Path) -> bool:
    return path.name in (CONFIG, CANDIDATE, VERIFIED) and (path.is_symlink() or path.is_file())


def _target(path: Path) -> str | None:
    """Return the target of a link, or None when the path is not a link."""
    return os.readlink(path) if path.is_symlink() else None


def _require_folder(path: Path) -> None:
    """Raise Foreign when something other than a folder has the path."""
    if os.path.lexists(path) and (path.is_symlink() or not path.is_dir()):
        raise _in_the_way(path)


def _make_room(path: Path) -> None:
    """Remove an empty folder from the place of a file; raises Foreign when the folder is not empty."""
    if path.is_dir() and not path.is_symlink():
        try:
            path.rmdir()
        except OSError as error:
            raise _in_the_way(path) from error


def _in_the_way(path: Path) -> Foreign:
    return Foreign(
        f"{path} is in the way of what this deployer writes there, and it is not this deployer's.",
        hint="Move it away, then run 'triton-deploy reconcile'.",
    )
