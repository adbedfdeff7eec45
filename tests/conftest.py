"""Settings of every test: the spread over workers, the ports of a worker, and skips that fail."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from stack import ports

# Before their first import, so that an `assert` in tests.support reports its values as one in a test does.
pytest.register_assert_rewrite("tests.support")

pytest_plugins = ["tests.support.servers.fixtures"]

# The time of an example depends on the other load of a shared machine, not on the code.
hypothesis.settings.register_profile("shared machine", deadline=None)
hypothesis.settings.load_profile("shared machine")

MEMORY, ENOUGH_BYTES = "/dev/shm", 8 << 30
"""Folder in memory for the files of the tests: on a disk the sweeps' hundred thousand files take half of their time."""
LOG_END = 3_000
"""Characters of a server's log that a failed test shows: its last words, where it ended."""
FAIL_ON_SKIP = "FAIL_ON_SKIP"
"""Variable that turns a skip into a failure, for a machine where every server can be installed."""


def pytest_configure(config: pytest.Config) -> None:
    """Give each worker ports of its own, and keep files in memory where there is enough.

    pytest-xdist gives each worker folders of its own.
    """
    if os.path.isdir(MEMORY) and shutil.disk_usage(MEMORY).free >= ENOUGH_BYTES:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", MEMORY)
    worker = getattr(config, "workerinput", None)
    if worker is not None:
        number = int(worker["workerid"].removeprefix("gw"))
        ports.FREE_RANGE = ports.FREE_RANGE[number :: worker["workercount"]]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep tests that share servers on one worker."""
    from tests.support.spreading import ByServers

    config.option.loadscopereorder = False
    return ByServers(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest tests first."""
    from tests.support.spreading import order_of

    items.sort(key=lambda item: order_of(item.nodeid))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the log of a server that a failed test used; let no test be skipped silently where all can run."""
    report = yield
    if report.failed:
        for name, value in getattr(item, "funcargs", {}).items():
            log = getattr(value, "log_path", None)
            if isinstance(log, Path) and log.exists():
                report.sections.append(
                    (f"end of the log of {name}", log.read_text(errors="replace")[-LOG_END:])
                )
    if report.skipped and FAIL_ON_SKIP in os.environ and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{FAIL_ON_SKIP} is set, and this test was skipped: {report.longrepr}"
    return report
