"""Batches: every sample once and in order, padding cut but no token lost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from skipc.compiler.data import Dataset, InputSpec, batches
from skipc.runtime.errors import InputError

F32 = np.dtype(np.float32)
I64 = np.dtype(np.int64)


def dataset(**arrays: NDArray[Any]) -> Dataset:
    count = min(len(array) for array in arrays.values())
    samples = tuple({name: array[i : i + 1] for name, array in arrays.items()} for i in range(count))
    return Dataset(name="d", digest="", samples=samples, labels=None)


def text_specs(ids_axis: int | str | None, mask_axis: int | str | None, mask: Any = I64) -> tuple[InputSpec, ...]:
    return (
        InputSpec("input_ids", I64, ("batch", ids_axis)),
        InputSpec("attention_mask", np.dtype(mask), ("batch", mask_axis)),
    )


def padded(lengths: Sequence[int], width: int, *, left: bool = False) -> NDArray[np.int64]:
    mask = (np.arange(width)[None, :] < np.array(lengths)[:, None]).astype(np.int64)
    return mask[:, ::-1].copy() if left else mask


def text(lengths: Sequence[int], width: int, *, left: bool = False, mask: Any = np.int64) -> Dataset:
    valid = padded(lengths, width, left=left)
    ids = np.arange(1, valid.size + 1).reshape(valid.shape) * valid
    return dataset(input_ids=ids, attention_mask=valid.astype(mask))


lengths_and_size = st.tuples(st.lists(st.integers(1, 12), min_size=1, max_size=20), st.integers(1, 7))


@given(lengths_and_size, st.booleans(), st.sampled_from([np.int64, np.bool_, np.float32]), st.booleans())
def test_trimming_keeps_every_token(case: tuple[list[int], int], left: bool, kind: Any, named: bool) -> None:
    lengths, size = case
    inputs = text_specs("s", "s", kind) if named else text_specs(None, None, kind)
    made = batches(text(lengths, 12, left=left, mask=kind), size, inputs)
    assert [index for batch in made for index in batch.indices] == list(range(len(lengths)))
    for batch in made:
        assert len(batch.indices) <= size
        assert batch.valid is not None
        assert batch.valid.dtype == np.bool_
        width = max(lengths[index] for index in batch.indices)
        assert batch.valid.shape == batch.feeds["input_ids"].shape == (len(batch.indices), width)
        assert batch.feeds["attention_mask"].dtype == kind
        for row, index in enumerate(batch.indices):
            expected = text(lengths, 12, left=left).samples[index]["input_ids"]
            assert batch.feeds["input_ids"][row][batch.valid[row]].tolist() == expected[expected > 0].tolist()


@given(st.lists(st.sampled_from([3, 4]), max_size=20), st.integers(1, 5))
def test_batches_hold_consecutive_samples_of_one_shape(widths: list[int], size: int) -> None:
    samples = tuple({"x": np.full((1, width), i, np.float32)} for i, width in enumerate(widths))
    made = batches(Dataset("d", "", samples, None), size, (InputSpec("x", F32, ("N", None)),))
    assert [index for batch in made for index in batch.indices] == list(range(len(widths)))
    for batch in made:
        assert batch.valid is None
        np.testing.assert_array_equal(batch.feeds["x"][:, 0], batch.indices)
        assert {widths[index] for index in batch.indices} == {batch.feeds["x"].shape[1]}
    full = [len(one.indices) == size or widths[two.indices[0]] != widths[one.indices[0]] for one, two in pairwise(made)]
    assert all(full)


@pytest.mark.parametrize("order", ["C", "F"])
def test_neighbours_are_joined_without_a_copy(order: Any) -> None:
    x = np.asarray(np.random.default_rng(0).standard_normal((10, 2, 3)), np.float32, order=order)
    data = dataset(x=x)
    inputs = (InputSpec("x", F32, ("N", 2, 3)),)
    first, second, third = batches(data, 4, inputs)
    np.testing.assert_array_equal(np.concatenate([first.feeds["x"], second.feeds["x"], third.feeds["x"]]), x)
    assert np.shares_memory(second.feeds["x"], x) == (order == "C")
    shuffled = data.subset([5, 4, 9, 9])
    np.testing.assert_array_equal(batches(shuffled, 4, inputs)[0].feeds["x"], x[[5, 4, 9, 9]])
    gap = data.subset([0, 2, 4])
    np.testing.assert_array_equal(batches(gap, 4, inputs)[0].feeds["x"], x[[0, 2, 4]])


def test_samples_stay_untrimmed() -> None:
    data = text([2, 3], 8)
    batches(data, 2, text_specs("s", "s"))
    assert data.samples[0]["input_ids"].shape == (1, 8)


def test_fixed_axis_is_not_trimmed_but_valid_is_given() -> None:
    (batch,) = batches(text([2, 3], 8), 2, text_specs(8, 8))
    assert batch.feeds["input_ids"].shape == (2, 8)
    assert batch.valid is not None
    assert batch.valid.sum(axis=1).tolist() == [2, 3]


@pytest.mark.parametrize(
    ("ids_axis", "mask_axis", "width"),
    [("s", "s", 3), (None, "s", 3), ("s", None, 3), ("ids_axis_1", "mask_axis_1", 3), (8, "s", 8), ("s", 8, 8)],
)
def test_axis_is_shared_by_symbol_or_else_by_extent(ids_axis: Any, mask_axis: Any, width: int) -> None:
    (batch,) = batches(text([2, 3], 8), 2, text_specs(ids_axis, mask_axis))
    assert batch.feeds["input_ids"].shape == batch.feeds["attention_mask"].shape == (2, width)


def test_other_axes_of_the_same_symbol_and_none_else_are_trimmed() -> None:
    inputs = (
        *text_specs("s", "s"),
        InputSpec("bias", F32, ("batch", 2, "s", "s")),
        InputSpec("regions", F32, ("batch", "r", 4)),
        InputSpec("rate", I64, ()),
    )
    plain = text([2, 3], 8)
    more = {"bias": np.ones((1, 2, 8, 8), np.float32), "regions": np.ones((1, 8, 4), np.float32), "rate": np.int64(3)}
    samples = tuple({**sample, **{name: np.asarray(value) for name, value in more.items()}} for sample in plain.samples)
    (batch,) = batches(Dataset("d", "", samples, None), 2, inputs)
    assert {name: array.shape for name, array in batch.feeds.items()} == {
        "input_ids": (2, 3),
        "attention_mask": (2, 3),
        "bias": (2, 2, 3, 3),
        "regions": (2, 8, 4),
        "rate": (),
    }
    assert all(array.flags.c_contiguous for array in batch.feeds.values())


@pytest.mark.parametrize("row", [[0, 0, 0, 0], [1, 0, 1, 0], [0, 1, 1, 0], [2, 1, 0, 0]])
def test_what_is_no_padding_mask_is_left_alone(row: list[int]) -> None:
    mask = np.array([[1, 1, 0, 0], row], np.int64)
    (batch,) = batches(dataset(input_ids=np.ones_like(mask), attention_mask=mask), 2, text_specs("s", "s"))
    assert batch.valid is None
    assert batch.feeds["input_ids"].shape == (2, 4)


def test_attention_mask_goes_before_other_masks() -> None:
    inputs = (InputSpec("first_mask", I64, ("batch", "s")), *text_specs("s", "s"))
    data = text([2, 3], 8)
    samples = tuple({"first_mask": padded([1], 8), **sample} for sample in data.samples)
    (batch,) = batches(Dataset("d", "", samples, None), 2, inputs)
    assert batch.valid is not None
    assert batch.valid.sum(axis=1).tolist() == [2, 3]


def test_scalars_that_differ_part_the_batches() -> None:
    inputs = (InputSpec("x", F32, ("N", 1)), InputSpec("rate", I64, ()))
    samples = tuple({"x": np.zeros((1, 1), np.float32), "rate": np.array(rate)} for rate in (8, 8, 16))
    assert [batch.indices for batch in batches(Dataset("d", "", samples, None), 9, inputs)] == [(0, 1), (2,)]


@pytest.mark.parametrize(("fixed", "asked"), [(1, 1), (4, 4), (4, 1)])
def test_fixed_batch_runs_one_sample_at_a_time(fixed: int, asked: int) -> None:
    samples = tuple({"x": np.zeros((fixed, 2), np.float32)} for _ in range(3))
    made = batches(Dataset("d", "", samples, None), asked, (InputSpec("x", F32, (fixed, 2)),))
    assert [batch.feeds["x"].shape for batch in made] == [(fixed, 2)] * 3


@pytest.mark.parametrize(
    ("fixed", "asked", "code"), [(1, 2, "data-fixed-batch"), (4, 8, "data-fixed-batch"), (1, 0, "data-batch-size")]
)
def test_batch_size_that_cannot_be(fixed: int, asked: int, code: str) -> None:
    with pytest.raises(InputError) as caught:
        batches(dataset(x=np.zeros((4, 2), np.float32)), asked, (InputSpec("x", F32, (fixed, 2)),))
    assert caught.value.code == code
    assert caught.value.hint


def test_four_thousand_samples_are_batched_at_once() -> None:
    data = text(np.random.default_rng(0).integers(1, 64, 4000).tolist(), 64)
    start = time.perf_counter()
    assert len(batches(data, 32, text_specs("s", "s"))) == 125
    assert time.perf_counter() - start < 1.0  # about 0.05 s on an idle core; the rest is for a busy one
