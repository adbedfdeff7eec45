"""The commands about a version on live traffic: ``canary`` and ``bake``."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from ..deploy import canary_decisions
from ..deploy.request import whoever
from ..rules.names import check_model, check_reason
from ..settings import Settings
from .command import Commands, add_dry_run, add_model
from .told import Told


def add_canary(commands: Commands) -> None:
    """Add ``canary``."""
    command = commands.add(
        "canary",
        canary,
        "show the canary of a deploy under way, or decide its next step",
        examples=(
            "canary status best_model",
            "canary promote best_model",
            'canary abort best_model --reason "wrong model"',
        ),
    )
    command.add_argument(
        "decision",
        choices=canary_decisions.CHOICES,
        metavar="DECISION",
        help="status: show the step and the testers' key; pause: keep the step from ending by itself; resume: end the pause; promote: end "
        "the step now (the next step begins, or the candidate is committed); abort: roll the candidate back, without blame",
    )
    add_model(command)
    command.add_argument("--deploy-id", help="id of the deployment (default: the one under way)")
    command.add_argument("--reason", default="", help="reason of the decision, for the record")


def canary(options: argparse.Namespace, settings: Settings) -> Told:
    """Show a canary that is under way, or decide on it."""
    record, lines = canary_decisions.done(
        settings,
        check_model(options.model),
        options.decision,
        by=whoever(),
        reason=check_reason(options.reason),
        deploy_id=options.deploy_id or "",
    )
    return Told(asdict(record) | {"text": "\n".join(lines)}, lines)


def add_bake(commands: Commands) -> None:
    """Add ``bake``."""
    command = commands.add(
        "bake",
        bake,
        "watch a release on live traffic, and revert a bad one",
        examples=("bake best_model", "bake best_model --bake-minutes 30 --dry-run"),
    )
    add_model(command)
    command.add_argument(
        "--bake-minutes",
        "--minutes",
        dest="minutes",
        type=float,
        metavar="MINUTES",
        help="duration since the commit (default: TRITON_DEPLOY_BAKE_MINUTES)",
    )
    command.add_argument("--generation", type=int, help="generation of the release (default: the live one)")
    add_dry_run(command)


def bake(options: argparse.Namespace, settings: Settings) -> Told:
    """Watch a release on live traffic."""
    from ..upkeep.bake import Baking
    from ..watch.policy import BakePolicy

    baking = Baking(settings, options.model, BakePolicy.of(settings, options.minutes))
    generation = options.generation or baking.live().generation
    baked = baking.run(generation, act=not options.dry_run)
    return Told((asdict(baked.bake) if baked.bake else {}) | {"text": baked.text}, [baked.text])
