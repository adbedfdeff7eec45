"""Checks S3 for the experiments that keep artifacts there directly: endpoint, keys, buckets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..clients.artifacts import S3Store
from ..errors import DeployError
from ..rules.artifact_roots import VARIABLE
from ..rules.locations import S3Place
from ..settings import Settings
from .check import Finding, Report
from .mlflow import experiments_of

SILENCE_S = 6.0
"""Longest wait for an answer of S3, seconds."""


class S3Check:
    """Lists one name in every bucket that an experiment uses, as a deploy would.

    Args:
        settings: the endpoint; keys come from the environment as boto3 finds them.
    """

    name = "S3"
    needs = ("MLFLOW_TRACKING_URI", "MLFLOW_S3_ENDPOINT_URL", VARIABLE)
    deadline_s = 40.0

    def __init__(self, settings: Settings) -> None:
        self._settings = replace(
            settings,
            transfer=replace(settings.transfer, timeout_s=min(settings.transfer.timeout_s, SILENCE_S)),
        )
        self._report = Report(self.name)

    def look(self) -> Iterator[Finding]:
        """See DoctorCheck.look."""
        try:
            places = [one.place for one in experiments_of(self._settings)]
        except DeployError as error:
            what = f"MLflow can't be asked which buckets are in use: {error.message}"
            yield self._report.unknown(what, after="MLflow")
            return
        allowed = self._settings.transfer.allowed_artifacts.allow
        buckets = sorted({place.bucket for place in places if isinstance(place, S3Place) and allowed(place)})
        if not buckets:
            yield self._report.ok(
                "No experiment keeps artifacts in S3 directly, where they may be read: no keys are needed here."
            )
            return
        store = S3Store(self._settings)
        for bucket in buckets:
            try:
                store.reach(f"s3://{bucket}")
            except DeployError as error:
                yield self._report.failed(error.message, error.hint)
            else:
                yield self._report.ok(f"Bucket {bucket} can be read.")

    def clean_up(self) -> None:
        """See DoctorCheck.clean_up; this check leaves nothing behind."""
