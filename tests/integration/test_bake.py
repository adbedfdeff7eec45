"""Releases that bake on live traffic: real Tritons, a real gateway, a real Prometheus.

``pytest tests/integration/test_bake.py -s`` prints the figures of docs/bake.md.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Self

import pytest
import requests

from ml_code.triton_deploy import cli
from ml_code.triton_deploy.bake.baking import Baked, Baking
from ml_code.triton_deploy.bake.policy import BakePolicy
from ml_code.triton_deploy.bake.prometheus import Prometheus as Client
from ml_code.triton_deploy.errors import BakeFailed, Misconfigured, Unavailable
from ml_code.triton_deploy.records import BAKED_BADLY, BakeVerdict
from ml_code.triton_deploy.settings import Settings
from tests.fakes import fake_store
from tests.integration.gateways import Gateway, Releases, eventually, free_port
from tests.integration.prometheus_server import Prometheus
from tests.models import fails_above, slow

pytestmark = pytest.mark.integration

ASKED_A_SECOND = 40
ONE_OF = 20
"""So many requests have one with a number that `fails_above` does not know: 5 %."""


@dataclass
class Clients:
    """Clients that ask a model at a fixed rate and never give up, while the block runs.

    Args:
        addresses: where, in turn.
        model: its name.
    """

    addresses: list[str]
    model: str
    answers: Counter[int] = field(default_factory=Counter)
    failures: int = 0

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._count = itertools.count(1)
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(4)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=60)

    def ask_more(self, count: int) -> None:
        """Return when so many requests more have ended."""
        wanted = self.answers.total() + self.failures + count
        eventually(lambda: self.answers.total() + self.failures >= wanted, "clients are answered", 120)

    def _run(self) -> None:
        with requests.Session() as session:
            session.trust_env = False
            while not self._stop.is_set():
                number = next(self._count)
                began = time.monotonic()
                self._ask(session, number)
                self._stop.wait(max(0.0, len(self._threads) / ASKED_A_SECOND - (time.monotonic() - began)))

    def _ask(self, session: requests.Session, number: int) -> None:
        value = 99.0 if number % ONE_OF == 0 else 1.0
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [value, value]}
        address = self.addresses[number % len(self.addresses)]
        response = session.post(
            f"http://{address}/v2/models/{self.model}/infer", json={"inputs": [tensor]}, timeout=60
        )
        with self._lock:
            if response.ok:
                self.answers[int(response.json()["model_version"])] += 1
            else:
                self.failures += 1


@pytest.fixture(scope="module")
def prometheus(
    releases: Releases, gateway: Gateway, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    tritons = [stack.url("triton-metrics").removeprefix("http://") for stack in releases.stacks]
    targets = {"triton": tritons, "gateway": [gateway.address]}
    with Prometheus(tmp_path_factory.mktemp("prometheus"), targets) as running:
        yield running


@dataclass
class Site:
    """One model, its releases, and how they bake."""

    releases: Releases
    settings: Settings

    def bake(self, minutes: float | None = None) -> Baked:
        baking = Baking(
            self.settings,
            self.releases.model,
            BakePolicy.of(self.settings, minutes),
            deployer=self.releases.deployer,
            actor="test",
        )
        return baking.run(baking.live().generation)

    @property
    def live(self) -> int:
        return self.releases.live


@pytest.fixture
def site(releases: Releases, prometheus: Prometheus, request: pytest.FixtureRequest) -> Iterator[Site]:
    """A model of its own, of which version 1 has been live and asked for a while."""
    name = "bake_" + request.node.name.removeprefix("test_").partition("[")[0][:40]
    with fake_store() as store:
        own = Releases(releases.root, store, releases.stacks, name)
        settings = replace(
            own.settings,
            prometheus_url=prometheus.url,
            bake_minutes=25 / 60,
            bake_interval_s=2,
            bake_window_s=10,
            bake_min_requests=40,
            # Machines of tests are noisy; what is bad here is worse by far.
            bake_max_latency_ratio=4.0,
            bake_min_latency_rise_s=0.05,
        )
        own.deploy()
        yield Site(own, settings)


def asking(site: Site, *addresses: str) -> Clients:
    """Clients of the site's model, once it is known at every address."""
    ready = f"/v2/models/{site.releases.model}/ready"
    for address in addresses:
        eventually(
            lambda url=f"http://{address}{ready}": requests.get(url, timeout=10).ok,
            f"{address} knows the model",
        )
    return Clients(list(addresses), site.releases.model)


def watched(site: Site, clients: Clients, make: Callable[[float], object] | None = None) -> Baked:
    """Deploy another version under traffic and bake it; print what clients saw of it."""
    version = site.releases.deploy(make) if make else site.releases.deploy()  # type: ignore[arg-type]
    began, failed = time.monotonic(), clients.failures
    try:
        return site.bake()
    finally:
        spent_s = time.monotonic() - began
        clients.ask_more(40)
        print(
            f"{site.releases.model}: {spent_s:.1f} s from the commit to the verdict and what follows; version {version} "
            f"answered {clients.answers[version]} requests, {clients.failures - failed} failed"
        )


def test_a_release_that_is_ten_times_slower_is_taken_back(site: Site, gateway: Gateway) -> None:
    with asking(site, gateway.address) as clients:
        clients.ask_more(15 * ASKED_A_SECOND)
        with pytest.raises(BakeFailed, match="Version 1 is live again") as raised:
            watched(site, clients, slow)
        assert "those of the previous release at the same age" in raised.value.message
        assert site.live == 1
        assert not clients.failures
        eventually_only(clients, 1)


def test_a_release_that_fails_five_of_a_hundred_is_taken_back(site: Site, gateway: Gateway) -> None:
    with asking(site, gateway.address) as clients:
        clients.ask_more(5 * ASKED_A_SECOND)
        with pytest.raises(BakeFailed, match=r"gateway: \d\.\d% of \d+ requests failed"):
            watched(site, clients, partial(fails_above, 10))
        assert site.live == 1
        failures = clients.failures
        assert failures
        clients.ask_more(100)
        assert clients.failures == failures
    assert json.loads(site.releases.current_file.read_text())["reason"].startswith(BAKED_BADLY)


def test_failures_of_clients_that_go_around_the_gateway_are_seen_in_triton(
    site: Site, releases: Releases
) -> None:
    addresses = [stack.url("triton").removeprefix("http://") for stack in releases.stacks]
    with asking(site, *addresses) as clients:
        clients.ask_more(5 * ASKED_A_SECOND)
        with pytest.raises(BakeFailed, match=r"triton: \d\.\d% of \d+ requests failed"):
            watched(site, clients, partial(fails_above, 10))
        assert site.live == 1


def test_a_good_release_is_kept(site: Site, gateway: Gateway) -> None:
    with asking(site, gateway.address) as clients:
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


def test_a_prometheus_that_is_away_takes_nothing_back(site: Site) -> None:
    site.releases.deploy()
    away = replace(site.settings, prometheus_url=f"http://127.0.0.1:{free_port()}", bake_interval_s=1)
    baked = Site(site.releases, away).bake(minutes=2 / 60)
    assert baked.bake is not None
    assert baked.bake.verdict is BakeVerdict.NO_DATA
    assert "can't be reached" in baked.text
    assert site.live == 2


def test_the_command_line_watches_and_says_how_it_ended(
    site: Site, prometheus: Prometheus, gateway: Gateway
) -> None:
    site.releases.deploy()
    environment = {
        "TRITON_DEPLOY_REPOSITORY": str(site.releases.root),
        "TRITON_DEPLOY_GRPC_URLS": ",".join(site.releases.settings.triton_grpc_urls),
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
    assert code == cli.EXIT_DISAGREES
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
