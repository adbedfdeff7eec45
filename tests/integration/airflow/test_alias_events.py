"""An alias that is moved in a real MLflow is live in a real Triton without a person, once for each move."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
import requests
import uvicorn
from starlette.types import Message, Receive, Scope, Send

from ml_code.alias_events import cli, receiver, signature
from ml_code.alias_events.airflow import Airflow
from ml_code.alias_events.moves import Move
from ml_code.alias_events.settings import EventSettings
from ml_code.triton_deploy.errors import BakeFailed
from ml_code.triton_deploy.repository import ModelFolder
from ml_code.triton_deploy.rules.bake_record import Bake, BakeVerdict
from ml_code.triton_deploy.settings import Settings
from ml_code.triton_deploy.upkeep.bake import Baking
from ml_code.triton_deploy.watch.policy import BakePolicy
from stack import Stack
from stack.servers import REPO
from tests.support.airflow.models import TASKS, Model, failed_at
from tests.support.airflow.runs import AirflowServer, Run
from tests.support.airflow.settings import BY_EVENT, WATCHED_MODEL
from tests.support.deliveries import event, signed
from tests.support.fake_airflow import takes_a_delivery_once
from tests.support.lazily import lazily
from tests.support.servers.gateways import free_port
from tests.support.servers.tcp_proxy import LOSE_ANSWERS, NONE, TcpProxy
from tests.support.waiting import await_value

mlflow = lazily("mlflow")

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]

LIVE_LIMIT_S = 400
"""On a machine that runs nothing else it takes ten seconds; a triggerer that died is back in forty."""
AT_ONCE = 16
OTHER_DAG = "revert_triton"
"""Its run ends at once: it has no param alias."""


class Followed(Model):
    """A model whose alias ``BY_EVENT`` is followed, with versions 1 and 2 that nobody has deployed."""

    def __init__(self, stack: Stack, name: str | None = None) -> None:
        super().__init__(stack)
        if name:
            self.name = name
            self.folder = ModelFolder.at(self.settings.repository_root, name)
        self.airflow = AirflowServer(stack)
        self.client_of_mlflow = mlflow().MlflowClient(stack.url("mlflow"))
        for _ in range(2):
            self.register(alias=None)

    def move(self, version: int) -> None:
        """Set the alias as a person's notebook does."""
        self.client_of_mlflow.set_registered_model_alias(self.name, BY_EVENT, str(version))

    def await_live(self, version: int) -> float:
        """Wait until a version is what clients get; return for how long, seconds."""
        began = time.monotonic()
        await_value(
            lambda: json.loads(self.current or b"{}").get("active_version") == version or None,
            f"version {version} of {self.name} to be live",
            LIVE_LIMIT_S,
            pause_s=0.05,
        )
        assert self.client_gets() == (version, float(version))
        return time.monotonic() - began

    def client_gets(self) -> tuple[int, float]:
        with self.client() as client:
            return client.seen().answers[-1]

    def releases(self) -> list[int]:
        """The versions that were made live, in order."""
        return [release.active_version for release in self.folder.releases.history()][::-1]

    def runs(self) -> list[Run]:
        """The runs of the deploy DAG that are about this model."""
        return [self.airflow.ended(run_id, LIVE_LIMIT_S) for run_id in self.airflow.runs_about(self.name)]

    def await_runs(self, count: int) -> list[Run]:
        """Wait until so many runs about this model have ended, and return them."""
        return await_value(
            lambda: runs if len(runs := self.runs()) == count else None, f"{count} runs", LIVE_LIMIT_S
        )


@pytest.fixture
def followed(stack_with_events: Stack) -> Followed:
    return Followed(stack_with_events)


@pytest.fixture
def settings(stack_with_events: Stack) -> EventSettings:
    username, password = stack_with_events.airflow_login
    return EventSettings(
        secret=(stack_with_events.events_secret,),
        url=stack_with_events.url("events"),
        airflow_url=stack_with_events.url("airflow"),
        # A machine that is busy with other tests is no Airflow that is away.
        airflow_timeout_s=120,
        airflow_username=username,
        airflow_password=password,
    )


@pytest.fixture
def without_receiver(stack_with_events: Stack) -> Iterator[None]:
    stack_with_events.stop_process("events")
    yield
    stack_with_events.start_process("events")


@contextmanager
def running_receiver(settings: EventSettings, stack: Stack) -> Iterator[list[dict[str, str]]]:
    """Run a receiver of one's own, registered in MLflow; yields its answers to deliveries that it does not ignore."""
    answers: list[dict[str, str]] = []
    app = receiver.create_app(settings, Settings.from_env(stack.environment))

    async def listened(scope: Scope, receive: Receive, send: Send) -> None:
        async def overheard(message: Message) -> None:
            if scope.get("path") == "/mlflow" and message.get("body"):
                content = json.loads(message["body"])
                if content.get("result") != "ignored":
                    answers.append(content)
            await send(message)

        await app(scope, receive, overheard)

    config = uvicorn.Config(listened, port=urlsplit(settings.url).port or 0, log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        ready = f"{settings.url}/health/ready"
        await_value(lambda: answers_well(ready) or None, "a receiver of its own", 60)
        yield answers
    finally:
        server.should_exit = True
        thread.join()
        client = mlflow().MlflowClient(stack.url("mlflow"))
        for hook in client.list_webhooks():
            if hook.url.startswith(settings.url):
                client.delete_webhook(hook.webhook_id)


def answers_well(url: str) -> bool:
    try:
        return requests.get(url, timeout=30).ok
    except requests.ConnectionError:
        return False


def test_an_alias_moved_with_mlflows_client_is_live_without_a_person_also_when_it_is_moved_back(
    followed: Followed,
) -> None:
    for version in (1, 2, 1):
        followed.move(version)
        print(f"moved to version {version}, live after {followed.await_live(version):.1f} s")
    assert followed.releases() == [1, 2, 1]
    assert [run.state for run in followed.runs()] == ["success"] * 3


@pytest.mark.soak
def test_a_version_that_a_bake_took_back_is_deployed_by_no_event_and_by_a_person_who_forces_it(
    followed: Followed,
) -> None:
    for version in (1, 2):
        followed.move(version)
        followed.await_live(version)
    followed.await_runs(2)
    with pytest.raises(BakeFailed, match="Version 1 is live again"):
        Baking(followed.settings, followed.name, BakePolicy.of(followed.settings)).conclude(
            bad_bake(followed)
        )
    followed.move(1)
    assert followed.await_runs(3)[-1].state == "success"
    followed.move(2)
    refused = followed.await_runs(4)[-1]
    assert refused.state == "failed"
    assert refused.tasks == failed_at("snapshot")
    said = followed.airflow.log(refused.run_id, TASKS["snapshot"])
    assert "failed its bake: as the test wants it" in said
    assert "use --force (the parameter force)" in said
    assert followed.client_gets() == (1, 1.0)
    forced = followed.airflow.deploy(model=followed.name, alias=BY_EVENT, force=True, bake_minutes=0)
    assert followed.airflow.ended(forced, LIVE_LIMIT_S).state == "success"
    assert followed.client_gets() == (2, 2.0)


def bad_bake(model: Model) -> Bake:
    """What a bake of what is live records that finds it bad."""
    live = model.folder.releases.latest()
    assert live is not None
    return Bake(
        model=model.name,
        generation=live.generation,
        version=live.active_version,
        deploy_id=live.deploy_id,
        verdict=BakeVerdict.FAILED,
        reasons=("as the test wants it",),
        looks=2,
        judged=2,
        figures={},
        began_at_utc=live.updated_at_utc,
        ended_at_utc=live.updated_at_utc,
    )


def test_a_thousand_duplicates_and_forgeries_are_one_deploy(
    stack_with_events: Stack, settings: EventSettings
) -> None:
    model = Followed(stack_with_events)
    # Before there is a receiver for it, so that all that is delivered is what is sent here.
    model.client_of_mlflow.set_registered_model_alias(model.name, "mine", "1")
    own = replace(settings, allow=(f"{model.name}@mine",), url=f"http://127.0.0.1:{free_port()}")
    secret, delivery_id = settings.secrets[0], str(uuid.uuid4())
    body = event(Move(model.name, "mine", "1"))
    right = signed(body, delivery_id, secret)
    another = signed(body, str(uuid.uuid4()), secret)
    forgeries = [
        ({}, body),
        (signed(body, str(uuid.uuid4()), "a secret that somebody guessed"), body),
        (signed(body, str(uuid.uuid4()), secret, at_s=time.time() - 3600), body),
        (right, event(Move(model.name, "mine", "2"))),
        (right | {signature.DELIVERY_ID: str(uuid.uuid4())}, body),
        (another | {signature.TIMESTAMP: str(int(time.time()) + 60)}, body),
    ]
    sent = [
        (right, body) if number % 2 else forgeries[number // 2 % len(forgeries)] for number in range(1000)
    ]

    def deliver(one: tuple[dict[str, str], bytes]) -> str:
        answer = requests.post(f"{own.url}/mlflow", data=one[1], headers=one[0], timeout=180)
        return (
            answer.text if answer.status_code == 503 else str(answer.json().get("result", answer.status_code))
        )

    with running_receiver(own, stack_with_events), ThreadPoolExecutor(AT_ONCE) as pool:
        assert Counter(pool.map(deliver, sent)) == {"triggered": 1, "duplicate": 499, "401": 500}
    with running_receiver(own, stack_with_events):
        assert deliver((right, body)) == "duplicate", "Airflow remembers what a new receiver can't know"
    assert model.airflow.runs_about(model.name) == [Move(model.name, "mine", "1").run_id(delivery_id)]
    model.await_live(1)
    assert model.releases() == [1]


@pytest.mark.soak
def test_the_triggerer_sees_moves_and_its_death_and_both_ways_at_once_deploy_nothing_twice(
    stack_with_events: Stack, request: pytest.FixtureRequest
) -> None:
    model = Followed(stack_with_events, WATCHED_MODEL)
    watching = AirflowServer(stack_with_events, f"deploy_on_alias.{WATCHED_MODEL}.{BY_EVENT}")

    def await_looks(count: int) -> None:
        """Wait until the triggerer has asked MLflow so often."""
        log = stack_with_events.log_path("mlflow")

        def looks() -> int:
            return log.read_text().count(f"registered-models/alias?name={WATCHED_MODEL}&alias={BY_EVENT}")

        wanted = looks() + count
        await_value(lambda: looks() >= wanted or None, "the triggerer to look", LIVE_LIMIT_S)

    await_looks(2)
    model.move(1)
    model.await_live(1)
    await_value(lambda: len(model.airflow.runs_about(model.name)) == 2 or None, "both ways to trigger")
    assert [run.state for run in model.runs()] == ["success"] * 2
    assert model.releases() == [1]

    request.getfixturevalue("without_receiver")
    stack_with_events.kill("airflow-triggerer")
    # What remembered nothing would take version 1 for new, or version 2 for what it found.
    await_looks(3)
    model.move(2)
    model.await_live(2)
    assert model.releases() == [1, 2]
    assert len(watching.runs_about()) == 2


def test_what_airflow_took_and_could_not_say_is_asked_for_again_and_run_once(
    stack_with_events: Stack, settings: EventSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver, "TRY_AGAIN_S", 10)
    model = Followed(stack_with_events)
    proxy = TcpProxy(settings.airflow_url.removeprefix("http://"))
    user = {"username": settings.airflow_username, "password": settings.airflow_password}
    token = requests.post(f"{settings.airflow_url}/auth/token", json=user, timeout=60).json()["access_token"]
    own = replace(
        settings,
        allow=(f"{model.name}@mine",),
        # Otherwise it is the answer to its login that is lost.
        airflow_token=token,
        url=f"http://127.0.0.1:{free_port()}",
        airflow_url=f"http://{proxy.address}",
        airflow_timeout_s=6,
        dag_id=OTHER_DAG,
    )
    airflow = AirflowServer(stack_with_events, OTHER_DAG)
    with running_receiver(own, stack_with_events) as answers:
        proxy.fault = LOSE_ANSWERS
        began = time.monotonic()
        model.client_of_mlflow.set_registered_model_alias(model.name, "mine", "1")
        await_value(lambda: airflow.runs_about(model.name) or None, "Airflow to have the run", 60)
        proxy.fault = NONE
        await_value(lambda: "result" in answers[-1] or None if answers else None, "MLflow to be answered", 90)
    assert time.monotonic() - began > 10, "MLflow waits as long as it is told to"
    *refused, taken = answers
    assert all("did not answer in time" in answer["error"] for answer in refused)
    assert (len(refused) > 0, taken["result"]) == (True, "duplicate")
    assert len(airflow.runs_about(model.name)) == 1


def test_registering_again_leaves_one_webhook_and_mlflow_tries_it(
    settings: EventSettings, stack_with_events: Stack
) -> None:
    def register(secret: str) -> subprocess.CompletedProcess[str]:
        environment = {"TRITON_EVENTS_URL": settings.url, "TRITON_EVENTS_SECRET": secret}
        return subprocess.run(
            [sys.executable, "-m", cli.__name__, "register"],
            cwd=REPO,
            env={**os.environ, **stack_with_events.environment, **environment},
            check=False,
            capture_output=True,
            text=True,
        )

    def hooks() -> list[str]:
        return [hook.webhook_id for hook in client.list_webhooks() if hook.url == f"{settings.url}/mlflow"]

    client = mlflow().MlflowClient(stack_with_events.url("mlflow"))
    (first,) = hooks()
    client.create_webhook("twin", f"{settings.url}/mlflow", ["model_version_alias.created"], secret="x" * 16)
    try:
        done = register("not what the receiver has")
        assert (done.returncode, "signature is wrong" in done.stderr) == (3, True), done
    finally:
        done = register(settings.secrets[0])
    assert (done.returncode, "the receiver took it" in done.stdout) == (0, True), done
    assert hooks() == [first]


def test_airflow_takes_a_delivery_once(settings: EventSettings) -> None:
    """The real one; tests/unit holds the fake to the same."""
    move = Move(f"no_such_model_{uuid.uuid4().hex[:8]}", "A", "1")
    takes_a_delivery_once(Airflow(replace(settings, dag_id=OTHER_DAG)), move, "d-1")
