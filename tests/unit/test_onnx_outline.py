"""The outline of an ONNX file says all that the file says, but for its weights."""

from __future__ import annotations

import contextlib
import errno
import os
import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from ml_code.triton_deploy.errors import ArtifactRejected, StorageFailed
from ml_code.triton_deploy.model.onnx_model import external_files, inspect
from ml_code.triton_deploy.model.onnx_outline import LARGE_BYTES, linked_outline, outline
from tests.support.models import external, times, write

WIDE = 2000
WEIGHTS = numpy_helper.from_array(np.ones(WIDE, np.float32), "w")


def model(*initializers: TensorProto, nodes: list[onnx.NodeProto] | None = None) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes or [helper.make_node("Mul", ["x", "w"], ["y"], doc_string="n" * 9000)],
        "wide",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", WIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", WIDE])],
        list(initializers),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def outlined(folder: Path, content: onnx.ModelProto | bytes) -> onnx.ModelProto:
    file = folder / "model.onnx"
    file.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    return onnx.ModelProto.FromString(outline(file))


def test_a_large_tensor_becomes_one_element_and_all_else_stays(tmp_path: Path) -> None:
    whole = model(WEIGHTS)
    found = outlined(tmp_path, whole)
    assert found.graph.initializer[0].raw_data == bytes(4)
    whole.graph.initializer[0].ClearField("dims")
    whole.graph.initializer[0].raw_data = bytes(4)
    assert found == whole
    onnx.checker.check_model(found)


def test_a_small_model_is_its_own_outline(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(times(2.0).SerializeToString())
    assert outline(file) == file.read_bytes()


@pytest.mark.parametrize("place", [None, TensorProto.DEFAULT])
def test_a_linked_tensor_is_external_data_at_its_own_place(tmp_path: Path, place: int | None) -> None:
    whole = model(WEIGHTS)
    tensor = whole.graph.initializer[0]
    if place is not None:
        # onnx writes it when it takes external data into a file.
        tensor.data_location = place
    file = tmp_path / "model.onnx"
    file.write_bytes(whole.SerializeToString())
    linked = onnx.ModelProto.FromString(linked_outline(file)).graph.initializer[0]
    entries = {entry.key: entry.value for entry in linked.external_data}
    assert linked.data_location == TensorProto.EXTERNAL
    assert not linked.HasField("raw_data")
    assert entries["location"] == "model.onnx"
    begin, length = int(entries["offset"]), int(entries["length"])
    assert file.read_bytes()[begin : begin + length] == tensor.raw_data


def test_external_data_keeps_its_place_in_a_linked_outline(tmp_path: Path) -> None:
    content, _ = external("weights.bin")
    file = tmp_path / "model.onnx"
    whole = onnx.ModelProto.FromString(content)
    whole.graph.initializer[0].doc_string = "d" * LARGE_BYTES
    file.write_bytes(whole.SerializeToString())
    assert onnx.ModelProto.FromString(linked_outline(file)) == whole


def test_weights_of_constants_and_of_branches_are_left_out_as_well(tmp_path: Path) -> None:
    constant = helper.make_node("Constant", [], ["w"], value=WEIGHTS)
    output = helper.make_tensor_value_info("w", TensorProto.FLOAT, [WIDE])
    branches = [helper.make_graph([constant], name, [], [output]) for name in ("then", "else")]
    condition = helper.make_tensor("c", TensorProto.BOOL, [], [True])
    chosen = helper.make_node("If", ["c"], ["w"], then_branch=branches[0], else_branch=branches[1])
    whole = model(condition, nodes=[chosen, helper.make_node("Mul", ["x", "w"], ["y"])])
    found = outlined(tmp_path, whole)
    assert found.ByteSize() < 1000 < 2 * 4 * WIDE < whole.ByteSize()
    onnx.checker.check_model(found)


def test_weights_in_a_list_of_an_attribute_are_left_out_as_well(tmp_path: Path) -> None:
    parts = [model(WEIGHTS).graph, model(WEIGHTS).graph]
    node = helper.make_node(
        "Nonsense", ["x"], ["y"], domain="nobody.knows", weights=[WEIGHTS, WEIGHTS], parts=parts
    )
    found = {part.name: part for part in outlined(tmp_path, model(nodes=[node])).graph.node[0].attribute}
    assert [tensor.raw_data for tensor in found["weights"].tensors] == [bytes(4)] * 2
    assert [part.initializer[0].raw_data for part in found["parts"].graphs] == [bytes(4)] * 2


@pytest.mark.parametrize("change", [-4, 4])
def test_a_tensor_that_is_not_as_large_as_its_shape_stays_for_the_checker_to_see(
    tmp_path: Path, change: int
) -> None:
    whole = model(WEIGHTS)
    tensor = whole.graph.initializer[0]
    tensor.raw_data = bytes(len(tensor.raw_data) + change)
    assert outlined(tmp_path, whole) == whole
    if change < 0:
        with pytest.raises(ArtifactRejected, match="too small for the declared shape"):
            inspect(tmp_path / "model.onnx", max_opset=26, max_ir_version=13)


@pytest.mark.parametrize(
    "tensor",
    [
        helper.make_tensor("w", TensorProto.INT4, [20000], bytes(10000), raw=True),
        helper.make_tensor("w", TensorProto.STRING, [2], [b"a" * 5000, b"b" * 5000]),
        helper.make_tensor("w", TensorProto.FLOAT, [WIDE], [1.0] * WIDE),
    ],
    ids=["packed below a byte", "strings", "not raw"],
)
def test_what_is_not_whole_elements_in_raw_bytes_stays(tmp_path: Path, tensor: TensorProto) -> None:
    whole = model(tensor)
    assert outlined(tmp_path, whole) == whole


def test_a_shape_may_be_written_packed(tmp_path: Path) -> None:
    weights = numpy_helper.from_array(np.ones((2, WIDE // 2), np.float32), "w")
    content = model(weights).SerializeToString()
    plain, packed = b"\x08\x02\x08\xe8\x07", b"\x0a\x03\x02\xe8\x07"
    tensor = weights.SerializeToString()
    assert tensor.startswith(plain)
    longer = packed + tensor.removeprefix(plain)
    graph = model(weights).graph.SerializeToString()
    wide = graph.replace(_field(5, tensor), _field(5, longer))
    written = content.replace(_field(7, graph), _field(7, wide))
    assert len(written) == len(content) + len(packed) - len(plain)
    assert outlined(tmp_path, written).graph.initializer[0].raw_data == bytes(4)


def _field(number: int, data: bytes) -> bytes:
    length, left = b"", len(data)
    while left >= 0x80:
        length += bytes([left & 0x7F | 0x80])
        left >>= 7
    return bytes([number << 3 | 2]) + length + bytes([left]) + data


@pytest.mark.parametrize("cut", [1, 100, 4 * WIDE, 4 * WIDE + 30])
def test_a_part_of_a_model_is_refused(tmp_path: Path, cut: int) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(model(WEIGHTS).SerializeToString()[:-cut])
    with pytest.raises(ValueError, match="end"):
        outline(file)


def test_messages_without_end_in_each_other_are_refused(tmp_path: Path) -> None:
    inner = b"\0" * LARGE_BYTES
    for _ in range(60):
        # GraphProto in AttributeProto in NodeProto in GraphProto
        for number in (6, 5, 1):
            inner = _field(number, inner)
    file = tmp_path / "model.onnx"
    file.write_bytes(_field(7, inner))
    with pytest.raises(ValueError, match="more than 100 deep"):
        outline(file)


def test_a_field_that_ends_behind_its_message_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    begin_of_tensor = _field(5, b"\x08\x01" * 3000)[:-1000]
    file.write_bytes(_field(7, begin_of_tensor) + _field(6, b"\x08\x01" * 3000))
    with pytest.raises(ValueError, match="does not end where its message does"):
        outline(file)


@given(seed=st.integers(0, 2**32), changes=st.integers(1, 20))
def test_a_damaged_file_is_refused_or_outlined_and_nothing_else_happens(
    tmp_path_factory: pytest.TempPathFactory, seed: int, changes: int
) -> None:
    rng = random.Random(seed)
    content = bytearray(model(WEIGHTS).SerializeToString())
    for _ in range(changes):
        content[rng.randrange(len(content))] = rng.randrange(256)
    file = tmp_path_factory.getbasetemp() / "damaged.onnx"
    file.write_bytes(content)
    with contextlib.suppress(ValueError):
        assert len(outline(file)) <= len(content)


def test_a_file_that_no_runtime_could_read_is_refused_by_its_size(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.touch()
    os.truncate(file, 2**31)
    with pytest.raises(ArtifactRejected, match="2147483648 bytes") as refused:
        inspect(file, max_opset=26, max_ir_version=13)
    assert "external data" in refused.value.hint


def test_a_disk_that_fails_at_any_look_at_a_model_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = external("weights.bin")
    write(tmp_path, {"model.onnx": model, "weights.bin": data})
    stat, looks, fails_at = Path.stat, 0, 0

    def counted(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        nonlocal looks
        looks += 1
        if looks == fails_at:
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return stat(path, follow_symlinks=follow_symlinks)

    def look() -> None:
        nonlocal looks
        looks = 0
        assert external_files(tmp_path / "model.onnx") == ("weights.bin",)
        inspect(tmp_path / "model.onnx", max_opset=99, max_ir_version=99)

    monkeypatch.setattr(Path, "stat", counted)
    look()
    assert looks > 4
    for number in range(1, looks + 1):
        fails_at = number
        with pytest.raises(StorageFailed, match="Input/output error"):
            look()


def keeping_weights_in(*locations: str) -> onnx.ModelProto:
    """A model with a tensor in each of these files."""
    tensors = []
    for number, location in enumerate(locations):
        tensor = TensorProto(name=f"w{number}", data_type=TensorProto.FLOAT, dims=[1])
        tensor.data_location = TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", location
        tensors.append(tensor)
    return model(*tensors)


@pytest.mark.parametrize(
    ("locations", "why"),
    [
        (["w.bin", "MANIFEST.json"], "the deployer's own"),
        (["w.bin", "W.bin"], "differs from 'w.bin' in its writing only"),
        (["weights", "weights/a"], "a file and a folder"),
        (["Weights", "weights/a/b"], "a file and a folder"),
    ],
)
def test_weights_in_files_that_cannot_lie_beside_it_are_refused(
    tmp_path: Path, locations: list[str], why: str
) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(keeping_weights_in(*locations).SerializeToString())
    with pytest.raises(ArtifactRejected, match=why) as caught:
        external_files(file)
    assert "external data" in caught.value.hint


def test_one_file_in_two_ways_of_writing_is_one(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(keeping_weights_in("a/w.bin", "./a//w.bin", "b/w.bin").SerializeToString())
    assert external_files(file) == ("a/w.bin", "b/w.bin")
