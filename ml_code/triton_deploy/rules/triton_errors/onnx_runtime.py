"""Texts of ONNX Runtime that remain when the node is not the reason."""

from __future__ import annotations

from ...errors import ArtifactRejected, Unclassified
from .calls import BLAMES, LOADING
from .patterns import RUN, ort
from .row import Row

ROWS = (
    Row(
        "external data not seen",
        Unclassified,
        "The deployer has seen that file: see that the repository of that Triton is the same (mount, links), then deploy again. If another Triton says the same, the model is refused.",
        # tensorprotoutils.cc; seen. ONNX Runtime 1.24 and later follow links, and refuse what leaves the
        # model's folder.
        says=(
            ort(r"External data path validation failed for initializer: "),
            ort(r"(?:Exception during initialization: .{0,400})?.{0,80}External (?:data path|initializer)"),
        ),
        during=LOADING,
    ),
    Row(
        "ONNX Runtime can't load it",
        ArtifactRejected,
        "See Triton's log; the model needs repair.",
        says=(
            # inference_session.cc, model.cc, graph.cc; seen: no registered op, IR version, opset under
            # development, types.
            ort(r"Load model from "),
            ort(r"(?:\S+\.(?:cc|h):\d+ .*)?(?:Fatal error: .* is not a registered function/op)"),
            ort(
                r"(?:Type Error: |This is an invalid model|Unsupported model IR version|Node \(|No graph was found)"
            ),
            # The constructor of a kernel that does not take what the file says (ORT_ENFORCE).
            ort(r"Exception during initialization: \S+\.(?:cc|h):\d+ .* was false"),
        ),
        during=LOADING,
    ),
    Row(
        "ONNX Runtime can't run it",
        ArtifactRejected,
        "See Triton's log; the model or {repair} needs repair.",
        # sequential_executor.cc; seen.
        says=(
            ort(RUN),
            ort(r"Missing Input: "),
            ort(
                r"(?:Got invalid dimensions|Invalid rank|Unexpected input data type|Invalid (?:Feed )?Input Name)"
            ),
        ),
        during=BLAMES,
    ),
)
