"""The version of this project that is installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

DISTRIBUTION = "mlflow-triton-deploy"


def installed() -> str:
    """Return the version; ``unknown`` for code that was copied and not installed."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "unknown"
