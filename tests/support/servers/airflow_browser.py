"""A real browser, Debian's Chromium, and a person's actions in Airflow's own pages."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from stack import Stack
from tests.support.servers.debian_packages import library_path, unpacked

PATIENCE_MS = 120_000
PICTURES = os.environ.get("TEST_PICTURES", "")
"""A folder for screenshots, to be looked at; none are made without."""


# Not for the session: its event loop runs in this thread, where other tests start their own.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    root = unpacked("chromium", ["chromium", "fonts-dejavu-core"], ("chromium", "lib", "fonts-"))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=root / "usr/lib/chromium/chromium",
            env={**os.environ, "LD_LIBRARY_PATH": library_path(root)},
            # The tests may run as root, and nothing but the servers of the tests is asked.
            args=["--no-sandbox", "--no-proxy-server"],
        )
        yield browser
        browser.close()


class AirflowPages:
    """Airflow's pages, as its administrator sees them.

    Args:
        page: of a browser.
        stack: runs Airflow.
    """

    def __init__(self, page: Page, stack: Stack) -> None:
        self.page = page
        self._url = stack.url("airflow")
        page.set_default_timeout(PATIENCE_MS)
        expect.set_options(timeout=PATIENCE_MS)
        page.goto(self._url)
        username, password = stack.airflow_login
        page.locator("input[name=username]").fill(username)
        page.locator("input[name=password]").fill(password)
        page.locator("button[type=submit]").click()
        expect(page.get_by_test_id("nav-dags-link")).to_be_visible()

    def open_form(self, dag_id: str) -> None:
        """Open the form that triggers a DAG."""
        self.page.goto(f"{self._url}/dags/{dag_id}")
        self.page.get_by_test_id("trigger-dag-button").click()
        expect(self.submit).to_be_enabled()

    @property
    def submit(self) -> Locator:
        """The form's button."""
        return self.page.get_by_test_id("trigger-dag-submit")

    def fill(self, **params: str) -> None:
        """Type into the form's fields."""
        for name, text in params.items():
            field = self.page.locator(f"input[name=element_{name}]")
            field.fill(text)
            field.blur()

    def open_run(self, dag_id: str, run_id: str, rest: str = "") -> None:
        """Open the page of a run, or one below it."""
        self.page.goto(f"{self._url}/dags/{dag_id}/runs/{run_id.replace('+', '%2B')}{rest}")

    def picture(self, name: str) -> None:
        """Make a screenshot if a developer asked for it."""
        if PICTURES:
            self.page.screenshot(path=Path(PICTURES) / f"{name}.png")
