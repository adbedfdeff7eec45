"""Triton's ``onnxruntime`` backend for servers that lack NVIDIA's: it runs ONNX Runtime's wheel.

Triton takes a folder ``backends/onnxruntime/`` with a ``model.py`` for a Python-based backend. So a model
repository that says ``backend: "onnxruntime"`` works unchanged here and on NVIDIA's image, whose C++
backend has that name. This backend follows NVIDIA's: project triton-inference-server/onnxruntime_backend,
``src/onnxruntime.cc`` (``LoadModel``) and ``src/onnxruntime_utils.cc``; for the configuration see
``model_configuration.py``.

Refused, never ignored: BF16, strings that are not UTF-8, ``sequence_batching``, ragged and batch inputs,
custom operators, execution accelerators. Ignored: hints on memory such as
``memory.enable_memory_arena_shrinkage``. The option ``default-max-batch-size`` does not reach a
Python-based backend; ``TRITON_ONNXRUNTIME_DEFAULT_MAX_BATCH_SIZE`` in the environment replaces it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from itertools import accumulate
from json import loads
from typing import Any

import numpy as np

# A sibling: Triton adds the folder of this file to sys.path.
from model_configuration import (
    Config,
    ModelError,
    complete_config,
    configured_dims,
    read_signature,
    validate_config,
)
from numpy.typing import NDArray

Array = NDArray[Any]
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


@dataclass(frozen=True)
class Job:
    """One request: its tensors by name, and the names of the outputs that it asks for."""

    feed: Mapping[str, Array]
    outputs: Sequence[str]


def find_model_file(directory: str, file_name: str) -> str:
    """Return the path of the ONNX file; in a folder of the name, that of its ``model.onnx``.

    Raises:
        ModelError: there is no such file.
    """
    path = os.path.join(directory, file_name)
    if os.path.isdir(path):
        path = os.path.join(path, DEFAULT_FILE)
    if not os.path.isfile(path):
        raise ModelError(f"file '{path}' not found (default_model_filename sets its name)")
    return path


def open_session(path: str, options: Any, providers: Sequence[Any]) -> Any:
    """Open an ONNX Runtime session.

    Raises:
        ModelError: the file is not ONNX or too new, its external data is missing, an operator is unknown,
            or the requested CUDA provider does not start.
    """
    ort = import_module("onnxruntime")
    try:
        session = ort.InferenceSession(path, sess_options=options, providers=list(providers))
    except Exception as error:  # the exceptions of ONNX Runtime have no base class of their own
        raise ModelError(f"ONNX Runtime {ort.__version__} cannot open '{path}': {error}") from error
    if providers[0] != CPU_PROVIDER and CUDA_PROVIDER not in session.get_providers():
        # ONNX Runtime itself would fall back to the CPU, and only log that.
        raise ModelError(f"ONNX Runtime {ort.__version__} has {CUDA_PROVIDER} but cannot start it")
    return session


def session_options(config: Config) -> Any:
    """Return session options from the parameters that NVIDIA documents.

    Raises:
        ModelError: a parameter has an invalid value.
    """
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
    """Return the execution providers of an instance.

    Args:
        config: the model's configuration.
        kind: CPU, GPU or MODEL.
        device_id: the GPU.
        available: the providers of the installed ONNX Runtime.

    Raises:
        ModelError: a GPU instance without CUDA in ``available``, or a configured accelerator.
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
    """Return Triton's bytes as the strings that ONNX Runtime takes.

    Raises:
        ModelError: an element is not UTF-8.
    """
    try:
        strings = [item.decode() if isinstance(item, bytes) else item for item in array.flat]
    except UnicodeDecodeError as error:
        raise ModelError(f"input '{name}': element is not UTF-8: {error}") from None
    return np.array(strings, dtype=np.object_).reshape(array.shape)


def run_jobs(jobs: Mapping[int, Job], run: Run, batching: bool) -> dict[int, Result]:
    """Run every job and return its outputs, or its error, under the same key.

    With ``batching`` the jobs whose tensors have the same names, types and shapes after the first dimension
    run as one. If that run fails, each job runs alone, so that a bad request fails only itself.
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
    """One instance of one version of a model; Triton calls the class and its methods by these names."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        """Fill in missing inputs and outputs.

        Raises:
            ModelError: the file cannot be read or batched.
        """
        config = auto_complete_model_config.as_dict()
        if config.get("input") and config.get("output"):
            return auto_complete_model_config
        triton = import_module("triton_python_backend_utils")
        with _naming(config["name"]):
            # Those of the instances: what is folded decides which shapes are known.
            options = session_options(config)
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
        """Open the session of this instance.

        Raises:
            ModelError: the file or the configuration cannot be served.
        """
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
        """Answer every request with its outputs or its own error."""
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
            if not info.shape:  # Triton has no scalars: clients send shape [1]
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
