"""Refuses the name of a model that was never deployed: a pipeline that misspells a name must not pass."""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches

from ..clients.http.deadline import within
from ..clients.mlflow_api import MlflowApi
from ..errors import DeployError, NotFound
from ..repository import models_in
from ..rules.names import check_model
from ..settings import Settings

SHOWN = 5
"""Largest number of deployed models that an error names."""


def require_known(settings: Settings, model: str) -> None:
    """Refuse a model that was never deployed to the repository.

    Args:
        settings: give the repository, and MLflow, which may know the model as registered.
        model: name of the model.

    Raises:
        InvalidInput: the text can't be a model's name.
        NotFound: no model of this name was ever deployed.
        Misconfigured, StorageFailed: the repository is not set, or can't be read.
    """
    root = settings.repository_root
    known = models_in(root)
    if check_model(model) in known:
        return
    meant = _alike(model, known)
    registered = not meant and _is_registered(settings, model)
    if registered:
        raise NotFound(
            f"{model} is registered in MLflow and was never deployed to {root}.",
            hint=f"Set an alias on the version to deploy, and deploy it: triton-deploy deploy {model} --alias ALIAS",
        )
    others = f" The folder {root / model} is not of a deploy." if (root / model).is_dir() else ""
    raise NotFound(
        f"Nothing was ever deployed to {root} by the name {model!r}.{others}",
        hint=(f"Did you mean {' or '.join(meant)}? " if meant else "") + _listed(known),
    )


def _alike(model: str, known: list[str]) -> list[str]:
    """Return the models that may have been meant, the likeliest first, whatever the case of their letters."""
    by_letters = {name.casefold(): name for name in known}
    return [by_letters[name] for name in get_close_matches(model.casefold(), by_letters, n=3)]


def _listed(known: list[str]) -> str:
    if not known:
        return "No model was deployed yet; check TRITON_DEPLOY_REPOSITORY."
    more = f" and {len(known) - SHOWN} more: 'triton-deploy status' names all" if len(known) > SHOWN else ""
    return f"Deployed there: {', '.join(known[:SHOWN])}{more}."


def _is_registered(settings: Settings, model: str) -> bool:
    """Whether MLflow has the model registered; False when MLflow does not answer within the time limit."""
    limit_s = settings.mlflow.feedback_timeout_s
    quick = replace(
        settings, mlflow=replace(settings.mlflow, timeout_s=min(settings.mlflow.timeout_s, limit_s))
    )

    def ask() -> bool:
        MlflowApi(quick).get("mlflow/registered-models/get", "registered_model", name=model)
        return True

    try:
        return within(limit_s, "asking MLflow for the model", ask)
    except DeployError:
        return False
