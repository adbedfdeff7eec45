"""What ONNX Runtime says when the machine that runs it is at fault, and not the model. See triton_errors for how it is told."""

from __future__ import annotations

import re

from ..errors import DeployError, Misconfigured, Unavailable
from .triton_errors import Call, row_of

_REPAIRS = {
    "locale": "Install that locale on this machine (Debian: apt-get install locales, then locale-gen), and on those of the Tritons",
    "library": "Install that library on this machine, and on those of the Tritons",
    "descriptors, disk or permissions": "This machine lacks open files, disk or rights: raise its limits, or repair what is named",
    "no thread left": "This machine starts no more threads: raise its limit of processes (ulimit -u, pids)",
}
"""What to do here, by the row of triton_errors."""

_NOT_IMPORTED = re.compile(r".*\b(?:ModuleNotFoundError|ImportError): (?P<why>.*)", re.DOTALL)


def machine_fault(said: str, doing: str = "running a model") -> DeployError | None:
    """Return the error when what ONNX Runtime says here is this machine's fault; None when it is not, or nobody knows.

    Args:
        said: what it said.
        doing: what was under way, for the message.
    """
    row = row_of(Call.LOADING, "INTERNAL", said)
    if row.name not in _REPAIRS:
        return None
    return Unavailable(
        f"This machine failed {doing} with ONNX Runtime: {said}.",
        hint=f"{_REPAIRS[row.name]}. Nothing is held against the model; then try again.",
    )


def not_imported(last: str) -> Misconfigured | None:
    """Return the error when a process says at its end that Python could not import something; None when it does not.

    Args:
        last: what it wrote last.
    """
    found = _NOT_IMPORTED.match(last)
    if found is None:
        return None
    return Misconfigured(
        f"ONNX Runtime can't be imported here, so no model can be run: {found['why']}.",
        hint="Install what it names in this Python environment (onnxruntime, numpy), or its system library (such as libstdc++ or libgomp); or log golden inputs (triton/golden.json) with every model.",
    )
