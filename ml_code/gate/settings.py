"""Settings of the DAG that retrains: read from the environment once, as all settings are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..triton_deploy.errors import DeployError, Misconfigured
from ..triton_deploy.rules.names import check_alias
from ..triton_deploy.settings.checks import one_of
from ..triton_deploy.settings.environment import FromEnvironment, setting


def _alias_name(variable: str, name: str, default: str) -> None:
    try:
        check_alias(name)
    except DeployError as error:
        raise Misconfigured(f"{variable}: {error.message}", hint=error.hint) from error


def _time_to_answer(variable: str, seconds: float, default: float) -> None:
    if not seconds:
        raise Misconfigured(
            f"{variable} is 0: every promotion would be refused.",
            hint="Use a time in which somebody can answer, in seconds.",
        )


def _json_object(variable: str, text: str, default: str) -> None:
    try:
        options = json.loads(text)
    except ValueError:
        options = None
    if not isinstance(options, dict):
        raise Misconfigured(
            f"{variable}={text!r} is no JSON object.", hint='Write it like {"dataset": "digits"}.'
        )


@dataclass(frozen=True, kw_only=True)
class RetrainSettings(FromEnvironment):
    """Settings of scheduled runs, and defaults of the form.

    The table in docs/retrain.md is generated from these fields.
    """

    schedule: str = setting(
        "RETRAIN_SCHEDULE",
        "@daily",
        "When `retrain_and_deploy` runs: a cron expression or preset, UTC; `off`: only when it is triggered.",
    )
    alias: str = setting(
        "RETRAIN_ALIAS", "A", "Alias that a version which passed the gate gets.", check=_alias_name
    )
    trainer: str = setting("RETRAIN_TRAINER", "classifier", "What trains: see `ml_code.train_model --help`.")
    options: str = setting(
        "RETRAIN_OPTIONS", "{}", "The trainer's options, as a JSON object.", check=_json_object
    )
    experiment: str = setting("RETRAIN_EXPERIMENT", "training", "MLflow experiment of the runs.")
    approval: str = setting(
        "RETRAIN_APPROVAL",
        "off",
        "`required`: a person approves each promotion in Airflow; `off`: the gate decides alone.",
        check=one_of("off", "required"),
    )
    approval_timeout_s: float = setting(
        "RETRAIN_APPROVAL_TIMEOUT_S",
        43200.0,
        "How long a promotion waits for an answer, seconds; none in time is a refusal.",
        check=_time_to_answer,
    )
    train_timeout_s: float = setting(
        "RETRAIN_TRAIN_TIMEOUT_S", 14400.0, "Longest time that training may take, seconds."
    )

    @property
    def trainer_options(self) -> Mapping[str, Any]:
        """The trainer's options."""
        options: Mapping[str, Any] = json.loads(self.options)
        return options
