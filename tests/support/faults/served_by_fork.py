"""Starts the processes that fork a child for each of a test's commands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from stack.servers import REPO


def start(module: str, log: Path) -> subprocess.Popen[str]:
    """Return a process that runs a module, is told lines and answers lines.

    Args:
        module: its name.
        log: gets what it says on standard error.
    """
    with log.open("w") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", module],
            cwd=REPO,
            # A fork carries one thread on: libraries must have no others.
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
