"""The tasks of ``retrain_and_deploy`` before and after its deploy."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from airflow.sdk import get_current_context
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from ..gate.settings import RetrainSettings
from ..triton_deploy.settings import Settings
from .deploy_run import deploy_id_of, no_vain_retries

if TYPE_CHECKING:
    from ..gate.promotion import Promotion

log = logging.getLogger(__name__)


def promotion_of(decision: dict[str, Any], params: dict[str, Any]) -> Promotion:
    """Return the promotion that `evaluate` allowed, from its result and the run's params."""
    from ..gate.promotion import Promotion

    return Promotion(
        model=params["model"],
        alias=params["alias"],
        version=decision["version"],
        alias_before=decision["alias_before"],
        generation=decision["generation"],
    )


def train() -> dict[str, Any]:
    """Train a model, check its export and register it; no alias moves."""
    from ..gate.rules import Rules
    from ..train_model import train_and_register
    from ..training.errors import DataError, RegistryError, TrainingError
    from ..training.request import TrainingRequest

    params = get_current_context()["params"]
    try:
        # Rules are checked first: wrong ones must not cost a training.
        with no_vain_retries():
            Rules.from_env().overridden(params["rules"])
        registered = train_and_register(
            TrainingRequest(
                model=params["model"],
                alias=None,
                trainer=params["trainer"],
                options=params["options"],
                experiment=RetrainSettings.from_env().experiment,
                # For a JSON schema, 7.0 is a whole number.
                seed=int(params["seed"]),
                parity_tolerance=params["parity_tolerance"],
            )
        )
    # A retry may help: MLflow or the source of the data may be back.
    except (DataError, RegistryError):
        raise
    except TrainingError as error:
        raise AirflowFailException(f"{error} {error.hint}") from error
    return {"version": registered.version, "run_id": registered.run_id}


def evaluate(trained: Any) -> dict[str, Any]:
    """Compare the new version with the live one, on its held-out rows; MLflow keeps the numbers."""
    from ..gate.evaluation import compare
    from ..gate.promotion import MlflowAliases
    from ..gate.record import record
    from ..gate.report import headline, page
    from ..gate.rules import Rules

    params = get_current_context()["params"]
    settings = Settings.from_env()
    with no_vain_retries():
        named = MlflowAliases(settings).named(params["model"]).get(params["alias"])
        rules = Rules.from_env().overridden(params["rules"])
        comparison = compare(settings, rules, params["model"], trained["version"])
        record(settings, comparison)
    log.info("\n%s", page(comparison))
    return {
        "promote": comparison.verdict.promote,
        "headline": headline(comparison),
        "page": page(comparison),
        "version": comparison.version,
        "run_id": comparison.run_id,
        "generation": comparison.generation,
        "alias_before": named,
    }


def gate(decision: Any) -> str | None:
    """Go on with a version that is better; otherwise the rest of the run is skipped."""
    log.info(decision["headline"])
    if not decision["promote"]:
        return None
    return "approve_promotion" if get_current_context()["params"]["approval"] else "promote"


def promote(decision: Any) -> dict[str, Any]:
    """Make the alias name the new version, if all that was compared is still so."""
    from ..gate.promotion import MlflowAliases
    from ..gate.promotion import promote as move_alias
    from ..triton_deploy.repository import ModelFolder

    settings, params = Settings.from_env(), dict(get_current_context()["params"])
    with no_vain_retries():
        live = ModelFolder.at(settings.repository_root, params["model"]).releases.latest()
        move_alias(promotion_of(decision, params), MlflowAliases(settings), live)
    return {"version": decision["version"], "reason": decision["headline"]}


def settle_alias() -> None:
    """Bring the alias back when what it names does not serve in the end."""
    from ..gate.promotion import MlflowAliases, settle
    from ..triton_deploy.repository import ModelFolder

    context = get_current_context()
    settings, params = Settings.from_env(), dict(context["params"])
    decision = context["ti"].xcom_pull(task_ids="evaluate")
    if not decision or not decision["promote"]:
        raise AirflowSkipException("Nothing was promoted.")
    with no_vain_retries():
        folder = ModelFolder.at(settings.repository_root, params["model"])
        done = settle(
            promotion_of(decision, params),
            MlflowAliases(settings),
            folder.releases.latest(),
            folder.journal.all(),
            deploy_id_of(context),
        )
    if done is None:
        raise AirflowSkipException("The alias does not name this run's version: it is left as it is.")
    log.info(done)
