"""Moves the alias to a version that passed the gate, and brings it back when that version does not serve after all.

MLflow has no compare-and-set of an alias. It is read right before it is written, and what a person sets in the milliseconds between is
overwritten; ``reconcile`` and ``status`` tell of an alias that names another version than serves, whoever set it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from ..triton_deploy.clients.mlflow_api import MlflowApi
from ..triton_deploy.clients.mlflow_board import MlflowBoard
from ..triton_deploy.errors import Superseded, Unavailable
from ..triton_deploy.rules.deployment import Deployment, State
from ..triton_deploy.rules.release import Release
from ..triton_deploy.settings import Settings


class Aliases(Protocol):
    """A registry's aliases; every call raises as registry.Registry.resolve does."""

    def named(self, model: str) -> Mapping[str, int]:
        """Return the version that each alias names."""

    def point(self, model: str, alias: str, version: int | None) -> None:
        """Make an alias name a version; None deletes it."""


class MlflowAliases:
    """MLflow's aliases.

    Args:
        settings: address, credentials and the longest wait for an answer.
    """

    def __init__(self, settings: Settings) -> None:
        self._api = MlflowApi(settings)
        self._board = MlflowBoard(settings)

    def named(self, model: str) -> Mapping[str, int]:
        """See Aliases.named."""
        return self._board.aliases(model)

    def point(self, model: str, alias: str, version: int | None) -> None:
        """See Aliases.point."""
        endpoint = "mlflow/registered-models/alias"
        if version is None:
            self._api.send("DELETE", endpoint, name=model, alias=alias)
        else:
            self._api.send("POST", endpoint, name=model, alias=alias, version=str(version))


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """An alias that is to name a new version.

    Attributes:
        model: model name.
        alias: the alias.
        version: the new version.
        alias_before: the version that the alias named when the gate looked, or None.
        generation: the release that was live then; 0 before the first.
    """

    model: str
    alias: str
    version: int
    alias_before: int | None
    generation: int


def promote(promotion: Promotion, aliases: Aliases, live: Release | None) -> None:
    """Make the alias name the new version, if all that the gate compared is still so; done before, it is a no-op.

    Args:
        promotion: what the gate let through.
        aliases: the registry's.
        live: what is live now.

    Raises:
        Superseded: somebody moved the alias or deployed another version since.
        DeployError: the registry refuses or does not answer.
    """
    named = aliases.named(promotion.model).get(promotion.alias)
    generation = live.generation if live else 0
    if generation != promotion.generation:
        raise Superseded(
            f"Version {promotion.version} of {promotion.model} was compared with release {promotion.generation}, and release "
            f"{generation} is live now. Nothing was changed.",
            hint="Trigger a new run, which compares with what is live then.",
        )
    if named == promotion.version:
        return
    if named != promotion.alias_before:
        raise Superseded(
            f"Alias {promotion.alias} of {promotion.model} named {_version(promotion.alias_before)} when the gate looked, and "
            f"{_version(named)} now. Nothing was changed.",
            hint="Somebody else promotes that one: deploy it, or trigger a new run.",
        )
    aliases.point(promotion.model, promotion.alias, promotion.version)


def settle(
    promotion: Promotion,
    aliases: Aliases,
    live: Release | None,
    deployments: Iterable[Deployment],
    deploy_id: str,
) -> str | None:
    """Bring the alias back if it names the new version and that does not serve.

    Args:
        promotion: what the gate let through.
        aliases: the registry's.
        live: what is live now.
        deployments: of the model, in any order.
        deploy_id: which of them is this run's; it may not have begun.

    Returns:
        What was done or found, as a sentence; None when the alias does not name the new version: nothing was promoted, or somebody
        moved it since, which is left as it is.

    Raises:
        Unavailable: a deployment of the version has not ended, so nobody knows yet what will serve.
        DeployError: the registry refuses or does not answer.
    """
    name, new = f"{promotion.alias} of {promotion.model}", promotion.version
    if aliases.named(promotion.model).get(promotion.alias) != new:
        return None
    if live is not None and live.active_version == new:
        return f"Alias {name} names version {new}, which serves."
    mine = None
    for deployment in deployments:
        mine = deployment if deployment.deploy_id == deploy_id else mine
        # Not only this run's: an alias that moved may have made somebody else deploy the same version.
        undecided = not deployment.finished and deployment.state is not State.ROLLING_BACK
        if deployment.version == new and undecided:
            raise Unavailable(
                f"Deployment {deployment.deploy_id} is {deployment.state}: alias {name} stays at version {new} until it has ended.",
                hint="Reconcile finishes or undoes it, and tells when the alias names another version than serves.",
            )
    # What was live and was taken back leaves the version that took its place; what never was leaves things as they were.
    was_live = mine is not None and mine.state is State.COMMITTED
    back = live.active_version if was_live and live is not None else promotion.alias_before
    aliases.point(promotion.model, promotion.alias, back)
    return f"Alias {name} named version {new}, which does not serve: it names {_version(back)} again."


def _version(version: int | None) -> str:
    return "no version" if version is None else f"version {version}"
