"""Real Tritons with the backend that a candidate can end, a staging Triton if wanted, a real gateway, and a model with a live version."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ml_code.triton_deploy.clients.registry import RegisteredVersion
from ml_code.triton_deploy.clients.triton import GrpcTriton
from ml_code.triton_deploy.deploy.deployer import Deployer
from ml_code.triton_deploy.deploy.request import DeployRequest
from ml_code.triton_deploy.errors import DeployError
from ml_code.triton_deploy.repository import ModelFolder
from ml_code.triton_deploy.rules.deployment import Canary, Deployment
from ml_code.triton_deploy.settings import Settings
from ml_code.triton_deploy.upkeep.reconcile import Reconciled, Reconciler
from stack import Stack
from stack.services.tritons import STAGING
from tests.support.fakes import FakeRegistry, fake_store, ones
from tests.support.servers.crashed_triton import CALM, HANGS_WHILE, REACHED, end_server
from tests.support.servers.deploying_child import Job
from tests.support.servers.gateways import Gateway
from tests.support.servers.hurtful_candidates import Artifact, checkout_with_ending_backend, good
from tests.support.servers.prometheus_server import Prometheus
from tests.support.servers.steady_clients import SteadyClients
from tests.support.settings import changed
from tests.support.waiting import eventually
from tests.support.world import SETTINGS

MODEL = "best_model"
LATER = timedelta(hours=3)
"""Beyond every lease."""
DEADLINES: Mapping[str, Any] = {
    "triton__load_timeout_s": 5.0,
    "triton__ready_timeout_s": 5.0,
    "triton__switch_timeout_s": 5.0,
    "triton__infer_timeout_s": 3.0,
    "triton__staging_wait_s": 20.0,
    "smoke__latency_limit_s": 2.0,
    "canary__interval_s": 1.0,
    "canary__silence_s": 15.0,
    "bake__min_requests": 10,
    "bake__max_latency_ratio": 0.0,
}
"""A user's are longer; a cell that waits for one ends within seconds."""


@dataclass(frozen=True)
class Ended:
    """How one deploy of a candidate ended.

    Attributes:
        how: state of its record, or the kind of the error that it raised; ``killed`` where its process was.
        text: of that error.
        took_s: from its start to its end.
    """

    how: str
    text: str
    took_s: float


class Fleet:
    """Serving Tritons on one repository, with gateway and staging Triton; they run for the time of the block.

    Args:
        folder: for all of their files; empty.
        tritons: how many serve.
        staging: whether there is a staging Triton besides.
    """

    def __init__(self, folder: Path, tritons: int, *, staging: bool) -> None:
        self._folder = folder
        self._running = ExitStack()
        self._held, self._reached, self._calm = (folder / f"hangs{end}" for end in ("", REACHED, CALM))
        self._checkout = checkout_with_ending_backend(folder / "checkout")
        self.repository = folder / "model-repo"
        self.serving = [self._stack(f"triton-{number}", "triton") for number in range(tritons)]
        self.staging = self._stack("staging", STAGING) if staging else None
        self.settings: Settings = changed(
            SETTINGS,
            repository=self.repository,
            triton__grpc_urls=tuple(stack.url("triton-grpc") for stack in self.serving),
            triton__staging_grpc_url=self.staging.url(f"{STAGING}-grpc") if self.staging else "",
            # As in production: clients meet a candidate on one Triton for this time.
            triton__settle_s=Settings.triton.settle_s,
            **DEADLINES,
        )
        self.model = MODEL
        self._registry = FakeRegistry()
        self._versions = itertools.count(1)
        self._ids = (f"d{number:04d}" for number in itertools.count(1))

    def _stack(self, name: str, service: str) -> Stack:
        return Stack(
            self._folder / name,
            [service],
            model_repository=self.repository,
            repo=self._checkout,
            environment={HANGS_WHILE: str(self._held)},
        )

    def __enter__(self) -> Self:
        with ExitStack() as starting:
            self._store = starting.enter_context(fake_store())
            for _, stack in self._tritons:
                starting.enter_context(stack)
            self.deploy_good()
            self._start_gateway()
            starting.callback(self._stop_gateway)
            self._running = starting.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.let_go()
        self._running.close()

    @property
    def _tritons(self) -> list[tuple[str, Stack]]:
        """The name of its process, and each Triton: those that serve, then the staging one."""
        return [("triton", stack) for stack in self.serving] + (
            [(STAGING, self.staging)] if self.staging else []
        )

    def _start_gateway(self) -> None:
        self.gateway = self._gateway("gateway")
        self.gateway.__enter__()

    def _stop_gateway(self) -> None:
        self.gateway.stop()

    def _gateway(self, name: str) -> Gateway:
        urls = (stack.url("triton").removeprefix("http://") for stack in self.serving)
        return Gateway(
            self._folder / f"{name}.log",
            {
                "TRITON_DEPLOY_REPOSITORY": str(self.repository),
                "GATEWAY_TRITON_URLS": ",".join(urls),
                "GATEWAY_MODEL": self.model,
                "GATEWAY_POLL_INTERVAL_S": "0.1",
                "GATEWAY_ACCESS_LOG": "errors",
            },
        )

    # Deploys

    def publish(self, make: Callable[[int], Artifact], version: int | None = None) -> int:
        """Register the next version and point the alias at it; return it.

        Args:
            make: makes its files, given the version.
            version: given in place of it: the same bytes once more.
        """
        new = next(self._versions)
        uri = f"fake://{self.model}/{new}"
        self._store.objects.update({f"{uri}/{path}": data for path, data in make(version or new).items()})
        self._registry.models.setdefault(self.model, {})["A"] = RegisteredVersion(
            version=new, run_id=f"run{new}", artifact_uris=(uri,), expected_digest=""
        )
        return new

    def request(self, canary: Canary | None = None) -> DeployRequest:
        """Return the request for a deploy of the alias's version."""
        return DeployRequest(model=self.model, alias="A", deploy_id=next(self._ids), canary=canary)

    def deploy(self, request: DeployRequest, **changes: Any) -> Ended:
        """Deploy once, as the command line does.

        Args:
            request: the request.
            changes: of the settings.
        """
        began = time.monotonic()
        deployer = Deployer(
            changed(self.settings, **changes), registry=self._registry, stores=lambda uri: self._store
        )
        try:
            how, text = str(deployer.deploy(request).state), ""
        except DeployError as error:
            how, text = error.kind, str(error)
        return Ended(how, text, time.monotonic() - began)

    def deploy_and_kill(self, request: DeployRequest) -> Ended:
        """Deploy what is marked ``load_later`` in a process that is killed in the middle of the load; then the load goes on."""
        began = time.monotonic()
        child = Job(self.settings, self._registry, self._store, request).start()
        try:
            eventually(lambda: self.somebody_hangs() or child.poll() is not None, "it loads", 60)
            assert child.poll() is None, "the deploy ended before the load"
        finally:
            child.kill()
            child.wait()
        self.let_go()
        return Ended("killed", "", time.monotonic() - began)

    def deploy_good(self) -> int:
        """Make the next version live, a good one; return it."""
        version = self.publish(good)
        ended = self.deploy(self.request())
        if self.staging and ended.how == "unavailable" and "restart" in ended.text.lower():
            # Something is stuck in it, and this is what the deploy says to do.
            self.staging.restart(STAGING)
            self.await_staging()
            ended = self.deploy(self.request())
        assert ended.how == "committed", ended
        return version

    # What is there

    @property
    def folder(self) -> ModelFolder:
        """The model's folder in the repository."""
        return ModelFolder.at(self.repository, self.model)

    @property
    def live(self) -> int:
        """The version of the last release."""
        release = self.folder.releases.latest()
        assert release is not None
        return release.active_version

    def record(self, request: DeployRequest) -> Deployment | None:
        """Return the record of a deploy, if it has one."""
        return self.folder.journal.find(request.deploy_id)

    def quarantined(self) -> dict[str, Mapping[str, Any]]:
        """Why each version in quarantine is there, by the name of its directory."""
        return {path.name: failure for path, failure in self.folder.quarantine.failures()}

    def starts(self) -> tuple[int, ...]:
        """How often the supervisor of each Triton has started it: those that serve, then the staging one."""
        return tuple(
            stack.log_path("supervisord").read_text().count(f"spawned: '{name}' ")
            for name, stack in self._tritons
        )

    def answers(self) -> list[int | None]:
        """The version with which each serving Triton answers the public name, None where it does not."""
        return [_answer(stack.url("triton-grpc"), self.model) for stack in self.serving]

    # What happens to it

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Models that are marked to hang do so for the length of the block, and go on after it."""
        self._reached.unlink(missing_ok=True)
        self._held.touch()
        try:
            yield
        finally:
            self.let_go()

    def somebody_hangs(self) -> bool:
        """Whether something that is marked to hang does so."""
        return self._reached.exists()

    def let_go(self) -> None:
        """Let hanging models go on."""
        self._held.unlink(missing_ok=True)

    def end_one(self) -> None:
        """End the first Triton that serves, as a crash in it does."""
        end_server(self.serving[0].pid("triton"))

    def await_serving(self, version: int, limit_s: float) -> float | None:
        """Wait until every serving Triton answers with a version; return how long that took, None when it did not come so far."""
        began = time.monotonic()
        while self.answers() != [version] * len(self.serving):
            if time.monotonic() - began > limit_s:
                return None
            time.sleep(0.1)
        return time.monotonic() - began

    def reconcile(self, later: timedelta = timedelta(0)) -> Reconciled:
        """Reconcile once, as if some time had passed."""
        return Reconciler(self.settings, clock=lambda: datetime.now(UTC) + later).run(self.model)

    def await_reconciled(self, limit_s: float) -> list[Stack]:
        """Reconcile again and again, until nothing is left to do; return the Tritons in which something is stuck, to be restarted."""
        deadline = time.monotonic() + limit_s
        while True:
            found = self.reconcile()
            if not found.done and not found.under_way and len(found.problems) == len(found.stuck):
                return [stack for stack in self.serving if any(map(_is_on(stack), found.stuck))]
            assert time.monotonic() < deadline, found
            time.sleep(0.2)

    def await_staging(self) -> None:
        """Wait until the staging Triton answers, if there is one: a deploy that finds it away says so, and the DAG tries it again."""
        if self.staging:
            self.staging.wait_ready(STAGING)
            # In this process gRPC waits for up to a second before it tries to reach a server again.
            eventually(lambda: _is_there(self.settings.triton.staging_grpc_url), "the staging Triton answers")

    def heal(self) -> None:
        """Put everything right by hand, after a cell that was not well: the next one begins with a good version that is live everywhere."""
        self.let_go()
        self._calm.touch()
        try:
            for name, stack in self._tritons:
                stack.restart(name)
            eventually(lambda: not self.reconcile(LATER).problems, "nothing is left to reconcile", 30)
            # The second one retires whatever was made live.
            for _ in range(2):
                self.deploy_good()
        finally:
            self._calm.unlink()
        # It remembers for a minute that two Tritons ended of one request.
        self._stop_gateway()
        self._start_gateway()

    # Who asks

    def clients(self, *more: Gateway) -> SteadyClients:
        """Clients of the live version, at this gateway and others."""
        addresses = [gateway.address for gateway in (self.gateway, *more)]
        for gateway in (self.gateway, *more):
            eventually(lambda gateway=gateway: gateway.info()["version"] == self.live, "the gateway knows")  # type: ignore[misc]
        return SteadyClients(addresses, self.model, self.live)

    @contextmanager
    def second_gateway(self) -> Iterator[tuple[Gateway, Prometheus]]:
        """Another gateway for the length of the block, and a Prometheus that asks both."""
        with self._gateway("second") as second:
            folder = self._folder / f"prometheus-{time.monotonic_ns()}"
            with Prometheus(folder, {"gateway": [self.gateway.address, second.address]}) as prometheus:
                yield second, prometheus


def _is_on(stack: Stack) -> Callable[[str], bool]:
    return lambda what: what.endswith(f" on {stack.url('triton-grpc')}")


def _is_there(url: str) -> bool:
    with suppress(DeployError):
        GrpcTriton(url, 2).loaded()
        return True
    return False


def _answer(url: str, model: str) -> int | None:
    with suppress(DeployError):
        return GrpcTriton(url, 2).infer(model, ones(), 2).version
    return None
