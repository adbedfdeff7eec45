"""Reads and writes the pages of a model's versions in MLflow, by its REST API."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol

from ..errors import AliasNotFound
from ..rules.identity import Origin
from ..rules.standing import Registered
from ..rules.version_files import DIGEST_TAG
from ..settings import Settings
from .http.answers import JsonAnswer
from .mlflow_api import MlflowApi
from .registry import tags_of


class Board(Protocol):
    """The versions of a model in a registry, with their tags and aliases.

    Every call raises AccessDenied, Misconfigured, NotFound or Unavailable when the registry refuses or does
    not answer.
    """

    def versions(self, model: str) -> Mapping[int, Registered]:
        """Return every version by its number; empty for an unknown model."""

    def named(self, model: str, alias: str) -> Registered | None:
        """Return the version that an alias names, or None for an alias that is not set."""

    def aliases(self, model: str) -> Mapping[str, int]:
        """Return the version that each alias names."""

    def set_tag(self, model: str, version: int, key: str, value: str) -> None:
        """Set a tag of a version."""

    def delete_tag(self, model: str, version: int, key: str) -> None:
        """Delete a tag of a version; a missing tag is fine."""


class MlflowBoard:
    """MLflow's pages of registered models.

    Args:
        settings: address, credentials and the longest wait for an answer.
    """

    def __init__(self, settings: Settings) -> None:
        self._api = MlflowApi(settings)

    def versions(self, model: str) -> Mapping[int, Registered]:
        """See Board.versions."""
        found = self._api.every(
            "mlflow/model-versions/search", "model_versions", filter=f"name='{model}'", max_results="1000"
        )
        return {version.version: version for version in map(registered, found)}

    def named(self, model: str, alias: str) -> Registered | None:
        """See Board.named."""
        endpoint = "mlflow/registered-models/alias"
        try:
            return registered(self._api.get(endpoint, "model_version", name=model, alias=alias))
        except AliasNotFound:
            return None

    def aliases(self, model: str) -> Mapping[str, int]:
        """See Board.aliases."""
        found = self._api.get("mlflow/registered-models/get", "registered_model", name=model)
        return {entry.text("alias"): entry.whole("version") for entry in found.items("aliases")}

    def set_tag(self, model: str, version: int, key: str, value: str) -> None:
        """See Board.set_tag."""
        self._api.send(
            "POST",
            "mlflow/model-versions/set-tag",
            name=model,
            version=str(version),
            key=key,
            value=value,
        )

    def delete_tag(self, model: str, version: int, key: str) -> None:
        """See Board.delete_tag."""
        self._api.send(
            "DELETE", "mlflow/model-versions/delete-tag", name=model, version=str(version), key=key
        )

    def register(self, model: str, like: Registered, tags: Mapping[str, str]) -> int:
        """See renumber.Registrar.register."""
        logged = re.fullmatch(r"models:/(m-[^/@]+)", like.origin.place)
        answer = self._api.send(
            "POST",
            "mlflow/model-versions/create",
            name=model,
            source=like.origin.place,
            description=like.description,
            tags=[{"key": key, "value": value} for key, value in tags.items()],
            **({"run_id": like.origin.run_id} if like.origin.run_id else {}),
            **({"model_id": logged[1]} if logged else {}),
        )
        return answer.part("model_version").whole("version")

    def set_alias(self, model: str, alias: str, version: int) -> None:
        """See renumber.Registrar.set_alias."""
        self._api.send(
            "POST", "mlflow/registered-models/alias", name=model, alias=alias, version=str(version)
        )

    def delete_version(self, model: str, version: int) -> None:
        """See renumber.Registrar.delete_version."""
        self._api.send("DELETE", "mlflow/model-versions/delete", name=model, version=str(version))


def registered(entry: JsonAnswer) -> Registered:
    """Return the version in MLflow's JSON; the JSON keeps the id of a deleted run."""
    tags = tags_of(entry)
    origin = Origin(
        run_id=entry.text("run_id", ""),
        place=entry.text("source", ""),
        digest=tags.get(DIGEST_TAG, ""),
    )
    return Registered(
        version=entry.whole("version"),
        origin=origin,
        tags=tags,
        description=entry.text("description", ""),
    )
