"""Gates learn from sequences made of two samples as well."""

from __future__ import annotations

import numpy as np
import pytest

from skipc.compiler.data import Batch, InputSpec, input_specs
from skipc.compiler.fit import fit_gate
from skipc.compiler.loss import resolve_loss
from skipc.compiler.moments import pooled_rows
from skipc.compiler.splices import ROUNDS, made_samples, spliced
from skipc.passes.expose import with_outputs
from skipc.runtime.session import open_session
from tests.gated import run, surveyed
from tests.graphs import transformer

OPEN = (InputSpec("ids", np.dtype(np.int64), ("n", "s")), InputSpec("mask", np.dtype(np.int64), ("n", "s")))


def sample(number: int, length: int) -> Batch:
    ids = 100 * number + np.arange(length)[None]
    return Batch({"ids": ids, "mask": np.ones_like(ids)}, (number,), np.ones((1, length), bool))


def test_each_half_is_joined_to_another_once_a_round() -> None:
    lengths = [6, 9, 4, 12, 7]
    made = spliced([sample(i, length) for i, length in enumerate(lengths)], OPEN, seed=3)
    assert len(made) == ROUNDS * len(lengths)
    starts, ends = [], []
    for item in made:
        ids = item.feeds["ids"][0]
        first, second = ids[0] // 100, ids[-1] // 100
        assert first != second
        half = lengths[first] // 2
        np.testing.assert_array_equal(ids[:half], 100 * first + np.arange(half))
        np.testing.assert_array_equal(ids[half:], 100 * second + np.arange(lengths[second] // 2, lengths[second]))
        assert item.valid is not None
        assert item.feeds["mask"].shape == item.valid.shape == (1, len(ids))
        starts.append(first)
        ends.append(second)
    for each in (starts, ends):
        rounds = [sorted(each[start : start + len(lengths)]) for start in range(0, len(each), len(lengths))]
        assert rounds == [list(range(len(lengths)))] * ROUNDS
    assert starts[: len(lengths)] != starts[len(lengths) :]


@pytest.mark.parametrize("shape", [("n", 8), (1, "s"), ("n",), ()])
def test_nothing_is_made_of_what_is_no_sequence_of_open_length(shape: tuple[int | str, ...]) -> None:
    inputs = (OPEN[0], InputSpec("mask", np.dtype(np.int64), shape))
    assert spliced([sample(i, 6) for i in range(4)], inputs, seed=0) == ()


def test_short_samples_and_lone_ones_are_left_out() -> None:
    assert spliced([sample(0, 3), sample(1, 6), sample(2, 2)], OPEN, seed=0) == ()
    assert spliced([], OPEN, seed=0) == ()


def test_made_samples_are_learnt_from_and_not_taken_for_seen() -> None:
    random = np.random.default_rng(0)
    pooled = random.standard_normal((400, 48)).astype(np.float32)
    slope = random.standard_normal(48) / 4
    impact = np.exp(pooled @ slope + 0.5 * random.standard_normal(400))
    # The made ones reach further than the others.
    pooled[40:] *= 2.0
    impact[40:] = np.exp(pooled[40:] @ slope)
    few, more = fit_gate(pooled[:40], impact[:40]), fit_gate(pooled, impact, real=40)
    assert more.predicted.shape == few.predicted.shape == (40,)
    assert np.corrcoef(more.gate.weight, slope)[0, 1] > np.corrcoef(few.gate.weight, slope)[0, 1]
    scores = pooled @ more.gate.weight + more.gate.bias
    assert scores[:40].min() > more.gate.floor > scores.min()


def test_what_the_original_makes_of_them_is_what_it_makes_of_any_sample() -> None:
    network = transformer()
    found = surveyed(network)
    items = [Batch(network.feeds(batch=1, length=5 + i, seed=i), (i,), None) for i in range(6)]
    inputs, output = input_specs(found.model), found.model.graph.output[0].name
    read = {region.entry: region for region in found.survey.blocks[1:3]}
    loss = resolve_loss("relative-l2", run(found.model, items[0].feeds)[output], None)
    made = made_samples(found.model, read, items, inputs, output, loss, seed=1)
    assert made is not None
    assert [item.feeds.keys() for item in made.judged.items] == ROUNDS * [item.feeds.keys() for item in items]
    session = open_session(with_outputs(found.model, sorted(read)).SerializeToString())
    for row, (item, reference) in enumerate(zip(made.judged.items, made.judged.references, strict=True)):
        values = session.run(item.feeds)
        np.testing.assert_array_equal(reference, values[output])
        for name, region in read.items():
            np.testing.assert_array_equal(made.pooled[name][row : row + 1], pooled_rows(values[name], region))


def test_a_model_that_refuses_them_or_a_loss_that_needs_labels_gets_none() -> None:
    network = transformer()
    found = surveyed(network)
    items = [Batch(network.feeds(batch=1, length=6, seed=i), (i,), None) for i in range(4)]
    inputs, output = input_specs(found.model), found.model.graph.output[0].name
    read = {region.entry: region for region in found.survey.blocks[1:2]}
    reference = run(found.model, items[0].feeds)[output]
    labelled = resolve_loss("accuracy", reference[:, 0], np.zeros(1, np.int64))
    assert made_samples(found.model, read, items, inputs, output, labelled, seed=0) is None
    outside = [Batch({**item.feeds, "ids": item.feeds["ids"] + 10**6}, item.indices, None) for item in items]
    loss = resolve_loss("relative-l2", reference, None)
    assert made_samples(found.model, read, outside, inputs, output, loss, seed=0) is None
