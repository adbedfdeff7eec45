"""A repository with everything that the gateway's page shows, texts of attackers included, and what is wrong with a page."""

from __future__ import annotations

import contextlib
import importlib.resources
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from ml_code.triton_deploy.deploy.request import RevertRequest
from ml_code.triton_deploy.errors import DeployError
from ml_code.triton_deploy.rules.bake_record import Bake, BakeVerdict
from ml_code.triton_deploy.rules.canary import begun, canary_of
from ml_code.triton_deploy.rules.moments import utc_text
from tests.support.fakes import FakeRegistry, FakeTriton, fake_store
from tests.support.servers.airflow_browser import PICTURES
from tests.support.world import MODEL, SETTINGS, World

HOSTILE = (
    "<img src=x onerror=\"document.title='markup'\"><script>alert(1)</script>' ` $(id) \u202e" + "w" * 300
)
"""What an attacker would write where a model, a run or a person may write something."""
WCAG = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}
"""The rules of axe-core for WCAG 2.1, levels A and AA."""

# Pictures and one-pixel texts for screen readers are smaller than their content on purpose.
_CUT_OFF = """() => [...document.querySelectorAll("body, body *:not(svg *):not(.unseen):not(textarea):not(input):not(select):not(option)")]
  .filter((one) => one.scrollWidth > one.clientWidth + 1 && one.clientWidth && getComputedStyle(one).display !== "inline")
  .map((one) => one.outerHTML.slice(0, 200))"""


def told_of_everything(root: Path) -> World:
    """Return a model with releases, a revert, failures, a bake and a canary that goes on; version 3 is live.

    Args:
        root: an empty folder for the repository.
    """
    with fake_store() as store:
        root.mkdir()
        settings = replace(SETTINGS, repository=root)
        world = World(root, settings, FakeRegistry(), store, FakeTriton(root))
        world.now = datetime.now(UTC) - timedelta(hours=5)
        world.register_times(1)
        world.deploy("d1", reason="the first one")
        world.later(3600)
        world.register_times(2)
        world.deploy("d2", actor="airflow:scheduled__2026-01-02T03:04:05+00:00", reason="nightly training")
        world.later(1800)
        world.deployer().revert(
            RevertRequest(model=MODEL, deploy_id="r1", actor="ada", reason="users complained")
        )
        world.later(1800)
        world.register_times(3)
        record = world.deploy("d3", actor=HOSTILE, reason=HOSTILE)
        _bake(world, record.generation, "d3")
        world.later(3600)
        world.register_times(4, expected=9)
        with contextlib.suppress(DeployError):
            world.deploy("d4", actor="airflow:manual__<b>", reason=HOSTILE)
        world.now = datetime.now(UTC) - timedelta(seconds=40)
        world.register_times(5)
        _canary(world)
        return world


def _bake(world: World, generation: int, deploy_id: str) -> None:
    world.folder.bakes.add(
        Bake(
            model=MODEL,
            generation=generation,
            version=3,
            deploy_id=deploy_id,
            verdict=BakeVerdict.PASSED,
            reasons=("no more failures than before", HOSTILE),
            looks=30,
            judged=30,
            figures={},
            began_at_utc=utc_text(world.now),
            ended_at_utc=utc_text(world.now),
        )
    )


def _canary(world: World) -> None:
    """Begin the second step of a canary of version 5."""
    deployer = world.deployer(bake__prometheus_url="http://127.0.0.1:9")
    canary = canary_of("5,25,50", 20, 10)
    deployer.snapshot(
        world.request("d5", actor="airflow:manual__5", reason="for the new market", canary=canary)
    )
    for step in ("materialize", "load", "ready", "smoke"):
        world.later(7)
        getattr(deployer, step)(MODEL, "d5")
    record = world.folder.journal.get("d5")
    assert record.canary is not None
    begun_ = begun(record.canary, 3, datetime.now(UTC), 600)
    judgment = {"verdict": "good", "why": "0 of 312 requests failed, p95 4 ms"}
    canary = replace(
        begun_, key="opens", judgment=judgment, told={"what": "pause", "by": "ada", "reason": HOSTILE}
    )
    world.folder.journal.append(replace(record, canary=canary), record)


def violations(page: Page) -> list[Any]:
    """Return what axe-core finds against WCAG 2.1 A and AA, shortened."""
    source = importlib.resources.files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
    # As a developer's tools would run it: the page's policy lets no other script in.
    page.evaluate(source)
    found = page.evaluate("(rules) => axe.run(document, rules)", WCAG)
    assert found["passes"], "axe has looked at something"
    return [
        (one["id"], node["html"][:200], node["failureSummary"])
        for one in found["violations"]
        for node in one["nodes"]
    ]


def cut_off(page: Page) -> list[str]:
    """Return the elements whose content is wider than they are."""
    found: list[str] = page.evaluate(_CUT_OFF)
    return found


def picture(page: Page, name: str) -> None:
    """Make a screenshot of the whole page if a developer asked for it."""
    if PICTURES:
        page.screenshot(path=Path(PICTURES) / f"{name}.png", full_page=True)
