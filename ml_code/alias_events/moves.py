"""Reads MLflow's events, and decides which moved aliases are deployed. Rules only: no I/O."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..triton_deploy.errors import DeployError, InvalidInput, Misconfigured
from ..triton_deploy.rules.names import check_alias, check_model
from .errors import Malformed

ANY = "*"
"""Stands for every model, or every alias, in a list of followed aliases."""

_READABLE = 60
"""Characters of a name in a run id: Airflow accepts 250 in all. The delivery's id makes the run id unique."""


@dataclass(frozen=True)
class Move:
    """An alias that names a version now.

    Attributes:
        model: registered model.
        alias: the alias.
        version: version that the alias named at the time of the event; the deploy resolves the alias again.
    """

    model: str
    alias: str
    version: str

    def run_id(self, delivery_id: str) -> str:
        """Return the id of the Airflow run for one delivery of this event.

        A repeated delivery gives the same id, and Airflow accepts an id once. A later move is another
        delivery, even a move back to the same version.
        """
        return f"alias__{self.model[:_READABLE]}__{self.alias[:_READABLE]}__v{self.version}__{delivery_id}"


@dataclass(frozen=True)
class Followed:
    """A model and alias whose moves are deployed; either may be ``ANY``."""

    model: str
    alias: str

    @classmethod
    def parse(cls, text: str) -> Followed:
        """Read ``model@alias``; raises Misconfigured for any other text."""
        model, separator, alias = text.partition("@")
        try:
            if not separator:
                raise InvalidInput(f"{text!r} has no '@'.", hint="")
            return cls(
                model if model == ANY else check_model(model), alias if alias == ANY else check_alias(alias)
            )
        except DeployError as error:
            raise Misconfigured(
                f"{text!r} is not model@alias: {error.message}", hint="Write for example best_model@A."
            ) from error

    def covers(self, move: Move) -> bool:
        """Whether a move is of this model and alias."""
        return self.model in (ANY, move.model) and self.alias in (ANY, move.alias)


def read_event(body: bytes) -> Move | None:
    """Return the move in an event of MLflow, or None for an event of another kind.

    Source: ``mlflow/webhooks/types.py`` of MLflow 3.17.

    Raises:
        Malformed: the body is no event of MLflow.
    """
    try:
        event = json.loads(body)
        kind = event["entity"], event["action"]
        if kind != ("model_version_alias", "created"):
            return None
        data: dict[str, Any] = event["data"]
        move = Move(*(data[name] for name in ("name", "alias", "version")))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Malformed("The body is not an event of MLflow's webhooks.") from error
    if not all(isinstance(part, str) for part in (move.model, move.alias, move.version)):
        raise Malformed("The event's name, alias and version are not all text.")
    if not re.fullmatch(r"[0-9]{1,10}", move.version):
        raise Malformed("The event's version is not a number.")
    return move


def why_not(move: Move, followed: Sequence[Followed]) -> str:
    """Return the reason why a move is not deployed; empty for a move that is deployed."""
    if not any(pair.covers(move) for pair in followed):
        return f"{move.model}@{move.alias} is not followed here (TRITON_EVENTS_ALLOW)"
    try:
        check_model(move.model)
        check_alias(move.alias)
    except DeployError as error:
        return f"it can't be deployed: {error.message}"
    return ""
