"""The page at `/` in a real Chromium, Debian's: what a person sees, and that it notices a deploy by itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Browser, expect

from tests.support.servers.gateways import Gateway, Releases

pytestmark = pytest.mark.integration

PATIENCE_MS = 60_000


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_shows_what_is_live_and_notices_deploys(
    chromium: Browser, gateway: Gateway, releases: Releases, scheme: str
) -> None:
    page = chromium.new_page(color_scheme="dark" if scheme == "dark" else "light")
    wrong: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(gateway.url)
    expect(page.locator("#version")).to_have_text(str(releases.live), timeout=PATIENCE_MS)
    expect(page.locator("#state")).to_have_text("ready")

    version = releases.deploy()
    expect(page.locator("#version")).to_have_text(str(version), timeout=PATIENCE_MS)
    expect(page.locator("#releases tr").nth(1)).to_contain_text(f"run{version}")

    failed = releases.fail()
    expect(page.locator("#failures tr").nth(1)).to_contain_text("y is off", timeout=PATIENCE_MS)
    expect(page.locator("#failures tr").nth(1)).to_contain_text(str(failed))

    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(246, 247, 249)", "dark": "rgb(20, 24, 29)"}[scheme]
    assert wrong == []
    assert {url.split("/", 3)[2] for url in asked if not url.startswith("data:")} == {gateway.address}
    page.close()


def test_the_page_asks_for_the_key(
    chromium: Browser, own_gateway: Callable[..., Gateway], releases: Releases
) -> None:
    gateway = own_gateway(GATEWAY_API_KEY="secret")
    page = chromium.new_page()
    page.goto(gateway.url)
    expect(page.locator("#key")).to_be_visible(timeout=PATIENCE_MS)
    assert str(releases.live) not in page.inner_text("#version")
    page.fill("#key", "secret")
    page.click("button")
    expect(page.locator("#version")).to_have_text(str(releases.live), timeout=PATIENCE_MS)
    expect(page.locator("#key")).to_be_hidden()
    page.close()
