"""Texts about the node: memory, GPU, files, threads. They may stand behind a text of ONNX Runtime."""

from __future__ import annotations

from ...errors import ArtifactRejected, Misconfigured, Unavailable
from .calls import BLAMES, LOADING
from .patterns import ERRNO, LOAD, caused_by, ort
from .row import Row

LOCALE = Row(
    "locale",
    Unavailable,
    "Install that locale on that Triton's machine (Debian: apt-get install locales, then locale-gen) and restart that Triton, then deploy again. The model is not at fault.",
    # string_normalizer.cc; seen. scikit-learn's text vectorizers come with the locale en_US.
    says=(caused_by(r"Failed to construct locale with name:"),),
    during=BLAMES,
)

LIBRARY = Row(
    "library",
    Misconfigured,
    "Install that library on that Triton's machine, or use an image that has it, then deploy again. The model is not at fault.",
    # The dynamic linker's words, as they are or as ONNX Runtime passes them on.
    says=(
        caused_by(
            r"(?:Failed to load (?:shared )?library \S+ with error: )?[^\s:]{1,300}: cannot open shared object file"
        ),
    ),
    during=BLAMES,
)

FILES_OR_RIGHTS = Row(
    "descriptors, disk or permissions",
    Unavailable,
    "That Triton's node fails (open files, disk, mount or rights; see its log): repair it, then deploy again. The model is not at fault.",
    says=(
        # filesystem/implementations/local.h; "failed to open directory" seen with no descriptor left.
        r"failed to (?:open (?:directory|text file|binary file)|stat file|read text proto from|write text proto to) ",
        r"Failed to create (?:directory|local temp folder)",
        r"Failed to (?:get (?:local directory for temporary files|the current working directory|the canonical path)|change the directory)",
        # ONNX Runtime's model.cc: an errno of open(2), EMFILE is 24; seen.
        ort(rf"{LOAD}\s*system error number \d+"),
        # For a file of external data only the errno is known: from the wheel (seen), and from NVIDIA's
        # backend as the code.
        r"SystemError : \d+$",
        r"onnx runtime error (?:1[5-9]|[2-9]\d|\d{3}): ",
        # The operating system's words from Python, or at the end of any text but ONNX Runtime's, which may
        # end in a name.
        r"(?:\w*Error: )?\[Errno (?:1|5|11|12|13|23|24|28|30|107|116|121|122)\] ",
        rf"(?!\[ONNXRuntimeError\]|onnx runtime error )(?:.*[:.=] )?(?:\w*Error: )?(?:{ERRNO})\W*$",
    ),
)

NO_THREAD_LEFT = Row(
    "no thread left",
    Unavailable,
    "That Triton's machine starts no more threads: see its limits (pids, memory), then deploy again. The model is not at fault.",
    # Threads: std::system_error of pthread_create (EAGAIN).
    says=(caused_by(r"(?i:thread constructor failed|can't start new thread|pthread_\w+ failed)"),),
)

ROWS = (
    Row(
        "more than any machine has",
        ArtifactRejected,
        "See Triton's log; the model or {repair} needs repair: no machine has that much memory.",
        # bfc_arena.cc; seen. A model may ask for anything, and more than a terabyte in one piece is its
        # own fault.
        says=(caused_by(r"Failed to allocate memory for requested buffer of size \d{13,}"),),
        during=BLAMES,
    ),
    Row(
        "out of memory",
        Unavailable,
        "It has no room for another version: free memory, or lower TRITON_DEPLOY_KEEP_WARM, then deploy again.",
        says=(
            # bfc_arena.cc, allocator.cc (seen); cuda_call.cc, which passes on cudaErrorMemoryAllocation (2).
            caused_by(r"Failed to allocate memory for requested buffer of size "),
            caused_by(r"(?:std::)?bad_alloc"),
            caused_by(r"CUDA failure 2: "),
            caused_by(r"(?:CUDA error: out of memory|cudaErrorMemoryAllocation)"),
            # NumPy and Python in the stub.
            r"[\w.]*MemoryError(?::|$)",
            r"Unable to allocate [\d.]+ .?iB for an array ",
            # pinned_memory_manager.cc, cuda_memory_manager.cc, backend_memory_manager.cc,
            # ensemble_scheduler.cc, python_be.cc.
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
            caused_by(r"(?:CUDA|CUBLAS|CUDNN|CURAND|CUFFT|CUSPARSE|NCCL|TensorRT) (?:failure|error) ?\d*: "),
            caused_by(r"(?:CUBLAS|CUDNN|CURAND|CUFFT|CUSPARSE|NVRTC)_(?:STATUS|ERROR)_\w+"),
            caused_by(r"cudaError\w+"),
            caused_by(r"(?i:no CUDA-capable device)"),
            caused_by(r"(?i:CUDA driver version is insufficient|.{0,20}driver version is insufficient)"),
            # provider_bridge_ort.cc.
            caused_by(r"Failed to load (?:library|shared library) \S*libonnxruntime_providers_"),
            caused_by(r"(?i:Error loading \"?\S*libonnxruntime_providers_)"),
            # cuda_utils.cc, model_config_cuda.cc; python_be.cc, pb_utils.cc.
            r"unable to get (?:number of CUDA devices|CUDA device properties|memory info for device)",
            r"(?i:CUDA error|unable to create (?:a )?(?:CUDA )?stream)",
            r"Failed to (?:set the CUDA device|get the current CUDA device|open the cudaIpcHandle|share CUDA memory pool)",
            r"failed to (?:synchronize the default CUDA stream|get cuda pointer device attribute|get primary context state)",
            # stand-in: open_session.
            r"ONNX Runtime \S+ has CUDAExecutionProvider but cannot start it",
        ),
    ),
    LOCALE,
    LIBRARY,
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
    FILES_OR_RIGHTS,
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
    NO_THREAD_LEFT,
)
