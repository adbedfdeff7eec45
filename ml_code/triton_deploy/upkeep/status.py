"""Read the live version, failures and the deployment under way of models, and change nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from ..clients.triton import tritons_of
from ..errors import DeployError, Misconfigured, Unavailable
from ..fleet.fleet import Fleet
from ..fleet.foreign import FOREIGN, foreign_notice, served_by_others
from ..fleet.index_cache import IndexCache
from ..report.mlflow_tags import MlflowTags
from ..repository import ModelFolder
from ..repository.verdicts import BadVersion, Judged, bad_versions, judged
from ..rules.deployment import Deployment
from ..rules.release import Release
from ..rules.standing import Notice
from ..settings import Settings
from .each_model import each_model

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ModelStatus:
    """One model's state.

    Attributes:
        model: its name.
        live: the last release, or None.
        serving: by Triton's address, the version that answers the public name, None, or why that Triton
            can't be asked.
        unfinished: a deployment that neither committed nor was rolled back, or None.
        quarantined: by name of each quarantined directory its failure.json, oldest first; a failure that
            `blames_artifact` has the artifact refused.
        notices: contradictions between MLflow and the repository; empty also when MLflow can't be asked
            quickly.
        problems: records and files that can't be read, and what to do; the other fields hold the rest.
        verdict: how the live version was judged, in a line; empty when no judge was asked.
        without_verdict: judges that were asked and gave no verdict: ``canary``, ``bake``.
        shapes: whose shapes the live version has, in a line, when a Triton refused those of the deployer's
            ONNX Runtime; else empty.
        taken_back: by number of each version that a bake found bad, why it is not deployed again without
            force.
    """

    model: str
    live: Release | None
    serving: Mapping[str, int | str | None]
    unfinished: Deployment | None
    quarantined: Mapping[str, Mapping[str, Any]]
    notices: tuple[Notice, ...] = ()
    problems: tuple[str, ...] = ()
    verdict: str = ""
    without_verdict: tuple[str, ...] = ()
    shapes: str = ""
    taken_back: Mapping[int, str] = field(default_factory=dict)

    @property
    def agrees(self) -> bool:
        """Whether every Triton serves the live version, and everything can be read."""
        if self.live is None and any(notice.kind == FOREIGN for notice in self.notices):
            # Another program's model serves under this name.
            return not self.problems
        return not self.problems and all(version == self._expected for version in self.serving.values())

    @property
    def differs(self) -> bool:
        """Whether a Triton that answered serves another version than the live one."""
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
    settings: Settings, model: str, feedback: MlflowTags | None = None, survey: IndexCache | None = None
) -> ModelStatus:
    """Look at one model.

    Args:
        settings: where the repository and the Tritons are.
        model: its name.
        feedback: asks the registry where the alias points; MLflow by default.
        survey: the versions that the Tritons had loaded a moment ago, for a look at many models. A model is
            looked at again when a Triton had another version of it than the live one: a deploy may have
            ended since.

    Raises:
        InvalidInput, Misconfigured: there is no such place. A Triton that is away and a file that can't be
            read are no errors here: the status has them.
    """
    folder = ModelFolder.at(settings.repository_root, model)
    problems: list[str] = []

    def seen(look: Callable[[], T], otherwise: T) -> T:
        """Return the result of a look, or a default when the look fails, which is one problem."""
        try:
            return look()
        except DeployError as error:
            if str(error) not in problems:
                problems.append(str(error))
            return otherwise

    live = seen(folder.releases.latest, None)
    problems += [text for text in folder.evidence.missing(thorough=False) if text not in problems]
    serving = _serving(settings, folder, survey or IndexCache(settings.repository_root))
    none: list[str] = []
    no_drift: tuple[Notice, ...] = ()
    others = seen(lambda: served_by_others(folder, serving), none) if not problems else none
    foreign = [foreign_notice([f"{model} in {url}" for url in others])] if others else []
    how = seen(lambda: judged(folder, live), Judged()) if live else Judged()
    none_bad: list[BadVersion] = []
    bad = {one.version: one.why for one in seen(lambda: bad_versions(folder), none_bad)}
    status = ModelStatus(
        model=model,
        live=live,
        serving=serving,
        unfinished=seen(lambda: _unfinished(folder), None),
        quarantined=seen(lambda: {path.name: failure for path, failure in folder.quarantine.failures()}, {}),
        notices=(*foreign, *seen(lambda: (feedback or MlflowTags(settings)).drift(folder), no_drift)),
        problems=(
            *seen(lambda: [trap.warning for trap in folder.traps.found()], none),
            *problems,
        ),
        verdict=str(how),
        without_verdict=how.without_verdict,
        shapes=how.shapes,
        taken_back=bad,
    )
    return model_status(settings, model, feedback) if survey and status.differs else status


def statuses(settings: Settings, models: Sequence[str]) -> Iterator[ModelStatus]:
    """Look at one model after the other; an error at one model does not stop the others.

    Raises:
        Misconfigured: there is no repository.
    """
    feedback, survey = MlflowTags(settings), IndexCache(settings.repository_root)

    def run(model: str) -> ModelStatus:
        return model_status(settings, model, feedback, survey)

    return each_model(models, run, _failed, undone="not looked at", fatal=(Misconfigured,))


def _failed(model: str, problem: str) -> ModelStatus:
    return ModelStatus(
        model=model, live=None, serving={}, unfinished=None, quarantined={}, problems=(problem,)
    )


def _unfinished(folder: ModelFolder) -> Deployment | None:
    """Return the deployment that has the lease and has not ended, or None."""
    holder, _ = folder.lease.last(datetime.now(UTC))
    last = folder.journal.find(holder) if holder else None
    return last if last and not last.finished else None


def _serving(settings: Settings, folder: ModelFolder, survey: IndexCache) -> dict[str, int | str | None]:
    try:
        tritons = tritons_of(settings)
    except Unavailable as error:
        return {", ".join(settings.triton.grpc_urls): error.message}
    return Fleet(folder, tritons, settings).public_versions(survey)
