"""The pages at `/` and `/docs` in a real Chromium, Debian's: what a person sees, by mouse, by keyboard, on a phone."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import Browser, Page, expect

from ml_code.triton_deploy.repository import ModelFolder
from tests.support.servers.gateway_pages import HOSTILE, cut_off, picture, told_of_everything, violations
from tests.support.servers.gateways import Gateway, Releases

pytestmark = pytest.mark.integration

PATIENCE_MS = 60_000
LINKS = {
    "GATEWAY_MLFLOW_URL": "http://mlflow.example:5000/",
    "GATEWAY_AIRFLOW_URL": "http://airflow.example:8080",
    "GATEWAY_DOCUMENTS_URL": "http://documents.example/index.html",
}


class Watched:
    """A page of a browser, with what went wrong on it and what it asked.

    Args:
        browser: the browser.
        scheme: ``light`` or ``dark``.
        width: of the window, pixels.
    """

    def __init__(self, browser: Browser, scheme: str = "light", width: int = 1280) -> None:
        self.page: Page = browser.new_page(
            color_scheme="dark" if scheme == "dark" else "light", viewport={"width": width, "height": 900}
        )
        self.page.set_default_timeout(PATIENCE_MS)
        expect.set_options(timeout=PATIENCE_MS)
        self.wrong: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.wrong.append(message.text))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("dialog", lambda dialog: self.wrong.append(dialog.message))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def assert_well(self, gateway: Gateway) -> None:
        """Nothing went wrong, and nobody but the gateway was asked."""
        assert self.wrong == []
        assert {url.split("/", 3)[2] for url in self.asked if not url.startswith("data:")} == {
            gateway.address
        }


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway on a repository with everything that the page shows; no Triton is reached."""
    folder = tmp_path_factory.mktemp("told")
    world = told_of_everything(folder / "repository")
    environment = {
        "TRITON_DEPLOY_REPOSITORY": str(world.root),
        "GATEWAY_TRITON_URLS": "127.0.0.1:9",
        **LINKS,
    }
    with Gateway(folder / "log", environment, ready=False) as running:
        running.post("/predict", json={"rows": [[1, 1]]})
        yield running


def test_the_page_shows_what_is_live_and_notices_deploys(
    chromium: Browser, gateway: Gateway, releases: Releases
) -> None:
    watched = Watched(chromium)
    page = watched.page
    page.goto(gateway.url)
    expect(page.locator("#version")).to_have_text(str(releases.live))
    expect(page.locator("#state")).to_have_text("ready")

    version = releases.deploy()
    expect(page.locator("#version")).to_have_text(str(version))
    expect(page.locator("#history li").first).to_contain_text(f"Version {version} is live")
    expect(page.locator("#facts")).to_contain_text(f"run{version}")

    bakes = ModelFolder.at(releases.root, releases.model).bakes
    bakes.note_watch(gateway.info()["generation"], datetime.now(UTC) + timedelta(minutes=15))
    expect(page.locator("#now")).to_contain_text(f"Version {version} bakes on live traffic; the bake ends")
    expect(page.locator("#now")).to_contain_text("UTC, in 15 min")

    failed = releases.fail()
    expect(page.locator("#alert")).to_contain_text(f"The last deploy failed: version {failed} in step smoke")
    expect(page.locator("#history li").first).to_contain_text("y is off")

    gateway.post("/predict", json={"rows": [[1, 1]]})
    expect(page.locator("#versions tbody tr").first).to_contain_text(f"{version} (live)")
    picture(page, "gateway-live")
    watched.assert_well(gateway)
    page.close()


def test_the_command_on_the_page_works_as_it_stands(
    chromium: Browser, gateway: Gateway, releases: Releases
) -> None:
    page = Watched(chromium).page
    page.goto(gateway.url)
    command = page.locator("#command").inner_text()
    assert f"{gateway.url}/predict/best_model" in command
    shown = page.locator("#call").inner_text()
    assert "golden inputs" in shown
    answer = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, timeout=60)
    assert f'"version":{releases.live}' in answer.stdout, answer
    page.close()


def test_no_input_of_a_model_leaves_its_word_of_the_command(chromium: Browser, told: Gateway) -> None:
    page = Watched(chromium).page
    page.goto(told.url)
    body = {"rows": [[HOSTILE, "'; touch /tmp/x; '\n\\", "\u2028\U000e0041 \x07"]]}
    word = page.evaluate("(json) => quoted(json)", json.dumps(body, ensure_ascii=False))
    assert word.isprintable()
    printed = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True).stdout
    assert json.loads(printed) == body
    page.close()


def test_from_a_failed_deploy_to_its_cause_are_two_clicks(chromium: Browser, told: Gateway) -> None:
    watched = Watched(chromium)
    page = watched.page
    page.goto(told.url)
    page.get_by_text("Why it failed").click()
    failure = page.locator("#last-failure")
    expect(failure).to_be_in_viewport()
    expect(failure).to_contain_text("The candidate answers wrongly: output y is off by up to")
    run = failure.get_by_role("link", name="Airflow run")
    expect(run).to_have_attribute(
        "href", "http://airflow.example:8080/dag_runs?run_id_pattern=manual__%3Cb%3E"
    )
    watched.assert_well(told)
    page.close()


def test_the_page_shows_what_is_under_way_and_links(chromium: Browser, told: Gateway) -> None:
    page = Watched(chromium).page
    page.goto(told.url)
    now = page.locator("#now")
    expect(now).to_contain_text("Canary, step 3 of 4: 25 % answered by the candidate.")
    expect(now.locator(".now")).to_contain_text("canary, now")
    expect(now.locator("progress")).to_have_attribute("value", "25")
    expect(now).to_contain_text("Judged: good: 0 of 312 requests failed, p95 4 ms")
    expect(page.locator("#history")).to_contain_text("Version 1 went live, back from 2")
    mlflow = page.locator("#history").get_by_role("link", name="Version 2", exact=True)
    expect(mlflow).to_have_attribute("href", "http://mlflow.example:5000/#/models/best_model/versions/2")
    assert page.locator("nav li").all_inner_texts() == ["Interface", "MLflow", "Airflow", "Documents"]
    page.select_option("#shown", "failure")
    expect(page.locator("#history li")).to_have_count(1)
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["", "/docs"])
def test_a_page_fits_every_width_and_everyone_can_read_it(
    chromium: Browser, told: Gateway, path: str, scheme: str
) -> None:
    watched = Watched(chromium, scheme)
    page = watched.page
    page.goto(told.url + path)
    expect(page.locator("#now progress, #paths section").first).to_be_visible()
    if path:
        page.locator("summary").filter(has_text="/predict/{model}").click()
    for width in (1500, 800, 400, 320):
        page.set_viewport_size({"width": width, "height": 900})
        assert cut_off(page) == [], width
        picture(page, f"gateway{path.replace('/', '-')}-{scheme}-{width}")
        if width != 800:
            assert violations(page) == [], width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(246, 247, 249)", "dark": "rgb(20, 24, 29)"}[scheme]
    assert "markup" not in page.title()
    watched.assert_well(told)
    page.close()


def test_the_page_is_used_by_keyboard_and_keeps_its_place(chromium: Browser, told: Gateway) -> None:
    page = Watched(chromium).page
    page.goto(told.url)
    expect(page.locator("#history summary").first).to_be_visible()
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        name = page.evaluate("document.activeElement.id || document.activeElement.textContent")
        if name in reached or page.evaluate("document.activeElement === document.body"):
            break
        reached.append(name)
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid", name
    assert reached[:2] == ["model", "Interface"]
    assert {"MLflow", "Why it failed", "copy", "shown"} <= {*reached}

    summary = page.locator("#history summary").first
    summary.focus()
    page.keyboard.press("Enter")
    # Its data comes again and again: what a reader has opened stays open.
    page.wait_for_timeout(2_500)
    expect(page.locator("#history details").first).to_have_attribute("open", "")
    expect(summary).to_be_focused()
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
    page.click("#access button")
    expect(page.locator("#version")).to_have_text(str(releases.live), timeout=PATIENCE_MS)
    expect(page.locator("#key")).to_be_hidden()
    expect(page.locator("#command")).to_contain_text("X-Api-Key")
    page.close()


def test_the_interface_is_listed_and_asked_without_the_internet(
    chromium: Browser, own_gateway: Callable[..., Gateway], releases: Releases
) -> None:
    gateway = own_gateway(GATEWAY_API_KEY="secret")
    watched = Watched(chromium)
    page = watched.page
    page.goto(f"{gateway.url}/docs")
    page.fill("#key", "secret")
    page.keyboard.press("Enter")
    page.locator("summary").filter(has_text="POST /predict/{model}").click()
    form = page.locator("details[open]").first
    form.get_by_role("button", name="Send").click()
    expect(form.locator("pre")).to_contain_text(f"200, from version {releases.live}")
    # The first answer was the refusal without a key.
    assert [text for text in watched.wrong if "401" not in text] == []
    watched.wrong.clear()
    watched.assert_well(gateway)
    page.close()
