"""Triton's ``onnxruntime`` backend for servers that lack NVIDIA's: it runs ONNX Runtime's wheel.

Triton takes a folder ``backends/onnxruntime/`` with only this file for a Python-based backend, so a
model repository that says ``backend: "onnxruntime"`` works unchanged here and on NVIDIA's image,
whose C++ backend has that name. What is completed, checked and honoured follows that backend:
project triton-inference-server/onnxruntime_backend, ``src/onnxruntime.cc`` (``AutoCompleteConfig``,
``ValidateInputs``, ``ValidateOutputs``, ``LoadModel``) and ``src/onnxruntime_utils.cc``.

Refused, never ignored: BF16, strings that are not UTF-8, ``sequence_batching``, ragged and batch
inputs, custom operators, execution accelerators. Ignored: hints on memory such as
``memory.enable_memory_arena_shrinkage``. The option ``default-max-batch-size`` does not reach a
Python-based backend; ``TRITON_ONNXRUNTIME_DEFAULT_MAX_BATCH_SIZE`` in the environment replaces it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from itertools import accumulate
from json import loads
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Config = dict[str, Any]
Result = dict[str, Array] | Exception
Run = Callable[[list[str], dict[str, Array]], Sequence[Array]]

DEFAULT_MAX_BATCH_SIZE = "4"  # Triton's own default
DEFAULT_MAX_BATCH_SIZE_VARIABLE = "TRITON_ONNXRUNTIME_DEFAULT_MAX_BATCH_SIZE"
DEFAULT_FILE = "model.onnx"
CPU_PROVIDER, CUDA_PROVIDER = "CPUExecutionProvider", "CUDAExecutionProvider"
BOOLEANS = {"1": True, "true": True, "0": False, "false": False}
SESSION_PARAMETERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "intra_op_thread_count": ("intra_op_num_threads", int),
    "inter_op_thread_count": ("inter_op_num_threads", int),
    "enable_mem_arena": ("enable_cpu_mem_arena", BOOLEANS.__getitem__),
    "enable_mem_pattern": ("enable_mem_pattern", BOOLEANS.__getitem__),
}
UNSUPPORTED_KEYS = ("sequence_batching", "batch_input", "batch_output", "model_operations")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
TRITON_TYPES = {f"tensor({name})": f"TYPE_{name.upper()}" for name in (*INTEGERS, "bool", "string")}
TRITON_TYPES["tensor(float16)"] = "TYPE_FP16"
TRITON_TYPES |= {"tensor(float)": "TYPE_FP32", "tensor(double)": "TYPE_FP64"}
TYPE_HINTS = {
    "tensor(bfloat16)": "; NumPy has no such type: export it as FP16 or FP32",
    "seq(map": "; export it as a tensor (skl2onnx: options={'zipmap': False})",
}


class ModelError(Exception):
    """A model, its configuration or a request cannot be served; the text says what and why."""


@dataclass(frozen=True)
class TensorInfo:
    """A tensor as the ONNX file declares it: Triton's type name, and -1 for each open dimension."""

    data_type: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Signature:
    """What an ONNX file takes and gives, by tensor name, in the file's order.

    ``initializers`` are inputs with a default in the file: a request may leave them out.
    """

    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]
    initializers: dict[str, TensorInfo]

    @property
    def supports_batching(self) -> bool:
        """Whether the first dimension of every input and output is open."""
        tensors = (*self.inputs.values(), *self.outputs.values())
        return all(tensor.shape[:1] == (-1,) for tensor in tensors)


@dataclass(frozen=True)
class Job:
    """One request: its tensors by name, and the names of the outputs that it asks for."""

    feed: Mapping[str, Array]
    outputs: Sequence[str]


def find_model_file(directory: str, file_name: str) -> str:
    """Returns the ONNX file's path (in a directory: its ``model.onnx``); ModelError if missing."""
    path = os.path.join(directory, file_name)
    if os.path.isdir(path):
        path = os.path.join(path, DEFAULT_FILE)
    if not os.path.isfile(path):
        raise ModelError(f"file '{path}' not found (default_model_filename sets its name)")
    return path


def open_session(path: str, options: Any, providers: Sequence[Any]) -> Any:
    """Opens an ONNX Runtime session.

    Raises ModelError if the file is not ONNX or too new, its external data is missing, an operator
    is unknown, or the CUDA provider is asked for and does not start.
    """
    ort = import_module("onnxruntime")
    try:
        session = ort.InferenceSession(path, sess_options=options, providers=list(providers))
    except Exception as error:  # the exceptions of ONNX Runtime have no base class of their own
        raise ModelError(f"ONNX Runtime {ort.__version__} cannot open '{path}': {error}") from error
    if providers[0] != CPU_PROVIDER and CUDA_PROVIDER not in session.get_providers():
        # ONNX Runtime itself would go on with the CPU and say so only in its own log.
        raise ModelError(f"ONNX Runtime {ort.__version__} has {CUDA_PROVIDER} but cannot start it")
    return session


def read_signature(session: Any) -> Signature:
    """Reads names, types and shapes; ModelError if one is no tensor or of an unsupported type."""
    return Signature(
        inputs=_tensor_infos("input", session.get_inputs()),
        outputs=_tensor_infos("output", session.get_outputs()),
        initializers=_tensor_infos("input", session.get_overridable_initializers()),
    )


def _tensor_infos(role: str, nodes: Iterable[Any]) -> dict[str, TensorInfo]:
    infos = {}
    for node in nodes:
        if node.type not in TRITON_TYPES:
            hint = next((h for start, h in TYPE_HINTS.items() if node.type.startswith(start)), "")
            raise ModelError(f"{role} '{node.name}' is of unsupported type {node.type}{hint}")
        shape = tuple(dim if isinstance(dim, int) else -1 for dim in node.shape)
        infos[node.name] = TensorInfo(TRITON_TYPES[node.type], shape)
    return infos


def complete_config(config: Config, signature: Signature, default_max_batch_size: int) -> Config:
    """Returns the configuration with what it lacks filled in from the ONNX file.

    A ``max_batch_size`` of 0 becomes the default when the file supports batching; above 1 dynamic
    batching is turned on unless a scheduler is set; inputs and outputs are filled in if there are
    none. Inputs with a default in the file are not added: they are optional, and only a person
    knows whether clients should see them.

    Raises ModelError if ``max_batch_size`` is set, but a first dimension in the file is not open.
    """
    max_batch_size = config.get("max_batch_size", 0)
    if signature.supports_batching:
        max_batch_size = max_batch_size or max(default_max_batch_size, 0)
    elif max_batch_size > 0:
        reason = "a first dimension of an input or output in the file is fixed"
        raise ModelError(f"max_batch_size is {max_batch_size}, but {reason}")
    completed = {**config, "max_batch_size": max_batch_size}
    if max_batch_size > 1 and not config.keys() & {"dynamic_batching", "sequence_batching"}:
        completed["dynamic_batching"] = {}
    for key, tensors in (("input", signature.inputs), ("output", signature.outputs)):
        if not config.get(key):
            batched = max_batch_size > 0
            completed[key] = [_tensor_config(n, info, batched) for n, info in tensors.items()]
    return completed


def _tensor_config(name: str, info: TensorInfo, batched: bool) -> Config:
    dims = list(info.shape[1:] if batched else info.shape)
    tensor = {"name": name, "data_type": info.data_type, "dims": dims or [1]}
    # Triton allows no empty dims, and a reshape to a scalar only behind a batch dimension.
    return tensor | {"reshape": {"shape": []}} if batched and not dims else tensor


def validate_config(config: Config, signature: Signature) -> None:
    """Checks a complete configuration against the ONNX file.

    Inputs must be the file's; outputs may be some of them. An open dimension of an input takes any
    size; dimensions of outputs must be equal.

    Raises ModelError for an unsupported feature, or a wrong name, type or dimension; the text names
    the tensor, what the file has and what the configuration says.
    """
    if refused := [key for key in UNSUPPORTED_KEYS if config.get(key)]:
        raise ModelError(f"not supported by this Python-based backend: {', '.join(refused)}")
    batched, tensors = config["max_batch_size"] > 0, config["input"]
    for tensor in tensors:
        if tensor.get("allow_ragged_batch"):
            raise ModelError(f"input '{tensor['name']}': allow_ragged_batch is not supported")
        _validate_tensor("input", tensor, signature.inputs | signature.initializers, batched)
    optional = {tensor["name"] for tensor in tensors if tensor.get("optional")}
    names = {tensor["name"] for tensor in tensors}
    for name in signature.inputs.keys() - names:
        raise ModelError(f"input '{name}' of the file is required, but the configuration lacks it")
    for name in optional ^ (names & signature.initializers.keys()):
        raise ModelError(f"input '{name}': 'optional' must be true just if the file has a default")
    if optional and batched:
        raise ModelError(f"input '{min(optional)}' is optional: max_batch_size must be 0")
    for tensor in config["output"]:
        _validate_tensor("output", tensor, signature.outputs, batched)


def _validate_tensor(role: str, tensor: Config, infos: dict[str, TensorInfo], batched: bool) -> None:
    label = f"{role} '{tensor['name']}'"
    info = infos.get(tensor["name"])
    if info is None:
        raise ModelError(f"the configuration names {label}, but the file has {sorted(infos)}")
    if tensor["data_type"] != info.data_type:
        types = f"the file has {info.data_type}, the configuration says {tensor['data_type']}"
        raise ModelError(f"{label}: {types}")
    dims = [-1] * batched + configured_dims(tensor)
    if info.shape:
        fits = len(info.shape) == len(dims) and all(
            have == said or (role == "input" and have == -1)
            for have, said in zip(info.shape, dims, strict=True)
        )
    else:  # a scalar, or a tensor whose rank the file does not say
        fits = all(dim == 1 for dim in dims)
    if not fits:
        said = f"{dims}, the first because max_batch_size is above 0" if batched else f"{dims}"
        raise ModelError(f"{label}: the file has {list(info.shape)}, the configuration says {said}")


def configured_dims(tensor: Config) -> list[int]:
    """Returns the dimensions that the ONNX file sees: those of ``reshape`` where there is one."""
    dims = tensor["reshape"].get("shape", []) if "reshape" in tensor else tensor["dims"]
    return [int(dim) for dim in dims]


def session_options(config: Config) -> Any:
    """Returns options for the parameters that NVIDIA documents; ModelError for invalid values."""
    ort = import_module("onnxruntime")
    options, level, mode = ort.SessionOptions(), ort.GraphOptimizationLevel, ort.ExecutionMode
    levels = {-1: level.ORT_ENABLE_BASIC, 1: level.ORT_ENABLE_EXTENDED, 2: level.ORT_DISABLE_ALL}
    graph = (config.get("optimization") or {}).get("graph") or {}
    options.graph_optimization_level = levels.get(graph.get("level", 0), level.ORT_ENABLE_ALL)
    modes = {"0": mode.ORT_SEQUENTIAL, "1": mode.ORT_PARALLEL}
    settings = {**SESSION_PARAMETERS, "execution_mode": ("execution_mode", modes.__getitem__)}
    for key, entry in config.get("parameters", {}).items():
        text = entry.get("string_value", "")
        if key in settings:
            attribute, parse = settings[key]
            try:
                setattr(options, attribute, parse(text.lower()))
            except (KeyError, ValueError):
                raise ModelError(f"parameter '{key}' has the invalid value '{text}'") from None
    return options


def choose_providers(config: Config, kind: str, device_id: str, available: list[str]) -> list[Any]:
    """Returns the execution providers for an instance, for a ``kind`` of CPU, GPU or MODEL.

    Raises ModelError for a GPU instance without CUDA in ``available``, or a configured accelerator.
    """
    device = "gpu" if kind == "GPU" else "cpu"
    if device == "gpu" and CUDA_PROVIDER not in available:
        advice = "set KIND_CPU or install onnxruntime-gpu"
        raise ModelError(f"KIND_GPU is configured, but there is only {available}: {advice}")
    accelerators = (config.get("optimization") or {}).get("execution_accelerators") or {}
    if refused := accelerators.get(f"{device}_execution_accelerator"):
        raise ModelError(f"execution accelerator '{refused[0]['name']}' is not supported")
    cuda = (CUDA_PROVIDER, {"device_id": device_id})
    return [CPU_PROVIDER] if device == "cpu" else [cuda, CPU_PROVIDER]


def decode_strings(name: str, array: Array) -> Array:
    """Turns Triton's bytes into the strings that ONNX Runtime takes; ModelError if not UTF-8."""
    try:
        strings = [item.decode() if isinstance(item, bytes) else item for item in array.flat]
    except UnicodeDecodeError as error:
        raise ModelError(f"input '{name}': element is not UTF-8: {error}") from None
    return np.array(strings, dtype=np.object_).reshape(array.shape)


def run_jobs(jobs: Mapping[int, Job], run: Run, batching: bool) -> dict[int, Result]:
    """Runs every job and returns its outputs, or its error, under the same key.

    With ``batching`` jobs whose tensors have the same names, types and shapes behind the first
    dimension run as one. If that fails each runs alone, so that a bad request fails only itself.
    """
    groups: dict[Any, list[int]] = {}
    for key, job in jobs.items():
        kind = tuple(sorted((name, a.dtype.str, a.shape[1:]) for name, a in job.feed.items()))
        groups.setdefault(kind if batching else key, []).append(key)
    results: dict[int, Result] = {}
    for keys in groups.values():
        results |= zip(keys, _run_group([jobs[key] for key in keys], run, batching), strict=True)
    return results


def _run_group(jobs: list[Job], run: Run, batching: bool) -> list[Result]:
    names = sorted({name for job in jobs for name in job.outputs})
    feed = jobs[0].feed
    try:
        if len(jobs) > 1:
            feed = {name: np.concatenate([job.feed[name] for job in jobs]) for name in feed}
        outputs = dict(zip(names, run(names, dict(feed)), strict=True))
        parts = _split(outputs, jobs) if batching else [outputs]
    except Exception as error:  # the exceptions of ONNX Runtime have no base class of their own
        if len(jobs) == 1:
            return [error]
        return [result for job in jobs for result in _run_group([job], run, batching)]
    return [{name: part[name] for name in job.outputs} for job, part in zip(jobs, parts, strict=True)]


def _split(outputs: dict[str, Array], jobs: list[Job]) -> list[dict[str, Array]]:
    # Triton has checked that all inputs of a request have the same first dimension.
    ends = list(accumulate(len(next(iter(job.feed.values()))) for job in jobs))
    for name, array in outputs.items():
        if array.shape[:1] != (ends[-1],):
            shape = f"shape {list(array.shape)} for a batch of {ends[-1]}"
            raise ModelError(f"output '{name}' has {shape}: this model needs max_batch_size 0")
    pieces = {name: np.split(array, ends[:-1]) for name, array in outputs.items()}
    return [{name: piece[i] for name, piece in pieces.items()} for i in range(len(jobs))]


@contextmanager
def _naming(model: str) -> Iterator[None]:
    try:
        yield
    except ModelError as error:
        raise ModelError(f"unable to load model '{model}': {error}") from error


class TritonPythonModel:
    """One instance of one version of a model; the names are those that Triton calls."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        """Fills in missing inputs and outputs; ModelError if the file cannot be read or batched."""
        config = auto_complete_model_config.as_dict()
        if config.get("input") and config.get("output"):
            return auto_complete_model_config
        triton = import_module("triton_python_backend_utils")
        with _naming(config["name"]):
            options = session_options({"optimization": {"graph": {"level": 2}}})
            # get_model_dir() already includes any directory in default_model_filename.
            file_name = os.path.basename(config.get("default_model_filename") or DEFAULT_FILE)
            path = find_model_file(str(triton.get_model_dir()), file_name)
            signature = read_signature(open_session(path, options, [CPU_PROVIDER]))
            default = int(os.environ.get(DEFAULT_MAX_BATCH_SIZE_VARIABLE, DEFAULT_MAX_BATCH_SIZE))
            completed = complete_config(config, signature, default)
        for key in ("max_batch_size", "input", "output", "dynamic_batching"):
            if completed.get(key) != config.get(key):
                triton.Logger.log_info(f"{config['name']}: completed {key}: {completed[key]}")
        config.update(completed)
        return auto_complete_model_config

    def initialize(self, args: Mapping[str, str]) -> None:
        """Opens this instance's session; ModelError if file or configuration cannot be served."""
        self._triton = import_module("triton_python_backend_utils")
        config = loads(args["model_config"])
        with _naming(args["model_name"]):
            available = import_module("onnxruntime").get_available_providers()
            kind, device_id = args["model_instance_kind"], args["model_instance_device_id"]
            providers = choose_providers(config, kind, device_id, available)
            directory = os.path.join(args["model_repository"], args["model_version"])
            path = find_model_file(directory, config.get("default_model_filename") or DEFAULT_FILE)
            self._session = open_session(path, session_options(config), providers)
            self._signature = read_signature(self._session)
            validate_config(config, self._signature)
        self._batching = config["max_batch_size"] > 0
        self._output_dims = {tensor["name"]: configured_dims(tensor) for tensor in config["output"]}
        self._triton.Logger.log_info(f"{args['model_instance_name']}: '{path}' on {providers[0]}")

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answers every request, each with its outputs or its own error."""
        jobs: dict[int, Job] = {}
        results: dict[int, Result] = {}
        for index, request in enumerate(requests):
            try:
                jobs[index] = self._read(request)
            except (ModelError, ValueError) as error:
                results[index] = error
        results |= run_jobs(jobs, self._run, self._batching)
        return [self._respond(results[index]) for index in range(len(requests))]

    def _read(self, request: Any) -> Job:
        feed = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        for name, array in feed.items():
            info = self._signature.inputs.get(name) or self._signature.initializers[name]
            if info.data_type == "TYPE_STRING":
                feed[name] = decode_strings(name, array)
            if not info.shape:  # Triton has no scalars: clients send one element of shape [1]
                feed[name] = feed[name].reshape(())
        return Job(feed, list(request.requested_output_names()))

    def _run(self, names: list[str], feed: dict[str, Array]) -> list[Array]:
        outputs = zip(names, self._session.run(names, feed), strict=True)
        return [a if a.ndim else a.reshape(self._output_dims[name]) for name, a in outputs]

    def _respond(self, result: Result) -> Any:
        if isinstance(result, Exception):
            return self._triton.InferenceResponse([], self._triton.TritonError(str(result)))
        tensors = [self._triton.Tensor(name, array) for name, array in result.items()]
        return self._triton.InferenceResponse(tensors)
