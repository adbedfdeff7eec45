"""The watch decides by evidence: what it once got wrong, each as it was tried, with real Tritons, gateway, Prometheus and Alertmanager.

Most of it takes minutes and belongs to the soak, in test_evidence_of_clients.py; here is what ends within seconds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from ml_code.triton_deploy.deploy.request import DeployRequest, RevertRequest
from ml_code.triton_deploy.errors import (
    AccessDenied,
    BakeFailed,
    DeployError,
    Misconfigured,
    Superseded,
    TakenBack,
)
from ml_code.triton_deploy.repository import ModelFolder
from ml_code.triton_deploy.rules.bake_record import BakeVerdict
from ml_code.triton_deploy.rules.canary import canary_of
from ml_code.triton_deploy.rules.deployment import State
from ml_code.triton_deploy.watch.queries import DEFAULT
from tests.support.fakes import fake_store
from tests.support.models import fails_above
from tests.support.servers.baked_site import Site
from tests.support.servers.gateways import Gateway, Releases, free_port
from tests.support.servers.prometheus_server import Alertmanager, Prometheus
from tests.support.servers.v2_clients import ASKED_A_SECOND, asking
from tests.support.settings import changed
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration

FAST: dict[str, Any] = {
    "bake__interval_s": 0.5,
    "bake__window_s": 10,
    "bake__min_requests": 30,
    "bake__max_latency_ratio": 0.0,
}


@pytest.fixture(scope="module")
def prometheus(
    releases: Releases, gateway: Gateway, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    targets = {"gateway": [gateway.address]}
    with Prometheus(tmp_path_factory.mktemp("prometheus"), targets) as running:
        yield running


@contextmanager
def replaced(releases: Releases, prometheus: Prometheus, name: str) -> Iterator[Site]:
    """A model, of which version 2 has just replaced version 1."""
    with fake_store() as store:
        own = Releases(releases.root, store, releases.stacks, name)
        own.deploy()
        own.deploy()
        yield Site(own, changed(own.settings, bake__prometheus_url=prometheus.url, **FAST))


@pytest.fixture(scope="module")
def site(releases: Releases, prometheus: Prometheus) -> Iterator[Site]:
    """For tests after which everything is as it was."""
    with replaced(releases, prometheus, "evidence") as found:
        yield found


@pytest.fixture
def own_site(releases: Releases, prometheus: Prometheus, request: pytest.FixtureRequest) -> Iterator[Site]:
    """A site of the test's own."""
    name = "evidence_" + request.node.name.removeprefix("test_")[:40]
    with replaced(releases, prometheus, name) as found:
        yield found


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """A server that says the same whatever it is asked; gives its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "error", "said"),
    [
        pytest.param(401, b"", AccessDenied, "denies access", id="a wrong password"),
        pytest.param(404, b"404 page not found", Misconfigured, "has nothing at", id="a wrong path"),
        pytest.param(200, b"<html>Log in</html>", Misconfigured, "it is a web page", id="a login page"),
        pytest.param(
            200,
            b'{"status":"error"}',
            Misconfigured,
            "does not answer",
            id="an error in JSON",
            marks=pytest.mark.soak,
        ),
    ],
)
def test_a_wrong_prometheus_ends_the_bake_at_once_and_leaves_the_release(
    site: Site, status: int, body: bytes, error: type[DeployError], said: str
) -> None:
    """Before: 15 minutes of warnings, then "stays live" and exit 0, with a release that fails a tenth of its requests."""
    with answering(status, body) as url:
        wrong = site.with_(bake__prometheus_url=url, bake__no_data="revert")
        began = time.monotonic()
        with pytest.raises(error, match=said) as raised:
            wrong.bake(1.5)
        assert time.monotonic() - began < 5
    assert raised.value.exit_code == 3
    assert site.releases.live == 2


def test_a_query_of_ones_own_that_does_not_parse_ends_the_bake_at_once(site: Site, tmp_path: Path) -> None:
    """Before: as above."""
    path = tmp_path / "queries.toml"
    path.write_text(DEFAULT.read_text() + '\n[[checks]]\nname = "mine"\nquery = "sum(rate(x[5m])"\nmax = 1\n')
    wrong = site.with_(bake__queries=path)
    with pytest.raises(Misconfigured, match=r"parse error.*sum\(rate\(x\[5m\]\)"):
        wrong.bake(1.5)
    assert site.releases.live == 2


def test_a_prometheus_that_is_away_takes_no_release_back(site: Site) -> None:
    """Before: with TRITON_DEPLOY_BAKE_NO_DATA=revert it did, against the docs."""
    away = site.with_(bake__prometheus_url=f"http://127.0.0.1:{free_port()}", bake__no_data="revert")
    baked = away.bake(minutes=1 / 60)
    assert baked.bake is not None
    assert (baked.bake.verdict, baked.bake.unmeasured) == (BakeVerdict.NO_DATA, True)
    assert "can't be reached" in baked.text
    assert site.releases.live == 2


def test_an_alert_of_the_model_is_seen_that_fires_for_another_one_too(own_site: Site, tmp_path: Path) -> None:
    """Before: passed. The last of several of one name won."""
    with Alertmanager(tmp_path / "alertmanager", "http://127.0.0.1:1/") as alertmanager:
        watched = own_site.with_(
            bake__alertmanager_url=alertmanager.url, bake__alerts=("ModelFailsRequests",)
        )
        alarm(alertmanager, own_site.releases.model, "another", "zzz", "a")
        with pytest.raises(BakeFailed, match="alert ModelFailsRequests fires"):
            watched.bake(1.5)
    assert own_site.releases.live == 1


def alarm(alertmanager: Alertmanager, *models: str) -> None:
    """Make an alert fire for models, as Prometheus would."""
    begins = (datetime.now(UTC) + timedelta(seconds=0.5)).isoformat()
    alerts = [
        {
            "labels": {"alertname": "ModelFailsRequests", "model": model, "severity": "page", "at": begins},
            "startsAt": begins,
        }
        for model in models
    ]
    requests.post(f"{alertmanager.url}/api/v2/alerts", json=alerts, timeout=10).raise_for_status()
    eventually(
        lambda: len(alertmanager.get("/api/v2/alerts", active="true")) >= len(models), "alerts fire", 20
    )


@contextmanager
def on_trial(site: Site) -> Iterator[list[BaseException]]:
    """Another deploy whose canary runs in a thread of its own; gives how it ended."""
    canary = canary_of("5,50", 0, 30)
    _, request = site.releases.request(canary)
    ended: list[BaseException] = []
    deployer = site.deployer

    def deploy() -> None:
        try:
            deployer.deploy(request)
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=deploy, daemon=True)
    thread.start()
    folder = ModelFolder.at(site.releases.root, site.releases.model)

    def has_begun() -> bool:
        record = folder.journal.find(request.deploy_id)
        return record is not None and record.canary is not None and record.canary.share_percent == 5

    eventually(has_begun, "a canary runs", 60)
    yield ended
    thread.join(30)


def test_a_bad_release_is_taken_back_while_another_deploys_canary_runs(own_site: Site) -> None:
    """Before: exit 6 for as long as the canary ran, 8 hours at most."""
    own_site = own_site.with_(canary__interval_s=0.5, canary__silence_s=10)
    with on_trial(own_site) as ended:
        began = time.monotonic()
        own_site.deployer.revert(
            RevertRequest(model=own_site.releases.model, deploy_id="emergency", reason="it fails")
        )
        took_s = time.monotonic() - began
        assert own_site.releases.live == 1
        assert took_s < 10
        print(f"a revert over a canary took {took_s:.1f} s")
    (error,) = ended
    assert isinstance(error, Superseded)
    assert "A revert of" in error.message
    _, request = own_site.releases.request(None)
    assert own_site.deployer.deploy(request).state is State.COMMITTED, (
        "no other deploy is blamed or kept waiting"
    )


def test_a_canary_that_nobody_could_judge_is_refused_before_anything(site: Site) -> None:
    """Before: committed, with exit 0; then every request failed."""
    blind = site.with_(bake__prometheus_url="")
    _, request = site.releases.request(canary_of("5,50", 0, 1))
    with pytest.raises(Misconfigured) as raised:
        blind.deployer.deploy(request)
    assert raised.value.exit_code == 3
    plan = blind.deployer.plan_deploy(replace(request, deploy_id="dry"))
    assert plan.exit_code == 3
    assert site.releases.live == 2


@pytest.mark.soak
def test_a_version_that_a_bake_took_back_does_not_come_again_by_itself(
    own_site: Site, gateway: Gateway
) -> None:
    """Before: every night again, and its clients' requests failed until the bake was over."""
    with asking(own_site.releases.model, gateway.address) as clients:
        clients.ask_more(2 * ASKED_A_SECOND)
        version = own_site.releases.deploy(partial(fails_above, 10))
        with pytest.raises(BakeFailed, match="Version 2 is live again"):
            own_site.bake(1.5)
        again = DeployRequest(model=own_site.releases.model, alias="A", deploy_id="nightly")
        with pytest.raises(TakenBack, match=f"Version {version} of"):
            own_site.deployer.deploy(again)
        failed = clients.failures
        clients.ask_more(ASKED_A_SECOND)
        assert clients.failures - failed <= len(clients._threads)
        assert (
            own_site.deployer.deploy(replace(again, deploy_id="person", force=True)).state is State.COMMITTED
        )
