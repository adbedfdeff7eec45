"""The model repository that Triton serves: the only code that knows and writes its paths."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ..names import check_model
from .bakes import Bakes
from .durable import storage_errors
from .engines import Engines
from .journal import Journal
from .last_reconcile import LastReconcile
from .lease import Lease
from .releases import Releases
from .removals import Removals
from .versions import FileEntry, Manifest, Versions

__all__ = ["FileEntry", "Manifest", "ModelFolder", "models_in"]


@dataclass(frozen=True)
class ModelFolder:
    """One model's place in the repository: its releases and their bakes, deployments, lease, versions and engines, and what is on its way out."""

    model: str
    releases: Releases
    journal: Journal
    lease: Lease
    versions: Versions
    engines: Engines
    removals: Removals
    bakes: Bakes
    last_reconcile: LastReconcile

    @classmethod
    def at(cls, root: Path, model: str) -> Self:
        """Return the place of ``model`` below the repository ``root``; nothing is created.

        Raises:
            InvalidInput: the name is not one that may become a path.
        """
        folder = root / check_model(model)
        return cls(
            model,
            Releases(folder, model),
            Journal(folder / "deployments", model),
            Lease(folder / "leases", model),
            Versions(root, model),
            Engines(root, model),
            Removals(folder),
            Bakes(folder / "bakes", model),
            LastReconcile(folder / "reconcile.json"),
        )


def models_in(root: Path) -> list[str]:
    """Return the models of a repository that were ever deployed to, by name."""
    with storage_errors(f"listing {root}"):
        return sorted(path.parent.name for path in root.glob("*/deployments") if path.is_dir())
