"""Compares this machine's clock with every other readable clock: leases compare the deployers' clocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime

from ..clients import http
from ..clients.http import tls
from ..clients.mlflow_api import MlflowApi
from ..errors import DeployError
from ..repository.lease import CLOCK_SKEW_S
from ..settings import Settings
from ..storage import storage_errors
from .check import Finding, Report
from .probe import Probe

WORTH_A_WARNING_S = 5.0
RESOLUTION_S = 1.0
"""Resolution of the other clock, seconds: a Date header has no fractions, nor have the times of some file
systems."""
TELL_TIME_S = 5.0
"""Longest wait for an answer with a Date header, seconds."""
MLFLOW, S3 = CHECKED = ("MLflow", "S3")
"""Servers that have a check of their own, by its name."""
FIX = "Let NTP or chrony set the clock of both hosts."

Seen = tuple[float, float, float]
"""This machine's clock before the reading, the other clock, and this machine's clock after it; seconds
since 1970."""


class ClocksCheck:
    """Compares this machine's clock with those of MLflow, S3 and the model repository.

    Args:
        settings: their addresses.
        clock: this machine's clock, seconds since 1970.
    """

    name = "clocks"
    needs = ()
    deadline_s = 30.0

    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._probe = Probe(settings.repository)
        self._report = Report(self.name)

    def look(self) -> Iterator[Finding]:
        """See DoctorCheck.look."""
        settings = self._settings
        if settings.mlflow.tracking_uri:
            yield self._compared(MLFLOW, lambda: self._dated(f"{MlflowApi(settings).base}/version", "mlflow"))
        if settings.transfer.s3_endpoint_url:
            yield self._compared(S3, lambda: self._dated(settings.transfer.s3_endpoint_url, "s3"))
        if settings.repository:
            yield self._compared("the model repository's file system", self._file)
        yield self._report.unknown(
            "Triton tells no time by gRPC. No decision compares its clock; only its logs would be hard to follow."
        )

    def clean_up(self) -> None:
        """See DoctorCheck.clean_up."""
        self._probe.remove()

    def _compared(self, whose: str, look: Callable[[], Seen]) -> Finding:
        try:
            before, other, after = look()
        except DeployError as error:
            return self._report.unknown(
                f"The clock of {whose} can't be read: {error.message}",
                after=whose if whose in CHECKED else "",
            )
        except ValueError as error:
            return self._report.unknown(f"The clock of {whose} can't be read: {error}.")
        ahead = other - after if other > after else min(0.0, other + RESOLUTION_S - before)
        what = f"The clock of {whose} is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this machine's"
        if abs(ahead) > CLOCK_SKEW_S:
            return self._report.failed(
                f"{what}, more than the {CLOCK_SKEW_S:.0f} s that leases allow: a deploy under way may be taken for a dead one.",
                FIX,
            )
        if abs(ahead) > WORTH_A_WARNING_S:
            return self._report.warning(f"{what}; leases allow {CLOCK_SKEW_S:.0f} s.", FIX)
        return self._report.ok(f"The clock of {whose} agrees with this machine's.")

    def _dated(self, url: str, kind: tls.Kind) -> Seen:
        session = http.new_session(pool_size=1, trust=tls.trust(kind))
        server = http.shown(url)
        before = self._clock()
        answer = http.send(
            session, "GET", url, timeout_s=TELL_TIME_S, server=server, hint="Check that it runs.", stream=True
        )
        after = self._clock()
        with answer:
            if "Date" not in answer.headers:
                raise ValueError(f"{server} sends no Date")
            return before, parsedate_to_datetime(answer.headers["Date"]).timestamp(), after

    def _file(self) -> Seen:
        root = self._settings.repository_root
        with storage_errors(f"reading the clock of {root}"):
            before = self._clock()
            changed = self._probe.make().stat().st_mtime
            return before, changed, self._clock()
