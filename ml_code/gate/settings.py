"""Settings of the DAG that retrains: read from the environment once, as all others are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..triton_deploy.errors import DeployError, Misconfigured
from ..triton_deploy.rules.names import check_alias
from ..triton_deploy.settings.environment import FromEnvironment, setting


@dataclass(frozen=True, kw_only=True)
class RetrainSettings(FromEnvironment):
    """What a scheduled run does, and the defaults of the form; the table in docs/retrain.md is generated from these fields."""

    schedule: str = setting(
        "RETRAIN_SCHEDULE",
        "@daily",
        "When `retrain_and_deploy` runs: a cron expression or preset, UTC; `off`: only when it is triggered.",
    )
    alias: str = setting("RETRAIN_ALIAS", "A", "Alias that a version which passed the gate gets.")
    trainer: str = setting("RETRAIN_TRAINER", "classifier", "What trains: see `ml_code.train_model --help`.")
    options: str = setting("RETRAIN_OPTIONS", "{}", "The trainer's options, as a JSON object.")
    experiment: str = setting("RETRAIN_EXPERIMENT", "training", "MLflow experiment of the runs.")
    approval: str = setting(
        "RETRAIN_APPROVAL",
        "off",
        "`required`: a person approves each promotion in Airflow; `off`: the gate decides alone.",
    )
    approval_timeout_s: float = setting(
        "RETRAIN_APPROVAL_TIMEOUT_S",
        43200.0,
        "How long a promotion waits for an answer, seconds; none in time is a refusal.",
    )
    train_timeout_s: float = setting(
        "RETRAIN_TRAIN_TIMEOUT_S", 14400.0, "Longest time that training may take, seconds."
    )

    @property
    def trainer_options(self) -> Mapping[str, Any]:
        """The trainer's options."""
        options: Mapping[str, Any] = json.loads(self.options)
        return options

    def check(self) -> None:
        """See FromEnvironment.check."""
        try:
            check_alias(self.alias)
        except DeployError as error:
            raise Misconfigured(f"RETRAIN_ALIAS: {error.message}", hint=error.hint) from error
        if self.approval not in ("off", "required"):
            raise Misconfigured(
                f"RETRAIN_APPROVAL={self.approval!r} is neither 'off' nor 'required'.",
                hint="Unset it for the default, off.",
            )
        if not self.approval_timeout_s:
            raise Misconfigured(
                "RETRAIN_APPROVAL_TIMEOUT_S is 0: every promotion would be refused.",
                hint="Use a time in which somebody can answer, in seconds.",
            )
        try:
            options = json.loads(self.options)
        except ValueError:
            options = None
        if not isinstance(options, dict):
            raise Misconfigured(
                f"RETRAIN_OPTIONS={self.options!r} is no JSON object.",
                hint='Write it like {"dataset": "digits"}.',
            )
