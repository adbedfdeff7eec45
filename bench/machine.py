"""The facts of the machine and the software that the figures depend on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("apache-airflow", "mlflow", "numpy", "onnxruntime", "tritonclient")


def facts() -> dict[str, str | int | float]:
    """Return the facts that a reader needs to compare a figure with that of another machine.

    ``load_average`` is that of the last minute before the run; above the number of cores, other programs
    were running.
    """
    return {
        "processor": _first("/proc/cpuinfo", "model name"),
        "cores": os.cpu_count() or 0,
        "memory_gib": round(int(_first("/proc/meminfo", "MemTotal").split()[0]) / (1 << 20), 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 2),
        **{name: version(name) for name in PACKAGES},
    }


def _first(path: str, key: str) -> str:
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return "unknown"
