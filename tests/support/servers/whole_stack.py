"""`make up` as a process, on free ports."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from stack.ports import free_ports, setting
from tests.support.servers.processes import processes_of


@contextmanager
def whole_stack(state_dir: Path, environment: Mapping[str, str] = {}) -> Iterator[tuple[dict[str, str], str]]:
    """Start the stack as `make up` does, and end it by Ctrl-C; AssertionError if it does not start or end well.

    Args:
        state_dir: its folder.
        environment: more variables for it.

    Yields:
        The variables that name its ports, and what it printed until it was ready.
    """
    ports = {setting(name): str(port) for name, port in free_ports().items()}
    argv = [sys.executable, "-m", "stack", "up", "--state-dir", str(state_dir)]
    environment = {**os.environ, **ports, **environment}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment) as up:
        assert up.stdout is not None
        printed = ""
        for line in up.stdout:
            printed += line
            if "Ctrl-C stops everything" in line:
                break
        assert up.poll() is None, printed
        try:
            yield ports, printed
        finally:
            up.send_signal(signal.SIGINT)
            rest = up.stdout.read()
    assert rest.endswith("stopped\n")
    assert up.returncode == 0
    assert not processes_of(state_dir)
