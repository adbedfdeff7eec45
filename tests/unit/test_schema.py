"""Which changes of inputs and outputs break a client."""

from typing import Any

import pytest

from ml_code.triton_deploy.rules.schema import (
    Offer,
    Schema,
    Tensor,
    breaking_changes,
    breaking_offer,
    public_tensor,
)

X, Y = Tensor("x", "FP32", (-1, 4)), Tensor("y", "FP32", (-1, 2))
OLD = Schema((X,), (Y,))


@pytest.mark.parametrize(
    "new",
    [
        OLD,
        Schema((X,), (Y, Tensor("more", "FP32", (-1,)))),
        Schema((X, Tensor("hint", "FP32", (-1,), optional=True)), (Y,)),
        Schema((Tensor("x", "FP32", (-1, -1)),), (Y,)),
        Schema((X,), (Tensor("y", "FP32", (8, 2)),)),
    ],
)
def test_what_breaks_nobody(new: Schema) -> None:
    assert breaking_changes(OLD, new) == []


@pytest.mark.parametrize(
    ("new", "change"),
    [
        (Schema((), (Y,)), "input x FP32[-1, 4] is gone"),
        (Schema((X,), ()), "output y FP32[-1, 2] is gone"),
        (Schema((Tensor("x", "FP64", (-1, 4)),), (Y,)), "input x FP32[-1, 4] became x FP64[-1, 4]"),
        (Schema((Tensor("x", "FP32", (-1, 5)),), (Y,)), "input x FP32[-1, 4] became x FP32[-1, 5]"),
        (Schema((Tensor("x", "FP32", (1, 4)),), (Y,)), "input x FP32[-1, 4] became x FP32[1, 4]"),
        (Schema((Tensor("x", "FP32", (-1,)),), (Y,)), "input x FP32[-1, 4] became x FP32[-1]"),
        (Schema((X, Tensor("z", "FP32", (-1,))), (Y,)), "input z FP32[-1] is new and not optional"),
        (Schema((X,), (Tensor("y", "FP32", (-1, -1)),)), "output y FP32[-1, 2] became y FP32[-1, -1]"),
        (Schema((X,), (Tensor("y", "INT64", (-1, 2)),)), "output y FP32[-1, 2] became y INT64[-1, 2]"),
    ],
)
def test_what_breaks_a_client(new: Schema, change: str) -> None:
    assert breaking_changes(OLD, new) == [change]


def test_an_input_that_was_optional_must_stay_so() -> None:
    old = Schema((Tensor("x", "FP32", (-1, 4), optional=True),), (Y,))
    assert len(breaking_changes(old, OLD)) == 1
    assert breaking_changes(OLD, old) == []


BATCHED = {"max_batch_size": 8}


@pytest.mark.parametrize(
    ("shape", "options", "public"),
    [
        ((), {}, (1,)),
        ((-1,), {}, (-1,)),
        ((-1, 4), {}, (-1, 4)),
        ((), {"max_batch_size": 0}, (1,)),
        ((-1,), BATCHED, (-1, 1)),
        ((-1, 4), BATCHED, (-1, 4)),
    ],
)
def test_clients_get_a_scalar_as_a_list_of_one(
    shape: tuple[int, ...], options: dict[str, Any], public: tuple[int, ...]
) -> None:
    tensor = Tensor("x", "FP32", shape, optional=True)
    assert public_tensor(tensor, options) == Tensor("x", "FP32", public, optional=True)


COLUMN = Schema((X,), (Tensor("y", "FP32", (-1,)),))
TO_LIST = ["a request may have 8 rows at most (max_batch_size), any number before"]


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        (Offer(OLD, {}), Offer(OLD, {"parameters": {"intra_op_thread_count": "1"}}), []),
        (Offer(OLD, {}), Offer(OLD, BATCHED), TO_LIST),
        (Offer(OLD, {"max_batch_size": 16}), Offer(OLD, BATCHED), [TO_LIST[0].replace("any number", "16")]),
        (Offer(OLD, {"max_batch_size": 4}), Offer(OLD, BATCHED), []),
        (Offer(OLD, BATCHED), Offer(OLD, BATCHED), []),
        (Offer(OLD, BATCHED), Offer(OLD, {}), []),
        (Offer(COLUMN, {}), Offer(COLUMN, BATCHED), ["output y FP32[-1] became y FP32[-1, 1]", *TO_LIST]),
        (Offer(COLUMN, BATCHED), Offer(COLUMN, {}), ["output y FP32[-1, 1] became y FP32[-1]"]),
        (Offer(COLUMN, BATCHED), Offer(Schema((X,), (Tensor("y", "FP32", (-1, 1)),)), BATCHED), []),
    ],
)
def test_options_that_clients_notice_count_as_a_change(old: Offer, new: Offer, changes: list[str]) -> None:
    assert breaking_offer(old, new) == changes


def test_a_schema_reads_back() -> None:
    assert Schema.from_dict(OLD.to_dict()) == OLD


def test_batchable_needs_an_open_first_dimension_everywhere() -> None:
    assert OLD.batchable
    assert not Schema((X,), (Tensor("y", "FP32", (1, 2)),)).batchable
    assert not Schema((Tensor("x", "FP32", ()),), (Y,)).batchable
