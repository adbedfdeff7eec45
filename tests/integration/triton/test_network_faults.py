"""Networks that break between the deployer and MLflow, S3 and Triton, at each step where it speaks to one of them.

Each time: the deploy ends within its deadlines with an error that names the server, clients of Triton (which ask it directly)
notice nothing, and the next deploy of the same version works. Or it succeeds, where trying again is all that was needed.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest

from ml_code.triton_deploy.clients.triton import GrpcTriton
from ml_code.triton_deploy.deploy.deployer import Deployer
from ml_code.triton_deploy.deploy.request import DeployRequest
from ml_code.triton_deploy.errors import Unavailable
from ml_code.triton_deploy.repository import ModelFolder
from ml_code.triton_deploy.rules.deployment import State
from ml_code.triton_deploy.settings import Settings
from ml_code.triton_deploy.upkeep.reconcile import Reconciler
from stack import Stack
from tests.support.fakes import ones
from tests.support.models import external, files, golden, times
from tests.support.servers.clients import Client
from tests.support.servers.publisher import Publisher
from tests.support.servers.tcp_proxy import LOSE_ANSWERS, NONE, RESET, STALL, Fault, TcpProxy, proxy_to
from tests.support.servers.watched_deployer import Happens, watched_deployer
from tests.support.settings import changed

pytestmark = pytest.mark.integration

SHORT = {
    "mlflow__timeout_s": 1.0,
    "transfer__timeout_s": 2.0,
    "transfer__probe_timeout_s": 1.0,
    "triton__load_timeout_s": 4.0,
    "triton__ready_timeout_s": 1.5,
    "triton__switch_timeout_s": 1.5,
    "triton__infer_timeout_s": 1.5,
}
"""Deadlines of a deploy that has to run into one of them; every other one has the usual ones."""
ALL_DEADLINES_S = 25.0
"""More than any chain of those that one deploy and its rollback can run into, on a busy machine."""


@dataclass
class Net:
    """A model with a live version, and a proxy in front of each server that its deployer speaks to."""

    stack: Stack
    model: str
    settings: Settings
    publisher: Publisher
    proxies: Mapping[str, TcpProxy]
    live: int = 0
    published: int = 0

    def publish(self, *, direct: bool = False, padding_bytes: int = 0) -> int:
        """Register ``y = x * version``; return the version."""
        self.published += 1
        factor = float(self.published)
        model, weights = external("weights.bin", factor)
        artifact = {
            **files(times(factor), triton__golden_json=golden(factor)),
            **({"model.onnx": model, "weights.bin": weights + bytes(padding_bytes)} if padding_bytes else {}),
        }
        return self.publisher.publish(self.model, artifact, direct=direct)

    def deployer(self, happens: Happens = lambda moment: None, **deadlines_s: float) -> Deployer:
        return watched_deployer(changed(self.settings, **deadlines_s), self.model, happens)

    def sets(self, server: str, fault: Fault) -> Callable[[], None]:
        """Return what breaks a network."""
        return lambda: setattr(self.proxies[server], "fault", fault)

    def request(self) -> DeployRequest:
        return DeployRequest(model=self.model, alias="A", deploy_id=f"d-{uuid.uuid4().hex[:8]}")

    @property
    def folder(self) -> ModelFolder:
        return ModelFolder.at(self.settings.repository_root, self.model)

    @property
    def current(self) -> bytes:
        return (self.settings.repository_root / self.model / "current.json").read_bytes()

    def heals(self) -> None:
        """The networks work again, and gRPC has found out: after a refusal it waits for up to a second."""
        for proxy in self.proxies.values():
            proxy.fault = NONE
        deadline = time.monotonic() + 20
        while True:
            try:
                GrpcTriton(self.settings.triton.grpc_urls[0], 5).loaded()
                return
            except Unavailable:
                assert time.monotonic() < deadline, "Triton is not reached again"
                time.sleep(0.05)

    def client(self) -> Client:
        """Asks Triton itself, not through the proxy."""
        return Client(self.stack.url("triton-grpc"), self.model, per_second=100)

    @property
    def triton(self) -> GrpcTriton:
        """Triton itself, not through the proxy."""
        return GrpcTriton(self.stack.url("triton-grpc"), 20)

    def serves(self) -> tuple[int, float]:
        answer = self.triton.infer(self.model, ones(), 20)
        return answer.version, float(answer.outputs["y"][0, 0])

    def works(self) -> None:
        """What the alias names is deployed, with no fault, and becomes what is live."""
        record = self.deployer().deploy(self.request())
        assert record.state is State.COMMITTED
        self.is_live(record.version)

    def is_live(self, version: int) -> None:
        self.live = version
        assert self.serves() == (version, float(version))
        live = self.folder.releases.latest()
        assert live is not None
        assert live.active_version == version
        assert self.folder.releases.projected() == live

    def all_is_settled(self) -> None:
        """Whatever a Triton that was away missed is put right by one reconcile, long after; then nothing is left to do."""
        later = datetime.now(UTC) + timedelta(seconds=2 * self.settings.lease_s)
        reconciler = Reconciler(self.settings, clock=lambda: later)
        assert reconciler.run(self.model).problems == ()
        again = reconciler.run(self.model)
        assert (again.done, again.problems) == ((), ())


@pytest.fixture(scope="module")
def net(stack: Stack) -> Iterator[Net]:
    """Version 2 of a model serves, 1 is warm; the tests share it, since each leaves a version serving."""
    model = f"net-{uuid.uuid4().hex[:10]}"
    servers = {name: stack.url(name).removeprefix("http://") for name in ("mlflow", "s3", "triton-grpc")}
    with contextlib.ExitStack() as running:
        patch = running.enter_context(pytest.MonkeyPatch.context())
        for name, value in stack.environment.items():
            patch.setenv(name, value)
        proxies = {name: running.enter_context(proxy_to(address)) for name, address in servers.items()}
        settings = changed(
            Settings.from_env(os.environ),
            mlflow__tracking_uri=f"http://{proxies['mlflow'].address}",
            transfer__s3_endpoint_url=f"http://{proxies['s3'].address}",
            triton__grpc_urls=(proxies["triton-grpc"].address,),
            mlflow__alias_wait_s=0.0,
        )
        net = Net(stack, model, settings, Publisher(stack.environment), proxies)
        for _ in range(2):
            net.publish()
            net.works()
        yield net


@pytest.fixture(autouse=True)
def no_fault_at_the_end(net: Net) -> Iterator[None]:
    yield
    net.heals()


@contextlib.contextmanager
def within_the_deadlines() -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < ALL_DEADLINES_S


def breaks_at(moment: str, breaks: Callable[[], None]) -> Happens:
    """Call ``breaks`` the first time that a deploy comes to a moment."""
    left = [moment]

    def happens(now: str) -> None:
        if now in left:
            left.remove(now)
            breaks()

    return happens


def fails(
    net: Net, server: str, moment: str, breaks: Callable[[], None], *words: str, **deadlines_s: float
) -> tuple[int, ...]:
    """Deploy the next version while a network breaks; assert how it ends; return the versions that clients saw."""
    proxy, live, current = net.proxies[server], net.live, net.current
    request = net.request()
    with net.client() as client:
        with within_the_deadlines(), pytest.raises(Unavailable) as failure:
            net.deployer(breaks_at(moment, breaks), **deadlines_s).deploy(request)
        assert proxy.address in failure.value.message
        for word in words:
            assert word in str(failure.value)
        net.heals()
        # As Airflow repeats its rollback: the deploy's own may have needed the Triton that was away.
        record = net.deployer().rollback(net.model, request.deploy_id)
        assert record is None or record.state is State.ROLLED_BACK
        if record is not None and record.unanswered and net.serves()[0] != live:
            # The flip that was held back has arrived after the rollback had looked: the next reconcile sees to it.
            Reconciler(net.settings).run(net.model)
        net.is_live(live)
        assert net.current == current
        seen = client.seen()
    assert seen.failures == ()
    assert all(factor == version for version, factor in seen.answers)
    return tuple(version for version, _ in seen.distinct)


# MLflow and S3


FAULTS = {
    "resets": RESET,
    "stalls": STALL,
    "truncates the answer's head": Fault(truncate_after=40),
    "truncates the answer's body": Fault(truncate_after=300),
}
SAMPLE = {
    ("mlflow", "snapshot", "resets"),
    ("mlflow", "materialize", "truncates the answer's head"),
    ("s3", "materialize", "stalls"),
    ("s3", "materialize", "truncates the answer's body"),
}
"""What `make test` tries; `make soak` tries all."""


@pytest.mark.parametrize(
    ("server", "step", "fault"),
    [
        pytest.param(*case, marks=() if case in SAMPLE else pytest.mark.soak)
        for case in product(("mlflow", "s3"), ("snapshot", "materialize"), FAULTS)
    ],
)
def test_a_broken_network_to_where_models_come_from(net: Net, server: str, step: str, fault: str) -> None:
    net.publish(direct=server == "s3")
    name, breaks = {"mlflow": "MLflow", "s3": "S3"}[server], net.sets(server, FAULTS[fault])
    assert fails(net, server, step, breaks, name, "deploy again", **SHORT) == (net.live,)
    net.works()


@pytest.mark.parametrize("step", ["snapshot", "materialize"])
@pytest.mark.parametrize("server", ["mlflow", "s3"])
def test_a_network_that_breaks_once_is_tried_again(net: Net, server: str, step: str) -> None:
    version, proxy = net.publish(direct=server == "s3"), net.proxies[server]
    breaks = net.sets(server, Fault(truncate_after=60, once=True))
    record = net.deployer(breaks_at(step, breaks)).deploy(net.request())
    assert proxy.fault == NONE, "it broke"
    assert record.state is State.COMMITTED
    net.is_live(version)


def test_a_transfer_that_breaks_once_goes_on(net: Net) -> None:
    version, proxy = net.publish(direct=True, padding_bytes=150_000), net.proxies["s3"]
    breaks = net.sets("s3", Fault(truncate_after=20_000, once=True))
    record = net.deployer(breaks_at("materialize", breaks)).deploy(net.request())
    assert proxy.fault == NONE, "it broke"
    assert record.state is State.COMMITTED
    net.is_live(version)


def test_a_slow_network_is_not_a_broken_one(net: Net) -> None:
    """The artifact takes longer than the longest silence that is allowed."""
    version = net.publish(direct=True, padding_bytes=150_000)
    for proxy in net.proxies.values():
        proxy.fault = Fault(bytes_per_s=50_000)
    started = time.monotonic()
    record = net.deployer(transfer__timeout_s=SHORT["transfer__timeout_s"]).deploy(net.request())
    assert time.monotonic() - started > SHORT["transfer__timeout_s"]
    assert record.state is State.COMMITTED
    net.is_live(version)


# Triton


BEFORE_THE_FLIP = {
    "before the load": "load: unload engine",
    "at the load": "load: load engine",
    "at ready": "ready: look",
    "at smoke": "smoke: ask engine",
    "before the flip": "commit: look",
}


@pytest.mark.parametrize(
    ("moment", "fault"),
    [
        pytest.param(moment, fault, id=f"{moment}-{name}", marks=() if sampled else pytest.mark.soak)
        for number, moment in enumerate(BEFORE_THE_FLIP)
        for name, fault, sampled in (("resets", RESET, number % 2), ("stalls", STALL, not number % 4))
    ],
)
def test_a_broken_network_to_triton_before_the_flip(net: Net, moment: str, fault: Fault) -> None:
    net.publish()
    breaks = net.sets("triton-grpc", fault)
    deadlines_s = SHORT if fault.stall else {}
    assert fails(net, "triton-grpc", BEFORE_THE_FLIP[moment], breaks, "Triton", **deadlines_s) == (net.live,)
    net.all_is_settled()
    net.works()


@pytest.mark.parametrize(
    ("moment", "fault"),
    [
        pytest.param("commit: load public", RESET, id="flip-resets"),
        pytest.param("commit: load public", STALL, id="flip-stalls", marks=pytest.mark.soak),
        pytest.param("commit: ask public", RESET, id="check-resets", marks=pytest.mark.soak),
        pytest.param("commit: ask public", STALL, id="check-stalls"),
    ],
)
def test_a_broken_network_to_triton_at_the_flip(net: Net, moment: str, fault: Fault) -> None:
    new = net.publish()
    breaks, deadlines_s = net.sets("triton-grpc", fault), SHORT if fault.stall else {}
    seen = fails(net, "triton-grpc", moment, breaks, "Triton", **deadlines_s)
    # At the check clients have the candidate already; a flip that was held back Triton may do or not, when it arrives.
    assert seen in ((net.live,), (net.live, new, net.live))
    net.all_is_settled()
    net.works()


def loses_the_answer(net: Net, done: Callable[[], bool], then: Fault) -> Callable[[], None]:
    """Return what breaks the network so that a call goes through and its answer does not, then resets connections."""
    proxy = net.proxies["triton-grpc"]

    def cut_when_done() -> None:
        deadline = time.monotonic() + 20
        while not done():
            assert time.monotonic() < deadline, "the call had no effect"
            time.sleep(0.01)
        proxy.fault = then
        proxy.cut()

    def breaks() -> None:
        proxy.fault = LOSE_ANSWERS
        threading.Thread(target=cut_when_done, daemon=True).start()

    return breaks


def test_a_load_that_gets_lost_with_its_connection_makes_nobody_a_suspect(net: Net) -> None:
    """The network is back at once, and Triton was never told to load: its process is the same all the same."""
    proxy = net.proxies["triton-grpc"]
    net.publish()

    def loses_the_load() -> None:
        proxy.fault = STALL

        def cut() -> None:
            time.sleep(0.3)
            proxy.cut()
            proxy.fault = NONE

        threading.Thread(target=cut, daemon=True).start()

    assert fails(net, "triton-grpc", "load: load engine", loses_the_load, "Triton") == (net.live,)
    net.works()


def test_the_answer_to_the_load_is_lost(net: Net) -> None:
    engine = f"{net.model}.v{net.publish()}"
    breaks = loses_the_answer(net, lambda: bool(net.triton.ready_versions(engine)), RESET)
    assert fails(net, "triton-grpc", "load: load engine", breaks, "Triton") == (net.live,)
    net.all_is_settled()
    assert not net.triton.ready_versions(engine), "what the load brought all the same is taken out again"
    net.works()


@pytest.mark.parametrize(
    "then",
    [
        pytest.param(NONE, id="once"),
        pytest.param(RESET, id="and the network stays away", marks=pytest.mark.soak),
    ],
)
def test_the_answer_to_the_flip_is_lost(net: Net, then: Fault) -> None:
    new = net.publish()
    breaks = loses_the_answer(net, lambda: net.triton.ready_versions(net.model) == (new,), then)
    assert fails(net, "triton-grpc", "commit: load public", breaks, "Triton") == (net.live, new, net.live)
    net.all_is_settled()
    net.works()


def test_a_commit_whose_flip_lost_its_answer_goes_through_when_it_is_repeated(net: Net) -> None:
    """As Airflow repeats a task: nobody has rolled the deployment back in between."""
    live, new, request = net.live, net.publish(), net.request()
    breaks = loses_the_answer(net, lambda: net.triton.ready_versions(net.model) == (new,), RESET)
    deployer = net.deployer(breaks_at("commit: load public", breaks))
    with net.client() as client:
        deployer.snapshot(request)
        for step in ("materialize", "load", "ready", "smoke"):
            getattr(deployer, step)(net.model, request.deploy_id)
        with pytest.raises(Unavailable):
            deployer.commit(net.model, request.deploy_id)
        net.heals()
        assert net.deployer().commit(net.model, request.deploy_id).state is State.COMMITTED
        seen = client.seen()
    assert seen.failures == ()
    assert [version for version, _ in seen.distinct] == [live, new]
    net.is_live(new)
    net.all_is_settled()


def test_a_triton_that_is_lost_after_the_decision_does_not_undo_it(net: Net) -> None:
    new = net.publish()
    with net.client() as client:
        record = net.deployer(breaks_at("commit: unload engine", net.sets("triton-grpc", RESET))).deploy(
            net.request()
        )
        assert record.state is State.COMMITTED
        net.heals()
        net.is_live(new)
        seen = client.seen()
    assert seen.failures == ()
    net.all_is_settled()
    net.publish()
    net.works()
