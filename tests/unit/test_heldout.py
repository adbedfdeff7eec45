"""The held-out rows as a run keeps them."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
import pytest

from ml_code.training.heldout import HeldOut, HeldOutError

X = np.arange(12, dtype=np.float32).reshape(3, 4)
CLASSES = np.array([0, 2, 1])


def test_what_was_written_is_read_again_with_its_types_and_shapes() -> None:
    for given in (
        HeldOut({"features": X, "input:other": X[:, :1].astype(np.int64)}, CLASSES, "classification"),
        HeldOut({"target": X}, X[:, :2], "regression"),
    ):
        read = HeldOut.from_bytes(given.to_bytes())
        assert (read.task, read.rows, set(read.inputs)) == (given.task, 3, set(given.inputs))
        for name, array in {**given.inputs, "the target": given.target}.items():
            found = read.target if name == "the target" else read.inputs[name]
            np.testing.assert_array_equal(found, array)
            assert found.dtype == array.dtype


def test_the_same_rows_give_the_same_bytes() -> None:
    assert (
        HeldOut({"a": X, "b": X}, CLASSES, "classification").to_bytes()
        == HeldOut({"b": X.copy(), "a": X.copy()}, CLASSES.copy(), "classification").to_bytes()
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"inputs": {}},
        {"inputs": {"x": X[:2]}},
        {"inputs": {"x": X[:0]}, "target": CLASSES[:0]},
        {"inputs": {"x": np.float32(1)}},
        {"target": CLASSES.astype(np.int32)},
        {"target": CLASSES - 1},
        {"target": CLASSES.reshape(3, 1)},
        {"task": "regression"},
        {"task": "regression", "target": np.full(3, np.nan, np.float32)},
        {"task": "ranking"},
    ],
    ids=repr,
)
def test_rows_that_contradict_each_other_are_refused(wrong: dict[str, Any]) -> None:
    right: dict[str, Any] = {"inputs": {"x": X}, "target": CLASSES, "task": "classification"}
    HeldOut(**right)
    with pytest.raises(HeldOutError):
        HeldOut(**{**right, **wrong})


def _npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


WRITTEN = HeldOut({"x": X}, CLASSES, "classification").to_bytes()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04",
        WRITTEN[:-30],
        WRITTEN[:40] + b"\x00" * 40 + WRITTEN[80:],
        pickle.dumps(HeldOut({"x": X}, CLASSES, "classification")),
        _npz(target=CLASSES),
        _npz(**{"input:x": X}, target=CLASSES, task=np.array("ranking")),
        _npz(**{"input:x": np.array([{}, {}, {}], object)}, target=CLASSES, task=np.array("classification")),
    ],
    ids=["empty", "cut to its magic", "cut", "overwritten", "pickle", "no inputs", "other task", "objects"],
)
def test_bytes_that_are_no_held_out_set_are_refused_and_nothing_is_executed(content: bytes) -> None:
    with pytest.raises(HeldOutError):
        HeldOut.from_bytes(content)


@pytest.mark.parametrize("flipped", [0x01, 0x40, 0xFF])
def test_a_file_with_any_byte_changed_is_read_as_it_was_or_refused(flipped: int) -> None:
    refused = 0
    for place in range(len(WRITTEN)):
        changed = bytes([*WRITTEN[:place], WRITTEN[place] ^ flipped, *WRITTEN[place + 1 :]])
        try:
            read = HeldOut.from_bytes(changed)
        except HeldOutError:
            refused += 1
        else:
            np.testing.assert_array_equal(read.target, CLASSES)
            np.testing.assert_array_equal(read.inputs["x"], X)
    assert refused > len(WRITTEN) / 2
