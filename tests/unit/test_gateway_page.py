"""What the gateway's page shows: what is under way, failures, links; and that nothing of it is markup."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from ml_code.gateway.front.app import create_app
from ml_code.gateway.front.html import Html
from ml_code.gateway.settings import GatewaySettings
from ml_code.gateway.triton import backend as triton_backend
from ml_code.gateway.triton.deploy_history import DeployHistory
from ml_code.gateway.triton.under_way import under_way
from ml_code.triton_deploy.errors import DeployError, Misconfigured
from ml_code.triton_deploy.rules.bake_record import Bake, BakeVerdict
from ml_code.triton_deploy.rules.canary import begun, canary_of
from ml_code.triton_deploy.rules.deployment import Failure, State, advance
from ml_code.triton_deploy.rules.moments import utc_text
from tests.support.world import MODEL, World


def baked_well(world: World, generation: int) -> None:
    """Record the verdict of a bake."""
    at = utc_text(world.now)
    world.folder.bakes.add(
        Bake(
            model=MODEL,
            generation=generation,
            version=1,
            deploy_id="d1",
            verdict=BakeVerdict.PASSED,
            reasons=(),
            looks=1,
            judged=1,
            figures={},
            began_at_utc=at,
            ended_at_utc=at,
        )
    )


# What is under way


def pinned(world: World, **changes: Any) -> None:
    """Begin a deployment of version 2 beside the live version 1."""
    for version in (1, 2):
        world.register_times(version)
        if version == 1:
            world.deploy("d1")
    # Nobody asks it: a canary is refused where nothing would measure it.
    deployer = world.deployer(bake__prometheus_url="http://127.0.0.1:9")
    deployer.snapshot(world.request("d2", actor="ada", reason="why not", **changes))


def test_a_deploy_is_shown_with_its_steps(world: World) -> None:
    pinned(world)
    world.later(3)
    world.deployer().materialize(MODEL, "d2")
    shown = under_way(world.folder, world.now)
    assert shown is not None
    assert {key: shown[key] for key in ("version", "alias", "actor", "reason", "step", "deploy_id")} == {
        "version": 2,
        "alias": "A",
        "actor": "ada",
        "reason": "why not",
        "step": "load",
        "deploy_id": "d2",
    }
    assert [(step["name"], step["state"]) for step in shown["steps"]] == [
        ("materialize", "done"),
        ("load", "now"),
        ("ready", "due"),
        ("smoke", "due"),
        ("commit", "due"),
    ]
    assert shown["has_lease"]
    world.later(10_000)
    silent = under_way(world.folder, world.now)
    assert silent is not None
    assert not silent["has_lease"]
    world.deployer().rollback(MODEL, "d2")
    assert under_way(world.folder, world.now) is None


def test_a_canary_is_shown_without_what_decides_who_meets_it(world: World) -> None:
    pinned(world, canary=canary_of("10,50", 0, 10))
    for step in ("materialize", "load", "ready", "smoke"):
        getattr(world.deployer(), step)(MODEL, "d2")
    before = under_way(world.folder, world.now)
    assert before is not None
    assert (before["step"], before["canary"]["step"]) == ("canary", 0)
    assert (before["deploy_id"], before["actor"]) == ("", "")

    record = world.folder.journal.get("d2")
    assert record.canary is not None
    canary = replace(
        begun(record.canary, 1, world.now, 60), key="opens", judgment={"verdict": "good", "why": "w"}
    )
    world.folder.journal.append(replace(record, canary=canary), record)
    shown = under_way(world.folder, world.now)
    assert shown is not None
    assert "opens" not in json.dumps(shown)
    assert shown["deploy_id"] == "d2"
    assert shown["canary"] | {"since_utc": "", "told": None} == {
        "steps": ["10 % answered by the candidate", "50 % answered by the candidate"],
        "step": 1,
        "is": "10 % answered by the candidate",
        "share_percent": 10,
        "mirrored_percent": 0,
        "step_s": 600,
        "since_utc": "",
        "held_for": "",
        "told": None,
        "verdict": "good",
        "why": "w",
    }
    later = under_way(world.folder, world.now + timedelta(seconds=61))
    assert later is not None
    assert later["canary"]["share_percent"] == 0, "a share ends by itself"


def test_what_is_rolled_back_names_its_failure(world: World) -> None:
    pinned(world)
    record = world.folder.journal.get("d2")
    failed = advance(record, State.ROLLING_BACK, world.now, failure=_failure(world))
    world.folder.journal.append(failed, record)
    shown = under_way(world.folder, world.now)
    assert shown is not None
    assert (shown["state"], shown["step"], shown["failure"]) == ("rolling_back", "load", "it broke")


def test_a_failure_keeps_what_its_record_said(world: World) -> None:
    world.register_times(1, expected=5)
    with pytest.raises(DeployError):
        world.deploy("bad", actor="ada", reason="why not")
    assert [*world.folder.quarantine.failures()]
    history = DeployHistory(world.root, MODEL)
    for _ in range(2):
        history.look(0)
        (failure,) = history.failures
        assert (failure.actor, failure.reason, failure.alias, failure.run_id) == (
            "ada",
            "why not",
            "A",
            "run1",
        )


def _failure(world: World) -> Failure:
    return Failure(step="load", kind="unexpected", error="it broke", at_utc=utc_text(world.now))


def test_a_bake_that_goes_on_is_shown_until_its_verdict(world: World) -> None:
    world.now = datetime.now(UTC)
    world.register_times(1)
    world.deploy("d1")
    until = world.now + timedelta(minutes=15)

    def shown() -> Any:
        history = DeployHistory(world.root, MODEL)
        history.look(1)
        content = history.to_dict()
        return content["baking"], content["bake"] and content["bake"]["verdict"]

    bakes = world.folder.bakes
    assert shown() == (None, None)
    bakes.note_watch(1, until)
    assert shown() == ({"until_utc": utc_text(until)}, None)
    assert bakes.generations() == set(), "a note is no verdict"
    for left in (world.now - timedelta(minutes=11), "torn"):
        (world.root / MODEL / "bakes" / "000001.until").write_text(str(left))
        assert shown() == (None, None)
    bakes.note_watch(1, until)
    baked_well(world, 1)
    assert shown() == (None, "passed")
    assert [path.name for path in (world.root / MODEL / "bakes").iterdir()] == ["000001.json"]


# The pages


class NoTritons:
    busy = 0

    def __init__(self, *_: object) -> None:
        """Every Triton is away."""

    async def ask(self, *_: object, **more: object) -> Any:
        raise TimeoutError

    def close(self) -> None:
        """There is no connection."""


@pytest.fixture
def get(world: World, monkeypatch: pytest.MonkeyPatch) -> Callable[..., httpx.Response]:
    """``get(path, setting=…)``: the answer of a gateway on the world's repository."""
    monkeypatch.setattr(triton_backend, "Tritons", NoTritons)

    def ask(path: str, headers: dict[str, str] | None = None, **changes: Any) -> httpx.Response:
        settings = GatewaySettings(repository=world.root, model=MODEL, access_log="off", **changes)

        async def answer() -> httpx.Response:
            app: Any = create_app(settings)
            await app._backend.start()
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
                try:
                    return await client.get(path, headers=headers)
                finally:
                    await app._backend.stop()

        return asyncio.run(answer())

    return ask


def test_the_first_deploy_that_fails_is_shown_although_nothing_is_live(
    world: World, get: Callable[..., httpx.Response]
) -> None:
    assert get("/status").json()["models"] == [MODEL]
    world.register_times(1, expected=5)
    with pytest.raises(DeployError):
        world.deploy("bad")
    status = get("/status").json()
    assert (status["version"], status["example"]) == (None, None)
    assert [failure["version"] for failure in status["failures"]] == [1]
    assert "no current.json" in status["reason"]
    assert get("/status?model=nobody").status_code == 404
    assert get(f"/model-info/{MODEL}").status_code == 404


def test_the_status_has_what_the_page_needs(world: World, get: Callable[..., httpx.Response]) -> None:
    world.register_times(1)
    world.deploy("d1", actor="airflow:manual__1", reason="<b>because</b>")
    status = get(
        "/status", mlflow_url="https://mlflow.example/", airflow_url="https://airflow.example"
    ).json()
    assert status["version"] == 1
    assert status["releases"][0]["actor"] == "airflow:manual__1"
    assert status["links"] == {
        "mlflow": "https://mlflow.example",
        "airflow": "https://airflow.example",
        "documents": "",
    }
    body = json.loads(status["example"]["body"])
    assert body == get(f"/model-info/{MODEL}/example").json()
    assert (status["under_way"], status["bake"], status["needs_key"]) == (None, None, False)
    assert get("/model-info/nobody/example").status_code == 404


def test_a_long_example_is_told_by_its_size(
    world: World, get: Callable[..., httpx.Response], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml_code.gateway.front.pages.MOST_SHOWN", 5)
    world.register_times(1)
    world.deploy("d1")
    example = get("/status").json()["example"]
    assert example["body"] is None
    assert example["bytes"] > 5


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_page_is_one_file_that_loads_nothing(get: Callable[..., httpx.Response], path: str) -> None:
    answer = get(path, api_key="secret")
    assert answer.status_code == 200
    assert not re.search(r"(src|href)=\"(?!data:|docs|\.|openapi\.json)", answer.text)
    assert not re.search(r"@import|url\(|https?://(?!www\.w3\.org/2000/svg)", answer.text)
    policy = answer.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "connect-src 'self'" in policy
    assert get("/openapi.json", api_key="secret").status_code == 401


def test_a_page_makes_no_markup_of_what_it_gets() -> None:
    for name in ("page", "docs"):
        text = Html.read(name).content.decode()
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", text
        )


@pytest.mark.parametrize(
    "url",
    ["javascript:alert(1)", "mlflow:5000", "https://u:secret@mlflow.example", "https://m?x", "'https://m'"],
)
@pytest.mark.parametrize("variable", ["GATEWAY_MLFLOW_URL", "GATEWAY_AIRFLOW_URL", "GATEWAY_DOCUMENTS_URL"])
def test_a_link_that_cannot_be_right_is_refused(variable: str, url: str) -> None:
    with pytest.raises(Misconfigured, match=variable) as caught:
        GatewaySettings.from_env({"TRITON_DEPLOY_REPOSITORY": "/models", variable: url})
    assert "secret" not in f"{caught.value.message} {caught.value.hint}"


def test_the_pages_are_where_they_are_packed() -> None:
    assert {path.name for path in (Path(Html.read.__code__.co_filename).parent / "web").iterdir()} == {
        "common.css",
        "common.js",
        "docs.html",
        "docs.js",
        "page.html",
        "page.js",
    }
