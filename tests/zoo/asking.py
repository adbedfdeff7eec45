"""The five ways to ask a served model, and the comparison with what ONNX Runtime answers here.

A way that cannot carry a model's values by its own definition (FP16 in Triton's JSON, for example) is noted,
and is no failure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import requests
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from ml_code.triton_deploy.rules.datatypes import NUMPY_TYPES
from ml_code.triton_deploy.rules.schema import Offer
from tests.zoo.case import Array
from tests.zoo.verdicts import EQUAL, NOT_CARRIED

RTOL, ATOL = 1e-3, 1e-5
TIMEOUT_S = 60.0

Answers = Mapping[str, Array]
Ask = Callable[["Question"], Answers]


class NotCarried(Exception):
    """This way cannot carry the values; the message says why."""


@dataclass(frozen=True)
class Question:
    """What every way asks.

    Attributes:
        model: its public name.
        offer: inputs, outputs and options of the version that serves.
        inputs: arrays of public shapes by input name.
        expected: the answers of ONNX Runtime, of public shapes, by output name.
    """

    model: str
    offer: Offer
    inputs: Answers
    expected: Answers

    @property
    def datatypes(self) -> dict[str, str]:
        """Triton's type of each tensor."""
        return {t.name: t.datatype for t in (*self.offer.schema.inputs, *self.offer.schema.outputs)}

    @property
    def outputs(self) -> list[str]:
        """Names of all outputs."""
        return [tensor.name for tensor in self.offer.schema.outputs]


class OwnRuntime:
    """ONNX Runtime in this process, which says what is right.

    Args:
        model_file: the ``model.onnx``, external data beside it.
    """

    def __init__(self, model_file: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 4, 1
        self._session = onnxruntime.InferenceSession(
            str(model_file), options, providers=["CPUExecutionProvider"]
        )

    def answers(self, inputs: Answers) -> dict[str, Any]:
        """Return the answers by output name; not all are arrays where a model gives sequences or maps."""
        names = [output.name for output in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, dict(inputs)), strict=True))


def public(array: Array, offer: Offer) -> Array:
    """Return a tensor of ONNX Runtime in the shape that Triton's clients send and get."""
    bare_rank = 1 if offer.most_rows else 0
    return array.reshape((*array.shape, 1)) if array.ndim == bare_rank else array


def difference(answers: Answers, expected: Answers) -> str:
    """Return how answers differ from the expected ones, both of public shapes; empty when they are equal."""
    for name, wanted in expected.items():
        if name not in answers:
            return f"output {name} is missing"
        got = answers[name]
        if got.shape != wanted.shape:
            return f"output {name} has shape {list(got.shape)}, ONNX Runtime gives {list(wanted.shape)}"
        if wanted.dtype.kind in "OUS":
            same = [_bytes(value) for value in got.flat] == [_bytes(value) for value in wanted.flat]
        elif got.dtype != wanted.dtype:
            return f"output {name} is {got.dtype}, ONNX Runtime gives {wanted.dtype}"
        else:
            same = _close(got, wanted)
        if not same:
            return f"output {name} has other values than ONNX Runtime gives"
    return ""


def _close(got: Array, wanted: Array) -> bool:
    if not np.issubdtype(wanted.dtype, np.floating):
        return bool(np.array_equal(got, wanted))
    one, other = got.astype(np.float64), wanted.astype(np.float64)
    return bool(np.allclose(one, other, rtol=RTOL, atol=ATOL, equal_nan=True))


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


class Ways:
    """Clients of one Triton and one gateway.

    Args:
        gateway: ``host:port`` of the gateway.
        triton_http: ``host:port`` of Triton.
        triton_grpc: the same for gRPC.
    """

    def __init__(self, gateway: str, triton_http: str, triton_grpc: str) -> None:
        self._session = requests.Session()
        self._session.trust_env = False
        self._predict_url = f"http://{gateway}/predict"
        times = {"connection_timeout": TIMEOUT_S, "network_timeout": TIMEOUT_S}
        self._gateway = tritonclient.http.InferenceServerClient(gateway, **times)
        self._triton = tritonclient.http.InferenceServerClient(triton_http, **times)
        self._grpc = tritonclient.grpc.InferenceServerClient(triton_grpc)

    @property
    def all(self) -> dict[str, Ask]:
        """Every way by its name."""
        return {
            "gateway v2 binary": lambda question: _over_http(self._gateway, question, binary=True),
            "gateway v2 JSON": lambda question: _over_http(self._gateway, question, binary=False),
            "/predict": self._predict,
            "Triton HTTP": lambda question: _over_http(self._triton, question, binary=True),
            "Triton gRPC": self._over_grpc,
        }

    def close(self) -> None:
        """Close every connection."""
        self._session.close()
        self._gateway.close()
        self._triton.close()
        self._grpc.close()

    def _over_grpc(self, question: Question) -> Answers:
        sent = []
        for name, array in question.inputs.items():
            tensor = tritonclient.grpc.InferInput(name, list(array.shape), question.datatypes[name])
            tensor.set_data_from_numpy(array)
            sent.append(tensor)
        wanted = [tritonclient.grpc.InferRequestedOutput(name) for name in question.outputs]
        result = self._grpc.infer(question.model, sent, outputs=wanted, client_timeout=TIMEOUT_S)
        return {name: result.as_numpy(name) for name in question.outputs}

    def _predict(self, question: Question) -> Answers:
        _require_text(question.inputs)
        _require_rows(question)
        _require_no_infinity({**question.inputs, **question.expected})
        answer = self._session.post(
            f"{self._predict_url}/{question.model}", json=_predict_body(question), timeout=TIMEOUT_S
        )
        if not answer.ok:
            raise InferenceServerException(f"{answer.status_code} {answer.text[:500]}")
        outputs = answer.json()["outputs"]
        return {name: _from_json(outputs[name], question.datatypes[name]) for name in outputs}


def _over_http(client: Any, question: Question, *, binary: bool) -> Answers:
    if not binary:
        _require_json_types(question)
        _require_text(question.inputs)
    sent = []
    for name, array in question.inputs.items():
        tensor = tritonclient.http.InferInput(name, list(array.shape), question.datatypes[name])
        tensor.set_data_from_numpy(array, binary_data=binary)
        sent.append(tensor)
    wanted = [tritonclient.http.InferRequestedOutput(name, binary_data=binary) for name in question.outputs]
    result = client.infer(question.model, sent, outputs=wanted)
    return {name: result.as_numpy(name) for name in question.outputs}


def _require_json_types(question: Question) -> None:
    if "FP16" in question.datatypes.values():
        raise NotCarried("Triton's JSON has no FP16")


def _require_text(inputs: Answers) -> None:
    """Refuse what JSON cannot hold: bytes that are no text."""
    for name, array in inputs.items():
        for value in array.flat if array.dtype.kind in "OUS" else ():
            try:
                _bytes(value).decode()
            except UnicodeDecodeError:
                raise NotCarried(f"{name} has bytes that are no UTF-8") from None


def _require_no_infinity(arrays: Answers) -> None:
    for name, array in arrays.items():
        if np.issubdtype(array.dtype, np.floating) and np.isinf(array).any():
            raise NotCarried(f"JSON has no infinity ({name})")


def _require_rows(question: Question) -> None:
    shapes = [tensor.shape for tensor in question.offer.public.inputs]
    with_rows = all(shape[:1] == (-1,) for shape in shapes)
    lengths = {len(array) for array in question.inputs.values()}
    if with_rows and (len(lengths) > 1 or 0 in lengths):
        raise NotCarried("the inputs have no common number of rows")


def _predict_body(question: Question) -> dict[str, Any]:
    columns = {name: _to_json(array) for name, array in question.inputs.items()}
    if len(columns) > 1 and all(t.shape[:1] == (-1,) for t in question.offer.public.inputs):
        return {
            "records": [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        }
    return {"columns": columns}


def _to_json(array: Array) -> Any:
    """Return nested lists, with None for NaN."""
    if array.dtype.kind in "OUS":
        texts = np.array([_bytes(value).decode() for value in array.flat], np.object_)
        return texts.reshape(array.shape).tolist()
    if np.issubdtype(array.dtype, np.floating) and np.isnan(array).any():
        values = array.astype(np.object_)
        values[np.isnan(array)] = None
        return values.tolist()
    return array.tolist()


def _from_json(value: Any, datatype: str) -> Array:
    """Return an output of ``/predict``, where null is NaN."""
    if datatype == "BYTES":
        return np.array(value, np.object_)
    return np.array(_filled(value), NUMPY_TYPES[datatype])


def _filled(value: Any) -> Any:
    if isinstance(value, list):
        return [_filled(item) for item in value]
    return math.nan if value is None else value


def as_sent(array: Array, datatype: str) -> Array:
    """Return an input as Triton's clients take it: strings as bytes."""
    if datatype == "BYTES":
        return np.array([_bytes(value) for value in array.flat], np.object_).reshape(array.shape)
    if np_to_triton_dtype(array.dtype) != datatype:
        raise ValueError(f"the case has {array.dtype}, the model takes {datatype}")
    return array


def verdict_of(ask: Ask, question: Question) -> str:
    """Ask in one way; return EQUAL, or why the answer is another one or none."""
    try:
        answers = ask(question)
    except NotCarried as why:
        return f"{NOT_CARRIED}{why}"
    except InferenceServerException as error:
        return f"fails: {error.message()}"
    except Exception as error:  # whatever it is, a client saw it
        return f"fails: {type(error).__name__} {error}"
    return f"differs: {found}" if (found := difference(answers, question.expected)) else EQUAL
