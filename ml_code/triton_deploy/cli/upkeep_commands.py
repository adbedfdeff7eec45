"""The commands that keep a repository healthy: ``reconcile``, ``gc`` and ``renumber``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from ..report.known_models import require_known
from ..repository import ModelFolder
from ..settings import Settings
from .command import Commands, add_dry_run, add_model_and_alias, add_models
from .exit_codes import ExitCode
from .told import Fact, Section, Told, Tone

if TYPE_CHECKING:
    from ..upkeep.gc import Collected
    from ..upkeep.reconcile import Reconciled
    from ..upkeep.renumber import Renumbered


def add_reconcile(commands: Commands) -> None:
    """Add ``reconcile``."""
    command = commands.add(
        "reconcile",
        reconcile,
        "make Triton and the derived files agree with the last release",
        examples=("reconcile", "reconcile best_model --deep", "reconcile --dry-run"),
    )
    add_models(command)
    command.add_argument(
        "--deep", action="store_true", help="read every byte of the loaded versions and compare"
    )
    add_dry_run(command)


def reconcile(options: argparse.Namespace, settings: Settings) -> Told:
    """Make Triton and the derived files agree with the last release."""
    from ..upkeep.reconcile import Reconciler

    models = _known(settings, options.models)
    results = Reconciler(settings).run_all(models, deep=options.deep, dry_run=options.dry_run)
    sections = (_reconciled(result, options.dry_run) for result in results)
    return Told.in_sections(map(asdict, results), sections, _exit_code(results))


def _reconciled(result: Reconciled, dry_run: bool) -> Section:
    return Section(_live_line(result), _repairs(result, dry_run))


def _repairs(result: Reconciled, dry_run: bool) -> Iterator[Fact]:
    for line in result.done:
        yield Fact("to do" if dry_run else "done", line)
    for line in result.problems:
        yield Fact("problem", line, Tone.BAD)
    for notice in result.notices:
        yield Fact("notice", notice.text, Tone.CAREFUL)
    if result.under_way:
        yield Fact("left alone", f"{result.under_way} is under way")


def add_gc(commands: Commands) -> None:
    """Add ``gc``."""
    command = commands.add(
        "gc",
        collect_garbage,
        "remove versions, quarantined directories and records that the retention no longer keeps",
        examples=("gc --dry-run", "gc best_model"),
    )
    add_models(command)
    add_dry_run(command)


def collect_garbage(options: argparse.Namespace, settings: Settings) -> Told:
    """Remove what the retention no longer keeps."""
    from ..upkeep.gc import GarbageCollector

    models = _known(settings, options.models)
    results = GarbageCollector(settings).run_all(models, dry_run=options.dry_run)
    values = (asdict(result) | {"freed_bytes": result.freed_bytes} for result in results)
    sections = (_collected(result, options.dry_run) for result in results)
    return Told.in_sections(values, sections, _exit_code(results))


def _collected(result: Collected, dry_run: bool) -> Section:
    return Section(_live_line(result), _removals(result, dry_run))


def _removals(result: Collected, dry_run: bool) -> Iterator[Fact]:
    done = "to remove" if dry_run else "removed"
    for removed in result.removed:
        yield Fact(done, f"{removed.kind} {removed.name} ({removed.size_bytes} bytes): {removed.why}")
    for kept in result.kept:
        yield Fact("kept", f"{kept.kind} {kept.name}: {kept.why}", Tone.FAINT)
    for name in result.still_open:
        yield Fact("still open somewhere, tried again at the next gc", name)
    for line in result.problems:
        yield Fact("problem", line, Tone.BAD)
    if result.under_way:
        yield Fact("left alone", f"{result.under_way} is under way")
    yield Fact("would free" if dry_run else "freed", f"{result.freed_bytes} bytes")


def add_renumber(commands: Commands) -> None:
    """Add ``renumber``."""
    command = commands.add(
        "renumber",
        renumber,
        "register a version again under a free number, after its model was deleted in MLflow and made anew",
        examples=("renumber best_model --alias A --dry-run",),
    )
    add_model_and_alias(command)
    add_dry_run(command)


def renumber(options: argparse.Namespace, settings: Settings) -> Told:
    """Register the version that an alias names again, under a free number."""
    from ..clients.mlflow_board import MlflowBoard
    from ..upkeep.renumber import Renumbering

    folder = ModelFolder.at(settings.repository_root, options.model)
    renumbering = Renumbering(folder, MlflowBoard(settings), settings.mlflow.feedback_prefix)
    done = renumbering.run(options.alias, dry_run=options.dry_run)
    text = _renumbered_text(done, options.dry_run)
    return Told(asdict(done) | {"dry_run": options.dry_run, "text": text}, [text])


def _renumbered_text(done: Renumbered, dry_run: bool) -> str:
    number = f"version {done.was} of {done.model}"
    if not done.needed:
        return f"Nothing to do: {number}, which alias {done.alias} names, has a number of its own."
    if dry_run:
        return f"would register {number} again, above version {done.above}, and move alias {done.alias} to it"
    return (
        f"V{number[1:]} is registered again as version {done.now}, and alias {done.alias} names that one. "
        f"Deploy it: triton-deploy deploy {done.model} --alias {done.alias}"
    )


def _known(settings: Settings, models: Sequence[str]) -> Sequence[str]:
    """Return the named models; raises NotFound for one that was never deployed to."""
    for model in models:
        require_known(settings, model)
    return models


def _live_line(result: Reconciled | Collected) -> str:
    none = "no version is known to be live" if result.problems else "nothing is live"
    return f"{result.model}: " + (f"version {result.live} is live" if result.live else none)


def _exit_code(results: Sequence[Reconciled] | Sequence[Collected]) -> ExitCode:
    return ExitCode.DISAGREES if any(result.problems for result in results) else ExitCode.DONE
