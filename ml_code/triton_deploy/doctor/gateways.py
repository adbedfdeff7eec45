"""Checks the gateways, whose own counters are the floor of a canary."""

from __future__ import annotations

from collections.abc import Iterator

from ..clients.gateway_counts import GatewayCounts
from ..errors import DeployError
from ..settings import Settings
from .check import Finding, Report

NONE = "There are none: TRITON_DEPLOY_GATEWAY_URLS is not set. A candidate that fails is stopped by what Prometheus saw alone."


class GatewaysCheck:
    """Reads the counters of each gateway, as a canary does.

    Args:
        settings: addresses of the gateways.
    """

    name = "gateways"
    needs = ("TRITON_DEPLOY_GATEWAY_URLS", "TRITON_DEPLOY_PROMETHEUS_TIMEOUT_S")
    deadline_s = 30.0

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._report = Report(self.name)

    def look(self) -> Iterator[Finding]:
        """See DoctorCheck.look."""
        if not self._settings.canary.gateway_urls:
            yield self._report.unknown(NONE, "Set it for whoever deploys, where gateways are used.")
            return
        counter, right = GatewayCounts.of(self._settings), 0
        for address in counter.addresses():
            try:
                counter.counted(address, self._settings.default_model, 1)
                right += 1
            except DeployError as error:
                # A warning only: deploys need no gateway, and a canary goes on with Prometheus alone.
                yield self._report.warning(f"{error.message} What it counts stops no candidate.", error.hint)
        if right:
            yield self._report.ok(f"What they count can be read: {right} gateway{'s' if right > 1 else ''}.")

    def clean_up(self) -> None:
        """See DoctorCheck.clean_up; this check leaves nothing behind."""
