"""The inputs and outputs of a model as ONNX Runtime has them: Triton compares a configuration with those.

The runtime merges the shapes that it infers into those that the file declares, and folds constants first: a
file that says ``[N, M]`` may be ``[N, 3]`` for it. NVIDIA's backend compares the outputs of a configuration
exactly with those of its own session (``ValidateOutputs`` in ``onnxruntime_backend/src/onnxruntime.cc``).
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .onnx_outline import external_tensors, linked_outline
from .reference_limits import Limits, ModelFailed


@dataclass(frozen=True)
class Port:
    """One input or output, as ONNX Runtime describes it.

    Attributes:
        name: its name.
        type: its type, such as ``tensor(float)`` or ``seq(tensor(int64))``.
        shape: sizes, -1 where any size goes; empty for a scalar, and also where the rank is not known.
    """

    name: str
    type: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Signature:
    """What ONNX Runtime says of a model.

    Attributes:
        runtime: version of this machine's ONNX Runtime.
        inputs: what a request has to carry; inputs with a default in the file are not among them.
        outputs: all outputs.
    """

    runtime: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


def signature_of(model_file: Path, limits: Limits) -> Signature:
    """Open a model in a process of its own, without its large weights, and return its inputs and outputs.

    Args:
        model_file: the ``model.onnx``, external data beside it.
        limits: what the process may take; the files that it maps come on top.

    Raises:
        ModelFailed: ONNX Runtime can't open it.
        Unavailable: the process can't be started, or another process ended it.
        OSError: the file can't be read.
        ValueError: the file is no ONNX model.
    """
    # The first step of a deploy imports this module, and numpy is slow to import.
    from .reference import ModelProcess

    outline = linked_outline(model_file)
    mapped_bytes = _mapped_bytes(outline, model_file.parent)
    with ModelProcess(model_file, limits, outline=outline, mapped_bytes=mapped_bytes) as process:
        return _checked(process.signature)


_MAPPED_TIMES = 2
"""ONNX Runtime 1.31 maps each tensor while the first mapping is still there."""

Signer = Callable[[Path, Limits], Signature]
"""Returns the inputs and outputs of a ``model.onnx``: ``signature_of``, or a fake."""


def _mapped_bytes(outline: bytes, folder: Path) -> int:
    """Return the address space that ONNX Runtime takes for the tensors of an outline, bytes.

    Each file counts once: a model whose tensors overlap gets no more memory by it.
    """
    import onnx

    locations = [info.location for _, info in external_tensors(onnx.ModelProto.FromString(outline))]
    paths = {Path(os.path.normpath(folder / location)) for location in set(locations)}
    # Each tensor is mapped by itself, in whole pages.
    edges_bytes = 2 * resource.getpagesize() * len(locations)
    mapped_bytes = edges_bytes + sum(path.stat().st_size for path in paths if path.is_file())
    return _MAPPED_TIMES * mapped_bytes


def _checked(said: Mapping[str, Any]) -> Signature:
    """Return a signature; the process that sends it has opened a stranger's model, and is not believed."""
    try:
        inputs, outputs = (tuple(_port(entry) for entry in said[key]) for key in ("inputs", "outputs"))
        return Signature(str(said["runtime"]), inputs, outputs)
    except (LookupError, TypeError, ValueError) as error:
        raise ModelFailed(f"its process answers nonsense ({type(error).__name__}: {error})") from error


def _port(entry: Mapping[str, Any]) -> Port:
    name, kind, shape = entry["name"], entry["type"], tuple(entry["shape"])
    if not isinstance(name, str) or not isinstance(kind, str):
        raise TypeError("a name or a type is no text")
    if any(type(size) is not int or not -1 <= size < 2**63 for size in shape):
        raise ValueError(f"{name!r} has the shape {shape}")
    return Port(name, kind, shape)
