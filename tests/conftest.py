"""What holds for every test: how tests are spread over workers, what a worker has for itself, and when a skip is a failure."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from typing import Any

import hypothesis
import pytest

from stack import ports

# Before anything imports them: a helper's `assert` explains itself as a test's does.
pytest.register_assert_rewrite("tests.support")

pytest_plugins = ["tests.support.servers.fixtures"]

# How long an example takes says something of a machine that others use as well, and nothing of the code.
hypothesis.settings.register_profile("shared machine", deadline=None)
hypothesis.settings.load_profile("shared machine")

MEMORY, ENOUGH_BYTES = "/dev/shm", 8 << 30
"""The sweeps make a hundred thousand files: on a disk, half of their time."""
FAIL_ON_SKIP = "FAIL_ON_SKIP"
"""Set where everything that a test needs can be had: there, a test that is skipped has failed."""


def pytest_configure(config: pytest.Config) -> None:
    """Give each worker ports of its own (folders of its own it has from pytest-xdist), and keep files in memory where there is enough."""
    if os.path.isdir(MEMORY) and shutil.disk_usage(MEMORY).free >= ENOUGH_BYTES:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", MEMORY)
    worker = getattr(config, "workerinput", None)
    if worker is not None:
        number = int(worker["workerid"].removeprefix("gw"))
        ports.FREE_RANGE = ports.FREE_RANGE[number :: worker["workercount"]]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep tests together that share servers."""
    from tests.support.spreading import ByServers

    config.option.loadscopereorder = False
    return ByServers(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put first what takes longest."""
    from tests.support.spreading import order_of

    items.sort(key=lambda item: order_of(item.nodeid))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let no test be skipped silently where all of them can run."""
    report = yield
    if report.skipped and FAIL_ON_SKIP in os.environ and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{FAIL_ON_SKIP} is set, and this test was skipped: {report.longrepr}"
    return report
