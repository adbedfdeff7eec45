"""The task of a canary and the callbacks that tell people, with Airflow as a library; the deployments behind them are real."""

from __future__ import annotations

import asyncio
import importlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from ml_code.triton_deploy.deploy.deployer import Deployer
from ml_code.triton_deploy.deploy.request import RevertRequest
from ml_code.triton_deploy.errors import DeployError, Misconfigured, Unavailable
from ml_code.triton_deploy.report.notifications import Notification, notify
from ml_code.triton_deploy.rules.bake_record import Bake, BakeVerdict
from ml_code.triton_deploy.rules.canary import canary_of
from ml_code.triton_deploy.rules.canary_course import CanaryVerdict
from ml_code.triton_deploy.rules.canary_evidence import Judgment
from ml_code.triton_deploy.rules.deployment import State
from ml_code.triton_deploy.rules.names import deploy_id_for
from ml_code.triton_deploy.settings import Settings
from tests.support.dags import library_environment
from tests.support.settings import changed
from tests.support.signing import declared
from tests.support.world import MODEL, World

RUN = "manual__2026-01-02T03:04:05+00:00"
DEPLOY_ID = deploy_id_for(RUN)


@pytest.fixture(scope="module")
def dags(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """What DAG files import, by its names in the package."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in library_environment(tmp_path_factory.mktemp("airflow")).items():
            patch.setenv(name, value)
        modules = ("canary_task", "notifier")
        yield SimpleNamespace(
            **{name: importlib.import_module(f"ml_code.airflow_provider.{name}") for name in modules}
        )


@pytest.fixture
def airflow_world(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """Version 1 is live, and whoever reads the settings from the environment finds this world."""
    monkeypatch.setenv("TRITON_DEPLOY_REPOSITORY", str(world.root))
    monkeypatch.delenv("TRITON_DEPLOY_NOTIFY_URL", raising=False)
    world.register_times(1)
    world.deploy("first")
    world.register_times(2)
    return world


def context(**params: Any) -> dict[str, Any]:
    from airflow.sdk import DAG

    return {"params": {"model": MODEL, **params}, "run_id": RUN, "dag": DAG("deploy", schedule=None)}


def until_canary(world: World, shares: str, judge: Callable[..., Judgment] | None = None) -> Deployer:
    deployer = Deployer(
        world.settings,
        registry=world.registry,
        stores=lambda uri: world.store,
        tritons=[world.triton],
        clock=lambda: world.now,
        judge=judge,
        sign=declared,
    )
    deployer.snapshot(world.request(DEPLOY_ID, canary=canary_of(shares, 0, 0.01)))
    for step in (deployer.materialize, deployer.load, deployer.ready, deployer.smoke):
        step(MODEL, DEPLOY_ID)
    return deployer


# The task


def test_without_a_canary_the_task_succeeds_at_once(dags: Any, airflow_world: World) -> None:
    deployer = until_canary(airflow_world, "")
    said = dags.canary_task.CanaryOperator(task_id="c").execute(context())
    assert said == f"No canary is due: deployment {DEPLOY_ID} is verified."
    deployer.commit(MODEL, DEPLOY_ID)


def test_a_canary_is_handed_to_the_triggerer_as_something_that_it_can_import(
    dags: Any, airflow_world: World
) -> None:
    from airflow.sdk.exceptions import TaskDeferred

    until_canary(airflow_world, "5", lambda watched: Judgment(CanaryVerdict.PASS, ""))
    with pytest.raises(TaskDeferred) as deferred:
        dags.canary_task.CanaryOperator(task_id="c").execute(context(deploy_id=DEPLOY_ID))
    path, arguments = deferred.value.trigger.serialize()
    module, _, name = path.rpartition(".")
    again = getattr(importlib.import_module(module), name)(**arguments)
    assert again.serialize() == (path, arguments)
    assert json.loads(json.dumps(arguments)) == {"model": MODEL, "deploy_id": DEPLOY_ID}
    assert deferred.value.method_name == "resume"


@pytest.mark.parametrize("verdict", list(CanaryVerdict))
def test_the_trigger_watches_to_the_end(
    airflow_world: World, monkeypatch: pytest.MonkeyPatch, verdict: CanaryVerdict
) -> None:
    from ml_code.airflow_provider import triggers as airflow_trigger

    airflow_world.settings = changed(airflow_world.settings, canary__hold_minutes=1.0)
    deployer = until_canary(airflow_world, "5,50", lambda watched: Judgment(verdict, "the test says so"))
    monkeypatch.setattr(airflow_trigger, "Deployer", lambda settings: deployer)

    async def pause(seconds: float) -> None:
        airflow_world.later(seconds)

    monkeypatch.setattr(airflow_trigger, "asyncio", SimpleNamespace(to_thread=asyncio.to_thread, sleep=pause))

    async def events() -> list[Any]:
        return [event.payload async for event in airflow_trigger.CanaryTrigger(MODEL, DEPLOY_ID).run()]

    [event] = asyncio.run(events())
    state = airflow_world.folder.journal.get(DEPLOY_ID).state
    if verdict is not CanaryVerdict.PASS:
        assert "the test says so" in event["error"]
        assert not event["retryable"]
        assert state is State.VERIFIED
    else:
        assert event == {"error": "", "retryable": False}
        assert state is State.TRIED


def test_people_are_told_once_that_a_canary_waits(
    airflow_world: World, monkeypatch: pytest.MonkeyPatch, webhook: Webhook
) -> None:
    from ml_code.airflow_provider import triggers as airflow_trigger

    monkeypatch.setenv("TRITON_DEPLOY_NOTIFY_URL", webhook.url)
    deployer = until_canary(airflow_world, "5,pause", lambda watched: Judgment(CanaryVerdict.PASS, ""))
    monkeypatch.setattr(airflow_trigger, "Deployer", lambda settings: deployer)
    looks = iter(range(8))

    async def pause(seconds: float) -> None:
        airflow_world.later(seconds)
        if next(looks, None) is None:
            raise Unavailable("That is enough.", hint="Stop.")

    monkeypatch.setattr(airflow_trigger, "asyncio", SimpleNamespace(to_thread=asyncio.to_thread, sleep=pause))

    async def watched() -> list[Any]:
        return [event async for event in airflow_trigger.CanaryTrigger(MODEL, DEPLOY_ID).run()]

    asyncio.run(watched())
    [told] = webhook.bodies
    assert (told["event"], told["deploy_id"], told["live_version"]) == ("canary_held", DEPLOY_ID, 1)
    assert told["text"].startswith(
        "The canary of version 2 of best_model waits, 60 minutes at most, because a person has to end this step."
    )


def test_what_the_trigger_saw_fails_the_task_unless_it_went_well(dags: Any) -> None:
    from airflow.sdk.exceptions import AirflowException, AirflowFailException

    operator = dags.canary_task.CanaryOperator(task_id="c")
    assert operator.resume(context(), {"error": "", "retryable": False}) == "The candidate did well."
    with pytest.raises(AirflowFailException, match="bad"):
        operator.resume(context(), {"error": "bad", "retryable": False})
    with pytest.raises(AirflowException, match="away") as caught:
        operator.resume(context(), {"error": "away", "retryable": True})
    assert not isinstance(caught.value, AirflowFailException), "Airflow tries it again"


# The callbacks


class Webhook:
    """An HTTP server that keeps what it is sent."""

    def __init__(self, status: int = 200) -> None:
        self.bodies: list[dict[str, Any]] = []
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                webhook.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/services/secret"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Webhook:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    with Webhook() as running:
        monkeypatch.setenv("TRITON_DEPLOY_NOTIFY_URL", running.url)
        monkeypatch.setenv("TRITON_DEPLOY_NOTIFY_FORMAT", "json")
        yield running


def test_a_rollback_is_told_with_its_reason_and_what_is_live(
    dags: Any, airflow_world: World, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_DEPLOY_NOTIFY_URL", webhook.url)
    airflow_world.register_times(2, expected=7.0)
    with pytest.raises(DeployError):
        airflow_world.deploy(DEPLOY_ID)
    dags.notifier.DeployNotifier("rolled_back")(context())
    [told] = webhook.bodies
    assert told["text"].startswith(
        "Version 2 of best_model was rolled back: smoke: The candidate answers wrongly"
    )
    assert told["text"].endswith("Version 1 is live (release 1). (airflow:deploy/" + RUN + ")")
    assert {key: told[key] for key in ("event", "model", "deploy_id", "version", "live_version")} == {
        "event": "rolled_back",
        "model": MODEL,
        "deploy_id": DEPLOY_ID,
        "version": 2,
        "live_version": 1,
    }
    monkeypatch.setenv("TRITON_DEPLOY_NOTIFY_FORMAT", "slack")
    dags.notifier.DeployNotifier("rollback_failed")(context())
    assert webhook.bodies[1].keys() == {"text"}
    assert f"triton-deploy rollback best_model --deploy-id {DEPLOY_ID}" in webhook.bodies[1]["text"]


def test_a_revert_is_told(dags: Any, airflow_world: World, webhook: Webhook) -> None:
    airflow_world.deploy("second")
    airflow_world.deployer().revert(RevertRequest(model=MODEL, deploy_id="back", reason="customers complain"))
    dags.notifier.DeployNotifier("reverted")(context())
    [told] = webhook.bodies
    assert told["event"] == "reverted"
    assert told["text"].startswith(
        "Version 2 of best_model was taken back: customers complain. Version 1 is live (release 3)."
    )


@pytest.mark.parametrize(
    ("verdict", "event"),
    [(BakeVerdict.FAILED, "bake_failed"), (BakeVerdict.NO_DATA, "no_data"), (BakeVerdict.PASSED, None)],
)
def test_a_bake_is_told_when_it_went_badly_or_could_not_be_judged(
    dags: Any, airflow_world: World, webhook: Webhook, verdict: BakeVerdict, event: str | None
) -> None:
    airflow_world.deploy(DEPLOY_ID)
    at = "2026-01-02T03:04:05.000Z"
    airflow_world.folder.bakes.add(
        Bake(
            model=MODEL,
            generation=2,
            version=2,
            deploy_id=DEPLOY_ID,
            verdict=verdict,
            reasons=("no source saw a request",),
            looks=1,
            judged=0,
            figures={},
            began_at_utc=at,
            ended_at_utc=at,
        )
    )
    dags.notifier.DeployNotifier("baked")(context())
    assert [told["event"] for told in webhook.bodies] == ([event] if event else [])
    for told in webhook.bodies:
        assert "Version 2 of best_model (release 2)" in told["text"]
        assert "no source saw a request. Version 2 is live" in told["text"]


def test_nothing_is_told_when_nothing_had_begun_or_it_was_committed(
    dags: Any, airflow_world: World, webhook: Webhook
) -> None:
    dags.notifier.DeployNotifier("rolled_back")(context())
    dags.notifier.DeployNotifier("baked")(context())
    airflow_world.deploy(DEPLOY_ID)
    dags.notifier.DeployNotifier("rolled_back")(context())
    dags.notifier.DeployNotifier("baked")(context())
    assert webhook.bodies == []


def test_a_webhook_that_fails_or_is_away_changes_nothing_and_is_not_named(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    notification = Notification(event="reverted", model=MODEL, text="It was.")
    with Webhook(500) as refusing:
        assert not notify(changed(world.settings, notify__url=refusing.url), notification)
        assert len(refusing.bodies) == 1
    assert not notify(changed(world.settings, notify__url=refusing.url), notification)
    assert caplog.text.count("no notification was sent") == 2
    assert "secret" not in caplog.text
    assert not notify(world.settings, notification), "nobody is to be told"


def test_what_others_wrote_is_no_command_in_a_chat(world: World) -> None:
    text = "Version 2 was rolled back: smoke: input <!channel> & <https://evil|approve>\x1b[2J is missing."
    for form, told in (
        ("slack", text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")),
        ("json", text),
    ):
        with Webhook() as taking:
            settings = changed(world.settings, notify__url=taking.url, notify__format=form)
            assert notify(settings, Notification(event="rolled_back", model=MODEL, text=text))
        assert taking.bodies[0]["text"] == told.replace("\x1b", "\\x1b")


def test_a_wrong_address_is_refused_without_being_shown() -> None:
    with pytest.raises(Misconfigured) as caught:
        Settings.from_env({"TRITON_DEPLOY_NOTIFY_URL": "hooks.example/secret"})
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(changed(Settings(), notify__url="http://hooks.example/secret"))
