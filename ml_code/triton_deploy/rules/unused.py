"""Finds logged files that were meant for Triton or the deployer, and are not used. Pure rules."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors.texts import excerpt
from .version_files import GOLDEN, OPTIONS, SERVING_EXAMPLE

FOLDER = "triton/"
USED = (GOLDEN, OPTIONS)
INPUT_EXAMPLE = "input_example.json"
MOST_TOLD = 5


def unused(paths: Iterable[str]) -> list[str]:
    """Return a sentence for each file that was meant for a deploy and is not used, with the reason.

    Args:
        paths: the files of a version, relative to the folder of its ``model.onnx``.
    """
    listed = sorted(set(paths))
    found = [f"{excerpt(path, 200)} is not used: {why}." for path in listed if (why := _why(path))]
    if INPUT_EXAMPLE in listed and SERVING_EXAMPLE not in listed and USED[0] not in listed:
        found.append(
            f"{INPUT_EXAMPLE} is not used: the inputs of the smoke test come from {USED[0]} or {SERVING_EXAMPLE}, which newer versions of "
            f"MLflow log with the example. Inputs are invented instead; log {USED[0]}."
        )
    more = len(found) - MOST_TOLD
    return [*found[:MOST_TOLD], *([f"{more} more files are not used."] if more > 0 else [])]


def _why(path: str) -> str:
    name = path.rpartition("/")[2].lower()
    if path in USED:
        return ""
    if name == "config.pbtxt":
        return (
            "Triton's configuration is generated from the model; write max_batch_size, dynamic_batching, instance_group, model_warmup, "
            f"optimization and parameters as JSON into {USED[1]}, the rest can't be set"
        )
    if path.startswith(FOLDER):
        return f"in the folder {FOLDER} only {' and '.join(USED)} are read"
    if name == "golden.json":
        return f"it is read as {USED[0]} only"
    # Tokenizers and Hugging Face's models bring a config.json of their own.
    return ""
