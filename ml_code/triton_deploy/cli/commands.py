"""What the commands of ``triton-deploy`` do and print.

Each takes the parsed arguments and the settings, and returns the exit code; errors of the deployer are the caller's to print.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, Any

from ..deploy.deployer import Deployer
from ..deploy.dry_run import Plan
from ..deploy.request import DeployRequest, RevertRequest, whoever
from ..errors.texts import printable
from ..report.known_models import require_known
from ..repository import ModelFolder, models_in
from ..repository.verdicts import in_a_line
from ..rules.canary import canary_of, step_of
from ..rules.deployment import Deployment, State
from ..rules.names import check_model, check_reason
from ..settings import Settings

if TYPE_CHECKING:
    from ..upkeep.gc import Collected
    from ..upkeep.reconcile import Reconciled
    from ..upkeep.status import ModelStatus

EXIT_DISAGREES = 7
EXIT_ROLLED_BACK = 8
EXIT_UNFINISHED = 9


def deploy(options: argparse.Namespace, settings: Settings) -> int:
    """Deploy what an alias names."""
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
        return _show(options, Deployer(settings).plan_deploy(request))
    with _progress() as report:
        deployer = Deployer(settings, report=report)
        record = deployer.deploy(request)
    done = "was live already" if record.state is State.UNCHANGED else "is live"
    text = f"Version {record.version} of {record.model} {done} (deployment {record.deploy_id})."
    _print(
        options, record, text + _passed_over(record) + _not_judged(record), deployer.what_serves(record.model)
    )
    return 0


def revert(options: argparse.Namespace, settings: Settings) -> int:
    """Make an earlier version live again."""
    deployer = Deployer(settings)
    request = RevertRequest(
        model=options.model,
        deploy_id=options.deploy_id or f"revert-{uuid.uuid4().hex[:12]}",
        version=options.to,
        reason=check_reason(options.reason),
        unverified=options.unverified,
    )
    if options.dry_run:
        return _show(options, deployer.plan_revert(request))
    record = deployer.revert(request)
    serves = deployer.what_serves(options.model)
    _print(options, record, f"Now {serves}{_passed_over(record)}", serves)
    return 0


def bake(options: argparse.Namespace, settings: Settings) -> int:
    """Watch a release on live traffic."""
    from ..upkeep.bake import Baking
    from ..watch.policy import BakePolicy

    baking = Baking(settings, options.model, BakePolicy.of(settings, options.minutes))
    generation = options.generation or baking.live().generation
    baked = baking.run(generation, act=not options.dry_run)
    if options.json:
        print(json.dumps((asdict(baked.bake) if baked.bake else {}) | {"text": baked.text}, indent=2))
    else:
        _say(baked.text)
    return 0


def _passed_over(record: Deployment) -> str:
    """Say which Tritons do not serve the version yet, and what to do."""
    lines = [f"\n  Not on {url} yet: {why}" for url, why in record.away.items()]
    return "".join([*lines, "\n  'triton-deploy reconcile' brings it there."]) if lines else ""


def _not_judged(record: Deployment) -> str:
    """Say which steps of its canary nobody had judged."""
    return "".join(f"\n  Nobody judged: {line}" for line in (record.canary.unjudged if record.canary else ()))


def reconcile(options: argparse.Namespace, settings: Settings) -> int:
    """Make Triton and the derived files agree with what was committed."""
    from ..upkeep.reconcile import Reconciler

    models = _known(settings, options.models)
    results = Reconciler(settings).run_all(models, deep=options.deep, dry_run=options.dry_run)
    if options.json:
        print(json.dumps([asdict(result) for result in results], indent=2))
    for result in () if options.json else results:
        _say(_live_line(result))
        for line in result.done:
            _say(f"  {'to do' if options.dry_run else 'done'}: {line}")
        for line in result.problems:
            _say(f"  problem: {line}")
        for notice in result.notices:
            _say(f"  notice: {notice.text}")
        if result.under_way:
            _say(f"  left alone: {result.under_way} is under way")
    return EXIT_DISAGREES if any(result.problems for result in results) else 0


def gc(options: argparse.Namespace, settings: Settings) -> int:
    """Remove what the retention lets go."""
    from ..upkeep.gc import GarbageCollector

    models = _known(settings, options.models)
    results = GarbageCollector(settings).run_all(models, dry_run=options.dry_run)
    if options.json:
        print(
            json.dumps([asdict(result) | {"freed_bytes": result.freed_bytes} for result in results], indent=2)
        )
    for result in () if options.json else results:
        _say(_live_line(result))
        done = "to remove" if options.dry_run else "removed"
        for removed in result.removed:
            _say(f"  {done}: {removed.kind} {removed.name} ({removed.size_bytes} bytes): {removed.why}")
        for kept in result.kept:
            _say(f"  kept: {kept.kind} {kept.name}: {kept.why}")
        for name in result.still_open:
            _say(f"  still open somewhere, tried again at the next gc: {name}")
        for line in result.problems:
            _say(f"  problem: {line}")
        if result.under_way:
            _say(f"  left alone: {result.under_way} is under way")
        _say(f"  {'would free' if options.dry_run else 'freed'}: {result.freed_bytes} bytes")
    return EXIT_DISAGREES if any(result.problems for result in results) else 0


def renumber(options: argparse.Namespace, settings: Settings) -> int:
    """Register the version that an alias names again, under a number that is free."""
    from ..clients.mlflow_board import MlflowBoard
    from ..upkeep.renumber import Renumbering

    folder = ModelFolder.at(settings.repository_root, options.model)
    renumbering = Renumbering(folder, MlflowBoard(settings), settings.mlflow.feedback_prefix)
    done = renumbering.run(options.alias, dry_run=options.dry_run)
    number = f"version {done.was} of {done.model}"
    if not done.needed:
        text = f"Nothing to do: {number}, which alias {done.alias} names, has a number of its own."
    elif options.dry_run:
        text = f"would register {number} again, above version {done.above}, and move alias {done.alias} to it"
    else:
        text = (
            f"V{number[1:]} is registered again as version {done.now}, and alias {done.alias} names that one. "
            f"Deploy it: triton-deploy deploy {done.model} --alias {done.alias}"
        )
    if options.json:
        print(json.dumps(asdict(done) | {"dry_run": options.dry_run, "text": text}, indent=2))
    else:
        _say(text)
    return 0


def rollback(options: argparse.Namespace, settings: Settings) -> int:
    """Undo a deployment that is not committed."""
    deployer = Deployer(settings)
    if options.dry_run:
        return _show(options, deployer.plan_rollback(options.model, options.deploy_id))
    record = deployer.rollback(options.model, options.deploy_id, by=whoever())
    if record is None:
        text = f"Deployment {options.deploy_id} had not begun; nothing was changed."
    elif record.state is State.ROLLED_BACK:
        kept = f", kept as {record.quarantine}" if record.quarantine else ""
        text = f"Deployment {record.deploy_id} is rolled back{kept}."
    else:
        text = f"Deployment {record.deploy_id} is {record.state}: it is not undone by a rollback."
    serves = deployer.what_serves(options.model)
    _print(options, record, f"{text} Now {serves}", serves)
    return 0


def status(options: argparse.Namespace, settings: Settings) -> int:
    """Show what is live and what serves."""
    from ..upkeep.status import statuses

    if options.deploy_id:
        return _deployment_status(options, settings)
    models = [check_model(options.model)] if options.model else models_in(settings.repository_root)
    states = list(statuses(settings, models))
    if options.model and not any(state.notices or state.problems for state in states):
        require_known(settings, options.model)
    if options.json:
        print(json.dumps([state.to_dict() for state in states], indent=2))
    for state in () if options.json else states:
        for line in _lines_of(state):
            _say(line)
    if not models and not options.json:
        _say("Nothing was deployed to this repository yet.")
    return 0 if all(state.agrees for state in states) else EXIT_DISAGREES


def _lines_of(state: ModelStatus) -> Iterator[str]:
    """Yield what ``status`` shows of a model."""
    live = state.live
    if live:
        unverified = f", {live.reason}" if live.unverified else ""
        yield (
            f"{state.model}: version {live.active_version}, generation {live.generation}, "
            f"since {live.updated_at_utc}{unverified}"
        )
    else:
        yield f"{state.model}: {'no version is known to be live' if state.problems else 'nothing live'}"
    for url, version in state.serving.items():
        serves = f"serves version {version}" if isinstance(version, int) else version or "does not serve it"
        yield f"  Triton {url}: {serves}"
    if state.unfinished:
        yield f"  under way: {_under_way(state.unfinished)}"
    if live and live.reason and not live.unverified:
        yield f"  reason: {live.reason}"
    if state.verdict:
        yield f"  {'without a verdict' if state.without_verdict else 'judged'}: {state.verdict}"
    for version, why in state.taken_back.items():
        yield f"  taken back: version {version}, not deployed again without --force: {why}"
    for name, failure in state.quarantined.items():
        kept = "quarantined" if failure.get("blames_artifact", True) else "put aside, and not refused"
        yield f"  {kept}: {name}: {failure.get('step')}: {failure.get('error')}"
    yield from (f"  problem: {problem}" for problem in state.problems)
    yield from (f"  notice: {notice.text}" for notice in state.notices)


def _under_way(record: Deployment) -> str:
    """Return which deployment goes on, and how far its candidate is."""
    text = f"{record.deploy_id}, version {record.version}, {record.state}"
    canary = record.canary
    if canary and canary.step:
        text += f", {step_of(canary)} since {canary.since_utc}"
    if canary and canary.held_utc:
        text += f", waits since {canary.held_utc}: {canary.held_for}"
    return text


def _deployment_status(options: argparse.Namespace, settings: Settings) -> int:
    if not options.model:
        options.usage_error("--deploy-id needs the model's name")
    record = ModelFolder.at(settings.repository_root, options.model).journal.get(options.deploy_id)
    text = f"Deployment {record.deploy_id} of {record.model} version {record.version}: {record.state}."
    if record.failure:
        text += f" {record.failure.step} failed: {record.failure.error}"
    _print(options, record, text, Deployer(settings).what_serves(options.model))
    if record.state is State.ROLLED_BACK:
        return EXIT_ROLLED_BACK
    return 0 if record.finished else EXIT_UNFINISHED


def history(options: argparse.Namespace, settings: Settings) -> int:
    """Show releases, newest first."""
    require_known(settings, options.model)
    folder = ModelFolder.at(settings.repository_root, options.model)
    releases = islice(folder.releases.history(), max(0, options.limit))
    if options.json:
        told = [asdict(release) | {"verdict": in_a_line(folder, release)} for release in releases]
        print(json.dumps(told, indent=2))
        return 0
    release = None
    # Each as it is read: those after one that can't be are shown.
    for release in releases:
        how = in_a_line(folder, release)
        _say(
            f"{release.generation:>6}  version {release.active_version:<5} {release.updated_at_utc}  alias {release.alias}  "
            f"by {release.actor}  run {release.run_id or '-'}  deployment {release.deploy_id}  {release.reason}".rstrip()
            + (f"  [{how}]" if how else "")
        )
    if release is None:
        _say(f"{options.model} was never released.")
    return 0


def doctor(options: argparse.Namespace, settings: Settings) -> int:
    """Check the set-up."""
    from ..doctor import DoctorVerdict, examine

    findings = examine()
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    for finding in () if options.json else findings:
        verdict = finding.verdict.upper() if finding.verdict is DoctorVerdict.FAILED else finding.verdict
        _say(f"{verdict:<12} {finding.check:<11} {finding.what}")
        if finding.fix:
            _say(f"{'':<25}What to do: {finding.fix}")
    return EXIT_DISAGREES if any(finding.verdict is DoctorVerdict.FAILED for finding in findings) else 0


def init(options: argparse.Namespace, settings: Settings) -> int:
    """Make what has to be there once."""
    from ..upkeep.initialize import InitRequest, initialize

    # In AWS a bucket's name is the whole world's: there it has to be chosen.
    bucket = options.bucket or ("mlflow" if settings.transfer.s3_endpoint_url else "")
    name = options.experiment or settings.default_model
    request = InitRequest(bucket=bucket, proxied=name, direct=f"{name}-direct")
    made = "to make" if options.dry_run else "made"
    steps = []
    for step in initialize(settings, request, dry_run=options.dry_run):
        steps.append(step)
        if not options.json:
            _say(
                f"to set: {step.to_set}" if step.to_set else f"{made if step.made else 'there'}: {step.what}"
            )
    if options.json:
        print(json.dumps([asdict(step) for step in steps], indent=2))
    elif not bucket:
        _say("left out: a bucket and an experiment in it; name one with --bucket")
    return 0


def _known(settings: Settings, models: Sequence[str]) -> list[str]:
    """Return models that were named, each of which was deployed to at least once; raises NotFound for another."""
    for model in models:
        require_known(settings, model)
    return list(models)


def _say(line: str) -> None:
    """Print a line for people; names, aliases and reasons of others come in many of them."""
    print(printable(line))


def _live_line(result: Reconciled | Collected) -> str:
    """Say what is live, as far as it is known."""
    none = "no version is known to be live" if result.problems else "nothing is live"
    return f"{result.model}: " + (f"version {result.live} is live" if result.live else none)


def _print(options: argparse.Namespace, record: Deployment | None, text: str, serves: str) -> None:
    """Print how a deployment stands, and with ``--json`` what serves now."""
    print(
        json.dumps((asdict(record) if record else {}) | {"serves": serves}, indent=2)
        if options.json
        else "\n".join(map(printable, text.split("\n")))
    )


def _show(options: argparse.Namespace, plan: Plan) -> int:
    """Print what a command would do; return the exit code that it would have."""
    if options.json:
        print(json.dumps(plan.to_dict(), indent=2))
        return plan.exit_code
    for line in plan.does:
        _say(f"would {line}" if not line.startswith("nothing") else f"would do {line}")
    for name, value in plan.facts.items():
        _say(f"  {name}: {', '.join(map(_fact, value)) if isinstance(value, list) else _fact(value)}")
    for error in plan.obstacles:
        _say(f"would be refused: {error.message}")
        _say(f"  What to do: {error.hint}")
    _say(f"Nothing was changed: {plan.serves}")
    return plan.exit_code


def _fact(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['path']} ({value['size_bytes']} bytes)"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Show the transfer on a terminal; elsewhere the log lines of the steps have to do."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    with Progress(
        "transfer",
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        task = bar.add_task("transfer", visible=False, start=False)

        def report(done: int, total: int) -> None:
            bar.start_task(task)
            bar.update(task, completed=done, total=total, visible=done < total)

        yield report
