"""What the doctor says of a real Prometheus and Alertmanager, right ones and wrong ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ml_code.triton_deploy.doctor import DoctorVerdict, Finding
from ml_code.triton_deploy.doctor.examination import run_all
from ml_code.triton_deploy.doctor.prometheus import PrometheusCheck
from ml_code.triton_deploy.settings import Settings
from ml_code.triton_deploy.watch.queries import DEFAULT
from tests.support.servers.gateways import Gateway, Releases, free_port
from tests.support.servers.prometheus_server import PASSWORD, Alertmanager, Prometheus
from tests.support.servers.v2_clients import asking
from tests.support.settings import changed
from tests.support.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.soak]


@dataclass
class Watched:
    """A model that is live and asked, and a Prometheus that wants a password, with an Alertmanager."""

    prometheus: Prometheus
    settings: Settings

    def findings(self, **changes: Any) -> list[Finding]:
        found = run_all([PrometheusCheck(changed(self.settings, **changes))], {})
        for one in found:
            print(f"{one.verdict}: {one.what}{f' [{one.fix}]' if one.fix else ''}")
        return found


@pytest.fixture(scope="module")
def watched(
    releases: Releases, gateway: Gateway, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Watched]:
    metrics = [stack.url("triton-metrics").removeprefix("http://") for stack in releases.stacks]
    with ExitStack() as running:
        clients = running.enter_context(asking(releases.model, gateway.address))
        prometheus = running.enter_context(
            Prometheus(
                tmp_path_factory.mktemp("prometheus"),
                {"triton": metrics, "gateway": [gateway.address]},
                locked=True,
            )
        )
        alertmanager = running.enter_context(
            Alertmanager(tmp_path_factory.mktemp("alertmanager"), "http://127.0.0.1:1/")
        )
        clients.ask_more(10)
        for counter in ("gateway_request_duration_seconds_count", "nv_inference_request_success"):
            eventually(
                lambda counter=counter: bool(
                    prometheus.value(f'count({counter}{{model="{releases.model}"}})')
                ),  # type: ignore[misc]
                f"it has {counter}",
                30,
            )
        yield Watched(
            prometheus,
            changed(
                releases.settings,
                bake__prometheus_url=prometheus.url,
                bake__alertmanager_url=alertmanager.url,
                bake__alerts=("ModelFailsRequests",),
            ),
        )


def test_a_right_one_is_found_right(watched: Watched) -> None:
    findings = watched.findings()
    assert {one.verdict for one in findings} == {DoctorVerdict.OK}, findings
    said = " ".join(one.what for one in findings)
    for part in (
        "1 gateway.",
        "takes all",
        "scrapes gateway, triton often enough",
        "Alertmanager answers",
    ):
        assert part in said


def test_what_keeps_a_bake_from_judging_is_told(watched: Watched, tmp_path: Path) -> None:
    own = tmp_path / "queries.toml"
    own.write_text(DEFAULT.read_text() + '\n[[checks]]\nname = "mine"\nquery = "sum(rate(x[5m])"\nmax = 1\n')
    for changes, verdict, part in (
        (
            {"bake__prometheus_url": watched.prometheus.url.replace(PASSWORD, "wrong")},
            DoctorVerdict.FAILED,
            "denies access (401)",
        ),
        (
            {"bake__prometheus_url": f"http://{watched.prometheus.address}"},
            DoctorVerdict.FAILED,
            "denies access (401)",
        ),
        ({"bake__prometheus_url": watched.prometheus.url + "/prom"}, DoctorVerdict.FAILED, "has nothing at"),
        (
            {"bake__prometheus_url": f"http://127.0.0.1:{free_port()}"},
            DoctorVerdict.FAILED,
            "can't be reached",
        ),
        (
            {"bake__prometheus_url": watched.settings.bake.alertmanager_url},
            DoctorVerdict.FAILED,
            "has nothing at",
        ),
        (
            {"bake__queries": own},
            DoctorVerdict.FAILED,
            "The check 'mine' of TRITON_DEPLOY_BAKE_QUERIES is not taken",
        ),
        ({"bake__window_s": 2}, DoctorVerdict.WARNING, "scrapes gateway every 1 s"),
        ({"bake__alerts": ("NoSuch",)}, DoctorVerdict.FAILED, "no alert of the name NoSuch"),
        (
            {"bake__alertmanager_url": f"http://127.0.0.1:{free_port()}"},
            DoctorVerdict.FAILED,
            "can't be reached",
        ),
        ({"bake__alertmanager_url": watched.prometheus.url}, DoctorVerdict.FAILED, "has nothing at"),
    ):
        print(f"--- {changes}")
        findings = watched.findings(**changes)
        assert any(part in one.what for one in findings if one.verdict is verdict), findings
        assert {one.verdict for one in findings} <= {DoctorVerdict.OK, verdict}, findings
