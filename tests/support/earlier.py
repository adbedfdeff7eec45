"""Files of earlier commits, and their code: see tests/data/make_repositories.py."""

from __future__ import annotations

import importlib
import sys
import tarfile
from pathlib import Path
from types import ModuleType

DATA = Path(__file__).resolve().parents[1] / "data"


def write_repository(commit: str, situation: str, root: Path) -> None:
    """Put a repository as that commit's code left it into the empty folder ``root``."""
    with tarfile.open(DATA / f"repositories_{commit}.tar.xz") as tar:
        for entry in tar.getmembers():
            inside = entry.name.removeprefix(f"./{situation}/")
            if inside != entry.name:
                tar.extract(entry.replace(name=inside), root, filter="tar")


class EarlierCode:
    """The package as it was at a commit, beside ours, under a name of its own.

    Args:
        commit: the commit.
        folder: where its files go.
    """

    def __init__(self, commit: str, folder: Path) -> None:
        self._name = f"triton_deploy_{commit}"
        if not (folder / self._name).exists():
            with tarfile.open(DATA / f"code_{commit}.tar.xz") as tar:
                tar.extractall(folder, filter="tar")
        if str(folder) not in sys.path:
            sys.path.append(str(folder))

    def module(self, name: str) -> ModuleType:
        """Return a module of it, by its name in the package."""
        return importlib.import_module(f"{self._name}.{name}")
