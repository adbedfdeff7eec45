"""The shipped alerts in a real Prometheus and Alertmanager: each fault is provoked, reported to a webhook, mended and reported so."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

import pytest
import yaml

from ml_code.triton_deploy.clients.triton import tritons_of
from ml_code.triton_deploy.deploy.deployer import Deployer
from ml_code.triton_deploy.deploy.request import DeployRequest
from ml_code.triton_deploy.model.model_config import switch_config, to_json
from ml_code.triton_deploy.report.mlflow_tags import MlflowTags
from ml_code.triton_deploy.repository import ModelFolder
from ml_code.triton_deploy.rules.bake_record import Bake, BakeVerdict
from ml_code.triton_deploy.rules.identity import Origin
from ml_code.triton_deploy.rules.names import engine_name
from ml_code.triton_deploy.rules.schema import Schema
from ml_code.triton_deploy.rules.standing import Registered
from ml_code.triton_deploy.upkeep.reconcile import Reconciler
from tests.support.fakes import fake_store
from tests.support.models import fails_above, slow
from tests.support.servers.gateways import Gateway, Releases
from tests.support.servers.prometheus_server import SHIPPED, Alertmanager, Prometheus, program
from tests.support.servers.v2_clients import asking
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration

ALERTS = [
    rule["alert"]
    for group in yaml.safe_load((SHIPPED / "rules/alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
SECONDS = {"5m": "10s", "1h": "20s", "6h": "60s"}
"""What the ranges of the shipped rules are here."""
SLOW = {"ModelIsSlow": ("> 0.5", "> 0.02")}
"""A tenth of a second is slow here: nobody wants to wait for models that need half of one."""
LIMIT_S = 90
A_DAY = timedelta(days=1)
AWAY = "127.0.0.1:1"
"""The staging Triton of these tests: it does not run."""


def test_every_rule_does_what_it_should() -> None:
    """promtool's tests, of the alerts that are too slow to provoke here as well."""
    tests = [str(path) for path in sorted((SHIPPED / "tests").glob("*.yml"))]
    done = subprocess.run(
        [str(program("promtool")), "test", "rules", *tests],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("promtool", ["check", "config", "prometheus.yml"]),
        ("amtool", ["check-config", "../alertmanager/alertmanager.yml"]),
    ],
)
def test_the_shipped_configuration_is_right(tool: str, arguments: list[str]) -> None:
    done = subprocess.run(
        [str(program(tool)), *arguments], check=False, capture_output=True, text=True, timeout=60, cwd=SHIPPED
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_requests_past_the_gateway_are_measured_by_tritons_metrics(
    releases: Releases, own_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    with fake_store() as store, ExitStack() as running:
        own = Releases(releases.root, store, releases.stacks, "asked_directly")
        for _ in range(2):
            own.deploy(partial(fails_above, 10))
        gateway = own_gateway()
        tritons = [stack.url("triton").removeprefix("http://") for stack in releases.stacks]
        metrics = [stack.url("triton-metrics").removeprefix("http://") for stack in releases.stacks]
        targets = {"triton": metrics, "gateway": [gateway.address]}
        prometheus = running.enter_context(Prometheus(tmp_path / "prometheus", targets, ranges={"5m": "15s"}))
        running.enter_context(asking(own.model, gateway.address))
        running.enter_context(asking(own.model, *tritons))

        def asked(series: str) -> float:
            value = prometheus.value(f'{series}{{model="{own.model}"}}')
            return -1.0 if value is None else value

        def half_of_it() -> bool:
            """The clients of the gateway ask as often as those of the Tritons, and each fails a twentieth."""
            shares = [
                asked("model:direct_requests:rate5m") / asked("model:triton_requests:rate5m"),
                asked("model:direct_failures:ratio5m") / 0.05,
            ]
            return (
                abs(shares[0] - 0.5) < 0.1 and abs(shares[1] - 1) < 0.5 and asked("model:failed:rate5m") > 1
            )

        eventually(half_of_it, "the direct requests and their failures are told from the gateway's", LIMIT_S)
        assert 0 < asked("model:triton_latency_seconds:p95_1m") < 1
        # After a swap Triton goes on counting under the version before; the quantile of the new one is NaN.
        found = prometheus.query(f'nv_inference_request_summary_us{{model="{own.model}", quantile="0.95"}}')
        assert "NaN" in {each["value"][1] for each in found}


class Webhook:
    """Takes what Alertmanager sends: by alert and model (or instance), whether it fires or is resolved."""

    def __init__(self) -> None:
        self.told: dict[tuple[str, str], str] = {}
        told = self.told

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                for alert in content["alerts"]:
                    labels = alert["labels"]
                    told[labels["alertname"], labels.get("model") or labels["instance"]] = alert["status"]
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=10)

    def await_all(self, expected: Mapping[tuple[str, str], str]) -> None:
        """Wait until every alert was told to be in a state."""

        def missing() -> dict[tuple[str, str], str]:
            return {key: state for key, state in expected.items() if self.told.get(key) != state}

        try:
            eventually(lambda: not missing(), "alerts are told", LIMIT_S)
        except AssertionError as error:
            raise AssertionError(f"not told: {missing()}; told: {self.told}") from error


@dataclass
class Watched:
    """Real Tritons and gateways, watched by the shipped rules with short times."""

    releases: Releases
    gateway: Gateway
    prometheus: Prometheus
    webhook: Webhook
    names: list[str] = field(default_factory=list)

    def model(self, name: str, running: ExitStack) -> Releases:
        """A model of its own."""
        store = running.enter_context(fake_store())
        return Releases(self.releases.root, store, self.releases.stacks, name)

    def reconcile(
        self, model: str, *, ago: timedelta = timedelta(), feedback: MlflowTags | None = None
    ) -> None:
        settings = self.releases.settings
        clock: Callable[[], datetime] = lambda: datetime.now(UTC) - ago  # noqa: E731
        Reconciler(settings, clock=clock, feedback=feedback).run_all([model])


@pytest.fixture
def watched(releases: Releases, own_gateway: Callable[..., Gateway], tmp_path: Path) -> Iterator[Watched]:
    gateway = own_gateway()
    metrics = [stack.url("triton-metrics").removeprefix("http://") for stack in releases.stacks]
    with ExitStack() as running:
        webhook = running.enter_context(Webhook())
        alertmanager = running.enter_context(Alertmanager(tmp_path / "alertmanager", webhook.url))
        targets = {
            "triton": metrics,
            "triton-staging": [AWAY],
            "gateway": [gateway.address],
            "alertmanager": [alertmanager.address],
        }
        prometheus = running.enter_context(
            Prometheus(
                tmp_path / "prometheus",
                targets,
                waits=dict.fromkeys(ALERTS, "3s"),
                ranges=SECONDS,
                limits=SLOW,
            )
        )
        yield Watched(releases, gateway, prometheus, webhook)


class MovedAlias:
    """A registry whose alias names a version that nobody deployed."""

    def versions(self, model: str) -> Mapping[int, Registered]:
        return {}

    def named(self, model: str, alias: str) -> Registered | None:
        return Registered(version=99, origin=Origin(run_id="run99"))

    def aliases(self, model: str) -> Mapping[str, int]:
        return {"A": 99}

    def set_tag(self, model: str, version: int, key: str, value: str) -> None:
        raise AssertionError("it has no version")

    def delete_tag(self, model: str, version: int, key: str) -> None:
        raise AssertionError("it has no version")


@pytest.mark.soak
def test_what_is_wrong_with_releases_is_told_and_that_it_was_mended(watched: Watched) -> None:
    with ExitStack() as running:
        model = partial(watched.model, running=running)
        failing, slowed = model("alert_fails"), model("alert_slow")
        failing.deploy(partial(fails_above, 10))
        slowed.deploy(slow)
        unloaded, swapped, broken = model("alert_unloaded"), model("alert_swapped"), model("alert_broken")
        for own in (unloaded, swapped, broken):
            own.deploy()
        swapped.deploy()
        first, second = tritons_of(watched.releases.settings)
        asked = [
            running.enter_context(asking(own.model, watched.gateway.address)) for own in (failing, swapped)
        ]
        # One at a time is slow enough.
        asked.append(running.enter_context(asking(slowed.model, watched.gateway.address, threads=1)))
        for clients in asked[:2]:
            clients.ask_more(40)

        broken.fail()
        second.unload(engine_name(unloaded.model, 1), 30)
        for triton in (first, second):
            triton.load(swapped.model, 30, switch_to(swapped, 1))
        expected = {
            ("ModelFailsRequests", failing.model): "firing",
            ("ModelIsSlow", slowed.model): "firing",
            ("ReleaseIsNotLoaded", unloaded.model): "firing",
            ("WrongVersionAnswers", swapped.model): "firing",
            ("QuarantineGrew", broken.model): "firing",
        }
        watched.webhook.await_all(expected)

        for clients in asked:
            clients.stop()
        for own in (unloaded, swapped):
            watched.reconcile(own.model)
        mended = {("ModelHasNoTraffic", failing.model): "firing", **dict.fromkeys(expected, "resolved")}
        watched.webhook.await_all(mended)
    assert watched.webhook.told.keys() >= expected.keys()


@pytest.mark.soak
def test_what_is_wrong_with_deploys_is_told_and_that_it_was_mended(watched: Watched) -> None:
    with ExitStack() as running:
        own = watched.model("alert_deploys", running)
        stuck, name = watched.model("alert_stuck", running), "alert_deploys"
        own.deploy()
        folder = ModelFolder.at(own.root, name)
        version = stuck._register(right=True)
        late = Deployer(
            stuck.settings,
            registry=stuck._registry,
            stores=lambda uri: stuck._store,
            clock=lambda: datetime.now(UTC) - A_DAY,
        )
        late.snapshot(DeployRequest(model=stuck.model, alias="A", deploy_id="stuck"))
        assert version == 1
        folder.bakes.add(bake_of(own, 1, BakeVerdict.FAILED))
        unjudged = watched.model("alert_unjudged", running)
        unjudged.deploy()
        ModelFolder.at(own.root, unjudged.model).bakes.add(bake_of(unjudged, 1, BakeVerdict.NO_DATA))
        watched.reconcile(name, ago=A_DAY, feedback=MlflowTags(own.settings, MovedAlias))
        expected = {
            ("DeployIsStuck", stuck.model): "firing",
            ("ReleaseFailedItsBake", name): "firing",
            ("VersionWasTakenBack", name): "firing",
            ("ReleaseHasNoVerdict", unjudged.model): "firing",
            ("ReconcileDoesNotRun", name): "firing",
            ("AliasNamesAnotherVersion", name): "firing",
        }
        watched.webhook.await_all(expected)

        late.rollback(stuck.model, "stuck")
        own.deploy()
        unjudged.deploy()
        folder.bakes.add(bake_of(own, 2, BakeVerdict.PASSED))
        watched.reconcile(name)
        watched.webhook.await_all(dict.fromkeys(expected, "resolved"))


@pytest.mark.soak
def test_servers_that_are_away_are_told_and_that_they_are_back(watched: Watched) -> None:
    name, stack = watched.releases.model, watched.releases.stacks[1]
    triton = stack.url("triton-metrics").removeprefix("http://")
    try:
        stack.stop_process("triton")
        watched.reconcile(name)
        watched.webhook.await_all({("TritonIsDown", triton): "firing", ("ReconcileFails", name): "firing"})
        watched.webhook.await_all({("TritonStagingDown", AWAY): "firing"})
        assert ("TritonIsDown", AWAY) not in watched.webhook.told, "no client misses it"
        # One word is enough for a Triton that is down.
        assert ("ReleaseIsNotLoaded", name) not in watched.webhook.told
    finally:
        stack.start_process("triton")
    watched.reconcile(name)
    watched.webhook.await_all({("TritonIsDown", triton): "resolved", ("ReconcileFails", name): "resolved"})

    gateway = watched.gateway
    gateway.stop()
    watched.webhook.await_all({("GatewayIsDown", gateway.address): "firing"})
    # It shows the records as well: that follows from it.
    assert ("DeployRecordsAreMissing", gateway.address) not in watched.webhook.told
    with gateway:
        watched.webhook.await_all({("GatewayIsDown", gateway.address): "resolved"})
        record = watched.releases.root / name / "deployments" / "unreadable" / "0001.json"
        record.parent.mkdir()
        record.write_text("{")
        try:
            watched.webhook.await_all({("DeployRecordsAreMissing", name): "firing"})
        finally:
            record.unlink()
            record.parent.rmdir()
        watched.webhook.await_all({("DeployRecordsAreMissing", name): "resolved"})


def switch_to(releases: Releases, version: int) -> str:
    """The configuration of a switch that somebody points at another version by hand."""
    manifest = ModelFolder.at(releases.root, releases.model).versions.require(version)
    return to_json(
        switch_config(releases.model, version, Schema.from_dict(manifest.schema), dict(manifest.options))
    )


def bake_of(releases: Releases, generation: int, verdict: BakeVerdict) -> Bake:
    now = datetime.now(UTC).isoformat()
    return Bake(
        model=releases.model,
        generation=generation,
        version=generation,
        deploy_id="d0000",
        verdict=verdict,
        reasons=("as the test wants it",),
        looks=1,
        judged=1,
        figures={},
        began_at_utc=now,
        ended_at_utc=now,
    )
