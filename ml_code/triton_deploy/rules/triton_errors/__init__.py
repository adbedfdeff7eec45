"""Decides from Triton's text who is at fault when a call fails: the first row of one table that fits.

A text that no row knows blames no model (``Unclassified``). A row that blames the artifact counts only in
a call in which the model does something: see ``Call``.

Texts repeat names of tensors, nodes and files, which the model brings along. So that no name decides who
is blamed, a row looks at the beginning of the reason, which is always the text of Triton, a backend or
ONNX Runtime. The order follows from that: rows with a fixed beginning come first (``server``,
``artifact``); then texts that may stand behind the beginning of another one, such as a CUDA error that
ONNX Runtime passes on (``node``); then those other texts (``onnx_runtime``, ``unclassified``). One
confusion remains: a model that asks for much memory, or ends the stub that loads it, looks like a node
with little memory or a broken stub, and is not blamed. Such a model goes live nowhere all the same.

Sources, of the projects triton-inference-server and microsoft: ``core/src``, ``python_backend/src``,
``onnxruntime_backend/src``, ``onnxruntime/onnxruntime/core``. In the rows "seen" marks a text of a real
Triton or ONNX Runtime in our tests, and "stand-in" the backend in
``stack/triton_backends/onnxruntime/model.py``.
"""

from __future__ import annotations

import re

from ...errors import DeployError
from . import artifact, node, onnx_runtime, server, unclassified
from .calls import Call, Doing
from .row import Row

TABLE = (*server.ROWS, *artifact.ROWS, *node.ROWS, *onnx_runtime.ROWS, *unclassified.ROWS)

_STATUS = "Unknown|Internal|Not found|Invalid argument|Unavailable|Unsupported|Already exists|Cancelled"
_AROUND = re.compile(
    # Phrases before the reason, one after the other (model_repository_manager.cc, model_lifecycle.cc,
    # status.cc, ensemble_scheduler.cc, infer_request.h, python_be.cc).
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
    """Return the reason in Triton's text of a failure, without the phrases that precede every reason."""
    start = 0
    while around := _AROUND.match(message, start):
        start = around.end()
    return message[start:]


def row_of(call: Call, status: str, message: str) -> Row:
    """Return the first row that fits; the last two rows fit every text.

    Args:
        call: the call that failed.
        status: gRPC status code, such as ``INTERNAL``.
        message: Triton's text.
    """
    reason = reason_of(message)
    return next(row for row in TABLE if row.fits(call, status, reason))


def error_of(url: str, doing: Doing, timeout_s: float, status: str, message: str) -> DeployError:
    """Return the error for an answer of Triton; its class says who acts.

    Args:
        url: Triton's address.
        doing: the call that failed.
        timeout_s: deadline of the call, seconds.
        status: gRPC status as the client names it: ``StatusCode.INTERNAL``.
        message: Triton's text.
    """
    # A Python backend adds its own source line and a lone semicolon.
    said = message.partition("\n\nAt:\n")[0].strip(" \n.;")
    row = row_of(doing.call, status.rpartition(".")[2], said)
    told = row.message.format(url=url, doing=doing, timeout_s=timeout_s, said=said)
    return row.error(told, hint=row.hint.format(limit=doing.call.limit, repair=doing.call.repair))
