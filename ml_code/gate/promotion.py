"""Moves the alias to a version that passed the gate, and moves it back if that version does not go live.

MLflow has no compare-and-set for an alias. The gate reads the alias right before it writes it, and
overwrites a change that a person makes in the milliseconds between. ``reconcile`` and ``status`` report
every alias that names another version than the live one.
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
    """The planned move of an alias to a new version.

    Attributes:
        model: model name.
        alias: the alias.
        version: the new version.
        alias_before: the version that the alias named at the comparison, or None.
        generation: generation of the release that was live at the comparison; 0 before the first release.
    """

    model: str
    alias: str
    version: int
    alias_before: int | None
    generation: int


def promote(promotion: Promotion, aliases: Aliases, live: Release | None) -> None:
    """Move the alias to the new version, if alias and live release are still as at the comparison.

    A second call is a no-op.

    Args:
        promotion: the promotion that the gate allowed.
        aliases: the registry's aliases.
        live: the live release, or None.

    Raises:
        Superseded: the alias was moved, or another version was deployed, since the comparison.
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
    """Move the alias back if it names the new version and the new version is not live.

    Args:
        promotion: the promotion that the gate allowed.
        aliases: the registry's aliases.
        live: the live release, or None.
        deployments: the model's deployments, in any order.
        deploy_id: id of this run's deployment, which may not have begun.

    Returns:
        The outcome, as a sentence. None if the alias does not name the new version: it was not promoted,
        or the alias was moved since, and stays.

    Raises:
        Unavailable: a deployment of the version has not ended, so the version may still go live.
        DeployError: the registry refuses or does not answer.
    """
    name, new = f"{promotion.alias} of {promotion.model}", promotion.version
    if aliases.named(promotion.model).get(promotion.alias) != new:
        return None
    if live is not None and live.active_version == new:
        return f"Alias {name} names version {new}, which serves."
    was_live = False
    for deployment in deployments:
        # Any deployment of the version counts, not only this run's: the moved alias may have begun another
        # one.
        undecided = not deployment.finished and deployment.state is not State.ROLLING_BACK
        if deployment.version == new and undecided:
            raise Unavailable(
                f"Deployment {deployment.deploy_id} is {deployment.state}: alias {name} stays at version {new} until it has ended.",
                hint="Reconcile finishes or undoes it, and tells when the alias names another version than serves.",
            )
        if deployment.deploy_id == deploy_id:
            was_live = deployment.state is State.COMMITTED
    # After a revert of the new version the alias follows the live version; a version that never was live
    # changed nothing.
    back = live.active_version if was_live and live is not None else promotion.alias_before
    aliases.point(promotion.model, promotion.alias, back)
    return f"Alias {name} named version {new}, which does not serve: it names {_version(back)} again."


def _version(version: int | None) -> str:
    return "no version" if version is None else f"version {version}"
