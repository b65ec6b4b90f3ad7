"""How data are split, and data sets joined."""

from __future__ import annotations

import numpy as np
import pytest

from skipc.compiler.data import Batch
from skipc.compiler.running import Judged
from skipc.compiler.splits import joined


def part(first: int, sizes: list[int]) -> tuple[Judged, list[Batch]]:
    """Batches of these sizes over numbered samples, and the samples one by one; references repeat the numbers."""
    numbers = np.split(np.arange(first, first + sum(sizes)), np.cumsum(sizes)[:-1])
    items = tuple(Batch({"x": part}, tuple((part - first).tolist()), None) for part in numbers)
    singles = [Batch({"x": row[None]}, (int(row) - first,), None) for part in numbers for row in part]
    return Judged(items, tuple(numbers), tuple(numbers), "y"), singles


def values(items: tuple[Batch, ...]) -> list[int]:
    return [int(value) for item in items for value in item.feeds["x"]]


@pytest.mark.parametrize("sizes", [[1] * 7, [3, 3, 1], [2]])
def test_joined_data_sets_keep_samples_with_their_batches(sizes: list[int]) -> None:
    """Gates are fitted on what single samples show and on what their batches lose: both must be in one order."""
    first, second = part(0, sizes), part(100, [2, 2])
    fit, plain = joined([first[0], second[0]], [first[1], second[1]])
    assert values(fit.items) == values(plain)
    assert sorted(values(plain)) == [*range(sum(sizes)), *range(100, 104)]
    for item, reference, labels in zip(fit.items, fit.references, fit.labels, strict=True):
        assert labels is not None
        assert item.feeds["x"].tolist() == reference.tolist() == labels.tolist()


def test_several_data_sets_are_shuffled_into_one_another_and_one_is_not() -> None:
    first, second = part(0, [1] * 20), part(100, [1] * 20)
    fit, _ = joined([first[0], second[0]], [first[1], second[1]])
    assert 2 <= sum(value >= 100 for value in values(fit.items[:12])) <= 10
    alone, plain = joined([first[0]], [first[1]])
    assert values(alone.items) == values(plain) == list(range(20))
