"""Inspection of an ONNX model, before Triton sees it.

``external_files`` reads the file alone, for the names of its external data files, which are transferred
next. ``inspect`` checks the whole model with ONNX's own checker. Neither reads weights into memory: see
onnx_outline.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ..errors import ArtifactRejected
from ..rules.names import same_name, unfit_for_weights
from ..rules.schema import Schema, Tensor
from ..storage import storage_errors
from .onnx_outline import ELEMENT_BYTES, outline

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
"""KServe v2 name of each ONNX element type that NVIDIA's backend serves. Triton itself has BF16, too."""


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
    for tensor, info in _external(model):
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


def _external(model: onnx.ModelProto) -> Iterator[tuple[onnx.TensorProto, Any]]:
    """Yield each tensor whose data is in another file, with ONNX's description of the place."""
    from onnx.external_data_helper import ExternalDataInfo, _get_all_tensors, uses_external_data

    for tensor in _get_all_tensors(model):
        if uses_external_data(tensor):
            yield tensor, ExternalDataInfo(tensor)


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


def inspect(model_file: Path, *, max_opset: int, max_ir_version: int) -> Schema:
    """Check an ONNX model, external data included, and return its inputs and outputs.

    Args:
        model_file: the ``model.onnx`` in its directory.
        max_opset: highest opset of the default domain that the runtime takes.
        max_ir_version: highest IR version that the runtime takes.

    Raises:
        ArtifactRejected: the model is junk, truncated, unsafe or too new, has tensors that Triton can't
            serve, or would end Triton.
        StorageFailed: a file can't be read.
    """
    import onnx

    model = _parse(model_file)
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    opset = opsets.get("", opsets.get("ai.onnx", 0))
    if opset > max_opset or model.ir_version > max_ir_version:
        raise ArtifactRejected(
            f"The model uses ONNX opset {opset} and IR version {model.ir_version}; Triton's runtime is set to take "
            f"at most opset {max_opset} and IR version {max_ir_version}.",
            hint="Export it with a lower opset, or raise TRITON_DEPLOY_MAX_OPSET and TRITON_DEPLOY_MAX_IR_VERSION if your Triton takes it.",
        )
    for tensor, info in list(_external(model)):
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
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        raise ArtifactRejected(
            f"ONNX's checker refuses the model: {error}",
            hint="Export the model again and check it with onnx.checker.",
        ) from error
    constants = {initializer.name for initializer in model.graph.initializer}
    schema = Schema(
        tuple(_tensor(value) for value in model.graph.input if value.name not in constants),
        tuple(_tensor(value) for value in model.graph.output),
    )
    _refuse_killers(schema)
    return schema


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


def _way_out(element: str) -> str:
    if element == "BFLOAT16":
        return "Put a Cast from and to FLOAT or FLOAT16 at the model's inputs and outputs, and log it again; weights and all between may stay BFLOAT16."
    return "Export plain tensors with a known rank; for scikit-learn classifiers, convert with zipmap off."


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    import onnx

    kind = value.type
    optional = kind.HasField("optional_type")
    if optional:
        kind = kind.optional_type.elem_type
    element = (
        onnx.TensorProto.DataType.Name(kind.tensor_type.elem_type)
        if kind.HasField("tensor_type")
        else "not a tensor"
    )
    if element not in DATATYPES or not kind.tensor_type.HasField("shape"):
        problem = f"has type {element}" if element not in DATATYPES else "has no shape"
        raise ArtifactRejected(
            f"Triton can't serve the tensor {value.name!r}: it {problem}.", hint=_way_out(element)
        )
    shape = tuple(
        dim.dim_value if dim.WhichOneof("value") == "dim_value" else -1 for dim in kind.tensor_type.shape.dim
    )
    return Tensor(value.name, DATATYPES[element], shape, optional)
