"""Random bodies of v2 inference requests, right and hostile ones, and a model for Triton that answers with its input."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ml_code.gateway.v2.tensors import to_bytes
from ml_code.triton_deploy.model.smoke_case import NUMPY_TYPES
from ml_code.triton_deploy.rules.release import Release
from ml_code.triton_deploy.rules.writer import to_json
from stack import Stack

MODEL, LARGE = "echo", "large"
RANKS = (1, 2, 3)
TYPES = tuple(name for name in NUMPY_TYPES if name != "BF16")
_MODEL_PY = """
import json
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        seen = []
        for tensor in request.inputs():
            array = tensor.as_numpy()
            if array.dtype == np.object_:
                items = [item.hex() for item in array.reshape(-1)]
            else:
                items = np.ascontiguousarray(array).tobytes().hex()
            seen.append([tensor.name(), str(array.dtype), list(array.shape), items])
        text = np.array([json.dumps(seen).encode()], dtype=np.object_)
        return pb_utils.InferenceResponse([pb_utils.Tensor("seen", text)])
"""


def write_echo_model(repository: Path) -> None:
    """Add a model with an optional input of each type and rank, whose answer says what it got."""
    folder = repository / MODEL
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.py").write_text(_MODEL_PY)
    inputs = ",\n".join(
        f'  {{ name: "{datatype}_{rank}" data_type: TYPE_{"STRING" if datatype == "BYTES" else datatype}'
        f" dims: [{', '.join(['-1'] * rank)}] optional: true }}"
        for datatype in TYPES
        for rank in RANKS
    )
    (folder / "config.pbtxt").write_text(
        f'name: "{MODEL}"\nbackend: "python"\nmax_batch_size: 0\ninput [\n{inputs}\n]\n'
        'output [ { name: "seen" data_type: TYPE_STRING dims: [1] } ]\n'
    )


_LARGE_PY = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        x, n = (pb_utils.get_input_tensor_by_name(request, name).as_numpy()[0] for name in ("x", "n"))
        return pb_utils.InferenceResponse([pb_utils.Tensor("y", np.full(n, x, np.float32))])
"""


def write_large_model(repository: Path) -> None:
    """Add a model that answers ``n`` times ``x``, however many that are."""
    folder = repository / LARGE
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.py").write_text(_LARGE_PY)
    (folder / "config.pbtxt").write_text(
        f'name: "{LARGE}"\nbackend: "python"\nmax_batch_size: 0\n'
        'input [ { name: "x" data_type: TYPE_FP32 dims: [1] }, { name: "n" data_type: TYPE_INT64 dims: [1] } ]\n'
        'output [ { name: "y" data_type: TYPE_FP32 dims: [-1] } ]\n'
    )


def large_request(x: float, n: int) -> bytes:
    """Return the body that asks for ``n`` times ``x``, as binary data."""
    return json.dumps(
        {
            "inputs": [
                {"name": "x", "datatype": "FP32", "shape": [1], "data": [x]},
                {"name": "n", "datatype": "INT64", "shape": [1], "data": [n]},
            ],
            "parameters": {"binary_data_output": True},
        }
    ).encode()


def write_release(repository: Path, model: str) -> None:
    """Have a gateway take version 1 of a model for live."""
    release = Release(
        model=model,
        generation=1,
        active_version=1,
        run_id="",
        alias="A",
        digest="",
        previous_version=None,
        warm_versions=(),
        deploy_id="d1",
        actor="test",
        updated_at_utc="2026-01-01T00:00:00.000Z",
    )
    # Where the gateway looks for a model.
    (repository / model / "deployments").mkdir()
    (repository / model / "current.json").write_text(to_json(release))


@contextmanager
def live_on_a_triton(
    folder: Path, model: str, write: Callable[[Path], None]
) -> Iterator[tuple[Stack, dict[str, str]]]:
    """Run a Triton with such a model; yields it, and the settings of a gateway that takes the model for live.

    Args:
        folder: for the repository and the Triton's files.
        model: its name.
        write: adds it to a repository.
    """
    repository = folder / "repository"
    write(repository)
    write_release(repository, model)
    with Stack(folder / "triton", ["triton"], model_repository=repository) as stack:
        yield (
            stack,
            {
                "TRITON_DEPLOY_REPOSITORY": str(repository),
                "GATEWAY_TRITON_URLS": stack.url("triton").removeprefix("http://"),
                "GATEWAY_MODEL": model,
            },
        )


def as_seen(tensors: dict[str, Any]) -> list[Any]:
    """Return tensors by name as the model says what it got, in the order of their names."""
    return sorted(
        [
            name,
            str(array.dtype),
            list(array.shape),
            [item.hex() for item in array.reshape(-1)] if array.dtype.kind == "O" else to_bytes(array).hex(),
        ]
        for name, array in tensors.items()
    )


@dataclass(frozen=True)
class Body:
    """A request's body.

    Attributes:
        json: its JSON part.
        binary: what follows that.
        json_length: what the header says of it; None for no header.
        right: whether a server has to take it.
        how: what was done to it.
    """

    json: bytes
    binary: bytes
    json_length: int | None
    right: bool
    how: str = ""


class Bodies:
    """Makes bodies, the same ones for the same seed.

    Args:
        seed: of the chance.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def right(self) -> Body:
        """Return one that a server has to take, in one of the many ways in which it may be written."""
        chance = self._random
        request: dict[str, Any] = {"inputs": []}
        blobs = []
        names = [f"{datatype}_{rank}" for datatype in TYPES for rank in RANKS]
        for name in chance.sample(names, chance.randint(1, 3)):
            datatype, _, rank = name.rpartition("_")
            shape = [chance.choice((0, 1, 1, 2, 3)) for _ in range(int(rank))]
            array = self._array(datatype, shape)
            entry: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
            if datatype == "FP16" or chance.random() < 0.4:
                blobs.append(to_bytes(array))
                entry["parameters"] = {"binary_data_size": len(blobs[-1])}
            else:
                entry["data"] = self._data(array)
            request["inputs"].append(self._shuffled(entry))
        if chance.random() < 0.3:
            request["id"] = chance.choice(
                ("a", "", "with: colons", '"{}[]\\', "\u00fc\U0001f600", "i" * 4000)
            )
        if chance.random() < 0.3:
            request["outputs"] = [{"name": "seen", "parameters": {"binary_data": chance.random() < 0.5}}]
        if chance.random() < 0.2:
            request["parameters"] = {"my_text": "a:b", "my_number": 1.5, "binary_data_output": False}
        if chance.random() < 0.2:
            request["unknown"] = chance.choice((None, {"a": {"a": [1, {"b": ":"}]}}, [[{}]], "inputs"))
        text = self._written(self._shuffled(request))
        json_length = len(text) if blobs or chance.random() < 0.2 else None
        return Body(text, b"".join(blobs), json_length, right=True)

    def hostile(self) -> Body:
        """Return one that was right before something was done to it."""
        body = self.right()
        for _ in range(self._random.randint(1, 2)):
            name, damage = self._random.choice(list(_DAMAGES.items()))
            damaged = damage(body, self._random)
            if damaged.json_length is not None and damaged.json_length == len(body.json):
                damaged = replace(damaged, json_length=len(damaged.json))
            body = replace(damaged, right=False, how=f"{body.how} {name}")
        return body

    def _array(self, datatype: str, shape: list[int]) -> Any:
        chance = self._random
        count = int(np.prod(shape))
        if datatype == "BYTES":
            texts = ("", "a", "http://x:1/", '"\\\n\t', "\u00fc\u4e2d\U0001f600", "x" * 300)
            items = np.array([chance.choice(texts).encode() for _ in range(count)], dtype=np.object_)
            return items.reshape(shape)
        dtype = np.dtype(NUMPY_TYPES[datatype])
        if datatype == "BOOL":
            values: list[Any] = [chance.random() < 0.5 for _ in range(count)]
        elif dtype.kind in "iu":
            least, most = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
            values = [chance.choice((least, most, 0, 1, chance.randint(least, most))) for _ in range(count)]
        else:
            values = [
                chance.choice((0.0, -0.0, 1.0, 0.1, -1e-3, 65504.0, chance.uniform(-1e4, 1e4)))
                for _ in range(count)
            ]
        return np.array(values, dtype=dtype).reshape(shape)

    def _data(self, array: Any) -> Any:
        values = array.tolist()
        if array.dtype.kind == "O":
            values = np.array([item.decode() for item in array.reshape(-1)], dtype=np.object_)
            values = values.reshape(array.shape).tolist()
        flat = np.asarray(values, dtype=np.object_).reshape(-1).tolist() if array.size else []
        return values if self._random.random() < 0.5 else flat

    def _shuffled(self, members: dict[str, Any]) -> dict[str, Any]:
        items = list(members.items())
        self._random.shuffle(items)
        return dict(items)

    def _written(self, request: Any) -> bytes:
        chance = self._random
        text = json.dumps(
            request, ensure_ascii=chance.random() < 0.5, indent=chance.choice((None, None, 0, 3))
        )
        if chance.random() < 0.2:
            # Another way to write the same name.
            text = text.replace('"inputs"', '"\\u0069nput\\u0073"').replace('"shape"', '"sh\\u0061pe"')
        if chance.random() < 0.2:
            text = f" \r\n\t{text}\n "
        return text.encode()


def _with_text(change: Callable[[str, random.Random], str]) -> Callable[[Body, random.Random], Body]:
    def damage(body: Body, chance: random.Random) -> Body:
        return replace(body, json=change(body.json.decode(errors="replace"), chance).encode(errors="replace"))

    return damage


def _twice(text: str, chance: random.Random) -> str:
    """Write a member of some object a second time, with another value, before it or after it, maybe in another way."""
    name = chance.choice(
        ("inputs", "shape", "datatype", "name", "data", "parameters", "id", "binary_data_size")
    )
    spelt = chance.choice(
        (name, "".join(f"\\u{ord(letter):04x}" for letter in name), f"\\u{ord(name[0]):04x}{name[1:]}")
    )
    value = chance.choice(
        (
            "[9223372036854775807]",
            "[1000000000000]",
            "[0]",
            "[]",
            "null",
            '"x"',
            "[1]",
            "1",
            "{}",
            "[[[[1]]]]",
        )
    )
    at = text.find(f'"{name}"')
    if at < 0:
        at = text.find("{") + 1
    end = text.find("}", at)
    if chance.random() < 0.5 or end < 0:
        return f'{text[:at]}"{spelt}":{value},{text[at:]}'
    return f'{text[:end]},"{spelt}":{value}{text[end:]}'


def _value(text: str, chance: random.Random) -> str:
    """Put another value in the place of a number."""
    values = (
        *("-1", "1e400", "-0", "1.0", "01", "0x10", "9223372036854775807", "9223372036854775808"),
        *(
            "18446744073709551616",
            "1" * 400,
            "NaN",
            "Infinity",
            "null",
            "true",
            '"1"',
            "{}",
            "[]",
            "[1]",
            "1e18",
        ),
    )
    numbers = [at for at, letter in enumerate(text) if letter.isdigit()]
    if not numbers:
        return text
    at = end = chance.choice(numbers)
    while end < len(text) and text[end].isdigit():
        end += 1
    return text[:at] + chance.choice(values) + text[end:]


def _letters(text: str, chance: random.Random) -> str:
    at = chance.randrange(len(text))
    return (
        text[:at]
        + chance.choice(('"', "{", "}", "[", "]", ",", ":", "\\", "\x00", "\ufeff", ""))
        + text[at + 1 :]
    )


def _renamed(text: str, chance: random.Random) -> str:
    old = chance.choice(
        ("FP32", "INT64", "BYTES", "BOOL", "UINT8", "_1", "_2", "_3", "shape", "data", "seen")
    )
    return text.replace(old, chance.choice(("FP64", "INT8", "BYTES", "", "FP32", "_1", "a" * 5000, "Shape")))


_DAMAGES: dict[str, Callable[[Body, random.Random], Body]] = {
    "twice": _with_text(_twice),
    "value": _with_text(_value),
    "letter": _with_text(_letters),
    "renamed": _with_text(_renamed),
    "cut off": _with_text(lambda text, chance: text[: chance.randrange(len(text))]),
    "doubled": _with_text(lambda text, chance: text + text),
    "deep": _with_text(lambda text, chance: text.replace("[", "[" * chance.choice((2, 40, 20_000)), 1)),
    "same name": _with_text(
        lambda text, chance: text.replace(
            '"inputs": [',
            '"inputs": [{"name": "FP32_1", "datatype": "FP32", "shape": [1], "data": [1]}, {"name": "FP32_1", "datatype": "FP32", "shape": [2], "data": [1, 2]}, ',
            1,
        )
    ),
    "utf-16": lambda body, _: replace(body, json=body.json.decode(errors="replace").encode("utf-16")),
    "not utf-8": lambda body, chance: replace(
        body, json=body.json.replace(b"a", chance.choice((b"\xff", b"\xed\xa0\x80", b"\xc0\xaf")), 1)
    ),
    "less binary": lambda body, chance: replace(body, binary=body.binary[: chance.randint(0, 8)]),
    "more binary": lambda body, chance: replace(body, binary=body.binary + bytes(chance.randint(1, 64))),
    "other length": lambda body, chance: replace(
        body,
        json_length=chance.choice(
            (0, 1, len(body.json) - 1, len(body.json) + 1, len(body.json), 10**9, None)
        ),
    ),
    "texts that lie": lambda body, chance: replace(
        body,
        binary=body.binary.replace(
            b"\x01\x00\x00\x00", chance.choice((b"\xff\xff\xff\xff", b"\x02\x00\x00\x00"))
        ),
    ),
}
