"""What is live, what failed, what is under way: read from the repository and asked of Triton. Changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from .errors import Unavailable
from .feedback import Feedback, Notice
from .records import Deployment, Release
from .repository import ModelFolder
from .serving import Serving
from .settings import Settings
from .survey import Survey
from .triton import tritons_of


@dataclass(frozen=True, kw_only=True)
class ModelStatus:
    """One model's state.

    Attributes:
        model: its name.
        live: the last release, or None.
        serving: by Triton, the version that answers the public name, None, or why it can't be asked.
        unfinished: a deployment that neither committed nor was rolled back, or None.
        quarantined: name of each quarantined directory with its failure.json, oldest first.
        notices: what MLflow says that does not fit; empty too when it can't be asked quickly.
    """

    model: str
    live: Release | None
    serving: Mapping[str, int | str | None]
    unfinished: Deployment | None
    quarantined: Mapping[str, Mapping[str, Any]]
    notices: tuple[Notice, ...] = ()

    @property
    def agrees(self) -> bool:
        """Whether every Triton serves what is live."""
        return all(version == self._expected for version in self.serving.values())

    @property
    def differs(self) -> bool:
        """Whether a Triton that answered serves something else than what is live."""
        return any(
            version != self._expected for version in self.serving.values() if not isinstance(version, str)
        )

    @property
    def _expected(self) -> int | None:
        return self.live.active_version if self.live else None

    def to_dict(self) -> dict[str, Any]:
        """Return the state as plain JSON values."""
        return {**asdict(self), "agrees": self.agrees}


def model_status(
    settings: Settings, model: str, feedback: Feedback | None = None, survey: Survey | None = None
) -> ModelStatus:
    """Look at one model.

    Args:
        settings: where the repository and the Tritons are.
        model: its name.
        feedback: asks the registry where the alias points; MLflow by default.
        survey: what the Tritons had loaded a moment ago, for who looks at many models at a time. A model of which one had
            another version than is live is looked at again: it may have been deployed since.

    Raises:
        InvalidInput, Misconfigured, StorageFailed: it can't be looked at. A Triton that is away is part of the answer.
    """
    folder = ModelFolder.at(settings.repository_root, model)
    holder, _ = folder.lease.last(datetime.now(UTC))
    last = folder.journal.find(holder) if holder else None
    status = ModelStatus(
        model=model,
        live=folder.releases.latest(),
        serving=_serving(settings, folder, survey or Survey(settings.repository_root)),
        unfinished=last if last and not last.finished else None,
        quarantined={path.name: failure for path, failure in folder.versions.quarantined()},
        notices=(feedback or Feedback(settings)).drift(folder),
    )
    return model_status(settings, model, feedback) if survey and status.differs else status


def _serving(settings: Settings, folder: ModelFolder, survey: Survey) -> dict[str, int | str | None]:
    try:
        tritons = tritons_of(settings)
    except Unavailable as error:
        return {", ".join(settings.triton_grpc_urls): error.message}
    return Serving(folder, tritons, settings).public_versions(survey)
