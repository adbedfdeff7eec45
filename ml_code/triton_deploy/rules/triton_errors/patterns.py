"""Patterns of texts of ONNX Runtime and of the operating system."""

from __future__ import annotations

# ONNX Runtime begins with the code of the error: in the first form in the texts of the wheel, in the
# second in those of NVIDIA's backend (RETURN_IF_ORT_ERROR in onnxruntime_utils.h).
_ORT = r"(?:\[ONNXRuntimeError\] : (?:%s) : \w+ : |onnx runtime error (?:%s): )"
# The place in ONNX Runtime that threw the error: file, line and signature of the function.
_THROWN = r"(?:\S+\.(?:cc|h|cu|cuh|hpp):\d+ [^()]*\([^()]*\)(?: const)?(?:::<lambda\([^()]*\)>)?(?: \[with [^\]]*\])? ?)*"
LOAD = "Load model from [^:]*? failed:"
RUN = "Non-zero status code returned while running "

ERRNO = (
    "Too many open files|Too many open files in system|No space left on device|Input/output error|Stale file handle|"
    "Permission denied|Operation not permitted|Read-only file system|Disk quota exceeded|Cannot allocate memory|"
    "Resource temporarily unavailable|Remote I/O error|Transport endpoint is not connected"
)
"""The operating system's words for errors of files, disks and rights."""


def ort(text: str, codes: str = r"\d+") -> str:
    """Return the pattern of a text behind ONNX Runtime's code; ``codes`` are alternatives of a pattern."""
    return _ORT % (codes, codes) + text


def caused_by(text: str) -> str:
    """Return the pattern of a text that stands alone, or behind ONNX Runtime's own words."""
    # The last "Status Message" is ONNX Runtime's own: an earlier one may be part of a node's name.
    doing = rf"(?:{RUN}.*Status Message: (?!.*Status Message: )|Exception during \w+: |{LOAD})?"
    return rf"(?:{ort('')}(?:{doing}){_THROWN})?{text}"
