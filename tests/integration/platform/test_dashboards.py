"""Every query of the shipped dashboards, asked of a real Prometheus before a real gateway and real Tritons."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest

from ml_code.triton_deploy.doctor import DoctorVerdict
from ml_code.triton_deploy.doctor.examination import run_all
from ml_code.triton_deploy.doctor.gateways import GatewaysCheck
from ml_code.triton_deploy.doctor.prometheus import PrometheusCheck
from tests.support.servers.dashboards import asked, live_through_everything, over_time, watched
from tests.support.servers.gateways import Gateway, Releases
from tests.support.settings import changed
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration


def test_every_query_of_the_dashboards_returns_data(
    gateway: Gateway, releases: Releases, tmp_path: Path
) -> None:
    queries = asked(releases.model)
    assert len(queries) > 40
    with watched(tmp_path / "prometheus", releases, gateway) as prometheus:
        began = time.time()
        live_through_everything(releases, gateway, step_s=4)
        empty = set(queries)

        def all_answered() -> bool:
            for place in list(empty):
                series = over_time(prometheus, queries[place], began)
                if any(math.isfinite(float(value)) for one in series for _, value in one["values"]):
                    empty.discard(place)
            return not empty

        try:
            eventually(all_answered, "every query returned a number", 30)
        except AssertionError:
            raise AssertionError(f"without data: {sorted(empty)}") from None
        settings = changed(
            releases.settings, bake__prometheus_url=prometheus.url, canary__gateway_urls=(gateway.url,)
        )
        said = {
            one.what: one.verdict for one in run_all([PrometheusCheck(settings), GatewaysCheck(settings)], {})
        }
        assert DoctorVerdict.FAILED not in said.values(), said
        for what in ("It has the figures of 1 gateway.", "What they count can be read: 1 gateway."):
            assert said.get(what) is DoctorVerdict.OK, said
