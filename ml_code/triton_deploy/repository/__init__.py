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
from .quarantine import Quarantine
from .releases import Releases
from .removals import Removals
from .staging_directories import StagingDirectories
from .switch_config import SwitchConfig
from .traps import Traps
from .versions import Versions

__all__ = ["FileEntry", "Manifest", "ModelFolder", "models_in"]


@dataclass(frozen=True, kw_only=True)
class ModelFolder:
    """One model's place in the repository.

    Attributes:
        model: public model name.
        releases: the model's releases.
        journal: its deployments.
        lease: the lease that a deployment holds.
        versions: the installed versions.
        staging: the staging directories of deployments.
        quarantine: the directories that failed.
        engines: the Triton models that hold one version each.
        switch_config: the configuration of the Triton model that clients call.
        traps: entries that break Triton.
        removals: directories on their way out.
        bakes: the ends of the releases' bakes.
        last_reconcile: the note of the last reconcile.
        evidence: whether releases are missing.
        ownership: which files this package made.
    """

    model: str
    releases: Releases
    journal: Journal
    lease: Lease
    versions: Versions
    staging: StagingDirectories
    quarantine: Quarantine
    engines: Engines
    switch_config: SwitchConfig
    traps: Traps
    removals: Removals
    bakes: Bakes
    last_reconcile: LastReconcile
    evidence: Evidence
    ownership: Ownership

    @classmethod
    def at(cls, root: Path, model: str) -> Self:
        """Return the place of ``model`` below the repository ``root``; nothing is created.

        Raises:
            InvalidInput: the name can't be a path.
        """
        folder = root / check_model(model)
        releases, journal = Releases(folder, model), Journal(folder / "deployments", model)
        versions, engines = Versions(folder, model, journal), Engines(root, model)
        staging = StagingDirectories(folder, versions)
        quarantine = Quarantine(folder, journal, versions, staging)
        return cls(
            model=model,
            releases=releases,
            journal=journal,
            lease=Lease(folder / "leases", model),
            versions=versions,
            staging=staging,
            quarantine=quarantine,
            engines=engines,
            switch_config=SwitchConfig(folder),
            traps=Traps(root, model),
            removals=Removals(folder),
            bakes=Bakes(folder / "bakes", model),
            last_reconcile=LastReconcile(folder / "reconcile.json"),
            evidence=Evidence(folder, model, releases, journal),
            ownership=Ownership(root, model, releases, journal, versions, quarantine, engines),
        )


def models_in(root: Path) -> list[str]:
    """Return the models of a repository that ever had a deployment, by name."""
    with storage_errors(f"listing {root}"):
        begun = {path.parent.name for path in root.glob("*/deployments") if path.is_dir()}
        # A person may have removed the deployments of a live model.
        released = {path.parent.name for path in (*root.glob("*/releases"), *root.glob("*/current.json"))}
        # Or the model's whole folder: engines in Triton still lead there.
        loaded = {
            model
            for model, versions in engines_in(root).items()
            if is_model(model)
            and any(is_link_to(root / engine_name(model, one), model, one) for one in versions)
        }
        return sorted(begun | loaded | set(filter(is_model, released)))
