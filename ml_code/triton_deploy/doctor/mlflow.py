"""MLflow: does it answer, is it new enough, does it hand out artifacts, and where do its experiments keep theirs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ..artifacts import ProxiedStore
from ..errors import DeployError, InvalidInput, Misconfigured
from ..locations import ForeignPlace, Place, ProxyPlace, parse_place
from ..mlflow_api import MlflowApi
from ..settings import Settings
from .check import Finding, Report

OLDEST_MAJOR = 3
NOWHERE = "mlflow-artifacts:/triton-deploy-doctor"
"""A directory that nobody has: listing it asks the server for its store, and costs nothing."""
SHOWN = 10
"""How many experiments are named."""
FIX = (
    "An experiment keeps the location that it was made with: log into another one ('triton-deploy init' makes two). So that new ones "
    "are right, start MLflow with --serve-artifacts --artifacts-destination s3://…."
)


@dataclass(frozen=True)
class Experiment:
    """An experiment's name, where it keeps artifacts, and that place taken apart, or why it is none."""

    name: str
    location: str
    place: Place | InvalidInput


def experiments_of(settings: Settings) -> list[Experiment]:
    """Return every active experiment; raises what MlflowApi.get does."""
    found = MlflowApi(settings).every("mlflow/experiments/search", "experiments", max_results="1000")
    return [_experiment(entry["name"], entry["artifact_location"]) for entry in found]


def _experiment(name: str, location: str) -> Experiment:
    try:
        return Experiment(name, location, parse_place(location))
    except InvalidInput as error:
        return Experiment(name, location, error)


class MlflowCheck:
    """Reaches the server, and asks for what only MLflow 3 has.

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
        """See Check.look."""
        api = MlflowApi(self._settings)
        answer = api.response("GET", "/version")
        version = answer.text.strip()
        if answer.ok and re.fullmatch(r"\d+(\.\w+)+", version):
            yield self._version(api.base, version)
        else:
            yield self._report.unknown(f"{api.base} does not say its version ({answer.status_code}).")
        yield self._logged_models(api)

    def clean_up(self) -> None:
        """Nothing is left."""

    def _version(self, base: str, version: str) -> Finding:
        if int(version.partition(".")[0]) < OLDEST_MAJOR:
            return self._report.warning(
                f"MLflow at {base} is {version}: older than 3, it has no logged models.",
                "Upgrade the server (mlflow db upgrade), or train with a client of its own version.",
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
    """Asks the server for artifacts, and every experiment for its place.

    Args:
        settings: address, credentials and the longest wait for an answer.
    """

    name = "artifacts"
    needs = ("MLFLOW_TRACKING_URI",)
    deadline_s = 30.0

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._report = Report(self.name)

    def look(self) -> Iterator[Finding]:
        """See Check.look."""
        experiments = experiments_of(self._settings)
        yield self._proxy(any(isinstance(one.place, ProxyPlace) for one in experiments))
        yield from self._places(experiments)

    def clean_up(self) -> None:
        """Nothing is left."""

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
        if not wrong:
            yield self._report.ok(
                f"All {len(experiments)} experiments keep artifacts where they can be read."
            )
            return
        none_is_right = sum(map(len, wrong.values())) == len(experiments)
        make = self._report.failed if none_is_right else self._report.warning
        for why, names in wrong.items():
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            yield make(
                f"What these experiments log can't be deployed ({', '.join(names[:SHOWN])}{more}): {why}.",
                FIX,
            )


def _why(place: ForeignPlace | InvalidInput) -> str:
    return (
        place.kind.value
        if isinstance(place, ForeignPlace)
        else "it is no location, or could lead out of its store"
    )
