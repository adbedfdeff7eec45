"""Candidates that hurt the Triton that loads them, and a checkout whose backend lets them."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
from onnx import helper

from stack.servers import REPO
from tests.support.models import files, golden, times
from tests.support.servers.crashed_triton import MARK

BACKEND = Path(__file__).with_name("ending_backend") / "onnxruntime"
WARMUP = [
    {
        "name": "zeros",
        "batch_size": 1,
        "count": 1,
        "inputs": {"x": {"data_type": "TYPE_FP32", "dims": [1, 2], "zero_data": True}},
    }
]

Artifact = dict[str, bytes]


def good(version: int) -> Artifact:
    """``y = x * version``."""
    return files(times(version), triton__golden_json=golden(version))


def marked(moment: str, version: int) -> Artifact:
    """``good``, and at a moment it ends the server, or does not go on: see ``MARK``."""
    model = times(version)
    helper.set_model_props(model, {MARK: moment})
    options = (
        {"triton__config_json": json.dumps({"model_warmup": WARMUP}).encode()} if moment == "warmup" else {}
    )
    return files(model, triton__golden_json=golden(version), **options)


def output_is_input(version: int) -> Artifact:
    """``good``, and its input is an output, too: an ensemble over it never answers, and in the end Triton ends."""
    model: onnx.ModelProto = times(version)
    model.graph.output.append(model.graph.input[0])
    case = json.loads(golden(version))
    case["outputs"] += case["inputs"]
    return files(model, triton__golden_json=json.dumps(case).encode())


def checkout_with_ending_backend(folder: Path) -> Path:
    """Make a folder that a ``Stack`` of Tritons takes for the checkout; they run the backend that ends them on demand."""
    backends = folder / "stack/triton_backends"
    backends.mkdir(parents=True)
    (backends / BACKEND.name).symlink_to(BACKEND)
    (folder / ".venv-triton").symlink_to(REPO / ".venv-triton")
    return folder
