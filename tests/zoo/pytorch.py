"""Thirteen kinds of PyTorch modules, each exported by both of PyTorch's exporters."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .case import Array, Case, Unavailable

Exporter = Literal["torchscript", "dynamo"]


@dataclass(frozen=True)
class Kind:
    """One kind of module.

    Attributes:
        name: of the kind.
        build: makes the module; PyTorch is imported in there.
        inputs: what it is exported with, and what it is asked, by name.
        outputs: names of its outputs.
        open: the axes of any size, by tensor and axis.
        external: whether the weights are to lie beside the model.
        opset: of the export.
    """

    name: str
    build: Callable[[], Any]
    inputs: Mapping[str, Array]
    outputs: Sequence[str] = ("y",)
    open: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    external: bool = False
    opset: int = 18


def cases() -> list[Case]:
    """Return a case for each kind and exporter."""
    exporters: tuple[Exporter, ...] = ("torchscript", "dynamo")
    return [_case(kind, exporter) for kind in KINDS for exporter in exporters]


def _case(kind: Kind, exporter: Exporter) -> Case:
    def write(folder: Path) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                _export(kind, exporter, folder)
        except ImportError as missing:
            raise Unavailable(str(missing)) from missing

    return Case(f"{kind.name}_{exporter}", "pytorch", write, kind.inputs)


def _export(kind: Kind, exporter: Exporter, folder: Path) -> None:
    import torch

    # It tells of torchvision's operators, which no module here uses.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    torch.manual_seed(0)
    module = kind.build().eval()
    options: dict[str, Any] = {"dynamic_axes": kind.open} if kind.open else {}
    if exporter == "dynamo":
        options = {"external_data": kind.external, "verbose": False}
        if kind.open:
            options["dynamic_shapes"] = _dynamic_shapes(kind)
    torch.onnx.export(
        module,
        # Copies: PyTorch warns of arrays that it must not write into.
        tuple(torch.tensor(array) for array in kind.inputs.values()),
        folder / "model.onnx",
        input_names=list(kind.inputs),
        output_names=list(kind.outputs),
        opset_version=kind.opset,
        dynamo=exporter == "dynamo",
        **options,
    )
    if kind.external and exporter == "torchscript":
        _move_weights_out(folder / "model.onnx")


def _dynamic_shapes(kind: Kind) -> tuple[Any, ...]:
    import torch

    sizes = {name: torch.export.Dim(name) for axes in kind.open.values() for name in axes.values()}
    return tuple(
        {axis: sizes[size] for axis, size in kind.open.get(name, {}).items()} or None for name in kind.inputs
    )


def _move_weights_out(file: Path) -> None:
    """Put weights beside the model, which this exporter does for more than 2 GB alone."""
    import onnx

    onnx.save(onnx.load(file), file, save_as_external_data=True, location="weights.bin", size_threshold=0)


def numbers(*shape: int, dtype: Any = np.float32) -> Array:
    """Return normally distributed numbers, the same ones in each run."""
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def _module(forward: Callable[..., Any]) -> Any:
    """Return a module whose ``forward`` is a function of the module and its inputs."""
    from torch import nn

    return type("Module", (nn.Module,), {"forward": forward})()


def _mlp(dtype: str = "float32") -> Any:
    import torch
    from torch import nn

    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)).to(getattr(torch, dtype))


def _wide() -> Any:
    from torch import nn

    return nn.Sequential(nn.Linear(6, 512), nn.GELU(), nn.Linear(512, 512), nn.LayerNorm(512))


def _convolutions() -> Any:
    from torch import nn

    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4), nn.Softmax(-1)]
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), *head)


def _lstm() -> Any:
    import torch
    from torch import nn

    class Stepper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(4, 8, num_layers=2, batch_first=True)

        def forward(self, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> Any:
            y, (h, c) = self.lstm(x, (h, c))
            return y, h, c

    return Stepper()


def _attention() -> Any:
    """Return an encoder with a mask and the mean of what is not masked."""
    import torch
    from torch import nn

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(50, 16)
            self.heads, self.out = nn.Linear(16, 48), nn.Linear(16, 2)

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            q, k, v = self.heads(self.words(ids)).chunk(3, -1)
            scores = (q @ k.transpose(-1, -2) / 4).masked_fill(mask.unsqueeze(1) == 0, float("-inf"))
            seen = mask.unsqueeze(-1).to(q.dtype)
            pooled = ((scores.softmax(-1) @ v) * seen).sum(1) / seen.sum(1)
            result: torch.Tensor = self.out(pooled)
            return result

    return Encoder()


def _embedding() -> Any:
    from torch import nn

    return nn.Sequential(nn.Embedding(30, 8), nn.Flatten(), nn.Linear(40, 2))


def _top_k() -> Any:
    import torch

    return _module(lambda self, x: torch.topk(x, 3, dim=-1))


def _mean() -> Any:
    return _module(lambda self, x: x.mean())


def _by_scalar() -> Any:
    return _module(lambda self, x, by: x * by + by)


def _boxes() -> Any:
    """Return a module whose number of answers depends on the values."""
    import torch

    return _module(lambda self, x: (torch.nonzero(x > 0), x[x > 0]))


ROWS, IMAGES = numbers(5, 6), numbers(2, 3, 8, 8)
IDS = {"ids": np.array([[3, 7, 11, 0], [1, 2, 3, 4]]), "mask": np.array([[1, 1, 1, 0], [1, 1, 1, 1]])}
TABLE_IDS = {"ids": np.arange(10, dtype=np.int64).reshape(2, 5)}
STATES = {"x": numbers(2, 5, 4), "h": numbers(2, 2, 8), "c": numbers(2, 2, 8)}
BATCH = {"x": {0: "batch"}, "y": {0: "batch"}}
KINDS = (
    Kind("mlp", _mlp, {"x": ROWS}, open=BATCH),
    Kind("mlp_fixed", _mlp, {"x": ROWS}),
    Kind("mlp_half", lambda: _mlp("float16"), {"x": ROWS.astype(np.float16)}, open=BATCH),
    Kind("mlp_double", lambda: _mlp("float64"), {"x": ROWS.astype(np.float64)}, open=BATCH),
    Kind("external_data", _wide, {"x": ROWS}, open=BATCH, external=True),
    Kind("convolutions", _convolutions, {"x": IMAGES}, open={"x": {0: "n", 2: "h", 3: "w"}, "y": {0: "n"}}),
    Kind(
        "lstm_with_states",
        _lstm,
        STATES,
        ("y", "h_next", "c_next"),
        {"x": {0: "n", 1: "steps"}, "h": {1: "n"}, "c": {1: "n"}, "y": {0: "n", 1: "steps"}},
    ),
    Kind(
        "attention_with_mask",
        _attention,
        IDS,
        open={"ids": {0: "n", 1: "words"}, "mask": {0: "n", 1: "words"}, "y": {0: "n"}},
    ),
    Kind("embedding", _embedding, TABLE_IDS, open={"ids": {0: "n"}, "y": {0: "n"}}),
    Kind(
        "top_k",
        _top_k,
        {"x": ROWS},
        ("values", "indices"),
        {"x": {0: "n"}, "values": {0: "n"}, "indices": {0: "n"}},
    ),
    Kind("mean_of_all", _mean, {"x": ROWS}, open={"x": {0: "n"}}),
    Kind("scalar_input", _by_scalar, {"x": ROWS, "by": np.array(2.5, np.float32)}, open=BATCH),
    Kind(
        "size_by_values",
        _boxes,
        {"x": ROWS},
        ("at", "values"),
        {"x": {0: "n"}, "at": {0: "k"}, "values": {0: "k"}},
    ),
)
