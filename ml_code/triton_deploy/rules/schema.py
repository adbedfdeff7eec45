"""Inputs and outputs of a model, and the changes of them that break a client. Pure rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from . import reader


@dataclass(frozen=True)
class Tensor:
    """One input or output.

    Attributes:
        name: tensor name.
        datatype: KServe v2 name, such as ``FP32``, ``INT64``, ``BYTES``.
        shape: sizes, batch dimension included; -1 where any size goes.
        optional: whether a client may leave the tensor out (inputs only).
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False

    def __str__(self) -> str:
        return f"{self.name} {self.datatype}{list(self.shape)}"


@dataclass(frozen=True)
class Schema:
    """All inputs and outputs of a model, in the model's order."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def batchable(self) -> bool:
        """Whether the first dimension of every tensor takes any size, so that requests can be stacked."""
        return all(tensor.shape[:1] == (-1,) for tensor in (*self.inputs, *self.outputs))

    def to_dict(self) -> dict[str, Any]:
        """Return the schema as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read back the result of ``to_dict``; raises ValueError for any other data."""
        return reader.record(data, cls, "schema.")


def public_tensor(tensor: Tensor, options: Mapping[str, Any]) -> Tensor:
    """Return a tensor of the model as Triton's clients send and get it.

    Triton has no empty dims. A scalar is a list of one to its clients; with ``max_batch_size`` so is a
    scalar a row.

    Args:
        tensor: as ONNX Runtime has it.
        options: the version's options, of which ``max_batch_size`` counts.
    """
    bare_rank = 1 if options.get("max_batch_size") else 0
    return replace(tensor, shape=(*tensor.shape, 1)) if len(tensor.shape) == bare_rank else tensor


@dataclass(frozen=True)
class Offer:
    """What a version offers to clients.

    Attributes:
        schema: inputs and outputs, as ONNX Runtime has them.
        options: its ``triton/config.json``.
    """

    schema: Schema
    options: Mapping[str, Any]

    @property
    def public(self) -> Schema:
        """All tensors as Triton's clients send and get them: see ``public_tensor``."""
        inputs, outputs = (
            tuple(public_tensor(tensor, self.options) for tensor in tensors)
            for tensors in (self.schema.inputs, self.schema.outputs)
        )
        return Schema(inputs, outputs)

    @property
    def most_rows(self) -> int:
        """Rows that one request may have; 0 for any number."""
        return int(self.options.get("max_batch_size") or 0)


def breaking_offer(old: Offer, new: Offer) -> list[str]:
    """Return, as sentences, every way in which a client of ``old`` would fail on ``new``.

    Options count as well: batching gives a scalar a row another rank, and limits the rows of a request.
    """
    changes = breaking_changes(old.public, new.public)
    if new.most_rows and not 0 < old.most_rows <= new.most_rows:
        before = f"{old.most_rows} before" if old.most_rows else "any number before"
        changes.append(f"a request may have {new.most_rows} rows at most (max_batch_size), {before}")
    return changes


def breaking_changes(old: Schema, new: Schema) -> list[str]:
    """Return, as sentences, every way in which a client of ``old`` would fail on ``new``; empty without any.

    More outputs, new optional inputs and inputs that take more shapes than before break no client.
    """
    changes = []
    old_inputs, new_inputs = _by_name(old.inputs), _by_name(new.inputs)
    old_outputs, new_outputs = _by_name(old.outputs), _by_name(new.outputs)
    for name, was in old_inputs.items():
        if name not in new_inputs:
            changes.append(f"input {was} is gone")
        elif not _takes_all_of(new_inputs[name], was):
            changes.append(f"input {was} became {new_inputs[name]}")
    changes += [
        f"input {now} is new and not optional"
        for name, now in new_inputs.items()
        if name not in old_inputs and not now.optional
    ]
    for name, was in old_outputs.items():
        if name not in new_outputs:
            changes.append(f"output {was} is gone")
        elif not _takes_all_of(was, new_outputs[name]):
            changes.append(f"output {was} became {new_outputs[name]}")
    return changes


def _takes_all_of(wide: Tensor, narrow: Tensor) -> bool:
    """Whether every value of ``narrow`` fits ``wide``."""
    return (
        wide.datatype == narrow.datatype
        and len(wide.shape) == len(narrow.shape)
        and all(w in (-1, n) for w, n in zip(wide.shape, narrow.shape, strict=True))
        and not (narrow.optional and not wide.optional)
    )


def _by_name(tensors: tuple[Tensor, ...]) -> dict[str, Tensor]:
    return {tensor.name: tensor for tensor in tensors}
