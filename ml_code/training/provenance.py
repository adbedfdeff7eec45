"""The origin of a model: commit, Python, kind of machine, and the version of every library."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

_CHECKOUT = Path(__file__).parents[2]


def git_tags() -> dict[str, str]:
    """The commit of this code as MLflow's tags; empty outside of a checkout, or without git."""
    commit = _git("rev-parse", "HEAD")
    # The folder itself has to be the checkout: an installed package may lie in the checkout of another
    # project.
    if not commit or Path(_git("rev-parse", "--show-toplevel")) != _CHECKOUT:
        return {}
    changed = bool(_git("status", "--porcelain", "--untracked-files=no"))
    return {"mlflow.source.git.commit": commit, "git_commit": commit, "git_changed": str(changed).lower()}


def environment() -> dict[str, Any]:
    """Python, platform, processor and the version of every installed distribution, by name."""
    versions = {d.metadata["Name"].lower(): d.version for d in importlib.metadata.distributions()}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "packages": dict(sorted(versions.items())),
    }


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(_CHECKOUT), *arguments], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
