"""Models in this process: ONNX Runtime for ONNX files, ``mlflow.pyfunc`` for every other flavor.

Each model answers an example before it serves.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ...triton_deploy.errors import ArtifactRejected, Misconfigured
from ...triton_deploy.model import onnx_model
from ...triton_deploy.model.derived_case import derive_case
from ...triton_deploy.model.input_examples import DoesNotFit, example_inputs
from ...triton_deploy.model.smoke_case import INPUT_EXAMPLE, Array, SmokeCase, largest_error, parse_case
from ...triton_deploy.rules.datatypes import NUMPY_TYPES
from ...triton_deploy.rules.machine_faults import machine_fault
from ...triton_deploy.rules.schema import Offer, Schema, Tensor
from ...triton_deploy.rules.version_files import GOLDEN, MODEL_FILE, SERVING_EXAMPLE
from ...triton_deploy.settings import Settings
from ..backend import Example
from ..predict.examples import example_of, invented
from .files import Fetched


class LocalModel(Protocol):
    """A loaded model."""

    @property
    def schema(self) -> Schema:
        """Inputs and outputs."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return arrays by output name; raises any error of the model."""


def load(fetched: Fetched, settings: Settings, threads: int) -> LocalModel:
    """Load a model and ask it once.

    Args:
        fetched: its files.
        settings: the deployer's, for ONNX limits and tolerances.
        threads: threads for one request.

    Raises:
        ArtifactRejected: the model can't be loaded, or fails on its example.
        VerificationFailed: its answers differ from the answers that were logged with it.
        Misconfigured: a library that its flavor needs is not installed.
    """
    if fetched.is_onnx:
        onnx = OnnxModel(fetched.folder, settings, threads)
        _try_onnx(onnx, fetched.folder, settings)
        return onnx
    pyfunc = PyfuncModel(fetched.folder)
    pyfunc.try_example()
    return pyfunc


def example(fetched: Fetched, model: LocalModel) -> Example | None:
    """Return a request that a loaded model can answer, with inputs that were logged with it if it has some.

    Args:
        fetched: its files.
        model: the model, loaded from them.
    """
    own = model.own if isinstance(model, OnnxModel) else model.schema
    golden, logged = (
        path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        for path in (fetched.folder / GOLDEN, fetched.folder / SERVING_EXAMPLE)
    )
    found = None
    # Both files were read at the load: what does not fit here is shown nowhere, and fails nothing.
    with contextlib.suppress(ArtifactRejected, ValueError, KeyError):
        if golden and fetched.is_onnx:
            case = parse_case(golden, own)
        else:
            case = SmokeCase(INPUT_EXAMPLE, _logged_inputs(logged, own), {})
        found = example_of(case.sent(Offer(own, {})), model.schema, case.source)
    return found or invented(model.schema)


def _logged_inputs(text: str, schema: Schema) -> dict[str, Array]:
    """Return the inputs of an example in MLflow's scoring protocol; raises ValueError or KeyError."""
    try:
        return example_inputs(text, schema)
    except DoesNotFit:
        table = json.loads(text)["dataframe_split"]
        types = {tensor.name: NUMPY_TYPES[tensor.datatype] for tensor in schema.inputs}
        columns = dict(zip(table["columns"], zip(*table["data"], strict=True), strict=True))
        return {name: np.array(columns[name], types[name]) for name in types}


class OnnxModel:
    """An ONNX model in ONNX Runtime.

    Args:
        folder: has ``model.onnx``.
        settings: the highest opset and IR version.
        threads: threads for one request.

    Attributes:
        own: inputs and outputs as ONNX Runtime has them.
        schema: the same as clients send and get them, with a list of one for a scalar, as with Triton.
    """

    def __init__(self, folder: Path, settings: Settings, threads: int) -> None:
        import onnxruntime

        self.own = onnx_model.inspect(
            folder / MODEL_FILE,
            max_opset=settings.triton.max_opset,
            max_ir_version=settings.triton.max_ir_version,
        )
        self.schema = Offer(self.own, {}).public
        self._scalars = {tensor.name for tensor in self.own.inputs if not tensor.shape}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(
                str(folder / MODEL_FILE), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's exceptions share no base class but Exception.
            raise machine_fault(str(error), "loading the model") or ArtifactRejected(
                f"ONNX Runtime can't load the model: {error}", hint="Repair the model, or export it again."
            ) from error
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """See LocalModel.run."""
        texts = {
            name: np.array(
                [t.decode() if isinstance(t, bytes) else t for t in array.flat], np.object_
            ).reshape(array.shape)
            for name, array in inputs.items()
            if array.dtype == np.object_
        }
        given = {
            name: array.reshape(()) if name in self._scalars else array
            for name, array in {**inputs, **texts}.items()
        }
        values = map(np.asarray, self._session.run(self._outputs, given))
        return {
            name: value if value.ndim else value.reshape(1)
            for name, value in zip(self._outputs, values, strict=True)
        }


def _try_onnx(model: OnnxModel, folder: Path, settings: Settings) -> None:
    if not (folder / GOLDEN).is_file():
        example = folder / SERVING_EXAMPLE
        text = example.read_text(encoding="utf-8", errors="replace") if example.is_file() else None
        # derive_case runs the model. There is nothing to compare its answer with.
        derive_case(folder / MODEL_FILE, model.own, text)
        return
    case = parse_case((folder / GOLDEN).read_text(encoding="utf-8", errors="replace"), model.own)
    try:
        answers = model.run(case.inputs)
    except Exception as error:
        raise machine_fault(str(error)) or ArtifactRejected(
            f"The model fails on its golden inputs: {error}",
            hint="Repair the model, or its triton/golden.json.",
        ) from error
    largest_error(case, answers, rtol=settings.smoke.rtol, atol=settings.smoke.atol)


class PyfuncModel:
    """A model of any MLflow flavor.

    Loading one runs code that came with it: everyone who may register models is trusted.

    Args:
        folder: has ``MLmodel``.
    """

    def __init__(self, folder: Path) -> None:
        try:
            import mlflow.pyfunc
        except ImportError as error:
            raise Misconfigured(
                "This model needs MLflow, which is not installed here.",
                hint="Install mlflow and what the model's flavor needs, or log the model as ONNX.",
            ) from error
        try:
            self._model = mlflow.pyfunc.load_model(str(folder))
        except ImportError as error:
            raise Misconfigured(
                f"What the model needs is not installed here: {error}.",
                hint="Install what the model's requirements.txt names.",
            ) from error
        except Exception as error:  # any error of the flavor's library
            raise ArtifactRejected(
                f"MLflow can't load the model: {error}",
                hint="Load it with mlflow.pyfunc by hand, and log it again.",
            ) from error
        self.schema = _schema(self._model.metadata.signature)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """See LocalModel.run."""
        return _named(self._model.predict(self._given(inputs)), self.schema)

    def try_example(self) -> None:
        """Run the logged example, or zeros without one; raises ArtifactRejected when the model fails."""
        try:
            example = self._model.input_example
            if example is None:
                self.run(
                    {tensor.name: _zeros(tensor) for tensor in self.schema.inputs if not tensor.optional}
                )
            else:
                self._model.predict(example)
        except Exception as error:  # any error of the model
            raise ArtifactRejected(
                f"The model fails on {'zeros' if example is None else 'its input example'}: {error}",
                hint="Log the model with an input example that it can answer.",
            ) from error

    def _given(self, inputs: Mapping[str, Array]) -> Any:
        """Return the inputs in the form of the signature: one array, arrays by name, or a table."""
        signature = self._model.metadata.signature.inputs
        if signature.is_tensor_spec():
            return next(iter(inputs.values())) if not signature.has_input_names() else dict(inputs)
        import pandas

        columns = {}
        for name, array in inputs.items():
            flat = array.reshape(len(array))
            columns[name] = [t.decode() for t in flat] if array.dtype == np.object_ else flat
        return pandas.DataFrame(columns)


_COLUMN_TYPES = {
    "boolean": "BOOL",
    "integer": "INT32",
    "long": "INT64",
    "float": "FP32",
    "double": "FP64",
    "string": "BYTES",
}


def _schema(signature: Any) -> Schema:
    if signature is None or signature.inputs is None:
        raise ArtifactRejected(
            "The model was logged without a signature.", hint="Log it with mlflow.models.infer_signature(…)."
        )
    return Schema(_tensors(signature.inputs, "input"), _tensors(signature.outputs, "output"))


def _tensors(side: Any, fallback: str) -> tuple[Tensor, ...]:
    if side is None:
        return ()
    tensors = []
    for spec in side.inputs:
        name = spec.name or fallback
        required = getattr(spec, "required", True)
        if side.is_tensor_spec():
            kinds = {np.dtype(dtype): kind for kind, dtype in NUMPY_TYPES.items()}
            kind = "BYTES" if spec.type.kind in "OUS" else kinds.get(spec.type)
            shape = tuple(int(size) for size in spec.shape)
        else:
            kind, shape = _COLUMN_TYPES.get(getattr(spec.type, "name", "")), (-1,)
        if kind is None:
            raise ArtifactRejected(
                f"The {fallback} {name!r} has type {spec.type}, which has no place in a tensor.",
                hint="Use columns of booleans, numbers and texts, or tensors.",
            )
        tensors.append(Tensor(str(name), kind, shape, optional=not required))
    return tuple(tensors)


def _zeros(tensor: Tensor) -> Array:
    shape = [1 if size < 0 else size for size in tensor.shape]
    if tensor.datatype == "BYTES":
        return np.full(shape, b"", dtype=np.object_)
    return np.zeros(shape, dtype=NUMPY_TYPES[tensor.datatype])


def _named(answer: Any, schema: Schema) -> dict[str, Array]:
    """Return the answer of a flavor (table, column, array, dict, list) as arrays by output name."""
    if hasattr(answer, "detach"):
        answer = answer.detach().cpu().numpy()
    if isinstance(answer, Mapping) or type(answer).__name__ == "DataFrame":
        return {str(name): _plain(np.asarray(answer[name])) for name in answer}
    name = (
        schema.outputs[0].name if len(schema.outputs) == 1 else str(getattr(answer, "name", None) or "output")
    )
    return {name: _plain(np.asarray(answer))}


def _plain(array: Array) -> Array:
    """Return an array with a type that v2 can name."""
    if array.dtype.kind in "OUS":
        return array.astype(np.object_)
    return array if array.dtype in map(np.dtype, NUMPY_TYPES.values()) else array.astype(np.float64)
