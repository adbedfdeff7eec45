"""The commands about a version on live traffic: ``canary`` and ``bake``."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from ..deploy import canary_decisions
from ..deploy.request import whoever
from ..rules.names import check_model, check_reason
from ..settings import Settings
from .command import Commands, add_dry_run
from .told import Told


def add_canary(commands: Commands) -> None:
    """Add ``canary``."""
    command = commands.add(
        "canary", canary, "look at the canary of a deploy that is under way, or say what is to become of it"
    )
    command.add_argument(
        "decision",
        choices=canary_decisions.CHOICES,
        metavar="DECISION",
        help="status: only look, and show the testers' key; pause: its step does not end by itself; resume: take that back; promote: end "
        "its step now (the next one begins, or the candidate is committed); abort: roll it back, and blame nobody",
    )
    command.add_argument("model", metavar="MODEL")
    command.add_argument("--deploy-id", help="the deployment that is meant (default: the one under way)")
    command.add_argument("--reason", default="", help="why, for the record")


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
    command = commands.add("bake", bake, "watch a release on live traffic, and take it back if it is bad")
    command.add_argument("model", metavar="MODEL")
    command.add_argument(
        "--bake-minutes",
        "--minutes",
        dest="minutes",
        type=float,
        metavar="MINUTES",
        help="how long, since its commit (default: TRITON_DEPLOY_BAKE_MINUTES)",
    )
    command.add_argument("--generation", type=int, help="the release (default: the live one)")
    add_dry_run(command)


def bake(options: argparse.Namespace, settings: Settings) -> Told:
    """Watch a release on live traffic."""
    from ..upkeep.bake import Baking
    from ..watch.policy import BakePolicy

    baking = Baking(settings, options.model, BakePolicy.of(settings, options.minutes))
    generation = options.generation or baking.live().generation
    baked = baking.run(generation, act=not options.dry_run)
    return Told((asdict(baked.bake) if baked.bake else {}) | {"text": baked.text}, [baked.text])
