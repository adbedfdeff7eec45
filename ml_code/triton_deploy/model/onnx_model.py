"""Inspection of an ONNX model, before Triton sees it.

``external_files`` reads the file alone, for the names of its external data files, which are transferred
next. ``inspect`` looks at the whole model with ONNX Runtime, in a process of its own. Neither reads large
weights into memory: see onnx_outline.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ..errors import ArtifactRejected
from ..rules.names import same_name, unfit_for_weights
from ..rules.schema import Schema, Tensor
from ..storage import storage_errors
from .onnx_outline import ELEMENT_BYTES, external_tensors, outline
from .reference_limits import Limits, ModelFailed
from .signature import Port, Signature, Signer, signature_of

if TYPE_CHECKING:
    import onnx

MAX_FILE_BYTES = 2**31 - 1
"""Protocol Buffers' limit of a message."""

DATATYPES = {
    "FLOAT": "FP32",
    "DOUBLE": "FP64",
    "FLOAT16": "FP16",
    "INT8": "INT8",
    "INT16": "INT16",
    "INT32": "INT32",
    "INT64": "INT64",
    "UINT8": "UINT8",
    "UINT16": "UINT16",
    "UINT32": "UINT32",
    "UINT64": "UINT64",
    "BOOL": "BOOL",
    "STRING": "BYTES",
}
"""KServe v2's name of each ONNX element type that NVIDIA's backend serves. Triton itself has BF16, too."""
RUNTIME_TYPES = {
    f"tensor({'float' if element == 'FLOAT' else element.lower()})": datatype
    for element, datatype in DATATYPES.items()
}
"""The same by ONNX Runtime's names."""


def external_files(model_file: Path) -> tuple[str, ...]:
    """Return the paths of the external data files that an ONNX file names, relative to it.

    Their files need not exist.

    Raises:
        ArtifactRejected: the file is not ONNX, or names a file that can't lie beside it in a version's
            directory.
        StorageFailed: the file can't be read.
    """
    model = _parse(model_file)
    _refuse_external_sparse(model_file, model)
    paths: dict[str, str] = {}
    for tensor, info in external_tensors(model):
        path = PurePosixPath(info.location).as_posix()
        why = unfit_for_weights(info.location)
        if not why and paths.setdefault(same_name(path), path) != path:
            why = f"a file whose name differs from {paths[same_name(path)]!r} in its writing only"
        if why:
            raise ArtifactRejected(
                f"{model_file.name} keeps weights of {tensor.name!r} in {info.location!r}: {why}.",
                hint="Export the model again with its external data beside model.onnx, in a file such as model.onnx.data.",
            )
    _refuse_files_as_folders(model_file, paths)
    return tuple(sorted(paths.values()))


def _refuse_files_as_folders(model_file: Path, paths: Mapping[str, str]) -> None:
    for path in paths.values():
        for folder in PurePosixPath(path).parents:
            if same_name(folder.as_posix()) in paths:
                raise ArtifactRejected(
                    f"{model_file.name} keeps weights in {path!r} and in {folder.as_posix()!r}, which would be a file and a folder.",
                    hint="Export the model again with its external data in one file.",
                )


def _refuse_external_sparse(model_file: Path, model: onnx.ModelProto) -> None:
    """Refuse sparse tensors in other files: ONNX Runtime looks for those in the working directory."""
    from onnx.external_data_helper import uses_external_data

    for sparse in _sparse(model.graph):
        if uses_external_data(sparse.values) or uses_external_data(sparse.indices):
            raise ArtifactRejected(
                f"{model_file.name} keeps the sparse tensor {sparse.values.name!r} in another file, which is possible for dense ones only.",
                hint="Export the model again with its sparse tensors in model.onnx, or make them dense.",
            )


def _sparse(graph: onnx.GraphProto) -> Iterator[onnx.SparseTensorProto]:
    yield from graph.sparse_initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("sparse_tensor"):
                yield attribute.sparse_tensor
            yield from attribute.sparse_tensors
            for inner in (attribute.g, *attribute.graphs):
                yield from _sparse(inner)


def _take_in(tensor: onnx.TensorProto) -> None:
    """Replace a tensor whose data is in another file by one element in this file.

    ONNX's checker would look at the other file, and refuses a file with a second hard link. The
    repository makes such a link when two versions share the file.
    """
    for field in ("dims", "external_data", "data_location"):
        tensor.ClearField(field)
    tensor.raw_data = bytes(ELEMENT_BYTES.get(tensor.data_type, 1))


def inspect(
    model_file: Path,
    *,
    max_opset: int,
    max_ir_version: int,
    limits: Limits | None = None,
    sign: Signer = signature_of,
) -> Schema:
    """Check an ONNX model with its external data; return its inputs and outputs as ONNX Runtime has them.

    ONNX Runtime decides: what it opens is served. ONNX's own checker knows fewer operators, and is asked
    for the reason of a refusal.

    Args:
        model_file: the ``model.onnx`` in its directory.
        max_opset: highest opset of the default domain that the runtime takes.
        max_ir_version: highest IR version that the runtime takes.
        limits: what the process may take in which the model is opened; by default those of the settings'
            defaults.
        sign: opens the model without its weights and returns its inputs and outputs.

    Raises:
        ArtifactRejected: the model is junk, truncated, unsafe or too new, has tensors that Triton can't
            serve, or would end Triton.
        StorageFailed: a file can't be read.
        Unavailable: the process can't be started, or another process ended it.
    """
    model = _parse(model_file)
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    opset = opsets.get("", opsets.get("ai.onnx", 0))
    if opset > max_opset or model.ir_version > max_ir_version:
        raise ArtifactRejected(
            f"The model uses ONNX opset {opset} and IR version {model.ir_version}; Triton's runtime is set to take "
            f"at most opset {max_opset} and IR version {max_ir_version}.",
            hint="Export it with a lower opset, or raise TRITON_DEPLOY_MAX_OPSET and TRITON_DEPLOY_MAX_IR_VERSION if your Triton takes it.",
        )
    _check_external(model_file, model)
    _check_declared(model.graph)
    signature = _signature(model_file, model, limits or Limits(), sign)
    schema = Schema(tuple(map(_tensor, signature.inputs)), tuple(map(_tensor, signature.outputs)))
    _refuse_killers(schema)
    return schema


def _check_external(model_file: Path, model: onnx.ModelProto) -> None:
    """Refuse missing or truncated external data, and take the rest out of the model for ONNX's checker."""
    for tensor, info in list(external_tensors(model)):
        # The checker does not look at sizes.
        path, needed = model_file.parent / info.location, (info.offset or 0) + (info.length or 0)
        with storage_errors(f"reading {path}"):
            size = path.stat().st_size if path.is_file() else None
        if size is None or size < needed:
            found = "is missing" if size is None else f"has {size} bytes and was cut off"
            raise ArtifactRejected(
                f"{info.location} {found}: the weights of {tensor.name!r} end at its byte {needed}.",
                hint="Log the model again, with the whole file.",
            )
        _take_in(tensor)


def _signature(model_file: Path, model: onnx.ModelProto, limits: Limits, sign: Signer) -> Signature:
    with storage_errors(f"reading {model_file}"):
        try:
            return sign(model_file, limits)
        except ModelFailed as failed:
            checked = _said_by_checker(model)
            raise ArtifactRejected(
                f"ONNX Runtime can't open the model: {failed.what}."
                + (f" ONNX's checker says: {checked}" if checked else ""),
                hint=failed.advice(_repair(failed.what)),
            ) from failed


def _said_by_checker(model: onnx.ModelProto) -> str:
    """Return why ONNX's checker refuses a model; empty when it does not."""
    import onnx

    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        return str(error)
    return ""


def _repair(said: str) -> str:
    """Return what to do about a model that ONNX Runtime does not open, by its words."""
    for words, repair in _REPAIRS.items():
        if words in said:
            return repair
    return "Export the model again, and open it with onnxruntime.InferenceSession before it is logged."


_NO_CUSTOM_OPERATORS = (
    "Triton's ONNX Runtime has no custom operators: export the model with operators of ONNX or com.microsoft alone, "
    "and keep the custom part (a tokenizer, for example) in front of the model."
)
_TOO_NEW = (
    "Export the model with a lower opset and IR version (opset_version of the exporter, ir_version of the file), "
    "or take a newer ONNX Runtime into this environment and into Triton."
)
_REPAIRS = {
    "is not a registered function/op": _NO_CUSTOM_OPERATORS,
    "No Op registered": _NO_CUSTOM_OPERATORS,
    "Unsupported model IR version": _TOO_NEW,
    "is under development and support for this is limited": _TOO_NEW,
}


def _refuse_killers(schema: Schema) -> None:
    """Refuse a valid ONNX model that would end Triton.

    Clients call an ensemble whose tensors have the names of the model's. Triton never answers a request
    if one tensor is an input and an output of the ensemble, and Triton 2.51 ends by SIGSEGV while clients
    wait.
    """
    both = sorted({tensor.name for tensor in schema.inputs} & {tensor.name for tensor in schema.outputs})
    if both:
        raise ArtifactRejected(
            f"{', '.join(map(repr, both))} is an input of the model and an output of it as well: Triton would never answer, and may end.",
            hint="Put an Identity node between the two, so that the output has a name of its own, and log the model again.",
        )


def _parse(model_file: Path) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    with storage_errors(f"reading {model_file}"):
        plain = model_file.is_file() and not model_file.is_symlink()
        size = model_file.stat().st_size if plain else 0
    if not plain:
        raise ArtifactRejected(
            f"{model_file.name} is not a plain file.", hint="Log the model again, without links."
        )
    if size > MAX_FILE_BYTES:
        raise ArtifactRejected(
            f"{model_file.name} has {size} bytes; no ONNX file of more than {MAX_FILE_BYTES} can be read.",
            hint="Export the model with external data.",
        )
    try:
        with storage_errors(f"reading {model_file}"):
            model = onnx.ModelProto.FromString(outline(model_file))
    except (DecodeError, ValueError) as error:
        raise ArtifactRejected(
            f"{model_file.name} is not an ONNX model, or only a part of one ({size} bytes): {error}.",
            hint="Log the model again; if the upload was cut off, the registry holds the broken file.",
        ) from error
    if not model.graph.node or not model.graph.output:
        raise ArtifactRejected(
            f"{model_file.name} holds no graph ({size} bytes).",
            hint="Export the model again; the file is empty or truncated.",
        )
    return model


def _check_declared(graph: onnx.GraphProto) -> None:
    """Refuse by the file alone what ONNX Runtime would refuse in other words, or take for something else.

    ONNX Runtime gives an input without a shape the shape of a scalar.
    """
    constants = {initializer.name for initializer in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    for value in (*inputs, *graph.output):
        _check_type(value)
    for value in inputs:
        if not value.type.tensor_type.HasField("shape"):
            raise _unserved(
                value.name,
                "has no shape",
                "Export the model with a shape of its inputs; dimensions may be open.",
            )


def _check_type(value: onnx.ValueInfoProto) -> None:
    """Refuse all but plain tensors of the types that NVIDIA's backend serves.

    A type that the file does not declare passes: ONNX Runtime infers it.
    """
    import onnx

    kind = value.type.WhichOneof("value")
    if kind == "sequence_type" and value.type.sequence_type.elem_type.WhichOneof("value") == "map_type":
        kind = "maps"
    if kind in _NO_TENSORS:
        raise _unserved(value.name, *_NO_TENSORS[kind])
    number = value.type.tensor_type.elem_type
    known = onnx.TensorProto.DataType.values()
    element = onnx.TensorProto.DataType.Name(number) if number in known else str(number)
    if element not in (*DATATYPES, "UNDEFINED"):
        raise _unserved(value.name, f"has type {element}", _WAYS_OUT.get(element, _EXPORT_PLAIN))


def _unserved(name: str, problem: str, hint: str) -> ArtifactRejected:
    return ArtifactRejected(f"Triton can't serve the tensor {name!r}: it {problem}.", hint=hint)


_EXPORT_PLAIN = "Export plain tensors of numbers or strings."
_NO_TENSORS = {
    "optional_type": (
        "is of an optional type",
        "Make it a plain tensor: an input without a value can be an empty one, and an output can be left out of the graph.",
    ),
    "maps": (
        "is a sequence of maps",
        "Convert a classifier with zipmap off: its probabilities are one tensor then. Or leave that output out of the graph.",
    ),
    "sequence_type": (
        "is a sequence",
        "Make it one tensor in the graph, or leave that output out: onnx.utils.extract_model keeps the inputs and outputs "
        "that it is given.",
    ),
    "map_type": (
        "is a map",
        "Keep that part (scikit-learn's DictVectorizer, for example) in front of the model, and export what takes its tensors.",
    ),
    "sparse_tensor_type": ("is a sparse tensor", "Make it a dense tensor in the graph."),
}
"""The problem and the way out, by the kind of type."""
_NO_TENSORS_IN_RUNTIME = {
    "optional(": "optional_type",
    "seq(map(": "maps",
    "seq(": "sequence_type",
    "map(": "map_type",
    "sparse_tensor(": "sparse_tensor_type",
}
"""The kind of type, by the beginning of ONNX Runtime's name for it; the first that fits counts."""
_CAST = "Put a Cast from and to {plain} at the model's inputs and outputs, and log it again; weights and all between may stay {element}."
_WAYS_OUT = {
    element: _CAST.format(plain=plain, element=element)
    for element, plain in {
        "BFLOAT16": "FLOAT or FLOAT16",
        **dict.fromkeys(
            ("FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ", "FLOAT8E8M0", "FLOAT4E2M1"),
            "FLOAT or FLOAT16",
        ),
        **dict.fromkeys(("INT4", "UINT4", "INT2", "UINT2"), "INT8"),
    }.items()
} | dict.fromkeys(("COMPLEX64", "COMPLEX128"), "Export the real and the imaginary part as two tensors.")


def _tensor(port: Port) -> Tensor:
    """Return a tensor with ONNX Runtime's type and shape.

    An output of unknown rank is taken for a scalar, as NVIDIA's backend does; its answers have the shape
    that they have.
    """
    datatype = RUNTIME_TYPES.get(port.type)
    for beginning, kind in _NO_TENSORS_IN_RUNTIME.items():
        if port.type.startswith(beginning):
            raise _unserved(port.name, *_NO_TENSORS[kind])
    if datatype is None:
        element = port.type.removeprefix("tensor(").removesuffix(")").upper()
        raise _unserved(port.name, f"has type {port.type}", _WAYS_OUT.get(element, _EXPORT_PLAIN))
    return Tensor(port.name, datatype, port.shape)
