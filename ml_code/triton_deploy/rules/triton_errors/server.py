"""Texts of gRPC, of Triton itself, and of its backends before they have read a model."""

from __future__ import annotations

from ...errors import Misconfigured, NotFound, Unavailable, Unclassified
from .calls import BLAMES, LOADING
from .patterns import ort
from .row import REFUSED, NotPolled, Row, StillLoaded

ROWS = (
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
        # model_repository_manager.cc, LoadUnloadModel: UNAVAILABLE, which gRPC says of a server that
        # can't be reached.
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
        # gRPC passes 8 to 16 KiB of text; seen. This also bounds the time that the patterns take.
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
        StillLoaded,
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
        # model_repository_manager.cc, LoadUnloadModel; seen. polling.py finds out the reason.
        says=(r"failed to load '[^']*', failed to poll from model repository",),
        message="Triton at {url} refused {doing}: it does not see the model in its repository, or refuses its configuration.",
    ),
    Row(
        "files not seen",
        Unavailable,
        "The deployer has written and read them: see that the repository of that Triton is the same (mount, cache of NFS), then deploy again.",
        # model_repository_manager.cc; model_lifecycle.cc; onnxruntime.cc, LoadModel; stand-in; ORT's
        # model.cc (NO_SUCHFILE).
        says=(
            r"failed to load '[^']*', (?:no version is available|unexpected miss in global map)",
            r"at least one version must be available under the version policy of model",
            r"unable to find '[^']*' for model instance '",
            r"file '[^']*' not found",
            ort("", "3"),
        ),
        during=LOADING,
    ),
    Row(
        "backend is missing",
        Misconfigured,
        "This Triton has no usable onnxruntime backend; the model is not at fault.",
        # backend_model.cc, ResolveBackendLibrary; shared_library.cc; python_be.cc; onnxruntime.cc,
        # TRITONBACKEND_Initialize.
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
)
