"""The dashboard of one model's deployments: their durations, their failures, and open problems."""

from __future__ import annotations

from deploy.grafana.board import Board
from deploy.grafana.panels import Chart, Number

_OF_MODEL = '{model="$model"}'

DEPLOYMENTS = Board(
    uid="models-deployments",
    title="Models: deployments",
    text="What the deployer's records say.",
    of_one_model=True,
    parts=[
        Number(
            "Since the last success",
            "s",
            [(f"time() - max(triton_deploy_last_success_timestamp_seconds{_OF_MODEL})", "")],
        ),
        Number(
            "Since the last failure",
            "s",
            [(f"time() - max(triton_deploy_last_failure_timestamp_seconds{_OF_MODEL})", "")],
        ),
        Number("Under way", "none", [(f"max(triton_deploy_unfinished{_OF_MODEL})", "")]),
        Number(
            "Silent for",
            "s",
            [(f"max(triton_deploy_unfinished_age_seconds{_OF_MODEL})", "")],
            text="Of the deploy that is under way.",
            red_from=1500,
        ),
        Number("In quarantine", "none", [(f"max(triton_deploy_quarantined{_OF_MODEL})", "")], red_from=1),
        Number(
            "Alias names another version",
            "none",
            [(f"max(triton_deploy_alias_drift{_OF_MODEL})", "")],
            red_from=1,
        ),
        Chart(
            "Duration by step, of the last deployment",
            "s",
            [(f"max by (step) (triton_deploy_step_duration_seconds{_OF_MODEL})", "{{step}}")],
            text="The pauses of what runs the steps are in it.",
            span=12,
            steps=True,
        ),
        Chart(
            "Deployments by outcome",
            "none",
            [
                (
                    f"sum by (outcome) (max by (outcome, step) (triton_deploy_deployments{_OF_MODEL}))",
                    "{{outcome}}",
                )
            ],
            text="Of those whose records are kept.",
            span=12,
            steps=True,
        ),
        Chart(
            "Failures by step",
            "none",
            [
                (
                    'max by (step) (triton_deploy_deployments{model="$model", outcome="rolled_back"})',
                    "{{step}}",
                )
            ],
            steps=True,
        ),
        Chart(
            "Bake of the last release",
            "none",
            [(f"max by (verdict) (triton_deploy_bake_result{_OF_MODEL})", "{{verdict}}")],
            steps=True,
        ),
        Chart(
            "Reconcile",
            "none",
            [
                (f"max(triton_deploy_reconcile_repairs{_OF_MODEL})", "put right"),
                (f"max(triton_deploy_reconcile_problems{_OF_MODEL})", "not put right"),
            ],
            steps=True,
        ),
    ],
)
