"""The commands for a set-up: ``doctor`` checks it, ``init`` makes the places that a first deploy needs."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from ..settings import Settings
from .command import Commands, add_dry_run
from .exit_codes import ExitCode
from .told import Cell, Table, Told, Tone

if TYPE_CHECKING:
    from ..doctor import Finding
    from ..upkeep.initialize import SetUpStep


def add_doctor(commands: Commands) -> None:
    """Add ``doctor``."""
    # Settings that can't be used are a finding, not the end: its checks read the environment themselves.
    commands.add(
        "doctor",
        doctor,
        "check each part of the set-up; print its result, the cause and the remedy",
        Settings,
        examples=("doctor", "doctor --tracking-uri http://mlflow.example:5000 --json"),
    )


def doctor(options: argparse.Namespace, settings: Settings) -> Told:
    """Check the set-up."""
    from ..doctor import examine

    return examined(examine())


def examined(findings: Sequence[Finding]) -> Told:
    """Return the result of a check of the set-up.

    Args:
        findings: see examine.
    """
    from ..doctor import DoctorVerdict

    failed = any(finding.verdict is DoctorVerdict.FAILED for finding in findings)
    return Told(
        map(asdict, findings),
        (line for finding in _once(findings) for line in _finding_lines(finding)),
        ExitCode.DISAGREES if failed else ExitCode.DONE,
        [Table(("", "", ""), _rows(_once(findings)))],
    )


def _once(findings: Sequence[Finding]) -> Iterator[Finding]:
    """Yield the findings for people: those that an earlier check explains are one line for all of them."""
    explained: dict[str, list[str]] = {}
    for finding in findings:
        if finding.see:
            explained.setdefault(finding.see, []).append(finding.check)
        else:
            yield finding
    for cause, checks in explained.items():
        first = next(each for each in findings if each.see == cause)
        rest = [check for check in dict.fromkeys(checks) if check != first.check]
        like = f", nor of {' or '.join(rest)}" if rest else ""
        yield replace(first, what=f"Nothing is known of it{like}: see {cause}, above.")


def _rows(findings: Iterable[Finding]) -> Iterator[tuple[Cell, Cell, Cell]]:
    from ..doctor import DoctorVerdict

    tones = {
        DoctorVerdict.OK: Tone.GOOD,
        DoctorVerdict.WARNING: Tone.CAREFUL,
        DoctorVerdict.FAILED: Tone.BAD,
        DoctorVerdict.UNKNOWN: Tone.FAINT,
    }
    nothing = ("", Tone.PLAIN)
    for finding in findings:
        tone = tones[finding.verdict]
        yield (_verdict(finding), tone), (finding.check, Tone.PLAIN), (finding.what, Tone.PLAIN)
        if finding.fix:
            yield nothing, nothing, (f"What to do: {finding.fix}", tone)


def _verdict(finding: Finding) -> str:
    from ..doctor import DoctorVerdict

    return finding.verdict.upper() if finding.verdict is DoctorVerdict.FAILED else finding.verdict


def _finding_lines(finding: Finding) -> Iterator[str]:
    yield f"{_verdict(finding):<12} {finding.check:<11} {finding.what}"
    if finding.fix:
        yield f"{'':<25}What to do: {finding.fix}"


def add_init(commands: Commands) -> None:
    """Add ``init``."""
    command = commands.add(
        "init",
        init,
        "make the repository folder, the bucket and the two MLflow experiments that a first deploy needs",
        examples=("init --dry-run", "init --bucket models --experiment fraud"),
    )
    command.add_argument("--bucket", default="", help="bucket for artifacts (default: mlflow; in AWS none)")
    command.add_argument(
        "--experiment",
        default="",
        help="experiment behind MLflow's proxy; with '-direct' added, the one in the bucket (default: TRITON_DEPLOY_MODEL)",
    )
    add_dry_run(command)


def init(options: argparse.Namespace, settings: Settings) -> Told:
    """Make the places that a first deploy needs."""
    from ..upkeep.initialize import InitRequest, initialize

    # In AWS the name of a bucket is unique in the whole world: there the user has to choose it.
    bucket = options.bucket or ("mlflow" if settings.transfer.s3_endpoint_url else "")
    name = options.experiment or settings.default_model
    request = InitRequest(bucket=bucket, proxied=name, direct=f"{name}-direct")
    steps = initialize(settings, request, dry_run=options.dry_run)
    return Told(map(asdict, steps), _step_lines(steps, bucket, "to make" if options.dry_run else "made"))


def _step_lines(steps: Iterable[SetUpStep], bucket: str, made: str) -> Iterator[str]:
    for step in steps:
        yield f"to set: {step.to_set}" if step.to_set else f"{made if step.made else 'there'}: {step.what}"
    if not bucket:
        yield "left out: a bucket and an experiment in it; name one with --bucket"


def add_completion(commands: Commands) -> None:
    """Add ``completion``."""
    command = commands.add(
        "completion",
        lambda options, settings: completion(commands.parser, options.shell),
        "print a script with which a shell completes commands and options",
        Settings,
        examples=(
            "completion bash > ~/.local/share/bash-completion/completions/triton-deploy",
            "completion zsh > ~/.zfunc/_triton-deploy",
        ),
    )
    command.add_argument("shell", choices=("bash", "zsh"), help="bash or zsh")


def completion(parser: argparse.ArgumentParser, shell: str) -> Told:
    """Return the script with which a shell completes commands and options.

    Args:
        parser: the parser of all commands.
        shell: ``bash`` or ``zsh``.
    """
    import shtab

    script: str = shtab.complete(parser, shell=shell)
    return Told({"shell": shell, "script": script}, script.splitlines())
