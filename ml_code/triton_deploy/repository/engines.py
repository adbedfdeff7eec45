"""Engines: the Triton models that hold one version's weights each, beside the switch that clients call.

All of it is derived from the version, and can be made anew::

    best_model.v13/                   what Triton loads
      13 -> ../best_model/13
      config.pbtxt -> ../best_model/engines/13/config.pbtxt
    best_model/engines/13/            what its configuration is
      config.pbtxt -> candidate.pbtxt, from the flip on -> verified.pbtxt
      candidate.pbtxt                 a text that Triton can't parse
      verified.pbtxt                  the configuration that the load carries

A Triton that is restarted loads whatever it finds in the repository, so it would load a candidate again that has just ended it. Until
clients get a version, its engine has a configuration that can't be parsed, and the load carries the true one.

Why the links: when Triton loads the switch, it looks at the engine behind it once more, and reads its file if anything in the folder, links
followed, was changed since the load (the greater of mtime and ctime, so no date can be set back). It would find a candidate's file, and
the flip would fail. So nothing in that folder changes after the load: the link that is turned is outside of it, and what it then leads to
was written before the load. Sources: ``ModelRepositoryManager::InitializeModelInfo`` and ``LocalFileSystem::FileModificationTime`` of
triton-inference-server/core.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ..names import engine_name
from . import durable

CONFIG = "config.pbtxt"
CANDIDATE = "candidate.pbtxt"
VERIFIED = "verified.pbtxt"
_UNPARSABLE = "# A candidate: "


def engines_in(root: Path) -> dict[str, list[int]]:
    """Return the versions of each model of a repository that have an engine, ascending."""
    found: dict[str, list[int]] = {}
    with durable.storage_errors(f"listing {root}"):
        for name in os.listdir(root) if root.is_dir() else ():
            model, _, version = name.rpartition(".v")
            if version.isdigit():
                found.setdefault(model, []).append(int(version))
    return {model: sorted(versions) for model, versions in found.items()}


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
        """Make the engine of a version that clients do not get yet: only a load that carries the configuration can load it.

        Args:
            version: the version.
            deploy_id: its deployment, for whoever reads the file or Triton's log.
            config: text of the ``config.pbtxt`` that it gets later.
        """
        self._write(version, {VERIFIED: config, CANDIDATE: self._unparsable(version, deploy_id)}, CANDIDATE)

    def complete(self, version: int, config: str) -> None:
        """Make the engine of a version that clients get: a Triton that is restarted loads it.

        Args:
            version: the version.
            config: text of its ``config.pbtxt``.
        """
        self._write(version, {VERIFIED: config}, VERIFIED)

    def is_whole(self, version: int) -> bool:
        """Whether a Triton that is restarted finds all that it loads a version with."""
        path = self._folder(version)
        with durable.storage_errors(f"reading {path}"):
            config = path / CONFIG
            if not (config.is_file() and (path / str(version)).is_symlink()):
                return False
            return not config.read_text(encoding="utf-8", errors="replace").startswith(_UNPARSABLE)

    def remove(self, version: int) -> None:
        """Remove a version's engine; the files it links to stay."""
        for path in self.folders(version):
            with durable.storage_errors(f"removing {path}"):
                if path.exists():
                    shutil.rmtree(path)
                    durable.fsync_directory(path.parent)

    def versions(self) -> list[int]:
        """Return the versions that have an engine, ascending."""
        return engines_in(self._root).get(self._model, [])

    def configured(self) -> list[int]:
        """Return the versions that have configurations, ascending: also those whose engine an earlier release of this code removed."""
        path = self._configurations(0).parent
        with durable.storage_errors(f"listing {path}"):
            return sorted(int(name) for name in (os.listdir(path) if path.is_dir() else ()) if name.isdigit())

    def folders(self, version: int) -> tuple[Path, Path]:
        """Return where a version's engine is, and where its configurations are."""
        return self._folder(version), self._configurations(version)

    def _write(self, version: int, texts: dict[str, str], now: str) -> None:
        engine, configurations = self.folders(version)
        with durable.storage_errors(f"writing {engine}"):
            durable.make_directory(configurations)
            for name, text in texts.items():
                durable.keep_file(configurations / name, text)
            durable.point(configurations / CONFIG, now)
            durable.make_directory(engine)
            durable.point(engine / CONFIG, os.path.relpath(configurations / CONFIG, engine))
            durable.point(engine / str(version), os.path.join("..", self._model, str(version)))

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
