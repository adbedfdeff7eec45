"""What clients do to a release, and whether the watch tells it from what the release does: the slow rows of test_evidence.py.

``EVIDENCE_TIMES=10 pytest tests/integration/gateway/test_evidence_of_clients.py -m soak -s`` tries each of what clients do ten times, and
prints what each came to.
"""

from __future__ import annotations

import itertools
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import pytest

from ml_code.gateway.http.metrics import DURATION
from ml_code.triton_deploy.errors import BakeFailed, BakeHeld, DeployError, VerificationFailed
from ml_code.triton_deploy.repository import ModelFolder
from ml_code.triton_deploy.rules.bake_record import BakeVerdict
from ml_code.triton_deploy.rules.canary import canary_of
from ml_code.triton_deploy.rules.deployment import State
from ml_code.triton_deploy.settings import Settings
from ml_code.triton_deploy.upkeep.bake import Baked
from tests.support.fakes import fake_store
from tests.support.models import fails_above, picky, slow, times
from tests.support.servers.baked_site import Site
from tests.support.servers.gateways import Gateway, Releases, free_port
from tests.support.servers.many_clients import Flood, ManyClients, Rows, StalledReaders, every
from tests.support.servers.prometheus_server import Prometheus
from tests.support.settings import changed
from tests.support.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.soak, pytest.mark.timeout(600)]

Make = Callable[[float], onnx.ModelProto]
FAST: dict[str, Any] = {
    "bake__interval_s": 2,
    "bake__window_s": 15,
    "bake__min_requests": 30,
    "bake__max_latency_ratio": 4.0,
    "bake__min_latency_rise_s": 0.05,
    "canary__interval_s": 1,
    "canary__silence_s": 15,
}
ABOVE_TEN = partial(fails_above, 10)
BAD_INPUT = [[99.0, 99.0]]
NO_INPUT = [[1.0], [1.0]]
"""Rows of one number; the model takes two."""
TIMES = int(os.environ.get("EVIDENCE_TIMES", "1"))
"""How often each of what clients do is tried."""


@dataclass
class OwnGateway(Site):
    """A model whose version 1 is live, a gateway of its own settings, and a Prometheus that scrapes it and the Tritons."""

    gateway: Gateway

    def counted(self, version: int) -> Counter[str]:
        """What the gateway counted of a version's requests, by outcome."""
        series = rf'{DURATION}_count{{model="{self.releases.model}",outcome="(.+)",version="{version}"}} (.+)'
        found = re.findall(series, self.gateway.get("/metrics").text)
        return Counter({outcome: int(float(number)) for outcome, number in found})

    def clients(self, **options: Any) -> ManyClients:
        return ManyClients(self.gateway.address, self.releases.model, **options)


Begin = Callable[..., AbstractContextManager[OwnGateway]]


@pytest.fixture
def begin(releases: Releases, tmp_path: Path, request: pytest.FixtureRequest) -> Begin:
    """``begin(make, GATEWAY_…=…)``: a site whose version 1 ``make`` makes."""
    # Its models have names of their own: the repository is the session's.
    test = re.sub(r"[^a-z0-9]+", "_", request.node.name.lower().removeprefix("test_"))[-40:]
    numbers = itertools.count(1)

    @contextmanager
    def started(make: Make = times, **environment: str) -> Iterator[OwnGateway]:
        number = next(numbers)
        folder = tmp_path / str(number)
        folder.mkdir()
        with ExitStack() as running:
            store = running.enter_context(fake_store())
            own = Releases(releases.root, store, releases.stacks, f"clients_{test}_{number}")
            own.deploy(make)
            gateway = running.enter_context(Gateway(folder / "log", {**own.environment, **environment}))
            tritons = [stack.url("triton-metrics").removeprefix("http://") for stack in releases.stacks]
            prometheus = running.enter_context(
                Prometheus(folder / "prometheus", {"gateway": [gateway.address], "triton": tritons})
            )
            settings = changed(own.settings, bake__prometheus_url=prometheus.url, **FAST)
            yield OwnGateway(own, settings, gateway)

    return started


def kept(baked: Baked) -> bool:
    assert baked.bake is not None
    return baked.bake.verdict is BakeVerdict.PASSED


Harm = Callable[[OwnGateway], AbstractContextManager[object]]


@dataclass(frozen=True, kw_only=True)
class Row:
    """What clients do from a release on, or did all along, for which the model is not to blame.

    Attributes:
        name: what it is.
        before: what the watch made of it once.
        make: makes both versions.
        rows: what ordinary clients ask; None for what harms nobody.
        steady: they asked it before the release as well.
        harm: other clients.
        environment: the gateway's settings.
        outcome: what the gateway calls the harm.
        at_least: so many of these show that it was done.
        minutes: the length of the bake.
        at_once: so many tries at the same time do not harm each other; each has a gateway of its own.
        settings: of the bake, where they are others. Latency counts where it is what the row is about.
    """

    name: str
    before: str
    make: Make = times
    rows: Callable[[int], Rows] | None = None
    steady: bool = False
    harm: Harm = lambda site: nullcontext()
    environment: Mapping[str, str] = field(default_factory=dict)
    outcome: str
    at_least: int
    minutes: float = 20 / 60
    at_once: int = 3
    settings: Mapping[str, Any] = field(default_factory=lambda: {"bake__max_latency_ratio": 0.0})


def stalled(count: int, give_up_s: float) -> Harm:
    """Clients that ask for 4 MB and read none of it."""
    return lambda site: StalledReaders(
        site.gateway.address, site.releases.model, count=count, give_up_s=give_up_s
    )


def flood(site: OwnGateway) -> AbstractContextManager[object]:
    return Flood(site.gateway.address, site.releases.model, at_once=14)


def large_batches(site: OwnGateway) -> AbstractContextManager[object]:
    rows = [[1.0, 1.0]] * 40_000
    return ManyClients(
        site.gateway.address, site.releases.model, names=10, per_second=3, rows=lambda number: rows
    )


FEW_PLACES = {"GATEWAY_MAX_CONCURRENCY": "2", "GATEWAY_MAX_QUEUE": "4"}
ROWS = [
    Row(
        name="10 stalled readers, 5 s",
        before="reverted after 17 s",
        harm=stalled(10, 8),
        environment={"GATEWAY_REQUEST_TIMEOUT_S": "5"},
        outcome="gone",
        at_least=10,
    ),
    Row(
        name="10 stalled readers, 30 s",
        before="reverted after 35 s",
        harm=stalled(10, 40),
        outcome="gone",
        at_least=10,
        minutes=45 / 60,
        at_once=5,
    ),
    Row(
        name="a flood",
        before="reverted after 7 s",
        harm=flood,
        environment=FEW_PLACES,
        outcome="busy",
        at_least=30,
    ),
    Row(
        name="5 % fail on every version",
        before="reverted after 9 s",
        make=ABOVE_TEN,
        rows=every(20, BAD_INPUT),
        outcome="failed",
        at_least=10,
    ),
    Row(
        name="1 % fail on every version",
        before="reverted after 11 s",
        make=ABOVE_TEN,
        rows=every(100, BAD_INPUT),
        outcome="failed",
        at_least=2,
    ),
    Row(
        name="3 % fail, before the release as well",
        before="reverted, every time",
        make=ABOVE_TEN,
        rows=every(33, BAD_INPUT),
        steady=True,
        outcome="failed",
        at_least=6,
        at_once=5,
    ),
    Row(
        name="10 clients begin to send 40,000 rows each",
        before="reverted for its latency after 6 s",
        harm=large_batches,
        outcome="slower",
        at_least=1,
        at_once=1,
        settings={"bake__max_latency_ratio": 2.0, "bake__min_latency_rise_s": 0.01},
    ),
    Row(
        name="28 % of the inputs are no inputs",
        before="kept",
        rows=lambda number: NO_INPUT if number % 7 < 2 else [[1.0, 1.0]],
        outcome="refused",
        at_least=50,
    ),
]


@pytest.mark.parametrize("row", [pytest.param(row, id=row.name) for row in ROWS])
def test_what_clients_do_is_not_the_releases_fault(begin: Begin, row: Row) -> None:
    with ThreadPoolExecutor(row.at_once) as pool:
        assert list(pool.map(lambda _: is_kept(begin, row), range(TIMES))) == [True] * TIMES, (
            f"before: {row.before}"
        )


def is_kept(begin: Begin, row: Row) -> bool:
    """Try a row once; say whether the release was kept."""
    with begin(row.make, **row.environment) as site, site.clients(per_second=20) as clients:
        harmless = clients.rows
        clients.rows = row.rows if row.rows and row.steady else harmless
        clients.ask_for(15 if row.steady else 8)
        version = site.releases.deploy(row.make)
        clients.rows = row.rows or harmless
        with row.harm(site):
            try:
                baked = site.with_(**row.settings).bake(row.minutes)
            except BakeFailed as error:
                print(error)
                return False
        counted = site.counted(version)
        print(f"{row.name}: {dict(counted)}")
        assert clients.answers[version] > 100
    counted["slower"] = int(is_slower(baked))
    assert counted[row.outcome] >= row.at_least, "the clients did not do what this is about"
    return kept(baked) and site.releases.live == version


def is_slower(baked: Baked) -> bool:
    """Whether the latency alone, without its reasons, would be above the default limit."""
    assert baked.bake is not None
    now, before = (baked.bake.figures["gateway"][when]["latency_s"] for when in ("now", "before"))
    print(f"95 of 100 answers within {1000 * now:.1f} ms, {1000 * before:.1f} ms before")
    return bool(now > 2 * before)


def test_one_failed_request_of_151_takes_nothing_back_with_the_default_settings(begin: Begin) -> None:
    """Before: reverted after 151 s, for 1.7 % of 121 requests by Triton's count."""
    with begin(ABOVE_TEN) as site:
        site.settings = changed(
            Settings(),
            repository=site.settings.repository,
            triton__grpc_urls=site.settings.triton.grpc_urls,
            bake__prometheus_url=site.settings.bake.prometheus_url,
        )
        site.settings = changed(site.settings, bake__max_latency_ratio=0.0)
        with site.clients(names=3, per_second=1.0) as clients:
            clients.ask_for(20)
            version = site.releases.deploy(ABOVE_TEN)
            asked = clients.answers.total()
            clients.rows = lambda number: BAD_INPUT if number == asked + 70 else [[1.0, 1.0]]
            site.bake(3.0)
        assert clients.failures.total() <= 1
    assert site.releases.live == version


def test_a_slow_release_is_taken_back_though_nobody_asked_its_predecessor_early(begin: Begin) -> None:
    """Before: passed, with nothing said. p50 2 ms, then 657 ms."""
    with begin() as site:
        # For longer than the bake: nothing is known of the same age.
        time.sleep(30)
        with site.clients(per_second=10) as clients:
            clients.ask_for(8)
            site.releases.deploy(slow)
            with pytest.raises(BakeFailed, match="those of the previous release before the commit"):
                site.bake(25 / 60)
    assert site.releases.live == 1


def test_a_prometheus_without_a_past_does_not_let_a_slow_release_pass_in_silence(
    begin: Begin, tmp_path: Path
) -> None:
    """Before: passed, with nothing said, and nothing could be set."""
    with begin() as site, site.clients(per_second=10) as clients:
        clients.ask_for(8)
        version = site.releases.deploy(slow)
        with Prometheus(tmp_path / "new", {"gateway": [site.gateway.address]}) as prometheus:
            new = site.with_(bake__prometheus_url=prometheus.url)
            seen = f'sum(increase({DURATION}_count{{version="{version}"}}[1m]))'
            eventually(lambda: (prometheus.value(seen) or 0) > 60, "it knows enough of the release", 60)
            assert (
                "latency was not compared: nothing is known of another version's"
                in new.bake(0.1, act=False).text
            )
            assert site.releases.live == version
            with pytest.raises(BakeHeld, match="latency was not compared"):
                new.with_(bake__no_baseline="hold").bake(0.1)
            assert site.releases.live == version
            with pytest.raises(BakeFailed, match="Version 1 is live again") as raised:
                new.with_(bake__no_baseline="revert").bake(0.1)
            print(raised.value)
        assert not blamed(site)
    assert site.releases.live == 1


# Before the commit


def candidate(
    site: OwnGateway, make: Make, shares: str, shadow: int = 0, step_s: float = 12.0
) -> tuple[int, Any]:
    version, request = site.releases.request(canary_of(shares, shadow, step_s / 60), make)
    return version, partial(site.deployer.deploy, request)


def blamed(site: OwnGateway) -> bool:
    """Whether anything in quarantine is said to be at fault itself."""
    folder = ModelFolder.at(site.releases.root, site.releases.model)
    return any(failure.get("blames_artifact") for _, failure in folder.quarantine.failures())


def test_stalled_readers_stop_no_good_candidate(begin: Begin) -> None:
    """Before: stopped, and its artifact in quarantine."""
    with begin(GATEWAY_REQUEST_TIMEOUT_S="5") as site, site.clients() as clients:
        clients.ask_for(5)
        version, deploy = candidate(site, times, "50")
        with stalled(6, 8)(site):
            assert deploy().state is State.COMMITTED
    assert site.releases.live == version


def test_a_candidate_that_nobody_could_judge_is_not_committed_and_not_blamed(begin: Begin) -> None:
    """Before: committed with exit 0, and 40 of 40 requests failed."""
    with begin() as site, site.clients() as clients:
        clients.ask_for(3)
        site.settings = changed(
            site.settings,
            bake__prometheus_url=f"http://127.0.0.1:{free_port()}",
            bake__prometheus_timeout_s=1,
            canary__hold_minutes=0.2,
        )
        _, deploy = candidate(site, picky, "5,50", step_s=4)
        with pytest.raises(DeployError) as raised:
            deploy()
        print(raised.value)
        assert not clients.failures
        assert not blamed(site)
    assert site.releases.live == 1


def test_a_shadow_whose_answers_are_others_is_stopped(begin: Begin) -> None:
    """Before: "pass: saw 135 requests", and committed."""
    with begin() as site, site.clients() as clients:
        clients.ask_for(3)
        # Version 2 answers two times what version 1 does.
        _, deploy = candidate(site, times, "25", shadow=100)
        with pytest.raises(VerificationFailed, match="differ") as raised:
            deploy()
        print(raised.value)
        assert set(clients.answers) == {1}
    assert site.releases.live == 1
