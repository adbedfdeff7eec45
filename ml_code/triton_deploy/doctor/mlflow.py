"""Checks MLflow (reachable, new enough, hands out artifacts) and the places of its experiments."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..clients.artifacts import ProxiedStore
from ..clients.mlflow_api import MlflowApi
from ..errors import DeployError, InvalidInput, Misconfigured
from ..rules.artifact_roots import VARIABLE
from ..rules.locations import ForeignPlace, Place, ProxyPlace, S3Place, parse_place
from ..settings import Settings
from .check import Finding, Report, first_of

OLDEST_MAJOR = 3
NOWHERE = "mlflow-artifacts:/triton-deploy-doctor"
"""A directory that does not exist: to list it costs nothing, and shows whether the server reaches its
store."""
SHOWN = 10
"""Most experiments in one finding."""
FIX = (
    "An experiment keeps the location that it was made with: log into another one ('triton-deploy init' makes two). So that new ones "
    "are right, start MLflow with --serve-artifacts --artifacts-destination s3://…."
)


@dataclass(frozen=True)
class Experiment:
    """An experiment of MLflow.

    Attributes:
        name: its name.
        location: where it keeps its artifacts, as MLflow says.
        place: the parsed location, or the error of parsing it.
    """

    name: str
    location: str
    place: Place | InvalidInput


def _is_old(version: str) -> bool:
    return int(version.partition(".")[0]) < OLDEST_MAJOR


def experiments_of(settings: Settings) -> list[Experiment]:
    """Return every active experiment; raises as MlflowApi.every does."""
    found = MlflowApi(settings).every("mlflow/experiments/search", "experiments", max_results="1000")
    return [_experiment(entry.text("name"), entry.text("artifact_location")) for entry in found]


def _experiment(name: str, location: str) -> Experiment:
    try:
        return Experiment(name, location, parse_place(location))
    except InvalidInput as error:
        return Experiment(name, location, error)


class MlflowCheck:
    """Asks the server for its version, and for a logged model, which only MLflow 3 knows.

    Args:
        settings: address, credentials and the longest wait for an answer.
    """

    name = "MLflow"
    needs = ("MLFLOW_TRACKING_URI",)
    deadline_s = 20.0

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._report = Report(self.name)

    def look(self) -> Iterator[Finding]:
        """See DoctorCheck.look."""
        api = MlflowApi(self._settings)
        answer = api.response("GET", "/version")
        version = answer.text.strip()
        if answer.ok and re.fullmatch(r"\d{1,4}(\.\w{1,20}){1,5}", version):
            yield self._version(api.base, version)
            if _is_old(version):
                return
        else:
            yield self._report.unknown(f"{api.base} does not say its version ({answer.status_code}).")
        yield self._logged_models(api)

    def clean_up(self) -> None:
        """See DoctorCheck.clean_up; this check leaves nothing behind."""

    def _version(self, base: str, version: str) -> Finding:
        if _is_old(version):
            return self._report.warning(
                f"MLflow at {base} is {version}: older than 3, it has no logged models. What a client of its own version logs is deployed.",
                "Upgrade the server (mlflow db upgrade), or train with a client of its own version: log_model of an MLflow 3 client fails on it.",
            )
        return self._report.ok(f"MLflow {version} answers at {base}.")

    def _logged_models(self, api: MlflowApi) -> Finding:
        endpoint = "mlflow/logged-models/m-triton-deploy-doctor"
        answer = api.response("GET", f"/api/2.0/{endpoint}")
        error = api.refusal(endpoint, answer)
        if error.kind == "not_found":
            return self._report.ok("It knows logged models.")
        if answer.status_code == 404:
            return self._report.failed(
                f"{api.base} answers logged-models with 404: the server is older than MLflow 3, or is none.",
                "Upgrade the server, or correct MLFLOW_TRACKING_URI: log_model of an MLflow 3 client fails on it.",
            )
        raise error


class ArtifactsCheck:
    """Asks the server for artifacts, and checks the place of every experiment.

    Args:
        settings: address, credentials and the longest wait for an answer.
    """

    name = "artifacts"
    needs = ("MLFLOW_TRACKING_URI", VARIABLE)
    deadline_s = 30.0

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._report = Report(self.name)

    def look(self) -> Iterator[Finding]:
        """See DoctorCheck.look."""
        try:
            experiments = experiments_of(self._settings)
        except DeployError as error:
            what = f"MLflow can't be asked where its experiments keep artifacts: {error.message}"
            yield replace(self._report.failed(what, error.hint), after=MlflowCheck.name)
            return
        yield self._proxy(any(isinstance(one.place, ProxyPlace) for one in experiments))
        yield from self._places(experiments)

    def clean_up(self) -> None:
        """See DoctorCheck.clean_up; this check leaves nothing behind."""

    def _proxy(self, used: bool) -> Finding:
        try:
            ProxiedStore(self._settings).list_files(NOWHERE)
        except Misconfigured as error:
            if not used:
                return self._report.warning(
                    f"{error.message} No experiment needs it.",
                    f"Nothing, while every experiment is at s3://…. {error.hint}",
                )
            return self._report.failed(error.message, error.hint)
        except DeployError as error:
            return self._report.failed(error.message, error.hint)
        return self._report.ok("MLflow hands out artifacts (mlflow-artifacts:/).")

    def _places(self, experiments: list[Experiment]) -> Iterator[Finding]:
        wrong: dict[str, list[str]] = {}
        for one in experiments:
            if isinstance(one.place, ForeignPlace | InvalidInput):
                wrong.setdefault(_why(one.place), []).append(f"{one.name!r} at {one.location}")
        yield from self._roots(experiments)
        if not wrong:
            yield self._report.ok(
                f"All {len(experiments)} experiments keep artifacts where they can be read."
            )
            return
        none_is_right = sum(map(len, wrong.values())) == len(experiments)
        make = self._report.failed if none_is_right else self._report.warning
        for why, names in wrong.items():
            yield make(
                f"What these experiments log can't be deployed ({first_of(names, SHOWN)}): {why}.", FIX
            )

    def _roots(self, experiments: list[Experiment]) -> Iterator[Finding]:
        """Compare the places of the experiments with the places that files may be read from."""
        roots, outside = self._settings.transfer.allowed_artifacts, []
        for one in experiments:
            if isinstance(one.place, S3Place | ProxyPlace) and not roots.allow(one.place):
                outside.append((one, one.place))
        if outside:
            named = first_of([f"{one.name!r} at {one.location}" for one, _ in outside], SHOWN)
            wanted = ",".join(
                dict.fromkeys(map(str, [*roots.roots, *(place for _, place in outside[:SHOWN])]))
            )
            yield self._report.warning(
                f"What these experiments log is refused, because {VARIABLE} does not name their places: {named}.",
                f"If models may be deployed from there, set {VARIABLE}={wanted} for every deployer.",
            )
        elif roots.roots:
            yield self._report.ok(
                f"Files are read from below {', '.join(map(str, roots.roots))} ({VARIABLE})."
            )


def _why(place: ForeignPlace | InvalidInput) -> str:
    return (
        place.kind.value
        if isinstance(place, ForeignPlace)
        else "it is no location, or could lead out of its store"
    )
