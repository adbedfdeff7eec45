"""The model repository that Triton serves: the only code that knows and writes its paths."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ..rules.names import check_model, engine_name, is_model
from ..rules.version_files import FileEntry, Manifest
from ..storage import storage_errors
from .bakes import Bakes
from .engines import Engines, engines_in, is_link_to
from .evidence import Evidence
from .journal import Journal
from .last_reconcile import LastReconcile
from .lease import Lease
from .ownership import Ownership
from .releases import Releases
from .removals import Removals
from .versions import Versions

__all__ = ["FileEntry", "Manifest", "ModelFolder", "models_in"]


@dataclass(frozen=True)
class ModelFolder:
    """One model's place in the repository: its releases and their bakes, deployments, lease, versions and engines, what is on its way out, and what tells whose all of it is."""

    model: str
    releases: Releases
    journal: Journal
    lease: Lease
    versions: Versions
    engines: Engines
    removals: Removals
    bakes: Bakes
    last_reconcile: LastReconcile
    evidence: Evidence
    ownership: Ownership

    @classmethod
    def at(cls, root: Path, model: str) -> Self:
        """Return the place of ``model`` below the repository ``root``; nothing is created.

        Raises:
            InvalidInput: the name is not one that may become a path.
        """
        folder = root / check_model(model)
        releases, journal = Releases(folder, model), Journal(folder / "deployments", model)
        versions, engines = Versions(root, model, journal), Engines(root, model)
        return cls(
            model,
            releases,
            journal,
            Lease(folder / "leases", model),
            versions,
            engines,
            Removals(folder),
            Bakes(folder / "bakes", model),
            LastReconcile(folder / "reconcile.json"),
            Evidence(folder, model, releases, journal),
            Ownership(root, model, releases, journal, versions, engines),
        )


def models_in(root: Path) -> list[str]:
    """Return the models of a repository that were ever deployed to, by name."""
    with storage_errors(f"listing {root}"):
        begun = {path.parent.name for path in root.glob("*/deployments") if path.is_dir()}
        # Somebody may have removed the deployments of a model that is live.
        released = {path.parent.name for path in (*root.glob("*/releases"), *root.glob("*/current.json"))}
        # Or its whole folder: what Triton still loads leads there.
        loaded = {
            model
            for model, versions in engines_in(root).items()
            if is_model(model)
            and any(is_link_to(root / engine_name(model, one), model, one) for one in versions)
        }
        return sorted(begun | loaded | set(filter(is_model, released)))
