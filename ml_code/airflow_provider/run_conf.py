"""Rules for the conf of a run: every key has to be a param of the DAG; a refusal suggests the param.

Airflow checks the values of params, ignores every other key of a run's conf without a word, and goes on
with the defaults (apache/airflow#29018). A run that changes production must not guess: an unknown key ends
the run before its first step.

Pure: standard library only, no I/O.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from ..triton_deploy.errors import InvalidInput, Misconfigured

OF_AIRFLOW = frozenset({"openlineage"})
"""Keys that Airflow itself adds to the conf of a run that another run triggers."""

OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    "model": ("models", "modelname", "name", "registeredmodel"),
    "alias": ("aliases", "aliasname", "mlflowalias", "modelalias", "stage"),
    "to": ("version", "modelversion", "targetversion", "toversion", "activeversion"),
    "reason": ("comment", "message", "note", "why"),
    "unverified": ("noverify", "skipverification", "skipverify", "withoutlook"),
    "allow_schema_change": ("allowschemachanges", "schemachange"),
    "force": ("forced", "override"),
    "decision": ("action", "answer", "command", "decide", "say", "what"),
    "canary": ("canarypercent", "canaryshares", "canarysteps", "percent", "shares"),
    "canary_minutes": ("canarystepminutes", "stepminutes"),
    "shadow_percent": ("mirror", "mirrorpercent", "shadow", "shadowshare"),
    "bake_minutes": ("bake", "minutes", "watchminutes"),
    "deploy_id": ("deployment", "deploymentid", "id", "runid"),
    "trainer": ("algorithm", "trainername"),
    "options": ("hyperparameters", "params", "traineroptions"),
    "seed": ("randomseed", "randomstate"),
    "parity_tolerance": ("parity", "tolerance"),
    "rules": ("gate", "gaterules"),
    "approval": ("approve", "needsapproval"),
    "dry_run": ("check", "plan", "simulate"),
    "deep": ("full", "thorough"),
}
"""Names of the params in other programs, history and old command lines, as ``_letters`` writes them."""

ELSEWHERE: Mapping[str, str] = {
    "version": "Point an alias at the version in MLflow, and run mlflow_to_triton_deploy with it.",
    "dryrun": "The command line has it: 'triton-deploy COMMAND --dry-run' changes nothing and says what would be done.",
    "reason": "The command line has it: 'triton-deploy deploy --reason'.",
    "model": "A run is about every model of the repository; the command line takes one: 'triton-deploy COMMAND MODEL'.",
}
"""Advice for keys that are no param of the DAG; keys as ``_letters`` writes them."""

LONGEST_KEY, MOST_KEYS = 40, 5
"""Characters of an unknown key, and unknown keys, that a message shows: both are unbounded in a conf."""


def refuse_unknown(dag_id: str, given: Iterable[str], params: Collection[str]) -> None:
    """Refuse keys of a run's conf that are no params.

    Args:
        dag_id: the DAG, for the message.
        given: the keys of the run's conf.
        params: the names of the DAG's params.

    Raises:
        InvalidInput: a key is no param of the DAG.
    """
    unknown = [key for key in given if key not in params and key not in OF_AIRFLOW]
    if unknown:
        raise InvalidInput(
            f"{dag_id} has no {'param' if len(unknown) == 1 else 'params'} {_listed(unknown)}: nothing was done.",
            hint=_advice(dag_id, unknown, params),
        )


def refuse_no_number(dag_id: str, taken: Mapping[str, Any]) -> None:
    """Refuse NaN and infinity: for the bounds of a JSON schema, NaN is neither too small nor too large.

    Args:
        dag_id: the DAG, for the message.
        taken: the run's params, as its tasks have them.

    Raises:
        InvalidInput: a param has such a value.
    """
    for key, value in taken.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidInput(
                f"{key!r} of {dag_id} is {value}, which is no number: nothing was done.",
                hint="Trigger a new run with a number.",
            )


def refuse_ignored(dag_id: str, given: Mapping[str, Any], taken: Mapping[str, Any]) -> None:
    """Refuse a run whose params Airflow did not take from its conf.

    Args:
        dag_id: the DAG, for the message.
        given: the run's conf.
        taken: the run's params, as its tasks have them.

    Raises:
        Misconfigured: a param has another value than the conf asks for.
    """
    ignored = [key for key in given if key in taken and _as_json(given[key]) != _as_json(taken[key])]
    if ignored:
        raise Misconfigured(
            f"Airflow does not take {_listed(ignored)} of {dag_id} from the run's conf: nothing was done.",
            hint="Set dag_run_conf_overrides_params in [core] of Airflow's configuration to True, as it is by default, and trigger a new run.",
        )


def meant(key: str, params: Iterable[str]) -> str:
    """Return the param that a key most likely stands for; empty when no param is like it."""
    by_letters = {_letters(param): param for param in params}
    letters = _letters(key)
    if letters in by_letters:
        return by_letters[letters]
    for param in by_letters.values():
        if letters in OTHER_NAMES.get(param, ()):
            return param
    close = get_close_matches(letters, by_letters, n=1, cutoff=0.7)
    return by_letters[close[0]] if close else ""


def _letters(key: str) -> str:
    """Return a key without case and punctuation: deploy_id, deploy-id and deployId are the same."""
    return re.sub(r"[^a-z0-9]", "", key[: 2 * LONGEST_KEY].casefold())


def _advice(dag_id: str, unknown: list[str], params: Collection[str]) -> str:
    if not params:
        return f"{dag_id} takes nothing: trigger a run without a conf, or mlflow_to_triton_deploy with a model and an alias."
    said = " ".join(filter(None, (_instead(key, params, len(unknown) > 1) for key in unknown[:MOST_KEYS])))
    return f"{said} {dag_id} takes {', '.join(params)}. Trigger a new run.".strip()


def _instead(key: str, params: Collection[str], one_of_several: bool) -> str:
    param = meant(key, params)
    if param:
        return f"Did you mean {param!r}{f' by {_shown(key)}' if one_of_several else ''}?"
    return ELSEWHERE.get(_letters(key), "")


def _listed(keys: list[str]) -> str:
    more = len(keys) - MOST_KEYS
    return ", ".join(map(_shown, keys[:MOST_KEYS])) + (f" and {more} more" if more > 0 else "")


def _shown(key: str) -> str:
    return repr(key if len(key) <= LONGEST_KEY else f"{key[:LONGEST_KEY]}…")


def _as_json(value: object) -> str:
    return json.dumps(value, sort_keys=True, default=str)
