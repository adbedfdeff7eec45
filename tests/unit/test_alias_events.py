"""Alias events without MLflow and Airflow: what is taken for MLflow's, what is deployed, and how often."""

from __future__ import annotations

import asyncio
import importlib
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st

from ml_code.alias_events import cli, receiver, signature
from ml_code.alias_events.airflow import REFUSED_S, Airflow, Outcome
from ml_code.alias_events.errors import Forged, Malformed
from ml_code.alias_events.moves import Followed, Move, read_event, why_not
from ml_code.alias_events.once import Once
from ml_code.alias_events.settings import EventSettings
from ml_code.alias_events.webhook import Webhooks
from ml_code.service import http_protocol as protocol
from ml_code.triton_deploy.errors import AccessDenied, DeployError, Misconfigured, Unavailable
from ml_code.triton_deploy.settings import Settings
from tests.support.deliveries import MOVE, SECRET, event, signed
from tests.support.fake_airflow import FakeAirflow, fake_airflow, takes_a_delivery_once
from tests.support.lazily import lazily
from tests.support.settings import changed

airflow_trigger = lazily("ml_code.airflow_provider.alias_trigger")

NOW_S = 1_790_000_000


# What is taken for MLflow's


def check(headers: dict[str, str], body: bytes, *secrets: str, now_s: float = NOW_S) -> str:
    return signature.check(headers, body, secrets or (SECRET,), now_s=now_s, tolerance_s=300)


def test_the_signature_is_the_one_that_mlflow_makes() -> None:
    """Made with MLflow 3.17's own function; tests/integration has deliveries of a real one."""
    from mlflow.webhooks.delivery import _generate_hmac_signature

    theirs = _generate_hmac_signature(SECRET, "id", "17", event().decode())
    assert signature.sign(SECRET, "id", "17", event()) == theirs


def test_a_signed_delivery_is_taken_by_any_of_the_secrets() -> None:
    headers = signed(event(), at_s=NOW_S)
    assert check(headers, event()) == "d-1"
    assert check(headers, event(), "another secret, a newer one", SECRET) == "d-1"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({signature.SIGNATURE: ""}, "not signed"),
        ({signature.DELIVERY_ID: ""}, "not signed"),
        ({signature.TIMESTAMP: ""}, "not signed"),
        ({signature.DELIVERY_ID: "d-2"}, "signature is wrong"),
        ({signature.TIMESTAMP: str(NOW_S + 1)}, "signature is wrong"),
        ({signature.SIGNATURE: "v1,"}, "signature is wrong"),
        ({signature.SIGNATURE: "v1,schlüssel"}, "signature is wrong"),
        ({signature.DELIVERY_ID: "../d"}, "not as MLflow writes"),
        ({signature.TIMESTAMP: "now"}, "not as MLflow writes"),
        ({signature.TIMESTAMP: "1" * 400}, "not as MLflow writes"),
    ],
)
def test_what_mlflow_did_not_sign_is_refused(change: dict[str, str], why: str) -> None:
    with pytest.raises(Forged, match=why):
        check(signed(event(), at_s=NOW_S) | change, event())


def test_a_body_that_was_changed_or_signed_by_another_secret_is_refused() -> None:
    with pytest.raises(Forged, match="signature is wrong"):
        check(signed(event(), at_s=NOW_S), event(replace(MOVE, version="14")))
    with pytest.raises(Forged, match="signature is wrong"):
        check(signed(event(), secret="not the right secret", at_s=NOW_S), event())


def test_what_is_signed_may_not_be_moved_between_id_time_and_body() -> None:
    headers = signed(b"17.{}", delivery_id="d", at_s=NOW_S)
    moved = {**headers, signature.DELIVERY_ID: f"d.{NOW_S}", signature.TIMESTAMP: "17"}
    with pytest.raises(Forged):
        check(moved, b"{}", now_s=17)


@pytest.mark.parametrize(("off_s", "taken"), [(-301, False), (-300, True), (300, True), (301, False)])
def test_a_delivery_is_taken_for_five_minutes(off_s: int, taken: bool) -> None:
    headers = signed(event(), at_s=NOW_S)
    if taken:
        assert check(headers, event(), now_s=NOW_S + off_s) == "d-1"
        return
    with pytest.raises(Forged, match=r"301 s (ago|ahead)"):
        check(headers, event(), now_s=NOW_S + off_s)


# What is a move


def test_an_alias_that_is_set_is_a_move_and_nothing_else_is() -> None:
    assert read_event(event()) == MOVE
    assert read_event(event(action="deleted")) is None
    assert read_event(event(entity="model_version", data={})) is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[1]",
        b'"text"',
        b"\xff\xfe",
        b"[" * 50_000,
        event(data={}),
        event(data=None),
        event(data={"name": 1, "alias": "A", "version": "1"}),
        event(replace(MOVE, version="latest")),
        event(replace(MOVE, version="1" * 11)),
    ],
)
def test_what_is_no_event_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        read_event(body)


@given(st.text(), st.text(), st.text())
def test_whatever_is_in_an_event_it_is_read_or_malformed(model: str, alias: str, version: str) -> None:
    try:
        assert read_event(event(Move(model, alias, version))) == Move(model, alias, version)
    except Malformed:
        assert not version.isdigit() or not version.isascii() or not 1 <= len(version) <= 10


@pytest.mark.parametrize(
    ("allow", "model", "alias", "deployed"),
    [
        ("best_model@A", "best_model", "A", True),
        ("best_model@A", "best_model", "B", False),
        ("best_model@A", "other", "A", False),
        ("best_model@A", "best_model", "a", False),
        ("*@A", "other", "A", True),
        ("other@*", "other", "champion", True),
        ("*@*", "no.such/../name", "A", False),
        ("*@*", "x" * 101, "A", False),
        ("*@*", "other", "latest", False),
    ],
)
def test_only_what_is_followed_and_has_a_name_that_triton_can_have_is_deployed(
    allow: str, model: str, alias: str, deployed: bool
) -> None:
    assert (why_not(Move(model, alias, "1"), [Followed.parse(allow)]) == "") is deployed


def test_a_run_id_follows_from_the_delivery_and_fits_airflow() -> None:
    assert MOVE.run_id("d-1") == "alias__best_model__A__v13__d-1"
    assert MOVE.run_id("d-2") != MOVE.run_id("d-1")
    longest = Move("m" * 100, "a" * 100, "1" * 10).run_id("d" * 64)
    assert len(longest) <= 250


# Settings


def test_the_defaults_follow_alias_a_of_the_default_model() -> None:
    settings = EventSettings.from_env({})
    assert settings.allowed == [Followed("best_model", "A")]
    assert settings.watched == []


@pytest.mark.parametrize(
    ("variable", "value", "why"),
    [
        ("TRITON_EVENTS_ALLOW", "best_model", "no '@'"),
        ("TRITON_EVENTS_ALLOW", "best.model@A", "not a valid model name"),
        ("TRITON_EVENTS_ALLOW", "best_model@latest", "not a valid alias"),
        ("TRITON_EVENTS_ALLOW", "@", "not a valid model name"),
        ("TRITON_EVENTS_WATCH", "*@A", "has to be named"),
        ("TRITON_EVENTS_AIRFLOW_URL", "airflow:8080", "not an http"),
        ("TRITON_EVENTS_URL", "ftp://receiver", "not an http"),
    ],
)
def test_a_setting_that_cannot_be_right_is_named(variable: str, value: str, why: str) -> None:
    with pytest.raises(Misconfigured, match=why):
        EventSettings.from_env({variable: value})


@pytest.mark.parametrize("secret", ["", "short", "long enough for anybody,short"])
def test_the_receiver_does_not_start_without_a_secret(
    secret: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRITON_EVENTS_SECRET", secret)
    assert cli.main(["serve"]) == 3
    assert "openssl rand" in capsys.readouterr().err


def test_a_secret_is_not_shown() -> None:
    settings = EventSettings.from_env(
        {"TRITON_EVENTS_SECRET": SECRET, "TRITON_EVENTS_AIRFLOW_PASSWORD": "pw!"}
    )
    assert SECRET not in repr(settings)
    assert "pw!" not in repr(settings)


# Airflow


@pytest.fixture
def airflow_server() -> Iterator[FakeAirflow]:
    with fake_airflow() as fake:
        yield fake


@pytest.fixture
def settings(airflow_server: FakeAirflow) -> EventSettings:
    return EventSettings(
        secret=(SECRET,),
        airflow_url=airflow_server.url,
        airflow_username="admin",
        airflow_password="right",
    )


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


Answer = tuple[int, dict[str, Any]]
Answering = Callable[..., Answer]


@contextmanager
def overheard(
    airflow_server: FakeAirflow, before: Callable[[str, str], Answer | None] = lambda path, token: None
) -> Iterator[list[str]]:
    """Yield the paths that Airflow is asked for; ``before`` may wait, or give an answer of its own."""
    asked: list[str] = []
    answer: Answering = airflow_server.answer

    def listen(method: str, path: str, token: str, body: Any) -> Answer:
        asked.append(path)
        return before(path, token) or answer(method, path, token, body)

    airflow_server.answer = listen  # type: ignore[method-assign]
    try:
        yield asked
    finally:
        airflow_server.answer = answer  # type: ignore[method-assign]


LOGIN = "/auth/token"
DAG = f"/api/v2/dags/{EventSettings().dag_id}"


def test_airflow_takes_a_delivery_once(settings: EventSettings) -> None:
    takes_a_delivery_once(Airflow(settings), MOVE, "d-1")


def test_a_token_that_ran_out_is_replaced(settings: EventSettings, airflow_server: FakeAirflow) -> None:
    airflow = Airflow(settings)
    airflow.deploy(MOVE, "d-1")
    airflow_server.token = "second"
    airflow.deploy(MOVE, "d-2")
    assert len(airflow_server.runs) == 2


def test_a_token_that_was_given_is_not_replaced(settings: EventSettings, airflow_server: FakeAirflow) -> None:
    airflow = Airflow(replace(settings, airflow_token="given"))
    with pytest.raises(AccessDenied, match=r"\(401\): Invalid JWT token"):
        airflow.deploy(MOVE, "d-1")
    airflow_server.token = "given"
    airflow.deploy(MOVE, "d-1")


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_login_is_not_tried_again_at_once(
    settings: EventSettings, airflow_server: FakeAirflow, status: int
) -> None:
    clock, refuse = Clock(), True
    airflow = Airflow(settings, clock)

    def before(path: str, token: str) -> Answer | None:
        return (status, {"detail": "no such user"}) if refuse else None

    with overheard(airflow_server, before) as asked:
        for _ in range(3):
            with pytest.raises(AccessDenied, match=rf"\({status}\): no such user.*AIRFLOW_USERNAME"):
                airflow.deploy(MOVE, "d-1")
            assert "no such user" in airflow.why_not_ready()
        assert asked == [LOGIN]
        refuse = False
        clock.now_s += REFUSED_S - 0.1
        assert "no such user" in airflow.why_not_ready()
        clock.now_s += 0.1
        assert airflow.deploy(MOVE, "d-1") is Outcome.TRIGGERED
        assert asked[1:] == [LOGIN, f"{DAG}/dagRuns"]


def test_an_airflow_that_refuses_the_token_that_it_gave_is_not_asked_again_at_once(
    settings: EventSettings, airflow_server: FakeAirflow
) -> None:
    clock = Clock()
    airflow = Airflow(settings, clock)

    def before(path: str, token: str) -> Answer | None:
        return None if path == LOGIN else (401, {"detail": "Invalid JWT token"})

    with overheard(airflow_server, before) as asked:
        for round_ in (1, 2):
            for _ in range(3):
                with pytest.raises(AccessDenied, match=r"\(401\): Invalid JWT token"):
                    airflow.deploy(MOVE, "d-1")
            assert asked == [LOGIN, f"{DAG}/dagRuns"] * round_
            clock.now_s += REFUSED_S


@pytest.mark.parametrize("login", [201, 401, 503])
def test_threads_whose_token_ran_out_at_once_log_in_once(
    settings: EventSettings, airflow_server: FakeAirflow, login: int
) -> None:
    """Also those that find it out when the login is over; one that failed without a refusal they may try again."""
    airflow = Airflow(settings)
    airflow.deploy(MOVE, "d-0")
    airflow_server.token = "second"
    threads = 4
    asked_by_all, logged_in = threading.Barrier(threads), threading.Event()

    def before(path: str, token: str) -> Answer | None:
        if path == LOGIN:
            time.sleep(0.2 if login == 503 else 0)
            logged_in.set()
            return None if login == 201 else (login, {"detail": "no"})
        if token == "Bearer first":
            late = asked_by_all.wait(5) < threads // 2
            if late and login != 503:
                assert logged_in.wait(5)
                time.sleep(0.05)
        return None

    def deploy(number: int) -> str:
        try:
            return airflow.deploy(MOVE, f"d-{number}")
        except DeployError as error:
            return error.kind

    with overheard(airflow_server, before) as asked, ThreadPoolExecutor(threads) as pool:
        ended = list(pool.map(deploy, range(1, threads + 1)))
    said = {201: "triggered", 401: AccessDenied.kind, 503: Unavailable.kind}[login]
    assert (ended, asked.count(LOGIN)) == ([said] * threads, 1)


def test_what_is_not_airflow_is_said(settings: EventSettings, airflow_server: FakeAirflow) -> None:
    with overheard(airflow_server, lambda path, token: (200, {"hello": "world"})):
        assert "is not Airflow" in Airflow(settings).why_not_ready()
        assert "is not Airflow" in Airflow(replace(settings, airflow_token="given")).why_not_ready()


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"airflow_password": "wrong"}, AccessDenied, "Invalid credentials.*TRITON_EVENTS_AIRFLOW_USERNAME"),
        ({"dag_id": "another"}, Misconfigured, "`another` was not found.*TRITON_EVENTS_DAG_ID"),
        ({"airflow_url": "http://127.0.0.1:1"}, Unavailable, "can't be reached.*TRITON_EVENTS_AIRFLOW_URL"),
    ],
)
def test_what_airflow_refuses_is_said_with_what_to_do(
    settings: EventSettings, change: dict[str, str], error: type[DeployError], text: str
) -> None:
    airflow = Airflow(changed(settings, **change))  # type: ignore[arg-type]
    with pytest.raises(error, match=text):
        airflow.deploy(MOVE, "d-1")
    assert airflow.why_not_ready()


def test_a_paused_dag_is_said(settings: EventSettings, airflow_server: FakeAirflow) -> None:
    airflow_server.paused = True
    assert "is paused" in Airflow(settings).why_not_ready()


# The receiver


Post = Callable[..., Coroutine[Any, Any, httpx.Response]]


def with_receiver(
    settings: EventSettings, act: Callable[[Post, httpx.AsyncClient], Coroutine[Any, Any, None]]
) -> None:
    async def run() -> None:
        transport = httpx.ASGITransport(receiver.create_app(settings))
        async with httpx.AsyncClient(transport=transport, base_url="http://receiver") as client:

            async def post(body: bytes = event(), **how: Any) -> httpx.Response:
                return await client.post("/mlflow", content=body, headers=signed(body, **how))

            await act(post, client)

    asyncio.run(run())


def test_a_delivery_is_answered_when_airflow_has_its_run(
    settings: EventSettings, airflow_server: FakeAirflow
) -> None:
    async def act(post: Post, client: httpx.AsyncClient) -> None:
        answer = await post()
        assert answer.status_code == 200
        assert answer.json() == {"result": "triggered", "run": MOVE.run_id("d-1")}

    with_receiver(settings, act)
    (run,) = airflow_server.runs.values()
    assert run["conf"] == {"model": "best_model", "alias": "A"}
    assert run["logical_date"] is None


def test_duplicates_at_once_ask_airflow_once(settings: EventSettings, airflow_server: FakeAirflow) -> None:
    async def act(post: Post, client: httpx.AsyncClient) -> None:
        answers = await asyncio.gather(*(post() for _ in range(100)))
        assert {answer.status_code for answer in answers} == {200}
        results = [answer.json()["result"] for answer in answers]
        assert sorted(results) == ["duplicate"] * 99 + ["triggered"]

    with_receiver(settings, act)
    assert airflow_server.asked == 1


def test_a_duplicate_after_a_restart_or_at_another_worker_is_found_out_by_airflow(
    settings: EventSettings, airflow_server: FakeAirflow
) -> None:
    async def first(post: Post, client: httpx.AsyncClient) -> None:
        assert (await post()).json()["result"] == "triggered"

    async def second(post: Post, client: httpx.AsyncClient) -> None:
        assert (await post()).json()["result"] == "duplicate"

    with_receiver(settings, first)
    with_receiver(settings, second)
    assert (airflow_server.asked, len(airflow_server.runs)) == (2, 1)


def test_an_alias_that_moves_away_and_back_is_deployed_each_time(
    settings: EventSettings, airflow_server: FakeAirflow
) -> None:
    async def act(post: Post, client: httpx.AsyncClient) -> None:
        for number, version in enumerate(("13", "12", "13")):
            answer = await post(event(replace(MOVE, version=version)), delivery_id=f"d-{number}")
            assert answer.json()["result"] == "triggered"

    with_receiver(settings, act)
    assert len(airflow_server.runs) == 3


def test_what_is_not_to_be_deployed_is_not_repeated_by_mlflow(
    settings: EventSettings, airflow_server: FakeAirflow
) -> None:
    async def act(post: Post, client: httpx.AsyncClient) -> None:
        for body in (event(replace(MOVE, alias="B")), event(action="deleted")):
            answer = await post(body)
            assert (answer.status_code, answer.json()["result"]) == (200, "ignored")

    with_receiver(settings, act)
    assert airflow_server.asked == 0


def test_while_airflow_is_away_mlflow_is_told_to_try_again_later(
    settings: EventSettings, airflow_server: FakeAirflow
) -> None:
    async def act(post: Post, client: httpx.AsyncClient) -> None:
        airflow_server.failing = 503
        answers = await asyncio.gather(post(), post())
        assert [answer.status_code for answer in answers] == [503, 503]
        assert answers[0].headers["Retry-After"] == "20"
        assert "it is not well" in answers[0].json()["error"]
        airflow_server.failing = 0
        assert (await post()).json()["result"] == "triggered"

    with_receiver(settings, act)
    assert len(airflow_server.runs) == 1


def test_what_is_forged_too_large_or_no_event_reaches_nobody(
    settings: EventSettings, airflow_server: FakeAirflow
) -> None:
    async def act(post: Post, client: httpx.AsyncClient) -> None:
        assert (await client.post("/mlflow", content=event())).status_code == 401
        assert (await post(secret="not the right secret")).status_code == 401
        assert (await post(at_s=time.time() - 400)).status_code == 401
        assert (await post(b"{}")).status_code == 400
        large = await post(b" " * (settings.max_body_bytes + 1))
        assert (large.status_code, large.headers["Connection"]) == (413, "close")
        assert (await client.get("/mlflow")).status_code == 405

    with_receiver(settings, act)
    assert airflow_server.asked == 0


def test_a_body_in_pieces_is_refused_as_soon_as_it_is_too_large(
    settings: EventSettings, airflow_server: FakeAirflow
) -> None:
    sent: list[bytes] = []

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(100):
            sent.append(b" " * (settings.max_body_bytes // 4))
            yield sent[-1]

    async def act(post: Post, client: httpx.AsyncClient) -> None:
        assert (await client.post("/mlflow", content=pieces())).status_code == 413

    with_receiver(settings, act)
    assert len(sent) < 10
    assert airflow_server.asked == 0


def test_a_body_that_does_not_come_is_given_up(
    settings: EventSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver, "BODY_TIMEOUT_S", 0.05)

    async def act(post: Post, client: httpx.AsyncClient) -> None:
        async def never() -> Any:
            yield b"{"
            await asyncio.sleep(60)

        answer = await client.post("/mlflow", content=never(), headers=signed(b"{"))
        assert answer.status_code == 408

    with_receiver(settings, act)


def test_readiness_says_what_is_missing(
    settings: EventSettings, airflow_server: FakeAirflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver, "READY_S", 0.0)

    async def act(post: Post, client: httpx.AsyncClient) -> None:
        assert (await client.get("/health/ready")).json() == {"ready": True, "reason": None}
        airflow_server.paused = True
        answer = await client.get("/health/ready")
        assert (answer.status_code, "is paused" in answer.json()["reason"]) == (503, True)
        assert (await client.get("/health/live")).status_code == 200

    with_receiver(settings, act)


def test_many_callers_of_readiness_cost_airflow_one_question(
    settings: EventSettings, airflow_server: FakeAirflow
) -> None:
    async def act(post: Post, client: httpx.AsyncClient) -> None:
        for _ in range(2):
            answers = await asyncio.gather(*(client.get("/health/ready") for _ in range(50)))
            assert {answer.status_code for answer in answers} == {200}

    with overheard(airflow_server) as asked:
        with_receiver(settings, act)
    assert asked == [LOGIN, DAG]


def test_readiness_is_asked_for_again_after_a_while_whatever_the_answer_was() -> None:
    clock, asked = Clock(), 0

    def ask() -> str:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise RuntimeError("a bug")
        return f"answer {asked}"

    async def run() -> None:
        readiness = receiver.Readiness(ask, clock)
        for said in ("answer 1", "answer 1", "answer 3"):
            for _ in range(3):
                assert await readiness.reason() == said
            clock.now_s += receiver.READY_S - 0.1
            assert await readiness.reason() == said
            clock.now_s += 0.1

    asyncio.run(run())
    assert asked == 3


def test_callers_of_readiness_get_the_last_answer_when_airflow_is_slow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(receiver, "READY_WAIT_S", 0.02)
    clock, asked, go_on = Clock(), 0, threading.Event()

    def ask() -> str:
        nonlocal asked
        asked += 1
        assert go_on.wait(5)
        return ""

    async def many(readiness: receiver.Readiness) -> set[str]:
        async with asyncio.timeout(2):
            return set(await asyncio.gather(*(readiness.reason() for _ in range(100))))

    async def run() -> None:
        readiness = receiver.Readiness(ask, clock)
        try:
            assert await many(readiness) == {"Airflow has not answered yet."}
            go_on.set()
            while await readiness.reason():
                pass
            go_on.clear()
            clock.now_s += receiver.READY_S
            assert await many(readiness) == {""}
            clock.now_s += receiver.STALE_S
            assert await many(readiness) == {"Airflow has not answered yet."}
            assert asked == 2
        finally:
            go_on.set()

    asyncio.run(run())


@pytest.mark.parametrize("hanging", [LOGIN, DAG])
def test_callers_of_readiness_delay_no_delivery(
    settings: EventSettings, airflow_server: FakeAirflow, hanging: str
) -> None:
    hangs, go_on = threading.Event(), threading.Event()

    def before(path: str, token: str) -> None:
        if path == hanging and not hangs.is_set():
            hangs.set()
            assert go_on.wait(5)

    async def act(post: Post, client: httpx.AsyncClient) -> None:
        # As few threads as an Airflow that hangs and enough callers would leave.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        callers = [asyncio.create_task(client.get("/health/ready")) for _ in range(50)]
        try:
            while not hangs.is_set():
                await asyncio.sleep(0.01)
            async with asyncio.timeout(2):
                assert (await post()).json()["result"] == "triggered"
            assert not any(caller.done() and caller.result().is_success for caller in callers)
        finally:
            go_on.set()
            await asyncio.gather(*callers)

    with overheard(airflow_server, before):
        with_receiver(settings, act)


def test_the_command_serves_with_bounds_for_what_comes_before_the_signature(
    settings: EventSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed: list[int] = []
    answers: list[bytes] = []

    async def send_a_head_without_end(app: Any, options: dict[str, Any]) -> None:
        server = uvicorn.Server(uvicorn.Config(app, **options))
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        address = server.servers[0].sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(*address)
        try:
            writer.write(b"POST /mlflow HTTP/1.1\r\nX: " + b"x" * protocol.Limits().head_bytes)
            answers.append(await asyncio.wait_for(reader.readline(), 2))
        finally:
            writer.close()
            server.should_exit = True
            await serving

    def run(app: Any, **options: Any) -> None:
        asyncio.run(send_a_head_without_end(app, options))

    monkeypatch.setattr(uvicorn, "run", run)
    monkeypatch.setattr(protocol, "allow_connections", allowed.append)
    monkeypatch.setattr("ml_code.alias_events.logs.set_up_logging", lambda: None)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setenv("TRITON_EVENTS_SECRET", SECRET)
    monkeypatch.setenv("TRITON_EVENTS_PORT", "0")
    assert cli.main(["serve"]) == 0
    assert answers == [b"HTTP/1.1 431 Request Header Fields Too Large\r\n"]
    assert allowed == [protocol.LimitedProtocol.limits.connections]


def test_a_receiver_whose_webhook_is_not_registered_is_not_ready(settings: EventSettings) -> None:
    app = receiver.create_app(
        replace(settings, url="http://receiver"),
        changed(Settings(), mlflow__tracking_uri="http://127.0.0.1:1"),
    )

    async def run() -> None:
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://receiver") as client,
        ):
            answer = await client.get("/health/ready")
            assert (answer.status_code, "not registered" in answer.json()["reason"]) == (503, True)

    asyncio.run(run())


def test_what_was_done_longest_ago_is_forgotten_first() -> None:
    async def run() -> list[bool]:
        once: Once[int] = Once(most=2)

        async def work() -> int:
            return 1

        return [(await once.do(key, work))[1] for key in ("a", "b", "b", "c", "b", "a")]

    assert asyncio.run(run()) == [True, True, False, True, False, True]


def test_a_client_that_goes_away_does_not_stop_what_others_wait_for() -> None:
    async def run() -> tuple[int, bool]:
        once: Once[int] = Once(most=2)
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def work() -> int:
            begun.set()
            await go_on.wait()
            return 1

        leaving = asyncio.create_task(once.do("a", work))
        await begun.wait()
        staying = asyncio.create_task(once.do("a", work))
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        go_on.set()
        return await staying

    assert asyncio.run(run()) == (1, False)


# The webhook in MLflow; tests/integration has it with a real one


@contextmanager
def mlflow_that_says(status: int, content: dict[str, Any]) -> Iterator[Webhooks]:
    """An MLflow without webhooks that answers everything else with one thing."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(200, {})

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            self._answer(status, content)

        def _answer(self, status: int, content: dict[str, Any]) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield Webhooks(changed(Settings(), mlflow__tracking_uri=f"http://127.0.0.1:{server.server_port}"))
        finally:
            server.shutdown()
            thread.join()


def test_a_webhook_that_mlflow_does_not_take_is_explained() -> None:
    said = {"error_code": "INVALID_PARAMETER_VALUE", "message": "Invalid webhook URL scheme: 'http'."}
    with (
        mlflow_that_says(400, said) as webhooks,
        pytest.raises(Misconfigured, match=r"URL scheme: 'http'.*docs/events.md"),
    ):
        webhooks.ensure("http://receiver", SECRET)


def test_a_receiver_that_mlflow_does_not_reach_is_explained() -> None:
    result = {"success": False, "error_message": "Failed to test webhook: refused"}
    with (
        mlflow_that_says(200, {"result": result}) as webhooks,
        pytest.raises(Unavailable, match=r"refused.*TRITON_EVENTS_URL"),
    ):
        webhooks.test("id")


# The watcher


class AssetState:
    """The state of an asset, as the triggerer gives it to a trigger."""

    def __init__(self, kept: dict[str, Any]) -> None:
        self._kept = kept

    async def aget(self, key: str, default: Any = None) -> Any:
        return self._kept.get(key, default)

    async def aset(self, key: str, value: Any) -> None:
        assert value is not None, "Airflow refuses that"
        self._kept[key] = value


def seen_by_a_triggerer(looks: list[str | DeployError], kept: dict[str, Any]) -> list[str]:
    """Return the versions that a new triggerer tells of, of what it finds at each look."""
    ended = asyncio.CancelledError()
    trigger = airflow_trigger().AliasTrigger("best_model", "A", poll_s=0)
    trigger.asset_state_store = AssetState(kept)
    found = iter([*looks, ended])

    def look() -> str:
        result = next(found)
        if isinstance(result, BaseException):
            raise result
        return result

    trigger._look = look  # type: ignore[method-assign]
    told: list[str] = []

    async def run() -> None:
        async for fired in trigger.run():
            told.append(fired.payload["version"])

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(run())
    return told


def test_the_watcher_tells_of_moves_and_a_restart_of_nothing() -> None:
    kept: dict[str, Any] = {}
    away = Unavailable("MLflow is away.", hint="")
    assert seen_by_a_triggerer(["12", "12", "13", away, "13", "12"], kept) == ["13", "12"]
    assert seen_by_a_triggerer(["12", "12"], kept) == []
    assert seen_by_a_triggerer(["13"], kept) == ["13"], "moved while no triggerer ran"


def test_an_alias_that_is_set_for_the_first_time_is_a_move_and_one_that_is_removed_is_not() -> None:
    assert seen_by_a_triggerer(["", "", "1", "", "1"], {}) == ["1", "1"]


def test_a_triggerer_that_dies_while_it_tells_tells_again() -> None:
    kept: dict[str, Any] = {airflow_trigger().SEEN: "12"}
    trigger = airflow_trigger().AliasTrigger("best_model", "A", poll_s=0)
    trigger.asset_state_store = AssetState(kept)
    trigger._look = lambda: "13"  # type: ignore[method-assign]

    async def tell_and_die() -> Any:
        events = aiter(trigger.run())
        told = await anext(events)
        await events.aclose()  # type: ignore[attr-defined]
        return told.payload

    assert asyncio.run(tell_and_die()) == {"model": "best_model", "alias": "A", "version": "13"}
    assert kept == {airflow_trigger().SEEN: "12"}


def test_the_triggerer_can_make_it_again_from_what_is_serialized() -> None:
    path, arguments = airflow_trigger().AliasTrigger("best_model", "A", poll_s=5).serialize()
    assert path == "ml_code.alias_events.airflow_trigger.AliasTrigger", "what Airflow's database knows"
    assert importlib.import_module(path.rpartition(".")[0]).AliasTrigger is airflow_trigger().AliasTrigger
    assert airflow_trigger().AliasTrigger(**arguments).serialize() == (path, arguments)
