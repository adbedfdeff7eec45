"""Says what is wrong with a set-up before a deploy does: every check with its result, its cause and what to do."""

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
    """Look at everything that a deploy needs. Changes nothing that stays; takes no longer than the slowest check's deadline.

    Args:
        environ: variables to read the settings from; the process's own by default. S3's keys are always the process's.
        clock: this machine's clock, seconds since 1970.

    Returns:
        What was found, first of the settings themselves.
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
