"""Runs commands as whole processes and measures them: time from start to end, memory and bytes written."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from .measured import Cost

MEASURED = Path(__file__).with_name("measured.py")


def run(
    command: Sequence[str], environment: Mapping[str, str], *, timeout_s: float = 300
) -> tuple[Cost, str]:
    """Run a command to its end.

    Args:
        command: an absolute path, and arguments.
        environment: all environment variables of the command.
        timeout_s: longest wait, seconds.

    Returns:
        The command's cost and its standard output.

    Raises:
        RuntimeError: the command failed; the text has the end of its output.
    """
    with tempfile.NamedTemporaryFile(suffix=".json") as cost:
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(MEASURED), cost.name, *command],
            env=dict(environment),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-2000:]}{done.stdout[-2000:]}")
        return Cost(**json.loads(Path(cost.name).read_text(encoding="utf-8"))), done.stdout
