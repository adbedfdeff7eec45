"""The commands for a set-up: ``doctor`` checks it, ``init`` makes the places that a first deploy needs."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from ..settings import Settings
from .command import Commands, add_dry_run
from .exit_codes import ExitCode
from .told import Told

if TYPE_CHECKING:
    from ..doctor import Finding
    from ..upkeep.initialize import SetUpStep


def add_doctor(commands: Commands) -> None:
    """Add ``doctor``."""
    # Settings that can't be used are a finding, not the end: its checks read the environment themselves.
    commands.add(
        "doctor", doctor, "check the set-up: every part with its result, the cause and what to do", Settings
    )


def doctor(options: argparse.Namespace, settings: Settings) -> Told:
    """Check the set-up."""
    from ..doctor import DoctorVerdict, examine

    findings = examine()
    failed = any(finding.verdict is DoctorVerdict.FAILED for finding in findings)
    return Told(
        map(asdict, findings),
        (line for finding in findings for line in _finding_lines(finding)),
        ExitCode.DISAGREES if failed else ExitCode.DONE,
    )


def _finding_lines(finding: Finding) -> Iterator[str]:
    from ..doctor import DoctorVerdict

    verdict = finding.verdict.upper() if finding.verdict is DoctorVerdict.FAILED else finding.verdict
    yield f"{verdict:<12} {finding.check:<11} {finding.what}"
    if finding.fix:
        yield f"{'':<25}What to do: {finding.fix}"


def add_init(commands: Commands) -> None:
    """Add ``init``."""
    command = commands.add(
        "init", init, "make what has to be there once: repository folder, bucket, two experiments in MLflow"
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
