"""Runs models with ONNX Runtime on this machine: their answers to the held-out rows, and their latency.

Each model runs in its own process, with limits, so that a crash of the model does not end the gate.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ..training.heldout import PROBABILITIES_NAME, HeldOut
from ..triton_deploy.errors import ArtifactRejected, VerificationFailed
from ..triton_deploy.model import onnx_model
from ..triton_deploy.model.reference import ModelProcess
from ..triton_deploy.model.reference_limits import Limits, ModelFailed
from ..triton_deploy.rules.datatypes import NUMPY_TYPES
from ..triton_deploy.rules.schema import Tensor

Array = npt.NDArray[Any]

ROWS_AT_ONCE = 256
WARM_UP_ROUNDS = 5
LONGEST_MEASUREMENT_S = 20.0


class DoesNotFit(ArtifactRejected):
    """The model does not accept the held-out rows, or its output does not fit their target."""

    kind = "does_not_fit"


class OnnxModel:
    """A model that is loaded on this machine, until ``close`` or the end of its ``with`` block.

    A model has one thread, so that a comparison measures the models and not the machine's cores. The
    latency in Triton is different; the smoke test measures it.

    Args:
        file: ``model.onnx``, external data beside it.
        name: name of the model in messages.
        limits: time and memory to load and to answer all rows, and once more to be measured.

    Raises:
        ArtifactRejected: ONNX Runtime can't load the model within the limits, or a tensor has a type that
            Triton does not serve.
        Unavailable: the model's process can't be started, or was killed from outside.
    """

    def __init__(self, file: Path, name: str, limits: Limits) -> None:
        self.name = name
        self.limits = limits
        # The gate limits no versions: the deploy decides which models may be deployed.
        self._schema = onnx_model.inspect(file, max_opset=10**6, max_ir_version=10**6)
        files = [file.name, *onnx_model.external_files(file)]
        self.size_bytes = sum((file.parent / path).stat().st_size for path in files)
        try:
            self._process = ModelProcess(file, limits, threads=1)
        except ModelFailed as failed:
            raise ArtifactRejected(
                f"ONNX Runtime can't load {name}: {failed.what}.",
                hint=failed.advice("Export the model again."),
            ) from failed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the model's process. Safe to repeat."""
        self._process.close()

    def answers(self, held_out: HeldOut) -> Array:
        """Return the scored output, ``probabilities`` ``[rows, classes]`` or the first in the target's shape.

        Raises:
            DoesNotFit: the model does not accept such rows, or its output does not fit their target.
            VerificationFailed: the model fails on them, goes over a limit, or an answer is not finite.
            Unavailable: the model's process was killed from outside.
        """
        self._check_inputs(held_out)
        output = self._scored_output(held_out)
        step = self._batch_rows()
        parts = [self._run(output, held_out.inputs, start, step) for start in range(0, held_out.rows, step)]
        found = np.concatenate(parts)[: held_out.rows]
        if not np.isfinite(found).all():
            raise VerificationFailed(
                f"{self.name} gives answers that are not finite on held-out rows.",
                hint="Look at its training; such a model must not serve.",
            )
        return self._in_terms_of(held_out, output, found)

    def hold(self, held_out: HeldOut, rows: int) -> None:
        """Keep a request in the model's process, for ``measure``.

        Args:
            held_out: source of the rows; if there are too few, rows are repeated.
            rows: rows of the request; a model with a fixed number of rows gets that number.

        Raises:
            VerificationFailed, Unavailable: as for ``answers``.
        """
        taken = np.arange(self.request_rows or rows) % held_out.rows
        try:
            self._process.hold({name: array[taken] for name, array in held_out.inputs.items()})
        except ModelFailed as failed:
            raise self._failure(failed) from failed

    def measure(self) -> float:
        """Answer the kept request, with all outputs; return the time that the model's process took, seconds.

        Raises:
            VerificationFailed, Unavailable: as for ``answers``.
        """
        try:
            return self._process.measure()
        except ModelFailed as failed:
            raise self._failure(failed) from failed

    @property
    def request_rows(self) -> int:
        """Number of rows that every request has to have; 0 for any number."""
        sizes = {tensor.shape[0] for tensor in self._schema.inputs if tensor.shape and tensor.shape[0] > 0}
        return max(sizes, default=0)

    def _batch_rows(self) -> int:
        return self.request_rows or ROWS_AT_ONCE

    def _run(self, output: str, inputs: Mapping[str, Array], start: int, step: int) -> Array:
        # A model with a fixed number of rows needs a full last request: copies of the last row fill it.
        rows = next(iter(inputs.values())).shape[0]
        last = min(start + step, rows)
        taken = np.arange(start, start + self.request_rows if self.request_rows else last).clip(max=rows - 1)
        try:
            answers = self._process.run({name: array[taken] for name, array in inputs.items()}, [output])
        except ModelFailed as failed:
            raise self._failure(failed) from failed
        return answers[output]

    def _failure(self, failed: ModelFailed) -> VerificationFailed:
        return VerificationFailed(
            f"{self.name} fails on held-out rows: {failed.what}.",
            hint=failed.advice(
                "The export does not take what training was evaluated on; export the model again."
            ),
        )

    def _check_inputs(self, held_out: HeldOut) -> None:
        wanted = {tensor.name: tensor for tensor in self._schema.inputs}
        missing = [
            name for name, tensor in wanted.items() if not tensor.optional and name not in held_out.inputs
        ]
        if missing:
            raise self._misfit(f"its input {missing[0]} is not among the held-out inputs")
        for name, array in held_out.inputs.items():
            if name not in wanted:
                raise self._misfit(f"it has no input {name}")
            if not _takes(wanted[name], array):
                raise self._misfit(f"its input {wanted[name]} does not take {array.dtype}{list(array.shape)}")

    def _scored_output(self, held_out: HeldOut) -> str:
        if held_out.task == "regression":
            return self._schema.outputs[0].name
        if PROBABILITIES_NAME not in {tensor.name for tensor in self._schema.outputs}:
            raise self._misfit(f"it has no output {PROBABILITIES_NAME}")
        return PROBABILITIES_NAME

    def _in_terms_of(self, held_out: HeldOut, output: str, found: Array) -> Array:
        if held_out.task == "classification":
            if found.ndim != 2 or found.shape[1] <= held_out.target.max():
                raise self._misfit(
                    f"its output {output} has shape {list(found.shape)}, and a row is of class {held_out.target.max()}"
                )
            return found
        if found.size != held_out.target.size:
            raise self._misfit(
                f"its output {output} has shape {list(found.shape)}, the target {list(held_out.target.shape)}"
            )
        return found.reshape(held_out.target.shape)

    def _misfit(self, what: str) -> DoesNotFit:
        return DoesNotFit(
            f"{self.name} can't be judged on the held-out rows: {what}.",
            hint="Compare them on data that both take, or set the rule incomparable to 'floor'.",
        )


def latencies_ms(models: Sequence[OnnxModel], held_out: HeldOut, *, rows: int, rounds: int) -> list[float]:
    """Return the median latency of each model, milliseconds, from requests in turn.

    The models take turns, and every other round reverses the order, so that other load on the machine
    affects all models alike. Each process takes the time itself: the communication between processes does
    not count.

    Args:
        models: the models.
        held_out: source of the rows.
        rows: rows of a request; a model with a fixed number of rows gets that number.
        rounds: measured requests to each model; fewer if they take longer than 20 s in all.

    Raises:
        VerificationFailed: a model fails, or goes over a limit.
        Unavailable: a model's process was killed from outside.
    """
    for model in models:
        model.hold(held_out, rows)
    taken: list[list[float]] = [[] for _ in models]
    order = list(range(len(models)))
    deadline = time.perf_counter() + LONGEST_MEASUREMENT_S
    for number in range(WARM_UP_ROUNDS + rounds):
        for index in order if number % 2 else reversed(order):
            taken[index].append(models[index].measure())
        if time.perf_counter() > deadline and number > WARM_UP_ROUNDS:
            break
    return [statistics.median(times[WARM_UP_ROUNDS:]) * 1e3 for times in taken]


def _takes(tensor: Tensor, array: Array) -> bool:
    sizes = zip(tensor.shape[1:], array.shape[1:], strict=False)
    return (
        np.dtype(NUMPY_TYPES[tensor.datatype]) == array.dtype
        and len(tensor.shape) == array.ndim
        and all(wanted in (-1, given) for wanted, given in sizes)
    )
