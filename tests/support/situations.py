"""The situations that people meet at the command line, as the results of its commands."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from ml_code.triton_deploy.cli import set_up_commands, status_commands, upkeep_commands
from ml_code.triton_deploy.cli.deploy_commands import _passed_over, _planned
from ml_code.triton_deploy.cli.told import Section, Told
from ml_code.triton_deploy.deploy.dry_run import Plan
from ml_code.triton_deploy.doctor import DoctorVerdict, Finding
from ml_code.triton_deploy.errors import SchemaChanged
from ml_code.triton_deploy.rules.deployment import Canary, Deployment, Pinned, State
from ml_code.triton_deploy.rules.release import Release
from ml_code.triton_deploy.rules.standing import Notice
from ml_code.triton_deploy.upkeep.gc import Collected, Removed
from ml_code.triton_deploy.upkeep.initialize import SetUpStep
from ml_code.triton_deploy.upkeep.reconcile import Reconciled
from ml_code.triton_deploy.upkeep.status import ModelStatus

WRONG = (
    "In the staging Triton: The candidate answers wrongly: output label is off by up to 1, more than rtol 0.0001 and atol 1e-05 "
    "allow. Compare the model with what was trained; the quarantined directory holds it."
)


def release(generation: int, version: int, actor: str, reason: str = "") -> Release:
    return Release(
        model="best_model",
        generation=generation,
        active_version=version,
        run_id="3150d2e968f34a8bac244f8ea43e8673",
        alias="A",
        digest="0" * 64,
        previous_version=None,
        warm_versions=(),
        deploy_id=f"deploy-{generation}",
        actor=actor,
        updated_at_utc=f"2026-11-0{generation}T13:32:10.850Z",
        reason=reason,
    )


LIVE = release(4, 2, "root@host", "version 3 finds too many positives")


def statuses(*states: ModelStatus) -> Told:
    return Told.in_sections([], [status_commands._section(state) for state in states])


def status_of_a_failed_deploy() -> Told:
    notice = (
        "Alias A of best_model names version 3 in MLflow, and version 2 serves. Version 3 failed and is in quarantine. Set the alias "
        "back to version 2, or register a repaired version and set it to that."
    )
    return statuses(
        ModelStatus(
            model="best_model",
            live=LIVE,
            serving={"triton-1:8001": 2, "triton-2:8001": 2},
            unfinished=None,
            quarantined={
                "3.failed_20261103T132839": {"step": "load", "error": WRONG, "blames_artifact": True}
            },
            notices=(Notice("alias_drift", notice),),
            verdict="passed its bake: gateway saw 401 requests",
        )
    )


def status_of_a_triton_that_disagrees() -> Told:
    problem = "The record of deployment ci-42 can't be read: restore releases/4.json from a backup."
    return statuses(
        ModelStatus(
            model="best_model",
            live=LIVE,
            serving={
                "triton-1:8001": 2,
                "triton-2:8001": 1,
                "triton-3:8001": "can't be reached: connection refused",
            },
            unfinished=None,
            quarantined={},
            problems=(problem,),
        ),
        ModelStatus(
            model="other_model", live=None, serving={"triton-1:8001": None}, unfinished=None, quarantined={}
        ),
    )


VERDICTS = {4: "without a verdict: no source saw a request", 2: "failed its bake: 12 of 100 requests failed"}


def history() -> Told:
    releases = [
        release(4, 1, "root@host", "version 2 finds too many positives"),
        release(3, 2, "airflow:alias__best_model__A__v2__1edae9ce-754f-4f47-a466-eb1ab7df1bac"),
        release(
            2,
            12,
            "airflow:manual__2026-11-02T13:23:10.547495+00:00",
            "a reason with [brackets] and \x1b[31mcolours",
        ),
        release(1, 1, "ada@trainer"),
    ]
    folder: Any = SimpleNamespace(model="best_model")
    table = status_commands._history_table(folder, releases)
    return Told([], status_commands._history_lines(folder, releases), drawing=[table])


def doctor() -> Told:
    mlflow = "MLflow at http://127.0.0.1:1 can't be reached: Failed to establish a new connection: [Errno 111] Connection refused."
    findings = [
        Finding(check="settings", verdict=DoctorVerdict.OK, what="Every variable that is set can be used."),
        Finding(
            check="MLflow",
            verdict=DoctorVerdict.FAILED,
            what=mlflow,
            fix="Check that it runs and that MLFLOW_TRACKING_URI is right.",
        ),
        Finding(
            check="artifacts", verdict=DoctorVerdict.UNKNOWN, what="Unknown: see MLflow, above.", see="MLflow"
        ),
        Finding(
            check="clocks", verdict=DoctorVerdict.UNKNOWN, what="Unknown: see MLflow, above.", see="MLflow"
        ),
        Finding(
            check="Triton",
            verdict=DoctorVerdict.WARNING,
            what="NVIDIA's image of Triton 2.51.0 has ONNX Runtime 1.19, which takes ONNX opset 21; the settings let 26 through.",
            fix="Set TRITON_DEPLOY_MAX_OPSET=21.",
        ),
        Finding(
            check="staging Triton",
            verdict=DoctorVerdict.UNKNOWN,
            what="There is none: TRITON_DEPLOY_STAGING_GRPC_URL is not set.",
            fix="Start one more Triton on the repository.",
        ),
    ]
    return set_up_commands.examined(findings)


def garbage() -> Told:
    found = Collected(
        model="best_model",
        live=2,
        removed=(
            Removed(
                kind=cast("Any", "version"),
                name="7",
                size_bytes=13_600_000,
                why="no release of the last 10 has it",
            ),
            Removed(
                kind=cast("Any", "quarantine"),
                name="3.failed_20261103T132839",
                size_bytes=4_700,
                why="older than 30 days",
            ),
        ),
    )
    return Told.in_sections([], [upkeep_commands._collected(found, dry_run=True)])


def reconciled() -> Told:
    found = Reconciled(
        model="best_model",
        live=2,
        done=("Triton at triton-2:8001 serves version 2 again",),
        problems=(
            "Triton at triton-3:8001 can't be reached: connection refused. It is brought along at the next reconcile.",
        ),
    )
    return Told.in_sections([], [upkeep_commands._reconciled(found, dry_run=False)])


def refused_dry_run() -> Told:
    plan = Plan(
        model="best_model",
        serves="version 2 of best_model is live (generation 4).",
        does=(
            "bring version 3 into the repository (13600000 bytes)",
            "load it beside version 2, and compare its answers",
        ),
        obstacles=(
            SchemaChanged(
                "Clients of version 2 would break: input features FP32[-1, 30] is FP32[-1, 31] now.",
                hint="Change the clients first, then deploy with --allow-schema-change.",
            ),
        ),
        facts={"version": 3, "run_id": "3150d2e968f34a8bac244f8ea43e8673", "warm": [2, 1]},
    )
    return _planned(plan)


def live_at_last() -> Told:
    away: Any = SimpleNamespace(
        away={"triton-2:8001": "Triton at triton-2:8001 can't be reached: connection refused."}
    )
    return Told(
        {},
        ("Version 3 of best_model is live (deployment cli-6b3f6e0d2c27)." + _passed_over(away)).split("\n"),
    )


def status_of_a_canary() -> Told:
    canary = Canary(
        shares_percent=(5, 25, 50),
        shadow_percent=0,
        step_s=600,
        step=2,
        share_percent=25,
        since_utc="2026-11-05T09:12:44.120Z",
        held_utc="2026-11-05T09:22:44.120Z",
        held_for="too few requests: 31 of the 100 that a verdict needs",
    )
    record = Deployment(
        deploy_id="airflow-alias__best_model__A__v3",
        model="best_model",
        state=State.VERIFIED,
        pinned=Pinned(version=3, run_id="3150d2e9", alias="A", artifact_uri="", fingerprint=""),
        base_generation=4,
        base_version=2,
        actor="airflow:alias__best_model__A__v3__1edae9ce",
        canary=canary,
    )
    return statuses(
        ModelStatus(
            model="best_model",
            live=LIVE,
            serving={"triton-1:8001": 2, "triton-2:8001": 2},
            unfinished=record,
            quarantined={},
            taken_back={1: "its bake failed: 12 of 100 requests failed"},
        )
    )


def status_of_nothing() -> Told:
    return Told.in_sections([], [Section("Nothing was deployed to this repository yet.")])


def never_released() -> Told:
    folder: Any = SimpleNamespace(model="best_model")
    table = status_commands._history_table(folder, [])
    return Told([], status_commands._history_lines(folder, []), drawing=[table])


def made() -> Told:
    steps = [
        SetUpStep(what="folder /srv/models", made=True),
        SetUpStep(
            what="variable", made=True, to_set="TRITON_DEPLOY_ARTIFACT_ROOTS=s3://mlflow/best_model-direct"
        ),
        SetUpStep(
            what="experiment best_model, with artifacts at mlflow-artifacts:/ behind MLflow's proxy",
            made=False,
        ),
    ]
    return Told([], set_up_commands._step_lines(steps, "", "to make"))


SITUATIONS: dict[str, Callable[[], Told]] = {
    "status: a deploy failed": status_of_a_failed_deploy,
    "status: a Triton disagrees": status_of_a_triton_that_disagrees,
    "status: a canary waits": status_of_a_canary,
    "status: nothing was deployed": status_of_nothing,
    "history": history,
    "history: never released": never_released,
    "init --dry-run": made,
    "doctor: MLflow is away": doctor,
    "gc --dry-run": garbage,
    "reconcile: a Triton is away": reconciled,
    "deploy --dry-run: refused": refused_dry_run,
    "deploy: live, and a Triton was passed over": live_at_last,
}
