"""Options of a model version in ``triton/config.json``: an allowlist, and combinations that Triton refuses.

Anyone who may register a model chooses these values, and Triton reads many more: files, libraries to load
into its process, pointers, unbounded counts. So only the options that this module names get through.

Sources: ``model_config.proto`` of triton-inference-server/common; ValidateModelConfig,
ValidateInstanceGroup and ValidateIOShape in ``model_config_utils.cc`` and GenerateWarmupData in
``backend_model_instance.cc`` of core; the parameters of the execution accelerators in ``onnxruntime.cc``
of onnxruntime_backend. Of those, these are left out on purpose: every path and prefix
(``trt_engine_cache_path``, ``trt_timing_cache_path``, ``trt_ep_context_file_path``,
``int8_calibration_table_name``), options that write files without naming a path
(``trt_engine_cache_enable``, ``trt_timing_cache_enable``, ``trt_dump_*``), libraries
(``trt_extra_plugin_lib_paths``), pointers (``user_compute_stream``, ``gpu_external_*``) and the choice of
a device, which belongs to the instance group.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from ..errors import ArtifactRejected
from ..rules.schema import Schema, Tensor
from .allowed import Either, Fields, Flag, List, Map, OneOf, Refused, Rule, Text, Whole, WholeText

FILE = "triton/config.json"

log = logging.getLogger(__name__)

MAX_INSTANCES = 16
"""Most instances of a model on a device, over all its instance groups."""
MAX_BATCH = 65_536
"""Largest batch, in rows."""
MAX_DELAY_US = 10_000_000
"""Longest delay to fill a batch, microseconds."""
MAX_QUEUE_TIMEOUT_US = 600_000_000
"""Longest time in a queue, microseconds."""
MAX_QUEUE = 1_000_000
MAX_PRIORITIES = 100
MAX_THREADS = 256
MAX_GPU = 255
MAX_WARMUP_RUNS = 100
"""Most runs of all warm-up samples together."""
MAX_WARMUP_ELEMENTS = 10_000_000
"""Most elements in the inputs of one warm-up sample, over all requests of its batch."""
MAX_BYTES = 1 << 40

NO_FILES = "Nothing that names a file or a library on Triton's machine may be set."
MOST_TOLD = 5
"""Most faults in one message."""

_SWITCH_TEXT = OneOf(("0", "1", "true", "false"))
_NAME = Text(r"[A-Za-z0-9_.-]{1,100}", "1 to 100 letters, digits, '_', '.' or '-'")
_TENSOR = Text(r"(?s).{1,1000}", "a tensor's name")
# "input1:1x3x224x224,input2:1x5"
_SHAPES = Text(
    r"[\w.:/-]{1,200}:\d{1,7}(x\d{1,7}){0,15}(,[\w.:/-]{1,200}:\d{1,7}(x\d{1,7}){0,15}){0,63}",
    "shapes such as input1:1x3x224x224,input2:1x5",
)

PARAMETERS: Mapping[str, tuple[int, int]] = {
    "intra_op_thread_count": (0, MAX_THREADS),
    "inter_op_thread_count": (0, MAX_THREADS),
    "execution_mode": (0, 1),
}
"""Backend parameters that may be set, with their bounds; others can name files on the server."""

TENSORRT: Mapping[str, Rule] = {
    "precision_mode": OneOf(("FP32", "FP16", "BF16", "INT8")),
    "max_workspace_size_bytes": WholeText(0, MAX_BYTES),
    "trt_max_partition_iterations": WholeText(1, 10_000),
    "trt_min_subgraph_size": WholeText(1, 1_000_000),
    "trt_dla_enable": _SWITCH_TEXT,
    "trt_dla_core": WholeText(0, 15),
    "trt_force_sequential_engine_build": _SWITCH_TEXT,
    "trt_context_memory_sharing_enable": _SWITCH_TEXT,
    "trt_layer_norm_fp32_fallback": _SWITCH_TEXT,
    "trt_build_heuristics_enable": _SWITCH_TEXT,
    "trt_sparsity_enable": _SWITCH_TEXT,
    "trt_builder_optimization_level": WholeText(0, 5),
    "trt_auxiliary_streams": WholeText(-1, 16),
    "trt_cuda_graph_enable": _SWITCH_TEXT,
    "trt_profile_min_shapes": _SHAPES,
    "trt_profile_max_shapes": _SHAPES,
    "trt_profile_opt_shapes": _SHAPES,
}
CUDA: Mapping[str, Rule] = {
    "gpu_mem_limit": WholeText(1 << 20, MAX_BYTES),
    "arena_extend_strategy": OneOf(("kNextPowerOfTwo", "kSameAsRequested")),
    "cudnn_conv_algo_search": OneOf(("EXHAUSTIVE", "HEURISTIC", "DEFAULT")),
    "cudnn_conv_use_max_workspace": _SWITCH_TEXT,
    "cudnn_conv1d_pad_to_nc1d": _SWITCH_TEXT,
    "do_copy_in_default_stream": _SWITCH_TEXT,
    "enable_cuda_graph": _SWITCH_TEXT,
    "prefer_nhwc": _SWITCH_TEXT,
    "use_ep_level_unified_stream": _SWITCH_TEXT,
    "use_tf32": _SWITCH_TEXT,
}
ACCELERATORS: Mapping[str, Mapping[str, Mapping[str, Rule]]] = {
    "gpu_execution_accelerator": {"tensorrt": TENSORRT, "cuda": CUDA},
    "cpu_execution_accelerator": {"openvino": {}},
}
"""Parameters that may be set, by device and by accelerator."""

QUEUE_POLICY = Fields(
    {
        "timeout_action": OneOf(("REJECT", "DELAY")),
        "default_timeout_microseconds": Whole(0, MAX_QUEUE_TIMEOUT_US),
        "allow_timeout_override": Flag(),
        "max_queue_size": Whole(0, MAX_QUEUE),
    }
)
WARMUP_TYPES = (
    "TYPE_BOOL TYPE_UINT8 TYPE_UINT16 TYPE_UINT32 TYPE_UINT64 TYPE_INT8 TYPE_INT16 TYPE_INT32 TYPE_INT64 TYPE_FP16 TYPE_FP32 "
    "TYPE_FP64 TYPE_STRING"
)


class _Accelerator:
    """An execution accelerator: its name decides which parameters it may have."""

    def __init__(self, known: Mapping[str, Mapping[str, Rule]]) -> None:
        self._known = known
        self.allowed = f"an object with the name {' or '.join(known)}"

    def refusals(self, value: object, path: str) -> Iterator[Refused]:
        """See Rule.refusals."""
        name = value.get("name") if isinstance(value, dict) else None
        parameters = self._known.get(name, {}) if isinstance(name, str) else {}
        fields = Fields(
            {"name": OneOf(tuple(self._known)), "parameters": Fields(parameters)}, needs=("name",)
        )
        yield from fields.refusals(value, path)


def _parameter(least: int, most: int) -> Rule:
    text = WholeText(least, most)
    return Either(
        (Whole(least, most), text, Fields({"string_value": text}, needs=("string_value",))),
        f"a whole number from {least} to {most}",
    )


ALLOWED = Fields(
    {
        "max_batch_size": Whole(0, MAX_BATCH),
        "dynamic_batching": Fields(
            {
                "preferred_batch_size": List(Whole(-MAX_BATCH, MAX_BATCH), 64),
                "max_queue_delay_microseconds": Whole(0, MAX_DELAY_US),
                "preserve_ordering": Flag(),
                "priority_levels": Whole(0, MAX_PRIORITIES),
                "default_priority_level": Whole(0, MAX_PRIORITIES),
                "default_queue_policy": QUEUE_POLICY,
                "priority_queue_policy": Map(WholeText(0, MAX_PRIORITIES), QUEUE_POLICY, MAX_PRIORITIES),
            }
        ),
        "instance_group": List(
            Fields(
                {
                    "name": _NAME,
                    "kind": OneOf(("KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL")),
                    "count": Whole(1, MAX_INSTANCES),
                    "gpus": List(Whole(0, MAX_GPU), MAX_INSTANCES),
                }
            ),
            MAX_INSTANCES,
        ),
        "model_warmup": List(
            Fields(
                {
                    "name": _NAME,
                    "batch_size": Whole(0, MAX_BATCH),
                    "count": Whole(0, MAX_WARMUP_RUNS),
                    "inputs": Map(
                        _TENSOR,
                        Fields(
                            {
                                "data_type": OneOf(tuple(WARMUP_TYPES.split())),
                                "dims": List(Whole(-1, MAX_WARMUP_ELEMENTS), 32),
                                "zero_data": Flag(),
                                "random_data": Flag(),
                            },
                            needs=("data_type", "dims"),
                        ),
                        1000,
                    ),
                },
                needs=("inputs",),
            ),
            16,
        ),
        "optimization": Fields(
            {
                "graph": Fields({"level": Whole(-1, 2)}),
                "input_pinned_memory": Fields({"enable": Flag()}),
                "output_pinned_memory": Fields({"enable": Flag()}),
                "gather_kernel_buffer_threshold": Whole(0, 1024),
                "eager_batching": Flag(),
                "execution_accelerators": Fields(
                    {where: List(_Accelerator(known), 4) for where, known in ACCELERATORS.items()}
                ),
            }
        ),
        "parameters": Fields({name: _parameter(*bounds) for name, bounds in PARAMETERS.items()}),
    }
)
"""The options that a version may set; the rest of its configuration is generated."""


def check(options: object, schema: Schema) -> dict[str, Any]:
    """Return a version's options if they are allowed and Triton would take them.

    Args:
        options: decoded ``triton/config.json``.
        schema: the model's inputs and outputs.

    Raises:
        ArtifactRejected: an option is not allowed or out of bounds, or Triton refuses the combination.
    """
    if not isinstance(options, dict):
        raise ArtifactRejected(
            f"{FILE} is not a JSON object.",
            hint=f"In {FILE} of the model version, set only {', '.join(ALLOWED.of)}, as Triton's model configuration defines them.",
        )
    refused = list(islice(ALLOWED.refusals(options, ""), MOST_TOLD))
    if refused:
        instead = " ".join(dict.fromkeys(one.instead for one in refused if one.instead))
        raise ArtifactRejected(
            f"{FILE} {'; '.join(one.why for one in refused)}.",
            hint=f"Correct it and log the model again as a new version. {instead} {NO_FILES if instead else ''}".strip(),
        )
    batch = options.get("max_batch_size", 0)
    _check_batching(batch, options, schema)
    wrong = [
        *_queues(options.get("dynamic_batching", {}), batch),
        *_instances(options.get("instance_group", [])),
        *_warmups(options.get("model_warmup", []), batch, schema),
    ]
    if wrong:
        raise ArtifactRejected(
            f"{FILE} is refused: {'; '.join(wrong[:MOST_TOLD])}.",
            hint="Correct it and log the model again as a new version.",
        )
    for place, sample in enumerate(options.get("model_warmup", [])):
        if not sample.get("batch_size"):
            log.warning(
                "model_warmup[%s] of %s is not used: Triton skips a sample whose batch_size is 0 or left out; set it to 1",
                place,
                FILE,
            )
    return options


def _check_batching(batch: int, options: Mapping[str, Any], schema: Schema) -> None:
    if batch and not schema.batchable:
        raise ArtifactRejected(
            f"max_batch_size is {batch}, but not every input and output has a dynamic first dimension.",
            hint="Export the model with a dynamic batch dimension, or leave max_batch_size out.",
        )
    if "dynamic_batching" in options and not batch:
        raise ArtifactRejected(
            "dynamic_batching is set without max_batch_size.",
            hint="Set max_batch_size to the largest batch, in rows.",
        )


def _queues(batching: Mapping[str, Any], batch: int) -> Iterator[str]:
    for size in batching.get("preferred_batch_size", []):
        if size <= 0:
            yield f"dynamic batching preferred size must be positive, and it is {size}"
        if size > batch:
            yield f"dynamic batching preferred size must be <= max batch size, and it is {size}, max_batch_size {batch}"
    levels, level = batching.get("priority_levels", 0), batching.get("default_priority_level", 0)
    policies = batching.get("priority_queue_policy", {})
    if levels:
        if not 1 <= level <= levels:
            yield f"default priority level must be in range [1, {levels}], and default_priority_level is {level}"
        for of in policies:
            if not 1 <= int(of) <= levels:
                yield f"priority queue policy must have priority level in range [1, {levels}], and it has {of}"
    if batching.get("preserve_ordering"):
        if levels > 1:
            yield f"Only one priority level is allowed when 'preserve_ordering' is true, and priority_levels is {levels}"
        for policy in (batching.get("default_queue_policy", {}), *policies.values()):
            if policy.get("default_timeout_microseconds") and policy.get("timeout_action") == "DELAY":
                yield "Queue policy can not have DELAY as timeout action when 'preserve_ordering' is true"


def _instances(groups: list[Mapping[str, Any]]) -> Iterator[str]:
    for place, group in enumerate(groups):
        kind, gpus = group.get("kind", "KIND_AUTO"), group.get("gpus", [])
        if gpus and kind in ("KIND_CPU", "KIND_MODEL"):
            yield f"instance_group[{place}] has kind {kind} but specifies one or more GPUs"
        if len(set(gpus)) < len(gpus):
            yield f"instance_group[{place}] names a GPU twice"
    count = sum(group.get("count", 1) for group in groups)
    if count > MAX_INSTANCES:
        yield f"its instance groups have {count} instances together, and {MAX_INSTANCES} are allowed on a device"


def _warmups(samples: list[Mapping[str, Any]], batch: int, schema: Schema) -> Iterator[str]:
    # Triton runs a sample with count 0 once.
    runs = sum(max(1, sample.get("count", 0)) for sample in samples)
    if runs > MAX_WARMUP_RUNS:
        yield f"model_warmup has {runs} runs, and {MAX_WARMUP_RUNS} are allowed"
    for place, sample in enumerate(samples):
        yield from _warmup(f"model_warmup[{place}]", sample, batch, schema)


def _warmup(path: str, sample: Mapping[str, Any], batch: int, schema: Schema) -> Iterator[str]:
    requests, inputs = sample.get("batch_size", 0), sample["inputs"]
    if requests > max(1, batch):
        yield f"{path}: batch size {requests}, max allowed is {max(1, batch)}, since max_batch_size is {batch}"
    known = {tensor.name: tensor for tensor in schema.inputs}
    for name in inputs:
        if name not in known:
            yield f"{path}: input '{name}' is not one of the model's ({', '.join(known)})"
        else:
            yield from _warmup_input(f"{path}: ", known[name], inputs[name], batch)
    for name, tensor in known.items():
        if name not in inputs and not tensor.optional:
            yield f"{path}: input '{name}' of the model is missing"
    elements = max(1, requests) * sum(math.prod(given["dims"]) for given in inputs.values())
    if elements > MAX_WARMUP_ELEMENTS:
        yield f"{path} has {elements} numbers, and {MAX_WARMUP_ELEMENTS} are allowed"


def _warmup_input(path: str, tensor: Tensor, given: Mapping[str, Any], batch: int) -> Iterator[str]:
    what = f"{path}warmup setting expects "
    if not given.get("zero_data") and not given.get("random_data"):
        yield f"{what}input '{tensor.name}' to have input_data_type set: zero_data or random_data true"
    if "zero_data" in given and "random_data" in given:
        yield f"{what}one of zero_data and random_data for input '{tensor.name}'"
    if any(size < 1 for size in given["dims"]):
        yield f"{what}all variable-size dimensions are specified for input '{tensor.name}', each 1 or more"
    wanted = "TYPE_STRING" if tensor.datatype == "BYTES" else f"TYPE_{tensor.datatype}"
    if given["data_type"] != wanted:
        yield f"{path}input '{tensor.name}' has data_type {given['data_type']}, the model's is {wanted}"
    shape = tensor.shape[1:] if batch else tensor.shape
    fits = len(given["dims"]) == len(shape) and all(
        size in (-1, said) for size, said in zip(shape, given["dims"], strict=True)
    )
    # Triton has no empty dims, and takes one element for a scalar.
    if not fits and not (shape == () and given["dims"] == [1]):
        yield f"{path}input '{tensor.name}' has dims {given['dims']}, the model's are {list(shape)}"
