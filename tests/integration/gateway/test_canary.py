"""Canaries and shadows on real Tritons behind a real gateway, judged by a real Prometheus, with clients that never stop asking."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
import requests

from ml_code.triton_deploy.clients.triton import tritons_of
from ml_code.triton_deploy.deploy.canary_control import CanaryControl
from ml_code.triton_deploy.deploy.deployer import Deployer
from ml_code.triton_deploy.deploy.request import DeployRequest
from ml_code.triton_deploy.errors import AnswersDiffer, EndedTriton, VerificationFailed
from ml_code.triton_deploy.repository import ModelFolder
from ml_code.triton_deploy.rules.canary import TESTERS_HEADER, Decision, canary_of
from ml_code.triton_deploy.rules.canary_course import CanaryVerdict
from ml_code.triton_deploy.rules.canary_evidence import Watched, nobody
from ml_code.triton_deploy.rules.deployment import Canary, State
from ml_code.triton_deploy.rules.names import engine_name
from ml_code.triton_deploy.watch.canary_judge import CanaryJudge
from stack import Stack
from tests.support.models import picky, slow
from tests.support.servers.gateways import Gateway, Releases, Traffic
from tests.support.servers.prometheus_server import Prometheus
from tests.support.settings import changed
from tests.support.waiting import eventually
from tests.support.world import SETTINGS

pytestmark = pytest.mark.integration

STEP_S = 4.0
INFER = "/v2/models/best_model/infer"
V2 = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 1]}]}


@pytest.fixture(scope="module")
def second_gateway(releases: Releases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway(tmp_path_factory.mktemp("second-gateway") / "log", releases.environment) as running:
        yield running


@pytest.fixture(scope="module")
def prometheus(
    gateway: Gateway, second_gateway: Gateway, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    targets = {"gateway": [gateway.address, second_gateway.address]}
    with Prometheus(tmp_path_factory.mktemp("prometheus"), targets) as running:
        yield running


class Canaries:
    """Deploys with a canary whose steps are short."""

    def __init__(
        self, releases: Releases, prometheus: Prometheus | None = None, gateways: tuple[Gateway, ...] = ()
    ) -> None:
        self._releases = releases
        self._judge = None if prometheus else nobody
        self.settings = changed(
            releases.settings,
            canary__interval_s=1,
            canary__silence_s=15,
            bake__prometheus_url=prometheus.url if prometheus else "",
            canary__gateway_urls=tuple(f"http://{one.address}" for one in gateways),
            bake__min_requests=10,
            # How fast two versions are on a machine with other work to do says nothing here.
            bake__max_latency_ratio=0,
        )

    @property
    def deployer(self) -> Deployer:
        own = self._releases.deployer
        return Deployer(
            self.settings, registry=own._via.registry(), stores=own._via.stores, judge=self._judge
        )

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
        absent = {"version": version, "outcome": "absent"}
        eventually(
            lambda: counted(gateway, "gateway_canary_failures_total", **absent) > 0,
            "the gateway knows that the candidate is gone",
        )
        reached = given_to(gateway, version)
        traffic.ask_more(60)
        assert given_to(gateway, version) == reached, "it gets nothing more, though its share is in force"
        assert share(gateway) == (50, 0)
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


def test_a_candidate_that_no_prometheus_sees_is_stopped_by_what_the_gateways_count(
    gateway: Gateway, second_gateway: Gateway, releases: Releases
) -> None:
    """Before: it was committed, and every request failed from then on."""
    canaries = Canaries(releases, gateways=(gateway, second_gateway))
    before = releases.live
    _, request = releases.request(steps("50", step_s=60), picky)
    with (
        Traffic(gateway.address, releases.model, per_second=30) as traffic,
        pytest.raises(VerificationFailed, match="the gateways themselves counted"),
    ):
        canaries.deployer.deploy(request)
    traffic.assert_unnoticed()
    assert releases.live == before


def test_a_shadow_that_answers_otherwise_is_stopped_and_answers_nobody(
    gateway: Gateway, releases: Releases, prometheus: Prometheus
) -> None:
    """Before: passed and committed, whatever it answered."""
    canaries = Canaries(releases, prometheus)
    before = releases.live
    _, request = releases.request(steps("25", shadow=100, step_s=60))
    with (
        Traffic(gateway.address, releases.model, per_second=60) as traffic,
        pytest.raises(AnswersDiffer, match=r"output y: \d+ of \d+ answers differ \(100.0%\)") as told,
    ):
        canaries.deployer.deploy(request)
    print(told.value)
    traffic.assert_unnoticed()
    assert traffic.seen.versions == {before}
    failure = canaries.folder().journal.get(request.deploy_id).failure
    assert failure is not None
    assert not failure.blames_artifact


def test_testers_have_a_candidate_before_any_client_and_a_person_lets_it_go_on(
    gateway: Gateway, releases: Releases
) -> None:
    canaries = Canaries(releases)
    before = releases.live
    version, request = releases.request(steps("pause", step_s=1))
    deployer = canaries.until_canary(request)
    control = CanaryControl(canaries.settings, releases.model)
    canary = control.under_way().canary
    assert canary is not None

    def answered_by(key: str) -> str:
        return gateway.post(INFER, json=V2, headers={TESTERS_HEADER: key}).headers["X-Model-Version"]

    eventually(lambda: answered_by(canary.key) == str(version), "a tester has the candidate")
    assert {answered_by(key) for key in ("", "a guess", request.deploy_id)} == {str(before)}
    with Traffic(gateway.address, releases.model) as traffic:
        traffic.ask_more(20)
        time.sleep(1)
        assert deployer.look_at_canary(releases.model, request.deploy_id) is not None
        control.decide(Decision.PROMOTE, by="a person")
        assert deployer.look_at_canary(releases.model, request.deploy_id) is None
        deployer.commit(releases.model, request.deploy_id)
    traffic.assert_unnoticed()
    assert releases.live == version


class EndsItsTriton:
    """Kills a Triton that has, or had, a request of one version; runs while the block does.

    Args:
        stacks: the Tritons.
        engine: the version's engine.
    """

    def __init__(self, stacks: list[Stack], engine: str) -> None:
        self._stacks, self._engine = stacks, engine
        self.killed: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        # What the smoke test asked is not counted.
        self._before = {(stack, stack.pid("triton")): self._had(stack)[0] for stack in self._stacks}
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            for stack in self._stacks:
                with suppress(requests.RequestException, ProcessLookupError):
                    had, pending = self._had(stack)
                    if pending or had > self._before.get((stack, stack.pid("triton")), 0):
                        stack.kill("triton")
                        self.killed.append(stack.url("triton-grpc"))

    def _had(self, stack: Stack) -> tuple[float, float]:
        """Requests of the version that have ended, and those that have not."""
        with requests.Session() as session:
            session.trust_env = False
            text = session.get(f"{stack.url('triton-metrics')}/metrics", timeout=5).text
        sums = []
        for name in ("nv_inference_request_success", "nv_inference_pending_request_count"):
            found = re.findall(
                rf'^{name}{{[^}}]*model="{re.escape(self._engine)}"[^}}]*}} (\S+)$', text, re.M
            )
            sums.append(sum(map(float, found)))
        return sums[0], sums[1]


@pytest.mark.parametrize(
    "mirrored", [False, pytest.param(True, marks=pytest.mark.soak)], ids=["canary", "shadow"]
)
def test_a_candidate_that_ends_its_triton_is_stopped_and_costs_one_start(
    gateway: Gateway, second_gateway: Gateway, releases: Releases, prometheus: Prometheus, *, mirrored: bool
) -> None:
    canaries = Canaries(releases, prometheus)
    before = releases.live
    asked_for = steps("", shadow=20, step_s=120) if mirrored else steps("20,50", step_s=120)
    version, request = releases.request(asked_for, slow)
    gateways = (gateway, second_gateway)
    counter = "gateway_shadow_requests_total" if mirrored else "gateway_canary_failures_total"

    def ended() -> float:
        return sum(counted(one, counter, version=version, outcome="ended") for one in gateways)

    deployer = canaries.deployer
    deployer.snapshot(request)
    for step in (deployer.materialize, deployer.load, deployer.ready, deployer.smoke):
        step(request.model, request.deploy_id)
    with (
        Traffic(gateway.address, releases.model, per_second=30) as traffic,
        Traffic(second_gateway.address, releases.model, per_second=30) as others,
        EndsItsTriton(releases.stacks, engine_name(releases.model, version)) as ending,
    ):
        with pytest.raises(EndedTriton) as told:
            deployer.canary(request.model, request.deploy_id)
        for stack in releases.stacks:
            stack.wait_ready("triton")
        traffic.ask_more(60)
        others.ask_more(60)
        deployer.rollback(request.model, request.deploy_id)
        traffic.ask_more(60)
    for clients in (traffic, others):
        clients.assert_unnoticed()
        # Who kills may come too late for a request, and in time for the next.
        assert clients.seen.versions <= {before, version}
    record = canaries.folder().journal.get(request.deploy_id)
    assert record.canary is not None
    assert ending.killed == [record.canary.triton], "one start of the one Triton that the record names"
    assert record.canary.triton in str(told.value)
    assert ended() >= 1
    assert record.state is State.ROLLED_BACK
    assert releases.live == before


class Exporter:
    """Answers a Prometheus with a text; runs while the block does."""

    def __init__(self) -> None:
        exporter = self
        self.text = ""

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                # Another job asks for what the deployments' records say.
                body = exporter.text.encode() if self.path == "/metrics" else b""
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def set(self, **counts: int) -> None:
        """Say how often connections ended: ``canary2=1`` of version 2 in a canary, ``shadow2=1`` in a shadow."""
        names = {"canary": "gateway_canary_failures_total", "shadow": "gateway_shadow_requests_total"}
        self.text = "".join(
            f'{names[name[:-1]]}{{model="m",version="{name[-1]}",outcome="ended"}} {count}\n'
            for name, count in counts.items()
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def test_one_end_is_seen_however_its_counter_begins_and_an_old_one_is_not(tmp_path: Path) -> None:
    with Exporter() as gateway_like:
        gateway_like.set(canary1=1, canary2=0)
        with Prometheus(tmp_path / "prometheus", {"gateway": [gateway_like.address]}) as running:

            def seen(counter: str, version: int) -> float | None:
                return running.value(f'{counter}{{model="m", version="{version}", outcome="ended"}}')

            eventually(lambda: seen("gateway_canary_failures_total", 1) == 1, "an end of long ago")
            time.sleep(6)
            gateway_like.set(canary1=1, canary2=1, canary3=1, shadow4=1, shadow5=0)
            eventually(lambda: seen("gateway_shadow_requests_total", 4) == 1, "the ends of now")
            # That gateway is started again, and counts from 0.
            gateway_like.set(canary1=1, canary2=1, canary3=1, shadow4=0, shadow5=0)
            eventually(lambda: seen("gateway_shadow_requests_total", 4) == 0, "the start")
            judge = CanaryJudge.of(changed(SETTINGS, bake__prometheus_url=running.url))
            verdicts = {
                version: judge(Watched("m", version, 9, False, 1, 5)).verdict for version in range(1, 7)
            }
    ended = {version for version, verdict in verdicts.items() if verdict is CanaryVerdict.ENDED}
    assert ended == {2, 3, 4}, verdicts


def test_a_shadow_is_compared_with_live_and_answers_nobody(gateway: Gateway, releases: Releases) -> None:
    canaries = Canaries(releases)
    before = releases.live
    version, request = releases.request(steps("", shadow=100, step_s=600))
    deployer = canaries.until_canary(request)
    eventually(lambda: share(gateway) == (0, 100), "the gateway knows the share")
    mirrored = {"version": version, "outcome": "ok"}
    earlier = counted(gateway, "gateway_shadow_duration_seconds_count", version=before)
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
    for which, others in ((before, earlier), (version, 0)):
        assert counted(gateway, "gateway_shadow_duration_seconds_count", version=which) == compared + others
    assert counted(gateway, "gateway_shadow_requests_total", version=version, outcome="failed") == 0
