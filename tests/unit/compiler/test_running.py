"""Runs over judged data: nothing depends on how many are measured at once."""

from __future__ import annotations

import numpy as np
import pytest

from skipc.compiler.data import Batch
from skipc.compiler.loss import resolve_loss
from skipc.compiler.running import Judged, in_parallel
from skipc.runtime.plan import Array

RANDOM = np.random.default_rng(0)
CLASSES = 10


def judged(sizes: list[int], *, by_batch: bool = False) -> tuple[Judged, list[Array]]:
    """Batches of these sizes with random references, and outputs that differ from them a little."""
    ends = np.cumsum(sizes)
    items = tuple(
        Batch({"x": np.zeros((size, 1))}, tuple(range(end - size, end)), None)
        for size, end in zip(sizes, ends.tolist(), strict=True)
    )
    references = tuple(RANDOM.normal(size=(size, CLASSES)).astype(np.float32) for size in sizes)
    labels = tuple(RANDOM.integers(0, CLASSES, size) for size in sizes)
    outputs = [one + RANDOM.normal(scale=0.3, size=one.shape).astype(np.float32) for one in references]
    return Judged(items, references, labels, "y", by_batch), outputs


@pytest.mark.parametrize("name", ["top1", "accuracy", "cosine", "relative-l2", "kl"])
@pytest.mark.parametrize("smooth", [False, True])
def test_measured_at_once_losses_are_those_of_each_batch(name: str, smooth: bool) -> None:
    data, outputs = judged([3, 1, 2, 1])
    loss = resolve_loss(name, data.references[0], data.labels[0])
    measure = loss.smooth if smooth else loss.of
    rows = zip(data.references, outputs, data.labels, strict=True)
    expected = np.concatenate([measure(reference, output, label, None) for reference, output, label in rows])
    assert data.losses(measure, outputs).tobytes() == expected.tobytes()


def test_a_batch_that_is_decided_on_as_one_has_one_loss() -> None:
    data, outputs = judged([3, 1, 2], by_batch=True)
    loss = resolve_loss("cosine", data.references[0], None)
    found = data.losses(loss.of, outputs)
    assert found[0] == loss.of(data.references[0], outputs[0], None, None).mean()
    assert len(found) == 3


@pytest.mark.parametrize("count", [1, 2, 31, 100])
def test_results_are_in_order(count: int) -> None:
    assert in_parallel(lambda item: item * 2, range(count), 2) == [item * 2 for item in range(count)]


@pytest.mark.parametrize("by_batch", [False, True])
def test_what_comes_first_and_what_lies_behind_are_all(by_batch: bool) -> None:
    data, _ = judged([3, 1, 2, 1], by_batch=by_batch)
    for units in range(1, data.units + 1):
        first, rest = data.first(units), data.behind(units)
        assert first.units >= units
        assert (*first.items, *rest.items) == data.items
        assert first.units + rest.units == data.units
