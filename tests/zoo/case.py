"""A model of the zoo: how its files are written, what it is asked, and what is expected of its deploy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt

Array = npt.NDArray[Any]
Example = Literal["golden", "input_example", "none"]


class Unavailable(Exception):
    """A package that the cases of a group need is not installed; the message says which."""


class NotExported(Exception):
    """The exporter itself makes no ONNX file of this model; the message says why."""


@dataclass(frozen=True)
class Case:
    """One model.

    Attributes:
        name: unique in its group; letters, digits, ``_``, ``.`` and ``-``.
        group: name of the module that gives the case.
        write: writes ``model.onnx``, and external data beside it, into a folder that exists and is empty.
            Raises Unavailable where a package is missing, NotExported where its exporter fails.
        inputs: real inputs by tensor name, as ONNX Runtime takes them (strings as arrays of objects).
            A function computes them from the folder after ``write``, where only the model knows them.
        example: how the inputs are logged with the model: with ONNX Runtime's answers in
            ``triton/golden.json``, as MLflow's input example, or not at all.
        config: what ``triton/config.json`` is to hold, such as ``{"max_batch_size": 8}``; empty: no such file.
        refused: part of the message with which the deployer has to refuse the model; empty: it has to serve.
    """

    name: str
    group: str
    write: Callable[[Path], None]
    inputs: Mapping[str, Array] | Callable[[Path], Mapping[str, Array]]
    example: Example = "golden"
    config: Mapping[str, object] = field(default_factory=dict)
    refused: str = ""

    @property
    def model(self) -> str:
        """The name under which it is deployed."""
        return f"zoo_{self.group}_{self.name}".replace(".", "_").replace("-", "_")
