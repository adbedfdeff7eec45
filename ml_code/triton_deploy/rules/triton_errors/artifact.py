"""Texts whose beginning alone shows that the artifact is at fault, whatever follows."""

from __future__ import annotations

from ...errors import ArtifactRejected
from .calls import ASKING, BLAMES, LOADING
from .patterns import ort
from .row import OtherShapes, Row

ROWS = (
    Row(
        "no model for ONNX Runtime",
        ArtifactRejected,
        "See Triton's log; the model needs repair.",
        # NO_MODEL, INVALID_PROTOBUF, NOT_IMPLEMENTED, INVALID_GRAPH (OrtErrorCode in
        # onnxruntime_c_api.h); seen. A disk that fails in the middle of the file also gives
        # INVALID_PROTOBUF; ONNX Runtime does not tell the two apart.
        says=(ort("", "4|7|9|10"),),
        during=BLAMES,
    ),
    Row(
        "shapes differ",
        OtherShapes,
        "That Triton's ONNX Runtime infers other shapes than the deployer's: give the model's outputs fixed sizes, or run the same ONNX Runtime in both, then deploy again.",
        says=(
            # backend_common.cc of NVIDIA's backends, CompareDimsSupported.
            r"model '[^']*', tensor '.*': the model expects \d+ dimensions \(shape \[",
            r"model '[^']*', tensor '.*': for the model to support batching the shape should have at least ",
            # onnxruntime.cc, ValidateInputs and ValidateOutputs; begins with "unable to load model".
            r"scalar tensor '.*', should only provide 1 in the model configuration ",
            # stand-in: validate_config.
            r"(?:input|output) '.*': the file has \[",
        ),
        during=LOADING,
    ),
    Row(
        "model and configuration differ",
        ArtifactRejected,
        "See Triton's log; the model or {repair} needs repair.",
        says=(
            # onnxruntime.cc and onnxruntime_utils.cc of NVIDIA's backend. The first ones begin with
            # "unable to load model".
            r"(?:configuration expects|optional input|scalar tensor|sequence control) ",
            r"configuration specified sequence control ",
            r"model '[^']*', tensor '",
            r"unsupported datatype ",
            r"Unsupported ONNX Type '",
            r"autofill failed for model '",
            r"unknown Execution Accelerator '",
            r"unknown parameter '",
            r"unsupported (?:precision mode|arena_extend_strategy|cudnn_conv_algo_search) ",
            r"Invalid configuration value provided\. ",
            # stand-in: read_signature, complete_config, validate_config, session_options, choose_providers.
            r"(?:input|output) '",
            r"the configuration names (?:input|output) '",
            r"max_batch_size is \d",
            r"not supported by this Python-based backend: ",
            r"parameter '",
            r"execution accelerator '",
        ),
        during=LOADING,
    ),
    Row(
        "configuration refused",
        ArtifactRejected,
        "See Triton's log; the model or {repair} needs repair.",
        says=(
            # model_config_utils.cc, ValidateModelConfig and ValidateModelIOConfig;
            # backend_model_instance.cc, warm-up.
            r"instance group .* (?:has kind KIND_(?:CPU|MODEL) but|has unexpected kind|specifies (?:profile|invalid profile)|has kind KIND_GPU but specifies no)",
            r"instance_group kind ",
            r"must specify ",
            r"dynamic batching preferred size ",
            r"default priority level ",
            r"priority queue policy ",
            r"Only one priority level ",
            r"Queue policy ",
            r"'max_batch_size' must be non-negative",
            r"model input (?:must|NHWC)",
            r"model output must",
            r"(?:reshape )?dimensions? must be integer ",
            r"(?:model (?:in|out)put )?.{0,40}?has different (?:size|number of variable-size dimensions) for dims and reshape",
            r"cannot have empty reshape for non-batching model",
            r"warmup setting expects ",
            r"failed to convert ",
            r"unable to parse '",
            # model_repository_manager.cc, InitializeModelInfo: the JSON of an override that does not parse.
            r"Invalid config override: ",
            # rate_limiter.cc.
            r"Resource count for ",
            r'Resource "',
        ),
        during=LOADING,
    ),
    Row(
        "request does not fit",
        ArtifactRejected,
        "See Triton's log; the model or {repair} needs repair.",
        says=(
            # infer_request.cc, Normalize and Validate; model.cc.
            r"unexpected (?:inference (?:in|out)put|shape for input) '",
            r"expected (?:number of inputs|\d+ inputs|\d+ string elements|\d+ buffers) ",
            r"inference input '",
            r"inference request batch-size must be ",
            r"input '[^']*' (?:batch size|has no shape|does not exist|already)",
            r"input byte size mismatch ",
            r"All input dimensions should be specified ",
            r"unexpected number of string elements ",
            r"incomplete string length indicator ",
            # backend_model_instance.cc and onnxruntime.cc.
            r"batch size \d+ for '",
            r"buffer size for input '",
            r"Failed to (?:retrieve the ONNX input tensor info|find the scalar output dimension) ",
            r"Retrieved output count is not equal",
            r"(?:device info for )?output tensor '",
            # ensemble_scheduler.cc: seen when an output is also an input.
            r"unexpected deadlock, at least one output is not set",
            # stand-in: _read, _split; the wheel's Python, before it asks ONNX Runtime.
            r"(?:input|output) '",
            r"Required inputs \(",
            r"cannot reshape array of size ",
            # What ONNX Runtime calls INVALID_ARGUMENT: dimensions, rank, type or name of an input; seen.
            ort(r"(?!Non-zero)", "2"),
        ),
        during=ASKING,
    ),
)
