"""The command line: ``triton-deploy``."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import gc
import json
import logging
import signal
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any

from .canary import canary_of, step_of
from .deployer import Deployer
from .errors import DeployError
from .feedback import Feedback
from .intake import DeployRequest, RevertRequest
from .names import check_model
from .plan import Plan
from .records import Deployment, State
from .repository import ModelFolder, models_in
from .settings import Settings

EXIT_DISAGREES = 7
EXIT_ROLLED_BACK = 8
EXIT_UNFINISHED = 9

EXIT_CODES = """exit codes:
  0  done; nothing to do; status: Triton serves what is live; deployment committed
  1  unexpected error, a defect
  2  wrong usage
  3  bad name or setting, model, alias or deployment unknown, access denied: correct it
  4  the model is refused, or fails its checks or its bake: repair the model
  5  MLflow, S3, Triton or the disk failed: try again when it is back
  6  another deploy of the model is under way, or came first
  7  status: a Triton does not serve what is live; reconcile, gc, bake: something is left for a person; doctor: something failed
  8  status: the deployment was rolled back
  9  status: the deployment has not ended
"""


def program() -> int:
    """Run a command as a process of its own; see main."""
    # Of the seconds that a command takes, a fifth would go into looking for garbage among imported code, most of it at the end.
    gc.set_threshold(50_000, 10, 10)
    atexit.register(gc.freeze)
    return main()


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: arguments; the process's own by default.

    Returns:
        The exit code; see EXIT_CODES.
    """
    options = _parser().parse_args(argv)
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.WARNING if options.quiet else logging.INFO,
        format="%(asctime)s %(levelname)-7s %(message)s",
    )
    logging.getLogger("botocore").setLevel(logging.WARNING)
    # A rollback has to run when the process is asked to end: make SIGTERM an exception, as Ctrl-C is.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        code: int = options.run(options, options.settings())
        return code
    except DeployError as error:
        serves = list(_still_true(options))
        if options.json:
            said = {"error": error.kind, "message": error.message, "hint": error.hint, "serves": serves}
            print(json.dumps(said))
        lines = [error.message, f"  What to do: {error.hint}", *(f"  Still true: {line}" for line in serves)]
        print("\n".join(lines), file=sys.stderr)
        return error.exit_code


def _still_true(options: argparse.Namespace) -> Iterator[str]:
    """Say what serves after an error, as far as it can be said."""
    model = getattr(options, "model", None)
    for name in [model] if model else getattr(options, "models", []):
        with contextlib.suppress(DeployError):
            yield Deployer(Settings.from_env()).what_serves(name)


def _deploy(options: argparse.Namespace, settings: Settings) -> int:
    request = DeployRequest(
        model=options.model,
        alias=options.alias,
        deploy_id=options.deploy_id or f"cli-{uuid.uuid4().hex[:12]}",
        reason=options.reason,
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
    _print(options, record, text + _passed_over(record), deployer.what_serves(record.model))
    return 0


def _revert(options: argparse.Namespace, settings: Settings) -> int:
    deployer = Deployer(settings)
    request = RevertRequest(
        model=options.model,
        deploy_id=options.deploy_id or f"revert-{uuid.uuid4().hex[:12]}",
        version=options.to,
        reason=options.reason,
    )
    if options.dry_run:
        return _show(options, deployer.plan_revert(request))
    record = deployer.revert(request)
    serves = deployer.what_serves(options.model)
    _print(options, record, f"Now {serves}{_passed_over(record)}", serves)
    return 0


def _bake(options: argparse.Namespace, settings: Settings) -> int:
    from .bake.baking import Baking
    from .bake.policy import BakePolicy

    baking = Baking(settings, options.model, BakePolicy.of(settings, options.minutes))
    generation = options.generation or baking.live().generation
    baked = baking.run(generation, act=not options.dry_run)
    if options.json:
        print(json.dumps((asdict(baked.bake) if baked.bake else {}) | {"text": baked.text}, indent=2))
    else:
        print(baked.text)
    return 0


def _passed_over(record: Deployment) -> str:
    """Say which Tritons do not serve the version yet, and what to do."""
    lines = [f"\n  Not on {url} yet: {why}" for url, why in record.away.items()]
    return "".join([*lines, "\n  'triton-deploy reconcile' brings it there."]) if lines else ""


def _reconcile(options: argparse.Namespace, settings: Settings) -> int:
    from .reconcile import Reconciler

    models = [check_model(name) for name in options.models]
    results = Reconciler(settings).run_all(models, deep=options.deep, dry_run=options.dry_run)
    if options.json:
        print(json.dumps([asdict(result) for result in results], indent=2))
    for result in () if options.json else results:
        none = "no version is known to be live" if result.problems else "nothing is live"
        print(f"{result.model}: " + (f"version {result.live} is live" if result.live else none))
        for line in result.done:
            print(f"  {'to do' if options.dry_run else 'done'}: {line}")
        for line in result.problems:
            print(f"  problem: {line}")
        for notice in result.notices:
            print(f"  notice: {notice.text}")
        if result.under_way:
            print(f"  left alone: {result.under_way} is under way")
    return EXIT_DISAGREES if any(result.problems for result in results) else 0


def _gc(options: argparse.Namespace, settings: Settings) -> int:
    from .collect import Collector

    models = [check_model(name) for name in options.models]
    results = Collector(settings).run_all(models, dry_run=options.dry_run)
    if options.json:
        print(
            json.dumps([asdict(result) | {"freed_bytes": result.freed_bytes} for result in results], indent=2)
        )
    for result in () if options.json else results:
        none = "no version is known to be live" if result.problems else "nothing is live"
        print(f"{result.model}: " + (f"version {result.live} is live" if result.live else none))
        done = "to remove" if options.dry_run else "removed"
        for removed in result.removed:
            print(f"  {done}: {removed.kind} {removed.name} ({removed.size_bytes} bytes): {removed.why}")
        for kept in result.kept:
            print(f"  kept: {kept.kind} {kept.name}: {kept.why}")
        for name in result.still_open:
            print(f"  still open somewhere, tried again at the next gc: {name}")
        for line in result.problems:
            print(f"  problem: {line}")
        if result.under_way:
            print(f"  left alone: {result.under_way} is under way")
        print(f"  {'would free' if options.dry_run else 'freed'}: {result.freed_bytes} bytes")
    return EXIT_DISAGREES if any(result.problems for result in results) else 0


def _rollback(options: argparse.Namespace, settings: Settings) -> int:
    deployer = Deployer(settings)
    if options.dry_run:
        return _show(options, deployer.plan_rollback(options.model, options.deploy_id))
    record = deployer.rollback(options.model, options.deploy_id)
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


def _status(options: argparse.Namespace, settings: Settings) -> int:
    from .status import model_status
    from .survey import Survey

    if options.deploy_id:
        return _deployment_status(options, settings)
    models = [options.model] if options.model else models_in(settings.repository_root)
    feedback, survey = Feedback(settings), Survey(settings.repository_root)
    states = [model_status(settings, model, feedback, survey) for model in models]
    if options.json:
        print(json.dumps([state.to_dict() for state in states], indent=2))
    for state in () if options.json else states:
        live = state.live
        print(
            f"{state.model}: "
            + (
                f"version {live.active_version}, generation {live.generation}, since {live.updated_at_utc}"
                if live
                else "nothing live"
            )
        )
        for url, version in state.serving.items():
            print(
                f"  Triton {url}: "
                + (
                    f"serves version {version}"
                    if isinstance(version, int)
                    else version or "does not serve it"
                )
            )
        if state.unfinished:
            canary = state.unfinished.canary
            share = f", {step_of(canary)} since {canary.since_utc}" if canary and canary.step else ""
            print(
                f"  under way: {state.unfinished.deploy_id}, version {state.unfinished.version}, {state.unfinished.state}{share}"
            )
        for name, failure in state.quarantined.items():
            print(f"  quarantined: {name}: {failure.get('step')}: {failure.get('error')}")
        for notice in state.notices:
            print(f"  notice: {notice.text}")
    if not models and not options.json:
        print("Nothing was deployed to this repository yet.")
    return 0 if all(state.agrees for state in states) else EXIT_DISAGREES


def _deployment_status(options: argparse.Namespace, settings: Settings) -> int:
    if not options.model:
        _parser().error("--deploy-id needs the model's name")
    record = ModelFolder.at(settings.repository_root, options.model).journal.get(options.deploy_id)
    text = f"Deployment {record.deploy_id} of {record.model} version {record.version}: {record.state}."
    if record.failure:
        text += f" {record.failure.step} failed: {record.failure.error}"
    _print(options, record, text, Deployer(settings).what_serves(options.model))
    if record.state is State.ROLLED_BACK:
        return EXIT_ROLLED_BACK
    return 0 if record.finished else EXIT_UNFINISHED


def _history(options: argparse.Namespace, settings: Settings) -> int:
    folder = ModelFolder.at(settings.repository_root, options.model)
    releases = list(islice(folder.releases.history(), max(0, options.limit)))
    if options.json:
        print(json.dumps([asdict(release) for release in releases], indent=2))
        return 0
    for release in releases:
        print(
            f"{release.generation:>6}  version {release.active_version:<5} {release.updated_at_utc}  alias {release.alias}  "
            f"by {release.actor}  run {release.run_id or '-'}  deployment {release.deploy_id}  {release.reason}".rstrip()
        )
    if not releases:
        print(f"{options.model} was never released.")
    return 0


def _doctor(options: argparse.Namespace, settings: Settings) -> int:
    from .doctor import Verdict, examine

    findings = examine()
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    for finding in () if options.json else findings:
        verdict = finding.verdict.upper() if finding.verdict is Verdict.FAILED else finding.verdict
        print(f"{verdict:<12} {finding.check:<11} {finding.what}")
        if finding.fix:
            print(f"{'':<25}What to do: {finding.fix}")
    return EXIT_DISAGREES if any(finding.verdict is Verdict.FAILED for finding in findings) else 0


def _init(options: argparse.Namespace, settings: Settings) -> int:
    from .initialize import InitRequest, initialize

    # In AWS a bucket's name is the whole world's: there it has to be chosen.
    bucket = options.bucket or ("mlflow" if settings.s3_endpoint_url else "")
    name = options.experiment or settings.default_model
    request = InitRequest(bucket=bucket, proxied=name, direct=f"{name}-direct")
    made = "to make" if options.dry_run else "made"
    steps = []
    for step in initialize(settings, request, dry_run=options.dry_run):
        steps.append(step)
        if not options.json:
            print(f"{made if step.made else 'there'}: {step.what}")
    if options.json:
        print(json.dumps([asdict(step) for step in steps], indent=2))
    elif not bucket:
        print("left out: a bucket and an experiment in it; name one with --bucket")
    return 0


def _print(options: argparse.Namespace, record: Deployment | None, text: str, serves: str) -> None:
    """Print how a deployment stands, and with ``--json`` what serves now."""
    print(
        json.dumps((asdict(record) if record else {}) | {"serves": serves}, indent=2)
        if options.json
        else text
    )


def _show(options: argparse.Namespace, plan: Plan) -> int:
    """Print what a command would do; return the exit code that it would have."""
    if options.json:
        print(json.dumps(plan.to_dict(), indent=2))
        return plan.exit_code
    for line in plan.does:
        print(f"would {line}" if not line.startswith("nothing") else f"would do {line}")
    for name, value in plan.facts.items():
        print(f"  {name}: {', '.join(map(_fact, value)) if isinstance(value, list) else _fact(value)}")
    for error in plan.obstacles:
        print(f"would be refused: {error.message}\n  What to do: {error.hint}")
    print(f"Nothing was changed: {plan.serves}")
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="triton-deploy",
        description="Make what an MLflow alias names what Triton serves, or change nothing.",
        epilog=EXIT_CODES + "\nSettings come from the environment; see the README.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print the result as JSON")
    common.add_argument("--quiet", action="store_true", help="log warnings and errors only")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", parents=[common]
        )
        sub.set_defaults(run=run, settings=Settings.from_env)
        return sub

    def dry_run(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--dry-run", action="store_true", help="say what would be done, change nothing")

    deploy = command("deploy", _deploy, "deploy the version that an alias names; roll back if anything fails")
    _add_deploy_options(deploy)
    deploy.add_argument("--reason", default="", help="why, for the history")
    dry_run(deploy)

    revert = command("revert", _revert, "make a version live again that was live before")
    revert.add_argument("model", metavar="MODEL")
    revert.add_argument(
        "--to",
        type=int,
        metavar="VERSION",
        help="version to go back to (default: the one before the live one)",
    )
    revert.add_argument("--reason", default="", help="why, for the history")
    revert.add_argument("--deploy-id", help="id of this deployment (default: a new one)")
    dry_run(revert)

    bake = command("bake", _bake, "watch a release on live traffic, and take it back if it is bad")
    _bake_arguments(bake)
    dry_run(bake)

    reconcile = command(
        "reconcile", _reconcile, "make Triton and the derived files agree with what was committed"
    )
    reconcile.add_argument("models", metavar="MODEL", nargs="*", help="models (default: all)")
    reconcile.add_argument(
        "--deep", action="store_true", help="read every byte of the loaded versions and compare"
    )
    dry_run(reconcile)

    gc = command(
        "gc", _gc, "remove what the retention lets go: old versions, quarantined directories, records"
    )
    gc.add_argument("models", metavar="MODEL", nargs="*", help="models (default: all)")
    dry_run(gc)

    rollback = command(
        "rollback",
        _rollback,
        "undo a deployment that is not committed, or finish one that is past its decision",
    )
    rollback.add_argument("model", metavar="MODEL")
    rollback.add_argument("--deploy-id", required=True, help="the deployment")
    dry_run(rollback)

    status = command(
        "status", _status, "show what is live, what each Triton serves, what is under way and in quarantine"
    )
    status.add_argument("model", metavar="MODEL", nargs="?", help="one model (default: all)")
    status.add_argument(
        "--deploy-id", help="show one deployment of the model; the exit code says how it ended"
    )

    history = command("history", _history, "show the releases of a model, newest first")
    history.add_argument("model", metavar="MODEL")
    history.add_argument("--limit", type=int, default=20, help="how many releases (default: %(default)s)")

    doctor = command(
        "doctor", _doctor, "check the set-up: every part with its result, the cause and what to do"
    )
    # Settings that can't be used are a finding, not the end.
    doctor.set_defaults(settings=Settings)

    init = command(
        "init", _init, "make what has to be there once: repository folder, bucket, two experiments in MLflow"
    )
    init.add_argument("--bucket", default="", help="bucket for artifacts (default: mlflow; in AWS none)")
    init.add_argument(
        "--experiment",
        default="",
        help="experiment behind MLflow's proxy; with '-direct' added, the one in the bucket (default: TRITON_DEPLOY_MODEL)",
    )
    dry_run(init)
    return parser


def _bake_arguments(bake: argparse.ArgumentParser) -> None:
    bake.add_argument("model", metavar="MODEL")
    bake.add_argument(
        "--minutes", type=float, help="how long, since its commit (default: TRITON_DEPLOY_BAKE_MINUTES)"
    )
    bake.add_argument("--generation", type=int, help="the release (default: the live one)")


def _add_deploy_options(deploy: argparse.ArgumentParser) -> None:
    deploy.add_argument("model", metavar="MODEL", help="model name, in MLflow and in Triton")
    deploy.add_argument("--alias", default="A", help="MLflow alias to deploy (default: %(default)s)")
    deploy.add_argument("--deploy-id", help="id of this deployment (default: a new one)")
    deploy.add_argument(
        "--allow-schema-change",
        action="store_true",
        help="accept inputs and outputs that break clients of the live version",
    )
    deploy.add_argument("--force", action="store_true", help="accept an artifact that failed before")
    deploy.add_argument(
        "--canary",
        default="",
        metavar="PERCENT,…",
        help="shares of the clients' requests that it answers before it is committed, such as 5,25,50",
    )
    deploy.add_argument(
        "--shadow",
        type=int,
        default=0,
        metavar="PERCENT",
        help="share of the requests that are mirrored to it before",
    )
    deploy.add_argument(
        "--canary-minutes",
        type=float,
        default=10,
        metavar="MINUTES",
        help="how long each of those steps is watched (default: %(default)s)",
    )


if __name__ == "__main__":
    sys.exit(program())
