"""Bypasses learn from what the whole network makes of their errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import onnx
import pytest

from skipc.compiler import learn
from skipc.compiler.build import build_static
from skipc.compiler.data import Batch
from skipc.compiler.error_sweep import ErrorSweep, Group, Moves, still_moves
from skipc.compiler.fit import fit_bypass
from skipc.compiler.hidden import observe_hidden
from skipc.compiler.impact import ungated
from skipc.compiler.learn import LEARNT, learnt
from skipc.compiler.moments import observe
from skipc.compiler.narrow_fit import fit_narrow, without_linear
from skipc.passes.corrections import Correction
from skipc.passes.expose import with_outputs
from skipc.runtime.plan import Array, Block
from tests.gated import Surveyed, run, surveyed
from tests.graphs import Network, conv_net, mlp, transformer

STEP = 1e-2


def items_of(network: Network, count: int, first: int = 0) -> tuple[Batch, ...]:
    """Single samples, of two lengths."""
    seeds = range(first, first + count)
    return tuple(Batch(network.feeds(batch=1, length=3 + seed % 2, seed=seed), (seed,), None) for seed in seeds)


def bypassed(found: Surveyed, items: Sequence[Batch]) -> list[Block]:
    """Narrow where there is a hidden layer, linear elsewhere."""
    hidden = observe_hidden(found.model, found.survey.blocks, items, 0)
    seen = observe(found.model, found.survey.blocks, items, 0)
    return [
        ungated(region, fit_narrow(without_linear(hidden[region.name]), (0.5,))[0])
        if region.name in hidden and region.kind != "attention"
        else ungated(region, fit_bypass("linear", seen[region.name].halves))
        for region in found.survey.blocks
    ]


def values_of(found: Surveyed, blocks: Sequence[Block]) -> list[str]:
    return list(dict.fromkeys([*(block.region.exit for block in blocks), found.model.graph.output[0].name]))


def error(model: onnx.ModelProto, blocks: Sequence[Block], items: Sequence[Batch], values: Sequence[str]) -> float:
    """By its definition, with the bypasses written into the model and its values compared with the original's."""
    models = with_outputs(build_static(model, blocks), values), with_outputs(model, values)

    def of(item: Batch) -> float:
        made, wanted = (run(each, item.feeds) for each in models)
        pairs = [(made[value].astype(np.float64), wanted[value].astype(np.float64)) for value in values]
        return sum(float(((one - two) ** 2).sum() / (two**2).sum()) for one, two in pairs)

    return float(np.mean([of(item) for item in items]))


def moved(block: Block, array: str, step: Array) -> Block:
    arrays = block.bypass.arrays
    return replace(block, bypass=replace(block.bypass, arrays={**arrays, array: arrays[array] + step}))


def corrections_of(found: Surveyed, blocks: Sequence[Block]) -> list[Correction]:
    return list(learn._corrections(found.model, blocks).values())


@pytest.mark.parametrize("build", [transformer, lambda: mlp(tail="Tanh")], ids=["transformer", "mlp"])
def test_derivatives_agree_with_central_differences(build: Callable[[], Network]) -> None:
    found, items = surveyed(build()), items_of(build(), 3)
    blocks = bypassed(found, items_of(build(), 60))
    corrections, values = corrections_of(found, blocks), values_of(found, blocks)
    assert [correction.region for correction in corrections] == [block.region for block in blocks]
    assert {block.bypass.kind for block in blocks} >= {"narrow"}
    original = with_outputs(found.model, values)
    groups = [Group(item.feeds, 1, {value: run(original, item.feeds)[value] for value in values}) for item in items]
    sweep = ErrorSweep.of(found.model, blocks, corrections, values, groups)
    derivatives = sweep.derivatives(groups, [still_moves(correction) for correction in corrections])
    random = np.random.default_rng(0)
    for place, (block, derivative) in enumerate(zip(blocks, derivatives, strict=True)):
        for array, gradient in ((LEARNT[block.bypass.kind], derivative.weight), ("shift", derivative.shift)):
            along = random.standard_normal(gradient.shape).astype(np.float32)
            along *= STEP / np.linalg.norm(along)
            ends = []
            for sign in (1.0, -1.0):
                changed = [*blocks[:place], moved(block, array, sign * along), *blocks[place + 1 :]]
                ends.append(error(found.model, changed, items, values))
            expected, size = (ends[0] - ends[1]) / 2.0, STEP * float(np.linalg.norm(gradient))
            # Against the longest derivative that a step of this length could have found.
            assert float((gradient * along).sum()) == pytest.approx(expected, abs=0.02 * size)


def test_at_moves_the_sweep_is_of_the_moved_bypasses() -> None:
    found, items = surveyed(transformer()), items_of(transformer(), 2)
    blocks = bypassed(found, items_of(transformer(), 60))
    corrections, values = corrections_of(found, blocks), values_of(found, blocks)
    original = with_outputs(found.model, values)
    groups = [Group(item.feeds, 1, {value: run(original, item.feeds)[value] for value in values}) for item in items]
    random = np.random.default_rng(1)
    moves = [
        Moves(*(0.1 * random.standard_normal(part.shape).astype(np.float32) for part in (still.weight, still.shift)))
        for still in map(still_moves, corrections)
    ]
    written = [
        moved(moved(block, LEARNT[block.bypass.kind], move.weight), "shift", move.shift)
        for block, move in zip(blocks, moves, strict=True)
    ]
    still = [still_moves(correction) for correction in corrections]
    ours = ErrorSweep.of(found.model, blocks, corrections, values, groups).derivatives(groups, moves)
    theirs = ErrorSweep.of(found.model, written, corrections, values, groups).derivatives(groups, still)
    for one, two in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one.weight, two.weight, rtol=0, atol=1e-3 * np.abs(two.weight).max())
        np.testing.assert_allclose(one.shift, two.shift, rtol=0, atol=1e-3 * np.abs(two.shift).max())


@pytest.mark.parametrize("build", [lambda: transformer(layers=3), mlp], ids=["transformer", "mlp"])
def test_what_was_learnt_holds_on_fresh_data(build: Callable[[], Network]) -> None:
    network = build()
    found, items, fresh = surveyed(network), items_of(network, 300), items_of(network, 60, first=1000)
    blocks = bypassed(found, items)
    output = found.model.graph.output[0].name
    again = learnt(found.model, blocks, items, output, 0)
    assert not isinstance(again, str), again
    assert [block.region for block in again] == [block.region for block in blocks]
    for before, after in zip(blocks, again, strict=True):
        kept = before.bypass.arrays.keys() - {LEARNT[before.bypass.kind], "shift"}
        assert all(after.bypass.arrays[name] is before.bypass.arrays[name] for name in kept)
        assert all(array.dtype == before.bypass.arrays[name].dtype for name, array in after.bypass.arrays.items())
    assert error(found.model, again, fresh, [output]) < 0.95 * error(found.model, blocks, fresh, [output])
    once_more = learnt(found.model, blocks, items, output, 0)
    assert not isinstance(once_more, str)
    for one, two in zip(again, once_more, strict=True):
        for name, array in one.bypass.arrays.items():
            np.testing.assert_array_equal(array, two.bypass.arrays[name])


def test_what_cannot_be_learnt_is_told_in_words() -> None:
    network = conv_net(blocks=2)
    found, items = surveyed(network), items_of(network, 40)
    told = learnt(found.model, bypassed(found, items), items, found.model.graph.output[0].name, 0)
    assert isinstance(told, str)
    assert "features last" in told
    network = transformer()
    found, items = surveyed(network), items_of(network, 60)
    told = learnt(found.model, bypassed(found, items), items, "no-such-output", 0)
    assert isinstance(told, str)
    assert "no-such-output" in told


def test_what_no_memory_is_for_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    network = transformer()
    found, items = surveyed(network), items_of(network, 400)
    values = [found.model.graph.output[0].name]
    whole = learn._groups(found.model, values, items, 0)
    assert sum(group.samples for group in whole) == 400
    assert max(group.samples for group in whole) == learn.TOGETHER
    monkeypatch.setattr(learn, "MOST_BYTES", 1)
    assert 0 < sum(group.samples for group in learn._groups(found.model, values, items, 0)) < 400


def test_every_sample_is_taken_once_an_epoch() -> None:
    groups = [Group({}, 1 + place % 3, {}) for place in range(37)]
    steps = learn._steps(groups, seed=3, epochs=5)
    sizes = [sum(group.samples for group in step) for step in steps]
    assert sum(sizes) == 5 * sum(group.samples for group in groups)
    found = [id(group) for step in steps for group in step]
    assert all(found.count(id(group)) == 5 for group in groups)
    assert sum(size < learn.STEP_SAMPLES for size in sizes) <= 5
    assert max(sizes) < learn.STEP_SAMPLES + 3
