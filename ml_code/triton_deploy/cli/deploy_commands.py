"""The commands that change the live version: ``deploy``, ``revert`` and ``rollback``."""

from __future__ import annotations

import argparse
import contextlib
import sys
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ..deploy.deployer import Deployer
from ..deploy.dry_run import Plan
from ..deploy.request import DeployRequest, RevertRequest, whoever
from ..rules.canary import STEP_MINUTES, canary_of
from ..rules.deployment import Deployment, State
from ..rules.names import check_reason
from ..settings import Settings
from .command import Commands, add_dry_run, add_model, add_model_and_alias
from .told import Told


def add_deploy(commands: Commands) -> None:
    """Add ``deploy``."""
    command = commands.add(
        "deploy",
        deploy,
        "deploy the version that an alias names; roll back if anything fails",
        examples=(
            "deploy best_model --alias A",
            "deploy best_model --alias A --dry-run",
            "deploy best_model --alias A --canary 5,25,50 --canary-minutes 10",
        ),
    )
    add_model_and_alias(command)
    command.add_argument("--deploy-id", help="id of this deployment (default: a new one)")
    command.add_argument(
        "--allow-schema-change",
        action="store_true",
        help="accept inputs and outputs that break clients of the live version",
    )
    command.add_argument("--force", action="store_true", help="accept an artifact that failed before")
    command.add_argument(
        "--canary",
        default="",
        metavar="PERCENT,…",
        help="shares of the clients' requests that the candidate answers before its commit, percent, such as 5,25,50; 'pause' after a "
        "share waits for a person (5,pause,50); a first 'pause' gives the candidate to testers alone",
    )
    command.add_argument(
        "--shadow-percent",
        "--shadow",
        dest="shadow",
        type=int,
        default=0,
        metavar="PERCENT",
        help="share of the requests that are mirrored to the candidate before the canary, percent",
    )
    command.add_argument(
        "--canary-minutes",
        type=float,
        default=STEP_MINUTES,
        metavar="MINUTES",
        help="shortest time of each step of a canary or shadow (default: %(default)s)",
    )
    command.add_argument("--reason", default="", help="reason of the deploy, for the history")
    add_dry_run(command)


def deploy(options: argparse.Namespace, settings: Settings) -> Told:
    """Deploy the version that an alias names."""
    request = DeployRequest(
        model=options.model,
        alias=options.alias,
        deploy_id=options.deploy_id or f"cli-{uuid.uuid4().hex[:12]}",
        reason=check_reason(options.reason),
        allow_schema_change=options.allow_schema_change,
        force=options.force,
        canary=canary_of(options.canary, options.shadow, options.canary_minutes),
    )
    if options.dry_run:
        return _planned(Deployer(settings).plan_deploy(request))
    with _live_steps() as hooks:
        deployer = Deployer(settings, report=hooks.report, on_step=hooks.on_step)
        record = deployer.deploy(request)
    done = "was live already" if record.state is State.UNCHANGED else "is live"
    text = f"Version {record.version} of {record.model} {done} (deployment {record.deploy_id})."
    return Told.of(
        record, text + _passed_over(record) + _not_judged(record), deployer.what_serves(record.model)
    )


def add_revert(commands: Commands) -> None:
    """Add ``revert``."""
    command = commands.add(
        "revert",
        revert,
        "make a version live again that was live before",
        examples=(
            "revert best_model",
            'revert best_model --to 12 --reason "version 13 finds too many positives"',
        ),
    )
    add_model(command)
    command.add_argument(
        "--to",
        type=int,
        metavar="VERSION",
        help="version to go back to (default: the one before the live one)",
    )
    command.add_argument("--reason", default="", help="reason of the revert, for the history")
    command.add_argument(
        "--unverified",
        action="store_true",
        help="do not compare the version's files with its release; for an emergency, needs --reason",
    )
    command.add_argument("--deploy-id", help="id of this deployment (default: a new one)")
    add_dry_run(command)


def revert(options: argparse.Namespace, settings: Settings) -> Told:
    """Make an earlier version live again."""
    request = RevertRequest(
        model=options.model,
        deploy_id=options.deploy_id or f"revert-{uuid.uuid4().hex[:12]}",
        version=options.to,
        reason=check_reason(options.reason),
        unverified=options.unverified,
    )
    if options.dry_run:
        return _planned(Deployer(settings).plan_revert(request))
    with _live_steps() as hooks:
        deployer = Deployer(settings, report=hooks.report, on_step=hooks.on_step)
        record = deployer.revert(request)
    serves = deployer.what_serves(options.model)
    return Told.of(record, f"Now {serves}{_passed_over(record)}", serves)


def add_rollback(commands: Commands) -> None:
    """Add ``rollback``."""
    command = commands.add(
        "rollback",
        rollback,
        "roll back a deployment that is not committed, or finish one that is past its decision",
        examples=("rollback best_model --deploy-id ci-42",),
    )
    add_model(command)
    command.add_argument("--deploy-id", required=True, help="id of the deployment")
    add_dry_run(command)


def rollback(options: argparse.Namespace, settings: Settings) -> Told:
    """Undo a deployment that is not committed."""
    deployer = Deployer(settings)
    if options.dry_run:
        return _planned(deployer.plan_rollback(options.model, options.deploy_id))
    record = deployer.rollback(options.model, options.deploy_id, by=whoever())
    if record is None:
        text = f"Deployment {options.deploy_id} had not begun; nothing was changed."
    elif record.state is State.ROLLED_BACK:
        kept = f", kept as {record.quarantine}" if record.quarantine else ""
        text = f"Deployment {record.deploy_id} is rolled back{kept}."
    else:
        text = f"Deployment {record.deploy_id} is {record.state}: it is not undone by a rollback."
    serves = deployer.what_serves(options.model)
    return Told.of(record, f"{text} Now {serves}", serves)


def _passed_over(record: Deployment) -> str:
    """Return lines on the Tritons that do not serve the version yet."""
    lines = [f"\n  Not on {url} yet: {why}" for url, why in record.away.items()]
    return "".join([*lines, "\n  'triton-deploy reconcile' brings it there."]) if lines else ""


def _not_judged(record: Deployment) -> str:
    """Return a line for each step of its canary that no judge could judge."""
    return "".join(f"\n  Nobody judged: {line}" for line in (record.canary.unjudged if record.canary else ()))


def _planned(plan: Plan) -> Told:
    """Return the result of a dry run, with the exit code that the command would have."""
    return Told(plan.to_dict(), _plan_lines(plan), plan.exit_code)


def _plan_lines(plan: Plan) -> Iterator[str]:
    for line in plan.does:
        yield f"would {line}" if not line.startswith("nothing") else f"would do {line}"
    for name, value in plan.facts.items():
        yield f"  {name}: {', '.join(map(_fact, value)) if isinstance(value, list) else _fact(value)}"
    for error in plan.obstacles:
        yield f"would be refused: {error.message}"
        yield f"  What to do: {error.hint}"
    yield f"Nothing was changed: {plan.serves}"


def _fact(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['path']} ({value['size_bytes']} bytes)"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)


class _Hooks(NamedTuple):
    """What a deployer calls while it works.

    Attributes:
        report: see Deployer.
        on_step: see Deployer.
    """

    report: Callable[[int, int], None] = lambda done, total: None
    on_step: Callable[[str, float | None], None] = lambda step, took_s: None


@contextlib.contextmanager
def _live_steps() -> Iterator[_Hooks]:
    """Show the steps on a terminal while the block runs, and yield what a deployer calls for that.

    Elsewhere the log lines of the steps show the progress.
    """
    if not sys.stderr.isatty():
        yield _Hooks()
        return
    from .terminal import LiveSteps, live_console

    steps = LiveSteps(live_console(sys.stderr))
    with steps.shown():
        yield _Hooks(steps.transferred, steps.begin_or_end)
