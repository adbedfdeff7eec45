"""Canaries and shadows on real Tritons behind a real gateway, judged by a real Prometheus, with clients that never stop asking."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from ml_code.triton_deploy.canary import canary_of
from ml_code.triton_deploy.deployer import Deployer
from ml_code.triton_deploy.errors import VerificationFailed
from ml_code.triton_deploy.intake import DeployRequest
from ml_code.triton_deploy.names import engine_name
from ml_code.triton_deploy.records import Canary, State
from ml_code.triton_deploy.repository import ModelFolder
from ml_code.triton_deploy.triton import tritons_of
from tests.support.models import picky
from tests.support.servers.gateways import Gateway, Releases, Traffic
from tests.support.servers.prometheus_server import Prometheus
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration

STEP_S = 8.0
INFER = "/v2/models/best_model/infer"
V2 = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 1]}]}


@pytest.fixture(scope="module")
def prometheus(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    targets = {"gateway": [gateway.address]}
    with Prometheus(tmp_path_factory.mktemp("prometheus"), targets) as running:
        yield running


class Canaries:
    """Deploys with a canary whose steps are short."""

    def __init__(self, releases: Releases, prometheus: Prometheus | None = None) -> None:
        self._releases = releases
        self.settings = replace(
            releases.settings,
            canary_interval_s=1,
            canary_silence_s=15,
            prometheus_url=prometheus.url if prometheus else "",
            bake_min_requests=10,
            # How fast two versions are on a machine with other work to do says nothing here.
            bake_max_latency_ratio=0,
        )

    @property
    def deployer(self) -> Deployer:
        own = self._releases.deployer
        return Deployer(self.settings, registry=own._registry, stores=own._stores)

    def folder(self) -> ModelFolder:
        return ModelFolder.at(self._releases.root, self._releases.model)

    def until_canary(self, request: DeployRequest) -> Deployer:
        """Everything before the canary, and its first look."""
        deployer = self.deployer
        deployer.snapshot(request)
        for step in (deployer.materialize, deployer.load, deployer.ready, deployer.smoke):
            step(request.model, request.deploy_id)
        deployer.look_at_canary(request.model, request.deploy_id)
        return deployer


def steps(shares: str, shadow: int = 0, step_s: float = STEP_S) -> Canary:
    canary = canary_of(shares, shadow, step_s / 60)
    assert canary is not None
    return canary


def share(gateway: Gateway) -> tuple[int, int]:
    """What a gateway says that a candidate gets: share and mirrored share."""
    candidate = gateway.info()["candidate"]
    return (candidate["share_percent"], candidate["mirrored_percent"]) if candidate else (0, 0)


def counted(gateway: Gateway, name: str, **labels: object) -> float:
    """The sum of a metric's samples that have these labels."""
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in gateway.get("/metrics").text.splitlines()
        if line.startswith(name + "{") and all(label in line for label in wanted)
    )


def given_to(gateway: Gateway, version: int) -> float:
    """How many clients' requests a candidate was given: those that it answered, and those that live had to answer."""
    answered = counted(gateway, "gateway_request_duration_seconds_count", version=version)
    return answered + counted(gateway, "gateway_canary_failures_total", version=version)


@contextmanager
def seen_shares(gateway: Gateway) -> Iterator[list[int]]:
    """Look at the share all the time; gives those that were seen, each once in a row."""
    seen: list[int] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.2):
            now, _ = share(gateway)
            if seen[-1:] != [now]:
                seen.append(now)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def test_a_good_candidate_goes_from_5_to_100_percent_and_no_client_notices(
    gateway: Gateway, releases: Releases, prometheus: Prometheus
) -> None:
    canaries = Canaries(releases, prometheus)
    before = releases.live
    version, request = releases.request(steps("5,25,50,100"))
    with Traffic(gateway.address, releases.model, per_second=150) as traffic, seen_shares(gateway) as shares:
        record = canaries.deployer.deploy(request)
        eventually(lambda: gateway.info()["version"] == version, "the gateway knows the release")
    traffic.assert_unnoticed()
    assert record.state is State.COMMITTED
    assert {before, version} <= traffic.seen.versions
    assert [seen for seen in shares if seen] == [5, 25, 50, 100]
    assert share(gateway) == (0, 0)
    assert record.canary is not None
    assert record.canary.judgment["verdict"] == "pass"
    assert record.canary.judgment["figures"]["canary"]["now"]["requests"] > 10
    assert counted(gateway, "gateway_canary_failures_total", version=version) == 0


def test_a_bad_candidate_is_stopped_and_its_clients_got_lives_answers(
    gateway: Gateway, releases: Releases, prometheus: Prometheus
) -> None:
    canaries = Canaries(releases, prometheus)
    before = releases.live
    version, request = releases.request(steps("5,25,50,100", step_s=40), picky)
    with Traffic(gateway.address, releases.model, per_second=150) as traffic, seen_shares(gateway) as shares:
        with pytest.raises(VerificationFailed, match=r"5 % answered by the candidate: canary: .*failed"):
            canaries.deployer.deploy(request)
        eventually(lambda: share(gateway) == (0, 0), "the share is 0", 5)
        reached = given_to(gateway, version)
        traffic.ask_more(100)
        assert given_to(gateway, version) == reached, "after the abort it gets nothing"
    traffic.assert_unnoticed()
    assert traffic.seen.versions == {before}
    assert set(shares) <= {0, 5}
    everything = traffic.seen.answers.total()
    print(f"{reached:.0f} of {everything} requests reached the bad candidate: {reached / everything:.2%}")
    assert 0 < reached / everything < 0.1
    record = canaries.folder().journal.get(request.deploy_id)
    assert record.state is State.ROLLED_BACK
    assert record.failure is not None
    assert record.failure.step == "canary"


def test_a_candidate_that_is_gone_or_unwatched_costs_no_client_anything(
    gateway: Gateway, releases: Releases
) -> None:
    canaries = Canaries(releases)
    before = releases.live
    version, request = releases.request(steps("50", step_s=600))
    deployer = canaries.until_canary(request)
    eventually(lambda: share(gateway) == (50, 0), "the gateway knows the share")
    # Sticky by the header, and under the public name.
    for number in range(20):
        headers = {"X-Canary-Key": f"user {number}"}
        answers = [gateway.post(INFER, json=V2, headers=headers) for _ in range(3)]
        versions = {answer.headers["X-Model-Version"] for answer in answers}
        assert len(versions) == 1
        assert {answer.json()["model_name"] for answer in answers} == {"best_model"}
        predicted = gateway.post("/predict", json={"rows": [[1, 1]]}, headers=headers)
        assert predicted.headers["X-Model-Version"] in versions
        named = gateway.post(f"/v2/models/best_model/versions/{before}/infer", json=V2, headers=headers)
        assert named.headers["X-Model-Version"] == str(before)
    with Traffic(gateway.address, releases.model) as traffic:
        traffic.ask_more(60)
        assert traffic.seen.versions == {before, version}
        for triton in tritons_of(canaries.settings):
            triton.unload(engine_name(releases.model, version), 30)
        failed = counted(gateway, "gateway_canary_failures_total", version=version, outcome="failed")
        eventually(
            lambda: (
                counted(gateway, "gateway_canary_failures_total", version=version, outcome="failed")
                > failed + 10
            ),
            "live answers for the candidate",
        )
        # Nobody looks at it any more, as when the deployer's machine is gone.
        eventually(lambda: share(gateway) == (0, 0), "the share has ended by itself", 60)
        reached = given_to(gateway, version)
        traffic.ask_more(60)
        assert given_to(gateway, version) == reached
    traffic.assert_unnoticed()
    rolled_back = deployer.rollback(request.model, request.deploy_id)
    assert rolled_back is not None
    assert rolled_back.state is State.ROLLED_BACK
    assert releases.live == before


def test_a_shadow_is_compared_with_live_and_answers_nobody(gateway: Gateway, releases: Releases) -> None:
    canaries = Canaries(releases)
    before = releases.live
    version, request = releases.request(steps("", shadow=100, step_s=600))
    deployer = canaries.until_canary(request)
    eventually(lambda: share(gateway) == (0, 100), "the gateway knows the share")
    mirrored = {"version": version, "outcome": "ok"}
    with Traffic(gateway.address, releases.model, per_second=60) as traffic:
        eventually(
            lambda: counted(gateway, "gateway_shadow_requests_total", **mirrored) > 100, "100 were mirrored"
        )
    traffic.assert_unnoticed()
    assert traffic.seen.versions == {before}
    deployer.rollback(request.model, request.deploy_id)
    eventually(lambda: share(gateway) == (0, 0), "the share is 0", 5)
    compared = counted(gateway, "gateway_shadow_difference_count", version=version, kind="absolute")
    total = counted(gateway, "gateway_shadow_difference_sum", version=version, kind="absolute")
    # Clients ask y = x * version for x = 1, on every row.
    assert total == pytest.approx(compared * (version - before))
    assert counted(gateway, "gateway_shadow_disagreements_total", version=version) == 0
    for which in (before, version):
        assert counted(gateway, "gateway_shadow_duration_seconds_count", version=which) == compared
    assert counted(gateway, "gateway_shadow_requests_total", version=version, outcome="failed") == 0
