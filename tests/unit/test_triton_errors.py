"""Who is blamed for what Triton says: each row of the table, and the texts that try to get into another one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ml_code.triton_deploy.errors import (
    AnsweredLate,
    ArtifactRejected,
    DeployError,
    Misconfigured,
    NotFound,
    Unavailable,
    Unclassified,
    VerificationFailed,
)
from ml_code.triton_deploy.rules.triton_errors import TABLE, error_of, reason_of, row_of
from ml_code.triton_deploy.rules.triton_errors.calls import Call, Doing
from ml_code.triton_deploy.rules.triton_errors.row import NotPolled, OtherShapes, StillLoaded
from tests.support.models import external, times, unknown_operator

LOAD, ASK, UNLOAD, LIST, ABOUT = Call.LOADING, Call.ASKING, Call.UNLOADING, Call.LISTING, Call.ABOUT

# What Triton 2.51 puts before the reason of a load that failed.
FAILED = "load failed for model 'm.v2': version 2 is at UNAVAILABLE state: Internal: "
STAND_IN = f"{FAILED}ModelError: unable to load model 'm.v2': "
OPENING = f"{STAND_IN}ONNX Runtime 1.31.1 cannot open '/r/m.v2/2/model.onnx': "
ORT = "[ONNXRuntimeError] : 1 : FAIL : "
MODEL = f"{OPENING}{ORT}Load model from /r/m.v2/2/model.onnx failed:"
AT = "/onnxruntime_src/onnxruntime/core/"
CUDA_CALL = (
    f"{AT}providers/cuda/cuda_call.cc:129 std::conditional_t<THRW, void, onnxruntime::common::Status> "
    "onnxruntime::CudaCall(ERRTYPE, const char*, const char*, SUCCTYPE, const char*, const char*, int) "
    "[with ERRTYPE = cudaError; bool THRW = true; SUCCTYPE = cudaError] "
)
ARENA = f"{AT}framework/bfc_arena.cc:360 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, onnxruntime::Stream*) "
RUN = f"{ORT}Non-zero status code returned while running Expand node. Name:'' Status Message: "
SHM = (
    "Unable to initialize shared memory key 'triton_python_backend_shm_region_1' to requested size (1048576 bytes). If you are "
    "running Triton inside docker, use '--shm-size' flag to control the shared memory region size. Each Python backend model "
    "instance requires at least 1 MB of shared memory. Error: No space left on device"
)

SAID: list[tuple[str, Call, str, str, type[DeployError]]] = [
    ("late", LOAD, "DEADLINE_EXCEEDED", "Deadline Exceeded", Unavailable),
    ("late", ASK, "DEADLINE_EXCEEDED", "Deadline Exceeded", Unavailable),
    (
        "unknown model",
        ASK,
        "INVALID_ARGUMENT",
        "Request for unknown model: 'm' has no available versions",
        NotFound,
    ),
    ("not found", ASK, "NOT_FOUND", "model 'm', version 3 is not found", NotFound),
    (
        "model control is off",
        LOAD,
        "UNAVAILABLE",
        "explicit model load / unload is not allowed if polling is enabled",
        Misconfigured,
    ),
    ("not allowed", LOAD, "UNIMPLEMENTED", "", Misconfigured),
    ("not allowed", UNLOAD, "PERMISSION_DENIED", "", Misconfigured),
    ("not allowed", ABOUT, "UNAUTHENTICATED", "", Misconfigured),
    ("stopping", LIST, "UNAVAILABLE", "Server not ready", Unavailable),
    ("stopping", ABOUT, "UNAVAILABLE", "Server exiting", Unavailable),
    (
        "stopping",
        ASK,
        "UNAVAILABLE",
        "[request id: <id_unknown>] Server is stopping, scheduler for model has stopped accepting new inference requests",
        Unavailable,
    ),
    (
        "queue is full",
        ASK,
        "UNAVAILABLE",
        "in ensemble 'm', [request id: <id_unknown>] Exceeds maximum queue size",
        Unavailable,
    ),
    ("queue is full", ASK, "UNAVAILABLE", "Request timeout expired", Unavailable),
    (
        "memory limit of the server",
        LOAD,
        "INVALID_ARGUMENT",
        "load failed for model 'm.v2': version 2 is at UNAVAILABLE state: Unavailable: can not create model 'm.v2_0': memory "
        "limit set for GPU 0 has exceeded, model loading is rejected.",
        Unavailable,
    ),
    ("not ready yet", ASK, "UNAVAILABLE", "'m.v2' version 2 is not at ready state", Unavailable),
    (
        "out of reach",
        LOAD,
        "UNAVAILABLE",
        "failed to connect to all addresses; last error: Connection refused",
        Unavailable,
    ),
    ("out of reach", ASK, "CANCELLED", "Locally cancelled by application!", Unavailable),
    (
        "longer than gRPC takes",
        LOAD,
        "RESOURCE_EXHAUSTED",
        "received trailing metadata size exceeds soft limit (20113 vs. 8192), rejecting requests with some random probability",
        Unclassified,
    ),
    ("exhausted", LOAD, "RESOURCE_EXHAUSTED", "Received message larger than max", Unavailable),
    (
        "still loaded",
        UNLOAD,
        "INTERNAL",
        "failed to unload 'm.v2', versions that are still available: 2",
        StillLoaded,
    ),
    (
        "busy with that model",
        LOAD,
        "INTERNAL",
        "a related model 'm.v2' to a load/unload request is currently loading or unloading",
        Unavailable,
    ),
    (
        "not polled",
        LOAD,
        "INTERNAL",
        "failed to load 'm.v2', failed to poll from model repository",
        NotPolled,
    ),
    ("files not seen", LOAD, "INTERNAL", "failed to load 'm.v2', no version is available", Unavailable),
    (
        "files not seen",
        LOAD,
        "INVALID_ARGUMENT",
        "load failed for model 'm.v2': at least one version must be available under the version policy of model 'm.v2'",
        Unavailable,
    ),
    (
        "files not seen",
        LOAD,
        "INVALID_ARGUMENT",
        "load failed for model 'm.v2': version 2 is at UNAVAILABLE state: Unavailable: unable to find "
        "'/r/m.v2/2/model.onnx' for model instance 'm.v2_0'",
        Unavailable,
    ),
    (
        "files not seen",
        LOAD,
        "INVALID_ARGUMENT",
        f"{STAND_IN}file '/r/m.v2/2/model.onnx' not found (default_model_filename sets its name)",
        Unavailable,
    ),
    (
        "files not seen",
        LOAD,
        "INVALID_ARGUMENT",
        f"{OPENING}[ONNXRuntimeError] : 3 : NO_SUCHFILE : Load model from x failed:Load model x failed. File doesn't exist",
        Unavailable,
    ),
    (
        "backend is missing",
        LOAD,
        "INVALID_ARGUMENT",
        "load failed for model 'm.v2': version 2 is at UNAVAILABLE state: Invalid argument: unable to find backend library for "
        "backend 'onnxruntime', try specifying runtime on the model configuration.;",
        Misconfigured,
    ),
    (
        "backend is missing",
        LOAD,
        "INVALID_ARGUMENT",
        f"{FAILED}ModuleNotFoundError: No module named 'onnxruntime'",
        Misconfigured,
    ),
    (
        "switch points at nothing",
        LOAD,
        "INVALID_ARGUMENT",
        "load failed for model 'm': ensemble 'm' depends on 'm.v2' which has no loaded version. Model 'm.v2' loading failed with "
        "error: version 2 is at UNAVAILABLE state: Internal: CUDA error;",
        Unavailable,
    ),
    (
        "no model for ONNX Runtime",
        LOAD,
        "INVALID_ARGUMENT",
        f"{OPENING}[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : Load model from x failed:Protobuf parsing failed.",
        ArtifactRejected,
    ),
    (
        "no model for ONNX Runtime",
        LOAD,
        "INVALID_ARGUMENT",
        f'{FAILED}onnx runtime error 10: Load model from x failed:This is an invalid model. In Node, ("", Nope',
        ArtifactRejected,
    ),
    (
        "no model for ONNX Runtime",
        LOAD,
        "INVALID_ARGUMENT",
        f"{FAILED}onnx runtime error 9: Could not find an implementation for Det(22) node with name ''",
        ArtifactRejected,
    ),
    (
        "model and configuration differ",
        LOAD,
        "INVALID_ARGUMENT",
        "load failed for model 'm.v2': version 2 is at UNAVAILABLE state: Invalid argument: unable to load model 'm.v2', "
        "configuration expects 2 inputs, model provides 1",
        ArtifactRejected,
    ),
    (
        "shapes differ",
        LOAD,
        "INVALID_ARGUMENT",
        "load failed for model 'm.v2': version 2 is at UNAVAILABLE state: Invalid argument: model 'm.v2', tensor 'x': the model "
        "expects 2 dimensions (shape [-1,2]) but the model configuration specifies 1 dimensions (shape [2])",
        OtherShapes,
    ),
    (
        "model and configuration differ",
        LOAD,
        "INVALID_ARGUMENT",
        f"{FAILED}unsupported datatype TYPE_BF16 for input 'x' for model 'm.v2'",
        ArtifactRejected,
    ),
    (
        "model and configuration differ",
        LOAD,
        "INVALID_ARGUMENT",
        f"{STAND_IN}output 'y' is of unsupported type seq(map(string,tensor(float)))",
        ArtifactRejected,
    ),
    (
        "shapes differ",
        LOAD,
        "INVALID_ARGUMENT",
        f"{STAND_IN}output 'y': the file has [-1, 3], the configuration says [-1, -1]",
        OtherShapes,
    ),
    (
        "shapes differ",
        LOAD,
        "INVALID_ARGUMENT",
        f"{FAILED}model 'm.v2', tensor 'a': 'y': the model expects 2 dimensions (shape [-1,3]) but the model configuration specifies "
        "2 dimensions (shape [-1,-1])",
        OtherShapes,
    ),
    (
        "shapes differ",
        LOAD,
        "INVALID_ARGUMENT",
        f"{FAILED}model 'm.v2', tensor 'y': for the model to support batching the shape should have at least 1 dimension and the first "
        "dimension must be -1; but shape expected by the model is [3]",
        OtherShapes,
    ),
    (
        "shapes differ",
        LOAD,
        "INVALID_ARGUMENT",
        f"{FAILED}unable to load model 'm.v2', scalar tensor 'y', should only provide 1 in the model configuration when the model doesn't "
        "support batching. Model configuration provided: [-1].",
        OtherShapes,
    ),
    (
        "model and configuration differ",
        LOAD,
        "INVALID_ARGUMENT",
        f"{STAND_IN}output 'y': the file has TYPE_FP32, the configuration says TYPE_FP64",
        ArtifactRejected,
    ),
    (
        "model and configuration differ",
        LOAD,
        "INVALID_ARGUMENT",
        f"{STAND_IN}the configuration names input 'z', but the file has ['x']",
        ArtifactRejected,
    ),
    (
        "model and configuration differ",
        LOAD,
        "INVALID_ARGUMENT",
        f"{STAND_IN}parameter 'intra_op_thread_count' has the invalid value 'many'",
        ArtifactRejected,
    ),
    (
        "configuration refused",
        LOAD,
        "INVALID_ARGUMENT",
        "load failed for model 'm.v2': instance group m.v2_0 of model m.v2 has kind KIND_CPU but specifies one or more GPUs",
        ArtifactRejected,
    ),
    (
        "configuration refused",
        LOAD,
        "INVALID_ARGUMENT",
        "dynamic batching preferred size must be <= max batch size for m.v2",
        ArtifactRejected,
    ),
    (
        "configuration refused",
        LOAD,
        "INVALID_ARGUMENT",
        f"{FAILED}warmup setting expects all variable-size dimensions are specified for input 'x'",
        ArtifactRejected,
    ),
    (
        "configuration refused",
        LOAD,
        "INVALID_ARGUMENT",
        "Invalid config override: failed to parse the request JSON buffer: Invalid value. at 0",
        ArtifactRejected,
    ),
    (
        "request does not fit",
        ASK,
        "INVALID_ARGUMENT",
        "in ensemble 'm', [request id: <id_unknown>] unexpected shape for input 'x' for model 'm'. Expected [-1,2], got [1,3]. ",
        ArtifactRejected,
    ),
    (
        "request does not fit",
        ASK,
        "INVALID_ARGUMENT",
        "[request id: <id_unknown>] inference input 'x' data-type is 'INT64', but model 'm.v2' expects 'FP32'",
        ArtifactRejected,
    ),
    (
        "request does not fit",
        ASK,
        "INVALID_ARGUMENT",
        "[request id: <id_unknown>] unexpected inference input 'z' for model 'm.v2'",
        ArtifactRejected,
    ),
    (
        "request does not fit",
        ASK,
        "INTERNAL",
        "output 'y' has shape [3] for a batch of 2: this model needs max_batch_size 0",
        ArtifactRejected,
    ),
    (
        "request does not fit",
        ASK,
        "INTERNAL",
        "onnx runtime error 2: Got invalid dimensions for input: x for the following indices",
        ArtifactRejected,
    ),
    (
        "request does not fit",
        ASK,
        "INVALID_ARGUMENT",
        "in ensemble 'm', [request id: <id_unknown>] unexpected deadlock, at least one output is not set while no more ensemble "
        "steps can be made",
        ArtifactRejected,
    ),
    (
        "more than any machine has",
        ASK,
        "INTERNAL",
        f"{RUN}{ARENA}Failed to allocate memory for requested buffer of size 8796093022208\n",
        ArtifactRejected,
    ),
    (
        "out of memory",
        ASK,
        "INTERNAL",
        f"{RUN}{ARENA}Failed to allocate memory for requested buffer of size 879609302\n",
        Unavailable,
    ),
    (
        "out of memory",
        LOAD,
        "INVALID_ARGUMENT",
        f"{OPENING}[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Exception during initialization: std::bad_alloc",
        Unavailable,
    ),
    (
        "out of memory",
        ASK,
        "INTERNAL",
        f"{RUN}{CUDA_CALL}CUDA failure 2: out of memory ; GPU=0 ; hostname=n ; file=f ; line=1 ; expr=cudaMalloc",
        Unavailable,
    ),
    (
        "out of memory",
        LOAD,
        "INVALID_ARGUMENT",
        f"{FAILED}failed to allocate pinned system memory: no pinned memory pool",
        Unavailable,
    ),
    (
        "out of memory",
        LOAD,
        "INVALID_ARGUMENT",
        f"{FAILED}numpy._core._exceptions._ArrayMemoryError: Unable to allocate 7.45 GiB for an array with shape (1000000000,)",
        Unavailable,
    ),
    ("out of memory", LOAD, "INTERNAL", f"{FAILED}CUDA error: out of memory", Unavailable),
    ("out of memory", LOAD, "INTERNAL", f"{FAILED}cudaErrorMemoryAllocation: out of memory", Unavailable),
    (
        "CUDA",
        LOAD,
        "INVALID_ARGUMENT",
        f"{FAILED}onnx runtime error 1: {CUDA_CALL}CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version ;"
        " GPU=0 ; hostname=n",
        Unavailable,
    ),
    (
        "CUDA",
        ASK,
        "INTERNAL",
        f"{RUN}CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED ; GPU=0 ; hostname=n",
        Unavailable,
    ),
    ("CUDA", ASK, "INTERNAL", f"{RUN}CUDNN_STATUS_INTERNAL_ERROR", Unavailable),
    ("CUDA", LOAD, "INTERNAL", f"{FAILED}CUDA error: unknown error", Unavailable),
    ("CUDA", LOAD, "INTERNAL", f"{FAILED}no CUDA-capable device is detected", Unavailable),
    (
        "CUDA",
        LOAD,
        "INVALID_ARGUMENT",
        f"{OPENING}{ORT}{AT}session/provider_bridge_ort.cc:1778 onnxruntime::Provider& onnxruntime::ProviderLibrary::Get() "
        "Failed to load library /x/libonnxruntime_providers_cuda.so with error: libcublasLt.so.12: cannot open",
        Unavailable,
    ),
    (
        "CUDA",
        LOAD,
        "INTERNAL",
        f"{FAILED}unable to get number of CUDA devices: initialization error",
        Unavailable,
    ),
    (
        "CUDA",
        LOAD,
        "INTERNAL",
        f"{STAND_IN}ONNX Runtime 1.31.1 has CUDAExecutionProvider but cannot start it",
        Unavailable,
    ),
    ("shared memory", LOAD, "INTERNAL", f"{FAILED}{SHM}", Unavailable),
    (
        "locale",
        LOAD,
        "INTERNAL",
        f"{OPENING}{ORT}Exception during initialization: {AT}providers/cpu/text/string_normalizer.cc:235 "
        "onnxruntime::StringNormalizer::Locale::Locale(const std::string&)::<lambda()> Failed to construct locale with "
        "name:en_US.UTF-8:locale::facet::_S_create_c_locale name not valid:Please, install necessary language-pack-XX",
        Unavailable,
    ),
    (
        "library",
        LOAD,
        "INTERNAL",
        f"{FAILED}libcudart.so.12: cannot open shared object file: No such file or directory",
        Misconfigured,
    ),
    (
        "shared memory",
        ASK,
        "INTERNAL",
        "Failed to increase the shared memory pool size to 67108864 bytes. Error: No space left on device",
        Unavailable,
    ),
    ("shared memory", LOAD, "INTERNAL", f"{FAILED}failed to create shared memory", Unavailable),
    (
        "descriptors, disk or permissions",
        LIST,
        "INTERNAL",
        "failed to open directory /models/m.v2",
        Unavailable,
    ),
    (
        "descriptors, disk or permissions",
        LOAD,
        "INVALID_ARGUMENT",
        f"{MODEL}system error number 24",
        Unavailable,
    ),
    ("descriptors, disk or permissions", LOAD, "INVALID_ARGUMENT", f"{OPENING}SystemError : 24", Unavailable),
    (
        "descriptors, disk or permissions",
        LOAD,
        "INVALID_ARGUMENT",
        f"{FAILED}onnx runtime error 24: x",
        Unavailable,
    ),
    (
        "descriptors, disk or permissions",
        LOAD,
        "INVALID_ARGUMENT",
        f"{FAILED}OSError: [Errno 24] Too many open files: '/r/m.v2'",
        Unavailable,
    ),
    *(
        (
            "descriptors, disk or permissions",
            LOAD,
            "INTERNAL",
            f"{FAILED}reading /r/m.v2: {words}",
            Unavailable,
        )
        for words in (
            "Too many open files",
            "No space left on device",
            "Input/output error",
            "Stale file handle",
            "Permission denied",
            "Read-only file system",
        )
    ),
    (
        "stub died at start",
        LOAD,
        "INVALID_ARGUMENT",
        f"{FAILED}Stub process 'm.v2_0_0' is not healthy.;",
        Unavailable,
    ),
    (
        "stub died at start",
        LOAD,
        "INVALID_ARGUMENT",
        f"{FAILED}Failed to initialize stub, stub process exited unexpectedly: m.v2_0",
        Unavailable,
    ),
    (
        "stub died at start",
        LOAD,
        "INVALID_ARGUMENT",
        f"{FAILED}Timed out occurred while waiting for the stub process. Failed to initialize model instance m.v2_0",
        Unavailable,
    ),
    (
        "stub died at start",
        LOAD,
        "INVALID_ARGUMENT",
        f"{FAILED}Stub process 'm.v2_0' ran out of time",
        Unavailable,
    ),
    (
        "no thread left",
        LOAD,
        "INVALID_ARGUMENT",
        f"{FAILED}RuntimeError: can't start new thread",
        Unavailable,
    ),
    (
        "external data not seen",
        LOAD,
        "INVALID_ARGUMENT",
        f"{OPENING}{ORT}External data path validation failed for initializer: w. Error: tensorprotoutils.cc:461 "
        'ValidateExternalDataPathFromDir External data path does not exist: "/r/w.data"',
        Unclassified,
    ),
    (
        "ONNX Runtime can't load it",
        LOAD,
        "INVALID_ARGUMENT",
        f"{MODEL}Fatal error: nobody:Nope(-1) is not a registered function/op",
        ArtifactRejected,
    ),
    (
        "ONNX Runtime can't load it",
        LOAD,
        "INVALID_ARGUMENT",
        f"{FAILED}onnx runtime error 2: Load model from x failed:No graph was found in the protobuf.",
        ArtifactRejected,
    ),
    (
        "ONNX Runtime can't load it",
        LOAD,
        "INVALID_ARGUMENT",
        f"{MODEL}{AT}graph/model.cc:256 onnxruntime::Model::Model(onnx::ModelProto&&) Unsupported model IR version: 99",
        ArtifactRejected,
    ),
    (
        "ONNX Runtime can't load it",
        LOAD,
        "INVALID_ARGUMENT",
        f"{MODEL}{AT}graph/model_load_utils.h:46 void f(int) ONNX Runtime only *guarantees* support for models stamped with "
        "official released onnx opset versions. Opset 99 is under development",
        ArtifactRejected,
    ),
    (
        "ONNX Runtime can't run it",
        ASK,
        "INTERNAL",
        f"{RUN}{AT}providers/cpu/tensor/reshape_helper.h:91 onnxruntime::ReshapeHelper::ReshapeHelper(bool) "
        "input_shape_size == requested_shape_size was false.",
        ArtifactRejected,
    ),
    ("ONNX Runtime can't run it", ASK, "INTERNAL", f"{ORT}Missing Input: x", ArtifactRejected),
    (
        "GPU is not there",
        LOAD,
        "INVALID_ARGUMENT",
        "load failed for model 'm.v2': instance group m.v2 of model m.v2 has kind KIND_GPU but no GPUs are available",
        Unclassified,
    ),
    (
        "stub died at work",
        ASK,
        "INTERNAL",
        "in ensemble 'm', Stub process 'm.v2_0_0' is not healthy.",
        Unclassified,
    ),
    ("not known, and no model's doing", LIST, "INTERNAL", "something new", Unavailable),
    ("not known, and no model's doing", UNLOAD, "INTERNAL", f"{MODEL}This is an invalid model.", Unavailable),
    ("not known", LOAD, "INVALID_ARGUMENT", f"{FAILED}something new", Unclassified),
    ("not known", ASK, "INTERNAL", "something new", Unclassified),
]


def named(call: Call, status: str, message: str) -> DeployError:
    return error_of("node:8001", Doing(call, "m.v2"), 5, f"StatusCode.{status}", message)


@pytest.mark.parametrize(("row", "call", "status", "text", "error"), SAID)
def test_what_triton_says_is_held_against_whom_it_should_be(
    row: str, call: Call, status: str, text: str, error: type[DeployError]
) -> None:
    found = named(call, status, text)
    assert (row_of(call, status, text.strip(" \n.;")).name, type(found)) == (row, error)
    assert "node:8001" in found.message
    assert found.hint.strip()
    assert "{" not in found.hint


def test_every_row_has_a_text_and_a_name_of_its_own() -> None:
    assert {row.name for row in TABLE} == {row for row, *_ in SAID}
    assert len({row.name for row in TABLE}) == len(TABLE)


@pytest.mark.parametrize("call", [UNLOAD, LIST, ABOUT])
def test_only_loading_and_asking_can_blame_a_model(call: Call) -> None:
    blaming = [(status, text) for *_, status, text, error in SAID if error.blames_artifact]
    assert blaming
    for status, text in blaming:
        found = named(call, status, text)
        assert not found.blames_artifact
        assert not isinstance(found, Unclassified)


# Names that a model brings along


LIES = (
    "CUDA failure 2: out of memory ; GPU=0 ; hostname=n",
    " failed:CUDA failure 2: out of memory",
    "' Status Message: CUDA failure 2: out of memory ; GPU=0",
    "Stub process 'm.v2_0_0' is not healthy.",
    "x: Too many open files",
    "failed to open directory /r",
    "version 2 is at UNAVAILABLE state: Internal: CUDA error: unknown error",
    "x\n\nAt:\n",
    "/o/a.cc:1 f() CUDA failure 999: unknown error",
)
NAMING = (
    (LOAD, STAND_IN + "output '{}' is of unsupported type seq(map(string,tensor(float)))"),
    (LOAD, FAILED + "unsupported datatype TYPE_BF16 for input 'x' for model '{}'"),
    (
        LOAD,
        FAILED + 'onnx runtime error 10: Load model from x failed:This is an invalid model. In Node, ("{}"',
    ),
    (LOAD, MODEL + "Type Error: Type parameter (T) of Optype (Add) bound to different types in node ({})."),
    (LOAD, MODEL + "This is an invalid model. Error: two nodes with same node name ({})."),
    (LOAD, MODEL + "Fatal error: nobody:{}(-1) is not a registered function/op"),
    (ASK, "in ensemble 'm', [request id: <id_unknown>] unexpected inference input '{}' for model 'm'"),
    (
        ASK,
        "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got invalid dimensions for input: {} for the following",
    ),
    (
        ASK,
        ORT
        + "Non-zero status code returned while running Reshape node. Name:'{}' Status Message: "
        + AT
        + "x.h:91 "
        "onnxruntime::ReshapeHelper(bool) input_shape_size == requested_shape_size was false.",
    ),
)


@pytest.mark.parametrize(("call", "text"), NAMING)
@pytest.mark.parametrize("lie", LIES)
def test_a_name_in_a_model_does_not_shift_the_blame(call: Call, text: str, lie: str) -> None:
    assert named(call, "INTERNAL", text.format("x")).blames_artifact
    assert named(call, "INTERNAL", text.format(lie)).blames_artifact


@pytest.mark.parametrize(
    "lie", ["[ONNXRuntimeError] : 10 : INVALID_GRAPH : x", "unable to load model 'm': output 'y'"]
)
def test_a_name_does_not_make_the_nodes_fault_a_models(lie: str) -> None:
    run = f"{ORT}Non-zero status code returned while running Conv node. Name:'{lie}' Status Message: "
    for cause in (f"{CUDA_CALL}CUDA failure 2: out of memory ; GPU=0", "std::bad_alloc"):
        assert not named(ASK, "INTERNAL", run + cause).blames_artifact


def test_the_reason_is_what_is_left_of_what_is_said_of_every_failure() -> None:
    assert reason_of(f"{MODEL}x").startswith("[ONNXRuntimeError] : 1 : FAIL : Load model from")
    assert reason_of("in ensemble 'm', [request id: a] in ensemble 'n', x") == "x"
    assert reason_of("x in ensemble 'm', y") == "x in ensemble 'm', y"


# ONNX Runtime's own words, from the wheel


def graph(
    *nodes: onnx.NodeProto, opset: int = 17, ir: int = 9, constants: tuple[onnx.TensorProto, ...] = ()
) -> bytes:
    def tensor(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2])

    made = helper.make_graph(nodes, "graph", [tensor("x")], [tensor("y")], constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)
    content: bytes = model.SerializeToString()
    return content


SAME = helper.make_node("Identity", ["x"], ["y"])
BAD_MODELS = {
    "junk": b"junk",
    "empty": b"",
    "unknown operator": unknown_operator().SerializeToString(),
    "unknown standard operator": graph(helper.make_node("Nope", ["x"], ["y"])),
    "IR": graph(SAME, ir=99),
    "opset": graph(SAME, opset=99),
    "types": graph(
        helper.make_node("Add", ["x", "k"], ["y"], name="x: Too many open files"),
        constants=(numpy_helper.from_array(np.array([1], np.int64), "k"),),
    ),
    "input of nobody": graph(helper.make_node("Add", ["x", "nobodys"], ["y"])),
}


def opened(path: Path) -> str:
    """What the stand-in says when ONNX Runtime can't open a file."""
    import onnxruntime

    with pytest.raises(Exception) as failure:  # noqa: PT011 (ONNX Runtime's exceptions have no base class of their own)
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return f"{STAND_IN}ONNX Runtime 1 cannot open '{path}': {failure.value}"


@pytest.mark.parametrize("name", BAD_MODELS)
def test_a_model_that_onnx_runtime_refuses_is_to_blame(name: str, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(BAD_MODELS[name])
    assert named(LOAD, "INVALID_ARGUMENT", opened(tmp_path / "model.onnx")).blames_artifact


def test_files_that_the_deployer_saw_and_triton_does_not_are_nobodys_fault(tmp_path: Path) -> None:
    assert type(named(LOAD, "INVALID_ARGUMENT", opened(tmp_path / "model.onnx"))) is Unavailable
    (tmp_path / "model.onnx").write_bytes(external("w.data")[0])
    assert type(named(LOAD, "INVALID_ARGUMENT", opened(tmp_path / "model.onnx"))) is Unclassified


def test_a_model_that_onnx_runtime_cant_run_is_to_blame_whatever_its_nodes_are_called(tmp_path: Path) -> None:
    import onnxruntime

    (tmp_path / "model.onnx").write_bytes(
        graph(
            helper.make_node(
                "Reshape", ["x", "k"], ["y"], name=f"' Status Message: {CUDA_CALL}CUDA failure 2: "
            ),
            constants=(numpy_helper.from_array(np.array([7, 7], np.int64), "k"),),
        )
    )
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    for shape in ((1, 2), (1, 3), (2,)):
        with pytest.raises(Exception) as failure:  # noqa: PT011
            session.run(None, {"x": np.ones(shape, np.float32)})
        assert named(ASK, "INTERNAL", str(failure.value)).blames_artifact


def test_no_descriptor_for_the_model_is_no_fault_of_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource

    (tmp_path / "model.onnx").write_bytes(times(2).SerializeToString())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        said = opened(tmp_path / "model.onnx")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert row_of(LOAD, "INVALID_ARGUMENT", said).name == "descriptors, disk or permissions", said


# Texts


def test_names_in_a_message_move_no_cursor_and_begin_no_line() -> None:
    said = f"{STAND_IN}output '\x1b[2J\u202e\x00\r\nERROR forged\udcff' is of unsupported type"
    told = str(named(LOAD, "INVALID_ARGUMENT", said))
    assert told.isprintable()
    assert r"\x1b[2J\u202e\x00  ERROR forged\udcff" in told
    assert str(DeployError("é 日本 x", hint="a\nb")) == "é 日本 x a b"
    assert DeployError("a\x1b", hint="").args == (r"a\x1b",)


def test_the_lines_of_a_backend_in_python_are_no_part_of_what_it_says() -> None:
    told = named(
        LOAD, "INVALID_ARGUMENT", f"{OPENING}SystemError : 24\n\nAt:\n  /b/model.py(118): open_session\n;\n"
    )
    assert type(told) is Unavailable
    assert told.message.endswith("SystemError : 24.")


def test_a_late_answer_is_a_failed_verification_that_blames_nobody() -> None:
    late = AnsweredLate("late", hint="")
    assert isinstance(late, VerificationFailed)
    assert (late.kind, late.exit_code, late.blames_artifact) == ("answered_late", 4, False)


def test_what_is_not_known_may_be_tried_again() -> None:
    found = named(LOAD, "INTERNAL", "something new")
    assert (found.kind, found.exit_code, found.retryable, found.blames_artifact) == (
        "unclassified",
        5,
        True,
        False,
    )
    assert "another Triton" in found.hint
