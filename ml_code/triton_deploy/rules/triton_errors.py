"""Whose fault it is, when Triton refuses something: one table of what Triton, its backends and ONNX Runtime say.

The first row that fits decides, and what no row knows blames nobody (``Unclassified``). A row that blames the artifact counts
only while a model is loaded or asked.

Texts repeat names that a model brings along: of tensors, nodes and files. So that no name decides who is blamed, a row looks
at the beginning of the reason, where those who wrote the text stand and not the model. What says no more than a fixed beginning
comes first; then what may stand behind the beginning of another text (a CUDA error that ONNX Runtime passes on); then those
other texts. What remains: a model that asks for much memory, or ends the stub that loads it, looks like a node that has little
or breaks stubs, and blames nobody. It goes live nowhere all the same.

Sources, of the projects triton-inference-server and microsoft: ``core/src``, ``python_backend/src``,
``onnxruntime_backend/src``, ``onnxruntime/onnxruntime/core``; "seen" is what a real Triton or ONNX Runtime said here, and
"stand-in" the backend in ``stack/triton_backends/onnxruntime/model.py``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from ..errors import ArtifactRejected, DeployError, Misconfigured, NotFound, Unavailable, Unclassified


class NotPolled(Misconfigured):
    """Triton does not see a model's folder, can't read it, or refuses its configuration: it says the same of all of them."""


class Call(Enum):
    """What is asked of Triton; the value is how messages name it."""

    LOADING = "loading"
    UNLOADING = "unloading"
    LISTING = "listing its models"
    ABOUT = "saying what it is"
    ASKING = "asking"


ANY = tuple(Call)
LOADING, ASKING = (Call.LOADING,), (Call.ASKING,)
BLAMES = (*LOADING, *ASKING)
"""The calls in which a model does something, and may do it wrongly."""


@dataclass(frozen=True)
class Doing:
    """A call under way, of a model where there is one."""

    call: Call
    model: str = ""

    def __str__(self) -> str:
        return f"{self.call.value} {self.model}".strip()


@dataclass(frozen=True)
class Row:
    """One thing that Triton says.

    Attributes:
        name: the row, for tests and readers.
        error: who acts.
        hint: what to do; may name ``{limit}``, the setting that limits the call, and ``{repair}``, what of the artifact is wrong.
        says: patterns, one of which fits the reason; none: whatever it says.
        status: gRPC status codes, one of which it has; none: any.
        during: calls in which the row counts.
        message: what happened, with ``{url}``, ``{doing}``, ``{timeout_s}`` and ``{said}``.
    """

    name: str
    error: type[DeployError]
    hint: str
    says: tuple[str, ...] = ()
    status: tuple[str, ...] = ()
    during: tuple[Call, ...] = ANY
    message: str = "Triton at {url} failed {doing}: {said}."

    def __post_init__(self) -> None:
        if self.error.blames_artifact and not set(self.during) <= set(BLAMES):
            raise ValueError(f"{self.name}: only a call in which a model does something may blame it")

    def fits(self, call: Call, status: str, reason: str) -> bool:
        """Whether Triton says this.

        Args:
            call: what was asked of it.
            status: gRPC status code, such as ``INTERNAL``.
            reason: what it said, without what it says of every failure; see ``reason_of``.
        """
        if call not in self.during or (self.status and status not in self.status):
            return False
        return not self.says or any(re.match(pattern, reason, re.DOTALL) for pattern in self.says)


REFUSED = "Triton at {url} refused {doing}: {said}."

# What ONNX Runtime says begins with the code of the error: the wheel's texts in the first form, and in the second those of
# NVIDIA's backend (RETURN_IF_ORT_ERROR in onnxruntime_utils.h).
_ORT = r"(?:\[ONNXRuntimeError\] : (?:%s) : \w+ : |onnx runtime error (?:%s): )"
# Where in ONNX Runtime it was thrown: file, line and the signature of the function.
_THROWN = r"(?:\S+\.(?:cc|h|cu|cuh|hpp):\d+ [^()]*\([^()]*\)(?: const)?(?:::<lambda\([^()]*\)>)?(?: \[with [^\]]*\])? ?)*"
_LOAD = "Load model from [^:]*? failed:"
_RUN = "Non-zero status code returned while running "


def _ort(text: str, codes: str = r"\d+") -> str:
    return _ORT % (codes, codes) + text


def _caused_by(text: str) -> str:
    """A text that comes as it is, or from ONNX Runtime, which adds what it was doing."""
    # The last "Status Message" is ONNX Runtime's own: one before it may stand in a node's name.
    doing = rf"(?:{_RUN}.*Status Message: (?!.*Status Message: )|Exception during \w+: |{_LOAD})?"
    return rf"(?:{_ort('')}(?:{doing}){_THROWN})?{text}"


_ERRNO = (
    "Too many open files|Too many open files in system|No space left on device|Input/output error|Stale file handle|"
    "Permission denied|Operation not permitted|Read-only file system|Disk quota exceeded|Cannot allocate memory|"
    "Resource temporarily unavailable|Remote I/O error|Transport endpoint is not connected"
)

TABLE = (
    # What gRPC says, and what Triton says of itself.
    Row(
        "late",
        Unavailable,
        "It may still be at it. If it hangs, restart that Triton; if it is only slow, raise {limit}.",
        status=("DEADLINE_EXCEEDED",),
        message="Triton at {url} did not finish {doing} within {timeout_s:g} s.",
    ),
    Row(
        "unknown model",
        NotFound,
        "Check what it has loaded: triton-deploy status.",
        # model_repository_manager.cc, GetModelIdentifier; the status is INVALID_ARGUMENT at times.
        says=("Request for unknown model: ",),
        message=REFUSED,
    ),
    Row(
        "not found",
        NotFound,
        "Check what it has loaded: triton-deploy status.",
        status=("NOT_FOUND",),
        message=REFUSED,
    ),
    Row(
        "model control is off",
        Misconfigured,
        "Start Triton with --model-control-mode=explicit and allow model control from here.",
        # model_repository_manager.cc, LoadUnloadModel: UNAVAILABLE, which gRPC says of a server that can't be reached.
        says=("explicit model load / unload is not allowed",),
        message=REFUSED,
    ),
    Row(
        "not allowed",
        Misconfigured,
        "Start Triton with --model-control-mode=explicit and allow model control from here.",
        status=("UNIMPLEMENTED", "PERMISSION_DENIED", "UNAUTHENTICATED"),
        message=REFUSED,
    ),
    Row(
        "stopping",
        Unavailable,
        "It is being stopped or started. Deploy again when it is up.",
        # server.cc; dynamic_batch_scheduler.cc.
        says=("Server exiting", "Server is stopping", "Server not ready", "OnnxLoader has been stopped"),
        message=REFUSED,
    ),
    Row(
        "queue is full",
        Unavailable,
        "Clients ask it for more than it can answer: deploy again when they ask for less, or add Tritons.",
        # scheduler_utils.cc; dynamic_batch_scheduler.cc.
        says=("Exceeds maximum queue size", "Request timeout expired"),
        message=REFUSED,
    ),
    Row(
        "memory limit of the server",
        Unavailable,
        "It has no room for another version: free memory, or lower TRITON_DEPLOY_KEEP_WARM, then deploy again.",
        # backend_model_instance.cc: --model-load-gpu-limit.
        says=(r"can not create model '[^']*': memory limit set for",),
    ),
    Row(
        "not ready yet",
        Unavailable,
        "It was restarted or somebody unloaded the version; deploy again.",
        # model_lifecycle.cc, GetModel; tritonserver.cc.
        says=(
            r"'[^']*' version \d+ is not at ready state",
            r"requested model (?:version|'[^']*') is not available",
        ),
        message=REFUSED,
    ),
    Row(
        "out of reach",
        Unavailable,
        "Check that it runs and that TRITON_DEPLOY_GRPC_URLS has its gRPC port, then deploy again.",
        status=("UNAVAILABLE", "CANCELLED"),
        message="Triton at {url} can't be reached: {said}.",
    ),
    Row(
        "longer than gRPC takes",
        Unclassified,
        "Why is in that Triton's log; names in the model may be too long. If another Triton says the same, the model is refused.",
        # gRPC takes 8 to 16 KiB of text; seen. It is also why no text is so long that the patterns are slow.
        says=(r".*metadata size exceeds",),
        status=("RESOURCE_EXHAUSTED",),
        during=BLAMES,
    ),
    Row(
        "exhausted",
        Unavailable,
        "It takes no more for now: free what it lacks (memory, threads), then deploy again.",
        status=("RESOURCE_EXHAUSTED",),
    ),
    Row(
        "still loaded",
        Unavailable,
        "It loads that model again and again for somebody else, or is stuck: see its log; restart that Triton if it lasts.",
        # model_repository_manager.cc, LoadUnloadModel; seen.
        says=(r"failed to unload '[^']*', versions that are still available: ",),
    ),
    Row(
        "busy with that model",
        Unavailable,
        "It is loading or unloading that model for somebody else: deploy again.",
        # model_repository_manager.cc, LoadUnloadModels.
        says=(r"a related model '[^']*' to a load/unload request is currently",),
    ),
    Row(
        "not polled",
        NotPolled,
        "TRITON_DEPLOY_REPOSITORY must be the folder that this Triton was started with (--model-repository), shared with it; its log says what it can't read, or which configuration it refuses.",
        # model_repository_manager.cc, LoadUnloadModel; seen. Which of the two it is: see polling.py.
        says=(r"failed to load '[^']*', failed to poll from model repository",),
        message="Triton at {url} refused {doing}: it does not see the model in its repository, or refuses its configuration.",
    ),
    Row(
        "files not seen",
        Unavailable,
        "The deployer has written and read them: see that the repository of that Triton is the same (mount, cache of NFS), then deploy again.",
        # model_repository_manager.cc; model_lifecycle.cc; onnxruntime.cc, LoadModel; stand-in; ORT's model.cc (NO_SUCHFILE).
        says=(
            r"failed to load '[^']*', (?:no version is available|unexpected miss in global map)",
            r"at least one version must be available under the version policy of model",
            r"unable to find '[^']*' for model instance '",
            r"file '[^']*' not found",
            _ort("", "3"),
        ),
        during=LOADING,
    ),
    Row(
        "backend is missing",
        Misconfigured,
        "This Triton has no usable onnxruntime backend; the model is not at fault.",
        # backend_model.cc, ResolveBackendLibrary; shared_library.cc; python_be.cc; onnxruntime.cc, TRITONBACKEND_Initialize.
        says=(
            r"unable to find (?:Python backend based )?backend library ",
            r"unable to find backend ",
            r"unable to load shared library: ",
            r"unable to find (?:required|'[^']*') entrypoint ",
            r"Triton TRITONBACKEND API version: ",
            r"Triton backend API version does not support this backend",
            r"\S* ?is not found\. Searched paths: ",
            # The stub's interpreter lacks the wheel.
            r"(?:ModuleNotFoundError|ImportError): ",
        ),
    ),
    Row(
        "switch points at nothing",
        Unavailable,
        "It was restarted or somebody unloaded the version in this moment; deploy again.",
        # model_repository_manager.cc, ValidateEnsemble; seen.
        says=(r"ensemble '[^']*' depends on '", r"ensemble \S+ contains models that are not available"),
        during=LOADING,
    ),
    # The artifact's fault, whatever is said behind the beginning.
    Row(
        "no model for ONNX Runtime",
        ArtifactRejected,
        "See Triton's log; the model needs repair.",
        # NO_MODEL, INVALID_PROTOBUF, NOT_IMPLEMENTED, INVALID_GRAPH (OrtErrorCode in onnxruntime_c_api.h); seen.
        # A disk that fails in the middle of the file is told as INVALID_PROTOBUF, too; ONNX Runtime does not say which.
        says=(_ort("", "4|7|9|10"),),
        during=BLAMES,
    ),
    Row(
        "model and configuration differ",
        ArtifactRejected,
        "See Triton's log; the model or {repair} needs repair.",
        says=(
            # onnxruntime.cc and onnxruntime_utils.cc of NVIDIA's backend. The first ones begin with "unable to load model".
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
            # model_config_utils.cc, ValidateModelConfig and ValidateModelIOConfig; backend_model_instance.cc, warm-up.
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
            # ensemble_scheduler.cc: seen of an output that is an input, too.
            r"unexpected deadlock, at least one output is not set",
            # stand-in: _read, _split; the wheel's Python, before it asks ONNX Runtime.
            r"(?:input|output) '",
            r"Required inputs \(",
            r"cannot reshape array of size ",
            # What ONNX Runtime calls INVALID_ARGUMENT: dimensions, rank, type or name of an input; seen.
            _ort(r"(?!Non-zero)", "2"),
        ),
        during=ASKING,
    ),
    # The node's fault, also when ONNX Runtime passes it on.
    Row(
        "more than any machine has",
        ArtifactRejected,
        "See Triton's log; the model or {repair} needs repair: no machine has that much memory.",
        # bfc_arena.cc; seen. A model may ask for anything, and more than a terabyte in one piece is its own fault.
        says=(_caused_by(r"Failed to allocate memory for requested buffer of size \d{13,}"),),
        during=BLAMES,
    ),
    Row(
        "out of memory",
        Unavailable,
        "It has no room for another version: free memory, or lower TRITON_DEPLOY_KEEP_WARM, then deploy again.",
        says=(
            # bfc_arena.cc, allocator.cc (seen); cuda_call.cc, which passes on cudaErrorMemoryAllocation (2).
            _caused_by(r"Failed to allocate memory for requested buffer of size "),
            _caused_by(r"(?:std::)?bad_alloc"),
            _caused_by(r"CUDA failure 2: "),
            _caused_by(r"(?:CUDA error: out of memory|cudaErrorMemoryAllocation)"),
            # NumPy and Python in the stub.
            r"[\w.]*MemoryError(?::|$)",
            r"Unable to allocate [\d.]+ .?iB for an array ",
            # pinned_memory_manager.cc, cuda_memory_manager.cc, backend_memory_manager.cc, ensemble_scheduler.cc, python_be.cc.
            r"(?i:failed to allocate )",
            r"(?:CPU memory allocation|memory allocation) failed",
            r"CudaMemoryManager has no preallocated CUDA memory",
            r"(?i:(?:CUDA )?out of memory)",
        ),
    ),
    Row(
        "CUDA",
        Unavailable,
        "The GPU of that node or its driver fails: see nvidia-smi there; restart that Triton, then deploy again. The model is not at fault.",
        says=(
            # cuda_call.cc: "CUDA failure 999: unknown error ; GPU=0 ; hostname=…", and so for each library.
            _caused_by(r"(?:CUDA|CUBLAS|CUDNN|CURAND|CUFFT|CUSPARSE|NCCL|TensorRT) (?:failure|error) ?\d*: "),
            _caused_by(r"(?:CUBLAS|CUDNN|CURAND|CUFFT|CUSPARSE|NVRTC)_(?:STATUS|ERROR)_\w+"),
            _caused_by(r"cudaError\w+"),
            _caused_by(r"(?i:no CUDA-capable device)"),
            _caused_by(r"(?i:CUDA driver version is insufficient|.{0,20}driver version is insufficient)"),
            # provider_bridge_ort.cc.
            _caused_by(r"Failed to load (?:library|shared library) \S*libonnxruntime_providers_"),
            _caused_by(r"(?i:Error loading \"?\S*libonnxruntime_providers_)"),
            # cuda_utils.cc, model_config_cuda.cc; python_be.cc, pb_utils.cc.
            r"unable to get (?:number of CUDA devices|CUDA device properties|memory info for device)",
            r"(?i:CUDA error|unable to create (?:a )?(?:CUDA )?stream)",
            r"Failed to (?:set the CUDA device|get the current CUDA device|open the cudaIpcHandle|share CUDA memory pool)",
            r"failed to (?:synchronize the default CUDA stream|get cuda pointer device attribute|get primary context state)",
            # stand-in: open_session.
            r"ONNX Runtime \S+ has CUDAExecutionProvider but cannot start it",
        ),
    ),
    Row(
        "locale",
        Unavailable,
        "Install that locale on that Triton's machine (Debian: apt-get install locales, then locale-gen) and restart that Triton, then deploy again. The model is not at fault.",
        # string_normalizer.cc; seen. scikit-learn's text vectorizers come with the locale en_US.
        says=(_caused_by(r"Failed to construct locale with name:"),),
        during=BLAMES,
    ),
    Row(
        "library",
        Misconfigured,
        "Install that library on that Triton's machine, or use an image that has it, then deploy again. The model is not at fault.",
        # The dynamic linker's words, as they are or as ONNX Runtime passes them on.
        says=(
            _caused_by(
                r"(?:Failed to load (?:shared )?library \S+ with error: )?[^\s:]{1,300}: cannot open shared object file"
            ),
        ),
        during=BLAMES,
    ),
    Row(
        "shared memory",
        Unavailable,
        "Its shared memory is full or too small: give that Triton more (--shm-size, or an emptyDir on /dev/shm), then deploy again.",
        # shm_manager.cc.
        says=(
            r"Unable to initialize shared memory key '",
            r"Failed to increase the shared memory pool size ",
            r"Failed to create new mapped region for the grown shared memory ",
            r"(?i:failed to create (?:the )?shared memory)",
            # The tensors of a request, when there is no room to grow.
            r"boost::interprocess",
        ),
    ),
    Row(
        "descriptors, disk or permissions",
        Unavailable,
        "That Triton's node fails (open files, disk, mount or rights; see its log): repair it, then deploy again. The model is not at fault.",
        says=(
            # filesystem/implementations/local.h; "failed to open directory" seen with no descriptor left.
            r"failed to (?:open (?:directory|text file|binary file)|stat file|read text proto from|write text proto to) ",
            r"Failed to create (?:directory|local temp folder)",
            r"Failed to (?:get (?:local directory for temporary files|the current working directory|the canonical path)|change the directory)",
            # ONNX Runtime's model.cc: an errno of open(2), EMFILE is 24; seen.
            _ort(rf"{_LOAD}\s*system error number \d+"),
            # Of a file of external data the errno is all that is told: by the wheel (seen), and by NVIDIA's backend as the code.
            r"SystemError : \d+$",
            r"onnx runtime error (?:1[5-9]|[2-9]\d|\d{3}): ",
            # The operating system's words: Python's, and at the end of a text that is not ONNX Runtime's, which may end in a name.
            r"(?:\w*Error: )?\[Errno (?:1|5|11|12|13|23|24|28|30|107|116|121|122)\] ",
            rf"(?!\[ONNXRuntimeError\]|onnx runtime error )(?:.*[:.=] )?(?:\w*Error: )?(?:{_ERRNO})\W*$",
        ),
    ),
    Row(
        "stub died at start",
        Unavailable,
        "Its Python stub could not start: see that Triton's log (libraries, shared memory, memory of the machine), then deploy again.",
        # stub_launcher.cc, Launch and ReceiveMessageFromStub; the last two in older releases.
        says=(
            r"Stub process '[^']*' is not healthy",
            r"Launch stub process failed for ",
            r"Failed to (?:fork the stub process|run python backend stub|give execute permission to triton_python_backend_stub)",
            r"Received unexpected response from Python backend stub: ",
            r"Path \S+ does not exist\. The Python environment should contain",
            r"Failed to initialize stub, stub process exited unexpectedly",
            r"Timed out occurr?ed while waiting for the stub process",
            r"(?i:stub process '[^']*' (?:timed out|ran out of time))",
        ),
        during=LOADING,
    ),
    Row(
        "no thread left",
        Unavailable,
        "That Triton's machine starts no more threads: see its limits (pids, memory), then deploy again. The model is not at fault.",
        # Threads: std::system_error of pthread_create (EAGAIN).
        says=(_caused_by(r"(?i:thread constructor failed|can't start new thread|pthread_\w+ failed)"),),
    ),
    # What ONNX Runtime says when neither the node nor a file is why.
    Row(
        "external data not seen",
        Unclassified,
        "The deployer has seen that file: see that the repository of that Triton is the same (mount, links), then deploy again. If another Triton says the same, the model is refused.",
        # tensorprotoutils.cc; seen. ONNX Runtime 1.24 and later follow links, and refuse what leaves the model's folder.
        says=(
            _ort(r"External data path validation failed for initializer: "),
            _ort(r"(?:Exception during initialization: .{0,400})?.{0,80}External (?:data path|initializer)"),
        ),
        during=LOADING,
    ),
    Row(
        "ONNX Runtime can't load it",
        ArtifactRejected,
        "See Triton's log; the model needs repair.",
        says=(
            # inference_session.cc, model.cc, graph.cc; seen: no registered op, IR version, opset under development, types.
            _ort(r"Load model from "),
            _ort(r"(?:\S+\.(?:cc|h):\d+ .*)?(?:Fatal error: .* is not a registered function/op)"),
            _ort(
                r"(?:Type Error: |This is an invalid model|Unsupported model IR version|Node \(|No graph was found)"
            ),
            # The constructor of a kernel that does not take what the file says (ORT_ENFORCE).
            _ort(r"Exception during initialization: \S+\.(?:cc|h):\d+ .* was false"),
        ),
        during=LOADING,
    ),
    Row(
        "ONNX Runtime can't run it",
        ArtifactRejected,
        "See Triton's log; the model or {repair} needs repair.",
        # sequential_executor.cc; seen.
        says=(
            _ort(_RUN),
            _ort(r"Missing Input: "),
            _ort(
                r"(?:Got invalid dimensions|Invalid rank|Unexpected input data type|Invalid (?:Feed )?Input Name)"
            ),
        ),
        during=BLAMES,
    ),
    Row(
        "GPU is not there",
        Unclassified,
        "The configuration asks for a GPU that this Triton does not have: see nvidia-smi there, or set KIND_CPU in triton/config.json. If another Triton says the same, the model is refused.",
        # model_config_utils.cc, ValidateInstanceGroup; stand-in, choose_providers.
        says=(
            r"instance group .* (?:has kind KIND_GPU but (?:server does not|no GPUs)|specifies invalid or unsupported gpu id)",
            r"KIND_GPU is configured, but there is only ",
        ),
        during=LOADING,
    ),
    Row(
        "stub died at work",
        Unclassified,
        "Its Python stub ended while it answered: see that Triton's log (the model, or the memory of the machine), then deploy again. If another Triton says the same, the model is refused.",
        # python_be.cc.
        says=(r"Stub process (?:'[^']*' )?is not healthy", r"Failed to process the requests"),
        during=ASKING,
    ),
    Row(
        "not known, and no model's doing",
        Unavailable,
        "See that Triton's log; repair what it names, then deploy again. The model is not at fault.",
        during=(Call.UNLOADING, Call.LISTING, Call.ABOUT),
    ),
    Row(
        "not known",
        Unclassified,
        "See that Triton's log; repair what it names, then deploy again. If the model is at fault, it is refused as soon as another Triton says the same.",
        during=BLAMES,
    ),
)

_STATUS = "Unknown|Internal|Not found|Invalid argument|Unavailable|Unsupported|Already exists|Cancelled"
_AROUND = re.compile(
    # What is said of each failure, before the reason (model_repository_manager.cc, model_lifecycle.cc, status.cc,
    # ensemble_scheduler.cc, infer_request.h, python_be.cc), one after the other.
    r"load failed for model '[^']*': (?:version \d+ is at \w+ state: )?"
    r"|version \d+ is at \w+ state: "
    rf"|(?:{_STATUS}): "
    r"|in ensemble '[^']*', "
    r"|\[request id: [^\]]*\] "
    r"|Failed to process the request(?:\(s\))? for model (?:instance )?'[^']*', message: "
    # Of any Python backend, and of the stand-in.
    r"|(?:RuntimeError|ValueError|[\w.]*Exception|ModelError): "
    r"|unable to load model '[^']*'[:,] "
    r"|ONNX Runtime \S+ cannot open '[^']*': "
)


def reason_of(message: str) -> str:
    """Return why Triton failed, without what it says before every reason."""
    start = 0
    while around := _AROUND.match(message, start):
        start = around.end()
    return message[start:]


def row_of(call: Call, status: str, message: str) -> Row:
    """Return the row that fits; the last one fits whatever is said.

    Args:
        call: what was asked of Triton.
        status: gRPC status code, such as ``INTERNAL``.
        message: what Triton said.
    """
    reason = reason_of(message)
    return next(row for row in TABLE if row.fits(call, status, reason))


def error_of(url: str, doing: Doing, timeout_s: float, status: str, message: str) -> DeployError:
    """Return the error that says who acts.

    Args:
        url: Triton's address.
        doing: what was asked of it.
        timeout_s: deadline of the call, seconds.
        status: gRPC status as the client names it: ``StatusCode.INTERNAL``.
        message: what Triton said.
    """
    # A Python backend adds its own source line and a lone semicolon.
    said = message.partition("\n\nAt:\n")[0].strip(" \n.;")
    row = row_of(doing.call, status.rpartition(".")[2], said)
    told = row.message.format(url=url, doing=doing, timeout_s=timeout_s, said=said)
    return row.error(told, hint=row.hint.format(limit=_limit(doing.call), repair=_repair(doing.call)))


def _limit(call: Call) -> str:
    if call is Call.ASKING:
        return "TRITON_DEPLOY_INFER_TIMEOUT_S"
    if call is Call.LOADING:
        return "TRITON_DEPLOY_LOAD_TIMEOUT_S (for the public name: TRITON_DEPLOY_SWITCH_TIMEOUT_S)"
    return "TRITON_DEPLOY_SWITCH_TIMEOUT_S"


def _repair(call: Call) -> str:
    return "the golden inputs logged with it" if call is Call.ASKING else "its triton/config.json"
