"""Errors of ONNX Runtime for which the deployer's machine is at fault; see ``triton_errors``."""

from __future__ import annotations

import re

from ..errors import DeployError, Misconfigured, Unavailable
from .triton_errors import row_of
from .triton_errors.calls import Call
from .triton_errors.node import FILES_OR_RIGHTS, LIBRARY, LOCALE, NO_THREAD_LEFT

_REPAIRS = {
    LOCALE: "Install that locale on this machine (Debian: apt-get install locales, then locale-gen), and on those of the Tritons",
    LIBRARY: "Install that library on this machine, and on those of the Tritons",
    FILES_OR_RIGHTS: "This machine lacks open files, disk or rights: raise its limits, or repair what is named",
    NO_THREAD_LEFT: "This machine starts no more threads: raise its limit of processes (ulimit -u, pids)",
}
"""What to do on this machine, by the row of ``triton_errors``."""

_NOT_IMPORTED = re.compile(r".*\b(?:ModuleNotFoundError|ImportError): (?P<why>.*)", re.DOTALL)


def machine_fault(said: str, doing: str = "running a model") -> DeployError | None:
    """Return the error if this machine is at fault for an error of ONNX Runtime; else None.

    Args:
        said: the text of ONNX Runtime.
        doing: the action that failed, for the message.
    """
    repair = _REPAIRS.get(row_of(Call.LOADING, "INTERNAL", said))
    if repair is None:
        return None
    return Unavailable(
        f"This machine failed {doing} with ONNX Runtime: {said}.",
        hint=f"{repair}. Nothing is held against the model; then try again.",
    )


def not_imported(last: str) -> Misconfigured | None:
    """Return the error when a process ended because Python could not import a module; None otherwise.

    Args:
        last: the last text that the process wrote.
    """
    found = _NOT_IMPORTED.match(last)
    if found is None:
        return None
    return Misconfigured(
        f"ONNX Runtime can't be imported here, so no model can be run: {found['why']}.",
        hint="Install what it names in this Python environment (onnxruntime, numpy), or its system library (such as libstdc++ or libgomp); or log golden inputs (triton/golden.json) with every model.",
    )
