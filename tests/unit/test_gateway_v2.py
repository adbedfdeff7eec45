"""KServe v2 at the edge: which paths exist, which requests may reach Triton, and who answered."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ml_code.gateway.http.errors import (
    BackendFailed,
    GatewayError,
    Malformed,
    TooLarge,
    UnknownPath,
    WrongMethod,
)
from ml_code.gateway.http.strict_json import check_depth, decode, encode
from ml_code.gateway.triton.forward import version_of
from ml_code.gateway.v2.guard import check_request
from ml_code.gateway.v2.routes import route
from ml_code.gateway.v2.tensors import (
    binary_request,
    from_bytes,
    read_inputs,
    read_outputs,
    to_bytes,
    to_json,
)

# Paths


@pytest.mark.parametrize(
    ("method", "path", "forwarded"),
    [
        ("POST", "/v2/models/m/infer", "/v2/models/m/infer"),
        ("POST", "/v2/models/m/versions/3/infer", "/v2/models/m/versions/3/infer"),
        ("GET", "/v2/models/m/ready", "/v2/models/m/ready"),
        ("GET", "/v2/models/m/versions/3", "/v2/models/m/versions/3"),
        ("HEAD", "/v2/models/m", "/v2/models/m"),
        ("GET", "/v2/health/live", "/v2/health/live"),
        ("GET", "/v2/health/ready", "/v2/health/ready"),
        ("GET", "/v2", "/v2"),
        ("GET", "/v2/", "/v2"),
    ],
)
def test_what_is_served(method: str, path: str, forwarded: str) -> None:
    assert route(method, path).path == forwarded


@pytest.mark.parametrize(
    "path",
    [
        "/v2/repository/index",
        "/v2/repository/models/m/load",
        "/v2/repository/models/m/unload",
        "/v2/systemsharedmemory/region/a/register",
        "/v2/systemsharedmemory/status",
        "/v2/cudasharedmemory/status",
        "/v2/trace/setting",
        "/v2/models/m/trace/setting",
        "/v2/logging",
        "/v2/models/m/config",
        "/v2/models/m/stats",
        "/v2/models/stats",
        "/v2/models/m/generate",
        "/v2/models/m.v3/infer",
        "/v2/models/../repository/index",
        "/v2/models/m/../../repository/index",
        "/v2/models/%2e%2e/repository/index",
        "/v2/models/m/infer/",
        "/v2//models/m/infer",
        "/v2/models/m/infer\n",
        "/v2/models/m/versions/-1/infer",
        "/v2/models/m/versions/0/infer",
        "/v2/models/m/versions/99999999999999999999/infer",
        "/v2/models/m infer",
        "/v2x",
        "/v2/models/",
        "/V2/models/m/infer",
        "/v2/models/m/infer?x",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_is_not_served(method: str, path: str) -> None:
    with pytest.raises(UnknownPath):
        route(method, path)


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v2/models/m/infer"), ("POST", "/v2/models/m"), ("DELETE", "/v2")]
)
def test_the_wrong_method_says_the_right_one(method: str, path: str) -> None:
    with pytest.raises(WrongMethod) as caught:
        route(method, path)
    assert caught.value.headers["Allow"]


# Requests


def check(request: object, binary: bytes = b"", **changes: Any) -> dict[str, Any]:
    text = request if isinstance(request, bytes) else json.dumps(request).encode()
    limits: dict[str, Any] = {"max_json_bytes": 10_000, "max_depth": 32, "allow_nan": False, **changes}
    return check_request(text + binary, len(text) if binary else None, len(text) + len(binary), **limits)


def tensor(shape: object, data: object = (1, 1), **more: object) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": shape, "data": data, **more}]}


@pytest.mark.parametrize(
    "request_",
    [
        tensor([1, 2]),
        tensor([1, 2], [[1, 1]]),
        tensor([1, 2], [[[[1]]], 1]),
        tensor([0, 2], []),
        {**tensor([1, 2]), "id": "a", "outputs": [{"name": "y", "parameters": {"binary_data": True}}]},
        {"inputs": []},
    ],
)
def test_requests_that_pass(request_: object) -> None:
    check(request_)


def test_a_binary_request_passes() -> None:
    check(
        {
            "inputs": [
                {"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}
            ]
        },
        b"12345678",
    )


@pytest.mark.parametrize(
    "request_",
    [
        # Each of the first four ends Triton 2.51 with a crash.
        tensor([2**63 - 1]),
        tensor([10**12, 2]),
        tensor([0, 2]),
        b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":'
        + b"[" * 5000
        + b"1"
        + b"]" * 2000
        + b"}]}",
        b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":'
        + b"[" * 500
        + b"1"
        + b"]" * 500
        + b"}]}",
        tensor([2**63]),
        # This one the process of a Python backend.
        tensor([1, 2**63, 0], []),
        tensor([0, 2**32, 2**32], []),
        tensor([2**32, 2**32]),
        tensor([1] * 100 + [3]),
        tensor([-1, 2]),
        tensor([1.5, 2]),
        tensor([True, 2]),
        tensor("12"),
        tensor(None),
        tensor([1, 2], [1]),
        tensor([1, 2], {"a": 1}),
        tensor([1, 2], None),
        tensor([1, 2], parameters={"shared_memory_region": "a", "shared_memory_byte_size": 8}),
        tensor([1, 2], parameters=[1]),
        tensor([1, 2], parameters={"binary_data_size": 8}),
        {**tensor([1, 2]), "outputs": [{"name": "y", "parameters": {"shared_memory_region": "a"}}]},
        {
            "inputs": [
                {"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}
            ]
        },
        {"inputs": {"x": 1}},
        {"inputs": [5]},
        {"inputs": [{}] * 2000},
        {**tensor([1, 2]), "id": "x" * 5000},
        {**tensor([1, 2]), "id": {}},
        {**tensor([1, 2]), "outputs": 5},
        {**tensor([1, 2]), "outputs": [5]},
        {**tensor([1, 2]), "outputs": [{"name": 5}]},
        {**tensor([1, 2]), "parameters": []},
        tensor([1, 2], datatype=5),
        {},
        [],
        b"",
        b"{",
        b"nonsense",
        b"\xff\xfe",
        b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[NaN,1]}]}',
    ],
    ids=lambda request: str(request)[:60],
)
def test_requests_that_must_not_reach_triton(request_: object) -> None:
    with pytest.raises(Malformed):
        check(request_)


RIGHT = json.dumps(
    {
        **tensor([1, 2]),
        "id": "i",
        "parameters": {"a": 1},
        "outputs": [{"name": "y"}],
        "more": {"b": [{"c": 1}]},
    }
)


@pytest.mark.parametrize(
    "name",
    ["inputs", "name", "datatype", "shape", "data", "id", "parameters", "a", "outputs", "more", "b", "c"],
)
@pytest.mark.parametrize("spelt", ["{}", "\\u{:04x}"], ids=["plain", "escaped"])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("allow_nan", [True, False])
def test_a_member_that_stands_twice_is_refused(name: str, spelt: str, first: bool, allow_nan: bool) -> None:
    """At any depth and however it is written: Triton takes the first one, and the last was judged."""
    letter = spelt.format(name[0] if spelt == "{}" else ord(name[0]))
    at = RIGHT.index(f'"{name}"')
    end = at + len(name) + 2
    again = f'"{letter}{name[1:]}": [9223372036854775807]'
    after = RIGHT.index(":", end) + 1
    text = (
        RIGHT[:at] + f"{again}, " + RIGHT[at:]
        if first
        else RIGHT[:at] + RIGHT[at:after] + f' 0, {again}, "z": ' + RIGHT[after:]
    )
    check(RIGHT.encode())
    with pytest.raises(Malformed, match="stands twice"):
        check(text.encode(), allow_nan=allow_nan)


@pytest.mark.parametrize(
    ("datatype", "value", "right"),
    [
        *(("INT8", -128, True), ("INT8", 128, False), ("UINT8", -1, False), ("UINT8", 255, True)),
        *(("INT64", 2**63 - 1, True), ("INT64", 2**63, False), ("UINT64", 2**64 - 1, True)),
        *(("FP32", 2**40, True), ("BYTES", "a", True)),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_a_number_that_its_type_cannot_hold_is_refused(
    datatype: str, value: object, right: bool, nested: bool
) -> None:
    """Triton would take another one."""
    request = tensor([1, 2], [[value, value]] if nested else [value, [value]], datatype=datatype)
    if right:
        check(request)
    else:
        with pytest.raises(Malformed, match="not between"):
            check(request)


def test_a_text_with_colons_is_no_member() -> None:
    bytes_ = {"name": "x", "datatype": "BYTES", "shape": [2], "data": ["http://a:1", '"a":']}
    assert check({"inputs": [bytes_]}) == {"inputs": [bytes_]}
    with pytest.raises(Malformed, match="stands twice"):
        check(json.dumps({"inputs": [bytes_]}).replace('"shape"', '"shape": [1], "shape"').encode())


def test_two_inputs_of_one_name_are_refused() -> None:
    with pytest.raises(Malformed, match="same name"):
        check({"inputs": tensor([1, 2])["inputs"] * 2})


def test_only_what_the_protocol_knows_is_sent() -> None:
    """In the order in which it was checked, and nothing that nobody looked at."""
    assert (
        encode(check(RIGHT.encode()), allow_nan=False)
        == json.dumps(
            {
                "id": "i",
                "parameters": {"a": 1},
                "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 1]}],
                "outputs": [{"name": "y"}],
            },
            separators=(",", ":"),
        ).encode()
    )


@pytest.mark.parametrize("value", [{"a": 1}, [1], None])
def test_a_parameter_is_a_text_a_number_or_a_truth_value(value: object) -> None:
    with pytest.raises(Malformed, match="parameter 'p'"):
        check({**tensor([1, 2]), "parameters": {"p": value}})


@pytest.mark.parametrize("data", [[1, {"a": 1}], [[{"a": 1}], [1]], [{}, {}]])
def test_an_object_is_no_value(data: object) -> None:
    with pytest.raises(Malformed):
        check(tensor([1, 2], data))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)


@given(JSON, st.booleans())
def test_what_is_right_is_decoded_as_it_is(value: object, ascii_: bool) -> None:
    assert decode(json.dumps(value, ensure_ascii=ascii_).encode(), allow_nan=False) == value


def test_numbers_that_are_not_finite_are_sent_as_they_came() -> None:
    text = b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[NaN,-Infinity]}]}'
    assert b"[NaN, -Infinity]" in encode(check(text, allow_nan=True), allow_nan=True)


@pytest.mark.parametrize("size", [-1, 2**63, 7, "8", True])
def test_binary_sizes_that_do_not_add_up(size: object) -> None:
    with pytest.raises(Malformed):
        check(
            {
                "inputs": [
                    {
                        "name": "x",
                        "datatype": "FP32",
                        "shape": [1, 2],
                        "parameters": {"binary_data_size": size},
                    }
                ]
            },
            b"12345678",
        )


def test_a_shape_beyond_any_request_is_refused_in_binary_form_as_well() -> None:
    with pytest.raises(Malformed, match="more elements"):
        check(
            {
                "inputs": [
                    {
                        "name": "x",
                        "datatype": "FP32",
                        "shape": [2**32, 2**32],
                        "parameters": {"binary_data_size": 8},
                    }
                ]
            },
            b"12345678",
        )


def test_literals_that_are_not_json_pass_when_that_is_allowed() -> None:
    check(json.dumps(tensor([1, 2], [float("nan"), 1])).encode(), allow_nan=True)


def test_a_large_json_part_is_refused() -> None:
    with pytest.raises(TooLarge):
        check(tensor([1, 2]), max_json_bytes=20)


@given(st.binary(max_size=200) | st.text(alphabet='[]{}",:1\\ainputsxe', max_size=200).map(str.encode))
def test_whatever_comes_passes_or_is_refused(body: bytes) -> None:
    try:
        check(body)
    except GatewayError:
        return
    assert isinstance(json.loads(body)["inputs"], list)


# Depth


def nested(depth: int, inner: str = "1") -> bytes:
    return ("[" * depth + inner + "]" * depth).encode()


@example(32, "[[[[")
@example(33, "]]]]")
@example(33, "\\")
@given(st.integers(1, 80), st.text(alphabet='[]{}"\\/u', max_size=20))
def test_depth_is_counted_whatever_strings_hold(depth: int, text: str) -> None:
    string = json.dumps(text)
    # What is nested stands around the string, and after it.
    for body in (nested(depth, string), f"[{string},".encode() + nested(depth - 1) + b"]"):
        if depth > 32:
            with pytest.raises(Malformed):
                check_depth(body, 32)
        else:
            check_depth(body, 32)


def test_wide_json_is_not_deep() -> None:
    check_depth(json.dumps([[[1]] * 10, {"a": [2]}] * 1000).encode(), 5)


# Who answered


@pytest.mark.parametrize(
    "head",
    [
        b'{"model_name":"m","model_version":"12","outputs":[]}',
        b'{"id":"1","model_name":"m","model_version":"12","outputs":[]}',
        b' { "id" : "a\\"model_version\\":\\"9\\"" , "model_name":"m" , "model_version" : "12"}',
        b'{"id":"\\\\","model_name":"m","model_version":"12","parameters":{"model_version":"9"}}binary',
    ],
)
def test_the_version_is_read_from_the_beginning(head: bytes) -> None:
    assert version_of(head) == "12"


@given(st.text(max_size=60))
def test_an_id_is_never_taken_for_the_version(identity: str) -> None:
    head = json.dumps({"id": identity, "model_name": "m", "model_version": "12", "outputs": []}).encode()
    assert version_of(head) == "12"


@pytest.mark.parametrize(
    "head", [b"", b"{}", b'{"error":"x"}', b'{"outputs":[{"model_version":"9"}]}', b'{"id":"x']
)
def test_an_answer_that_does_not_say_is_no_answer(head: bytes) -> None:
    with pytest.raises(BackendFailed):
        version_of(head)


# Tensors

ARRAYS = [
    np.array([[1.5, -2]], np.float32),
    np.array([1, 2**63 - 1], np.int64),
    np.array([True, False]),
    np.array([[b"a", b""], [b"\xff\x00", "ü".encode()]], np.object_),
    np.zeros((0, 3), np.float64),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: str(array.dtype))
def test_tensors_survive_the_binary_form(array: Any) -> None:
    body, size = binary_request({"x": array})
    head = json.loads(body[:size])
    check(head, body[size:]) if body[size:] else check(head)
    back = read_inputs(head, memoryview(body)[size:])["x"]
    assert back.dtype == array.dtype
    assert back.tolist() == array.tolist()


def test_answers_are_read_in_both_forms() -> None:
    head: dict[str, Any] = {"model_name": "m", "model_version": "3"}
    y: dict[str, Any] = {"name": "y", "datatype": "INT64", "shape": [2]}
    as_json = json.dumps({**head, "outputs": [{**y, "data": [1, 2]}]}).encode()
    binary = json.dumps({**head, "outputs": [{**y, "parameters": {"binary_data_size": 16}}]}).encode()
    values = np.array([1, 2], np.int64)
    for version, outputs in (
        read_outputs(as_json, None),
        read_outputs(binary + to_bytes(values), len(binary)),
    ):
        assert version == "3"
        assert outputs["y"].tolist() == [1, 2]


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"model_version":"1","outputs":[{"name":"y"}]}'])
def test_an_answer_that_is_none_is_told(body: bytes) -> None:
    with pytest.raises(BackendFailed):
        read_outputs(body, None)


def test_a_text_that_is_cut_off_is_refused() -> None:
    with pytest.raises(Malformed):
        from_bytes(memoryview(b"\x05\x00\x00\x00abc"), "BYTES")


def test_texts_are_decoded_for_json() -> None:
    assert to_json(np.array([["ü".encode()], [b"\xff"]], np.object_)) == [["ü"], ["\ufffd"]]
