"""Models made by hand, each for one thing that ONNX allows: names, opsets, types, shapes, graphs, files, refusals."""

from __future__ import annotations

from importlib import import_module

from .case import Case

PARTS = (
    "made_names_opsets",
    "made_tensors",
    "made_shapes",
    "made_graphs",
    "made_weights",
    "made_answers",
)


def cases() -> list[Case]:
    """Return all made cases."""
    return [case for part in PARTS for case in import_module(f"{__package__}.{part}").CASES]
