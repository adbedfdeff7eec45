"""What the doctor says of Prometheus and Alertmanager."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from ml_code.triton_deploy.clients.prometheus import seconds
from ml_code.triton_deploy.doctor import DoctorVerdict, Finding
from ml_code.triton_deploy.doctor.examination import run_all
from ml_code.triton_deploy.doctor.prometheus import PrometheusCheck
from tests.support.settings import changed
from tests.support.world import MODEL, World


@dataclass
class Site:
    """A Prometheus and an Alertmanager behind one address, which say what a test wants, and a model that is live."""

    world: World
    url: str = ""
    status: int = 200
    series: dict[str, float] = field(default_factory=lambda: {"gateway": 2, "model": 4})
    wrong_query: str = ""
    interval: str = "15s"
    job: str = "gateway"
    first_minutes: bool = True
    alerts: Sequence[str] = ("ShopIsDown",)
    alertmanager_status: int = 200
    knows_itself: bool = True
    age: timedelta = timedelta(days=2)

    def answer(self, path: str, params: dict[str, list[str]]) -> tuple[int, Any]:
        """Return status and content."""
        if path == "/api/v2/alerts":
            return self.alertmanager_status, []
        if self.status != 200:
            return self.status, {"error": "so the test says"}
        if path == "/api/v1/query":
            return self._queried(params["query"][0])
        if not self.knows_itself:
            return 404, {}
        data = {
            "/api/v1/targets": {
                "activeTargets": [
                    {"labels": {"job": self.job}, "scrapeInterval": self.interval},
                    {"labels": {"job": "node"}, "scrapeInterval": "5m"},
                ]
            },
            "/api/v1/label/job/values": ["gateway"],
            "/api/v1/rules": {"groups": [{"rules": [{"name": name} for name in self.alerts]}]},
        }[path]
        return 200, {"status": "success", "data": data}

    def _queried(self, query: str) -> tuple[int, Any]:
        if self.wrong_query and self.wrong_query in query:
            return 400, {"status": "error", "error": "parse error"}
        value = 1.0
        if "group by (instance)" in query:
            value = self.series["gateway"]
        elif query.startswith("count(gateway_request"):
            then = "offset" not in query or self.first_minutes
            value = self.series["model"] if then else 0
        result = [{"metric": {}, "value": [0, str(value)]}] if value else []
        return 200, {"status": "success", "data": {"resultType": "vector", "result": result}}

    def findings(self, **changes: Any) -> list[Finding]:
        settings = changed(
            self.world.settings,
            **{
                "bake__prometheus_url": self.url,
                "bake__alertmanager_url": self.url,
                "bake__alerts": ("ShopIsDown",),
            }
            | changes,
        )
        now = self.world.now + self.age
        return run_all([PrometheusCheck(settings, now.timestamp)], {})


@pytest.fixture
def site(world: World) -> Iterator[Site]:
    world.register_times(1)
    world.deploy("d1")
    found = Site(world)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            status, content = found.answer(parts.path, parse_qs(parts.query))
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield found
    server.shutdown()
    server.server_close()


def told(findings: Sequence[Finding], verdict: DoctorVerdict) -> list[str]:
    return [one.what for one in findings if one.verdict is verdict]


def test_a_set_up_that_is_right_is_all_ok(site: Site) -> None:
    findings = site.findings()
    assert {one.verdict for one in findings} == {DoctorVerdict.OK}, findings
    said = " ".join(one.what for one in findings)
    for part in (
        "takes queries",
        "2 gateways",
        MODEL,
        "queries of bake and canary",
        "scrapes gateway often",
        "Alertmanager",
    ):
        assert part in said


def test_without_one_it_says_what_there_is_not(site: Site) -> None:
    (found,) = site.findings(bake__prometheus_url="", bake__alertmanager_url="", bake__alerts=())
    assert (found.verdict, "No release bakes" in found.what) == (DoctorVerdict.UNKNOWN, True)


@pytest.mark.parametrize(
    ("status", "said"), [(401, "denies access"), (404, "has nothing at"), (503, "answers 503")]
)
def test_one_that_does_not_answer_rightly_fails(site: Site, status: int, said: str) -> None:
    site.status = status
    (found,) = site.findings()
    assert found.verdict is DoctorVerdict.FAILED
    assert said in found.what


def test_one_that_is_away_fails(site: Site) -> None:
    (found,) = site.findings(bake__prometheus_url="http://127.0.0.1:9")
    assert (found.verdict, "can't be reached" in found.what) == (DoctorVerdict.FAILED, True)


Change = Callable[[Site], object]


@pytest.mark.parametrize(
    ("name", "value", "verdict", "said"),
    [
        ("series", {"gateway": 0, "model": 4}, DoctorVerdict.WARNING, "no figures of a gateway"),
        (
            "series",
            {"gateway": 1, "model": 0},
            DoctorVerdict.WARNING,
            f"no figures of what is live of {MODEL}",
        ),
        (
            "wrong_query",
            "nv_inference_request_duration_us",
            DoctorVerdict.FAILED,
            "[sources.triton] latency_s",
        ),
        (
            "interval",
            "1m",
            DoctorVerdict.WARNING,
            "scrapes gateway every 60 s, and a look of the bake looks back 120 s",
        ),
        ("first_minutes", False, DoctorVerdict.WARNING, f"first minutes of what is live of {MODEL}"),
        ("alerts", ("Another",), DoctorVerdict.FAILED, "no alert of the name ShopIsDown"),
        ("alertmanager_status", 401, DoctorVerdict.FAILED, "Alertmanager at"),
        ("job", "another", DoctorVerdict.UNKNOWN, "it scrapes neither itself"),
        ("knows_itself", False, DoctorVerdict.UNKNOWN, "does not tell how often it scrapes"),
    ],
)
def test_what_would_keep_a_bake_from_judging_is_told(
    site: Site, name: str, value: Any, verdict: DoctorVerdict, said: str
) -> None:
    setattr(site, name, value)
    findings = site.findings()
    assert any(said in what for what in told(findings, verdict)), findings
    others = {one.verdict for one in findings} - {DoctorVerdict.OK, verdict}
    assert not others, findings


def test_a_check_of_ones_own_that_does_not_parse_is_named(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "queries.toml"
    path.write_text(
        '[sources.a]\nrequests = "1"\nfailures = "1"\nlatency_s = "1"\n[[checks]]\nname = "refused rows"\nquery = "sum("\nmax = 1\n'
    )
    site.wrong_query = "sum("
    said = told(site.findings(bake__queries=path), DoctorVerdict.FAILED)
    assert any("The check 'refused rows' of TRITON_DEPLOY_BAKE_QUERIES is not taken" in one for one in said)


@pytest.mark.parametrize(
    ("text", "found"),
    [("15s", 15), ("1m30s", 90), ("15d", 15 * 86400), ("1y2w", 379 * 86400), ("500ms", 0.5)],
)
def test_times_of_prometheus_are_read(text: str, found: float) -> None:
    assert seconds(text) == found


@pytest.mark.parametrize("text", ["", "15", "15 d", "d", "1.5h"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no time"):
        seconds(text)


def test_what_has_just_been_released_has_no_first_minutes_to_lose(site: Site) -> None:
    site.first_minutes, site.age = False, timedelta(minutes=4)
    assert not told(site.findings(), DoctorVerdict.WARNING)
