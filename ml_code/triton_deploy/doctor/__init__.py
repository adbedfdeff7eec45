"""Finds the faults of a set-up before a deploy does: each check reports result, cause and remedy."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping

from ..settings import Settings
from ..settings.variables import CORRECT, unknown
from .check import DoctorCheck, DoctorVerdict, Finding, Report
from .clocks import ClocksCheck
from .examination import run_all
from .gateways import GatewaysCheck
from .mlflow import ArtifactsCheck, MlflowCheck
from .prometheus import PrometheusCheck
from .repository import RepositoryCheck
from .s3 import S3Check
from .staging import StagingCheck
from .triton import TritonCheck

__all__ = ["DoctorCheck", "DoctorVerdict", "Finding", "examine"]


def examine(
    environ: Mapping[str, str] | None = None, *, clock: Callable[[], float] = time.time
) -> list[Finding]:
    """Check everything that a deploy needs.

    It leaves no change behind, and takes no longer than the longest deadline of a check.

    Args:
        environ: variables to read the settings from; the process's own by default. S3's keys always come
            from the process's own variables.
        clock: this machine's clock, seconds since 1970.

    Returns:
        The findings; those about the settings themselves come first.
    """
    settings, unusable = Settings.usable(environ)
    report = Report("settings")
    wrong = [report.failed(error.message, error.hint) for error in unusable.values()]
    wrong += [
        report.failed(f"{one} Commands that change something refuse it.", CORRECT)
        if one.misspelt
        else report.warning(str(one), "Unset it, or correct its name.")
        for one in unknown(os.environ if environ is None else environ, [Settings])
    ]
    checks: list[DoctorCheck] = [
        MlflowCheck(settings),
        ArtifactsCheck(settings),
        S3Check(settings),
        RepositoryCheck(settings),
        TritonCheck(settings),
        StagingCheck(settings),
        PrometheusCheck(settings),
        GatewaysCheck(settings),
        ClocksCheck(settings, clock),
    ]
    return [*(wrong or [report.ok("Every variable that is set can be used.")]), *run_all(checks, unusable)]
