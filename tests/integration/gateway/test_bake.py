"""Releases that bake on live traffic: real Tritons, a real gateway, a real Prometheus.

``pytest tests/integration/gateway/test_bake.py -s`` prints the figures of docs/bake.md.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import requests

from ml_code.triton_deploy.cli.exit_codes import ExitCode
from ml_code.triton_deploy.clients.prometheus import Prometheus as Client
from ml_code.triton_deploy.errors import BakeFailed, Misconfigured, Unavailable
from ml_code.triton_deploy.rules.bake_record import BakeVerdict
from ml_code.triton_deploy.rules.release import BAKED_BADLY
from ml_code.triton_deploy.upkeep.bake import Baked
from tests.support.fakes import fake_store
from tests.support.models import fails_above, picky, slow
from tests.support.servers.baked_site import Site
from tests.support.servers.gateways import Gateway, Releases, free_port
from tests.support.servers.prometheus_server import Prometheus
from tests.support.servers.v2_clients import ASKED_A_SECOND, Clients, asking
from tests.support.settings import changed

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def prometheus(
    releases: Releases, gateway: Gateway, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    tritons = [stack.url("triton-metrics").removeprefix("http://") for stack in releases.stacks]
    targets = {"triton": tritons, "gateway": [gateway.address]}
    with Prometheus(tmp_path_factory.mktemp("prometheus"), targets) as running:
        yield running


@pytest.fixture
def site(releases: Releases, prometheus: Prometheus, request: pytest.FixtureRequest) -> Iterator[Site]:
    """A model of its own, of which version 1 has been live and asked for a while."""
    name = "bake_" + request.node.name.removeprefix("test_").partition("[")[0][:40]
    with fake_store() as store:
        own = Releases(releases.root, store, releases.stacks, name)
        settings = changed(
            own.settings,
            bake__prometheus_url=prometheus.url,
            bake__minutes=12 / 60,
            bake__interval_s=2,
            bake__window_s=10,
            bake__min_requests=30,
            # Machines of tests are noisy; what is bad here is worse by far.
            bake__max_latency_ratio=4.0,
            bake__min_latency_rise_s=0.03,
        )
        own.deploy()
        yield Site(own, settings)


def watched(site: Site, clients: Clients, make: Callable[[float], object] | None = None) -> Baked:
    """Deploy another version under traffic and bake it; print what clients saw of it."""
    version = site.releases.deploy(make) if make else site.releases.deploy()  # type: ignore[arg-type]
    began, failed = time.monotonic(), clients.failures
    try:
        # A bad one ends it long before.
        return site.bake(minutes=1.5 if make else None)
    finally:
        spent_s = time.monotonic() - began
        clients.ask_more(40)
        print(
            f"{site.releases.model}: {spent_s:.1f} s from the commit to the verdict and what follows; version {version} "
            f"answered {clients.answers[version]} requests, {clients.failures - failed} failed"
        )


@pytest.mark.soak
def test_a_release_that_is_ten_times_slower_is_taken_back(site: Site, gateway: Gateway) -> None:
    with asking(site.releases.model, gateway.address) as clients:
        clients.ask_more(5 * ASKED_A_SECOND)
        with pytest.raises(BakeFailed, match="Version 1 is live again") as raised:
            watched(site, clients, slow)
        assert "those of the previous release" in raised.value.message
        assert site.live == 1
        assert not clients.failures
        eventually_only(clients, 1)


def test_a_release_that_fails_five_of_a_hundred_is_taken_back(site: Site, gateway: Gateway) -> None:
    with asking(site.releases.model, gateway.address) as clients:
        clients.ask_more(5 * ASKED_A_SECOND)
        with pytest.raises(BakeFailed, match=r"gateway: \d\.\d% of \d+ requests failed"):
            watched(site, clients, partial(fails_above, 10))
        assert site.live == 1
        failures = clients.failures
        assert failures
        clients.ask_more(100)
        assert clients.failures == failures
    assert json.loads(site.releases.current_file.read_text())["reason"].startswith(BAKED_BADLY)


def test_a_release_that_fails_for_all_is_taken_back_within_25_seconds(site: Site, gateway: Gateway) -> None:
    with asking(site.releases.model, gateway.address) as clients:
        clients.ask_more(2 * ASKED_A_SECOND)
        began = time.monotonic()
        with pytest.raises(BakeFailed, match=r"gateway: \d+\.\d% of \d+ requests failed"):
            watched(site, clients, picky)
        assert time.monotonic() - began < 25
        assert site.live == 1


@pytest.mark.soak
def test_failures_of_clients_that_go_around_the_gateway_are_seen_in_triton(
    site: Site, releases: Releases
) -> None:
    addresses = [stack.url("triton").removeprefix("http://") for stack in releases.stacks]
    with asking(site.releases.model, *addresses) as clients:
        clients.ask_more(5 * ASKED_A_SECOND)
        with pytest.raises(BakeFailed, match=r"triton: \d\.\d% of \d+ requests failed"):
            watched(site, clients, partial(fails_above, 10))
        assert site.live == 1


def test_a_good_release_is_kept(site: Site, gateway: Gateway) -> None:
    with asking(site.releases.model, gateway.address) as clients:
        clients.ask_more(5 * ASKED_A_SECOND)
        baked = watched(site, clients)
        assert not clients.failures
    assert baked.bake is not None
    assert baked.bake.verdict is BakeVerdict.PASSED, baked.text
    assert {"gateway", "triton"} <= {
        name for name, figures in baked.bake.figures.items() if figures["now"]["requests"] > 40
    }
    assert site.live == 2


def test_a_release_that_nobody_asks_is_kept_without_data(site: Site) -> None:
    site.releases.deploy()
    baked = site.bake(minutes=5 / 60)
    assert baked.bake is not None
    assert baked.bake.verdict is BakeVerdict.NO_DATA
    assert site.live == 2


def test_the_command_line_watches_and_says_how_it_ended(
    site: Site, prometheus: Prometheus, gateway: Gateway
) -> None:
    site.releases.deploy()
    environment = {
        "TRITON_DEPLOY_REPOSITORY": str(site.releases.root),
        "TRITON_DEPLOY_GRPC_URLS": ",".join(site.releases.settings.triton.grpc_urls),
        "TRITON_DEPLOY_PROMETHEUS_URL": prometheus.url,
        "TRITON_DEPLOY_BAKE_INTERVAL_S": "1",
        "TRITON_DEPLOY_BAKE_NO_DATA": "hold",
        "PATH": "/usr/bin:/bin",
    }
    command = [sys.executable, "-m", "ml_code.triton_deploy.cli", "bake", site.releases.model, "--json"]

    def run(*more: str) -> tuple[int, dict[str, object]]:
        done = subprocess.run(
            [*command, *more], check=False, capture_output=True, text=True, env=environment, timeout=120
        )
        return done.returncode, json.loads(done.stdout)

    assert run("--minutes", "0")[0] == 0
    code, said = run("--minutes", "0.05")
    assert code == ExitCode.DISAGREES
    assert said["error"] == "bake_held"
    assert "no source saw a request" in str(said["message"])
    scraped = requests.get(f"{gateway.url}/metrics/deployments", timeout=10).text
    assert f'triton_deploy_bake_result{{model="{site.releases.model}",verdict="no_data"}} 1.0' in scraped


def test_what_prometheus_says_of_a_wrong_query_is_told(prometheus: Prometheus, tmp_path: Path) -> None:
    client = Client(prometheus.url, 5)
    assert client.value("1 + 1") == 2
    assert client.value("vector(0) / 0") is None
    assert client.value("nothing_of_this_name") is None
    with pytest.raises(Misconfigured, match="parse error"):
        client.value("sum(")
    with pytest.raises(Misconfigured, match="gives 2 numbers"):
        client.value(
            'label_replace(vector(1), "a", "1", "", "") or label_replace(vector(1), "a", "2", "", "")'
        )
    with pytest.raises(Unavailable, match="can't be reached"):
        Client(f"http://127.0.0.1:{free_port()}", 5).value("1")


def eventually_only(clients: Clients, version: int) -> None:
    """Wait until no other version answers any more."""
    others = clients.answers.total() - clients.answers[version]
    clients.ask_more(50)
    assert clients.answers.total() - clients.answers[version] <= others + len(clients._threads)
