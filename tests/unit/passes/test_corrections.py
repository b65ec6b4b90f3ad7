"""Corrections of zero change nothing; others are added where the bypass writes, and the error is what it says."""

from __future__ import annotations

import numpy as np
import pytest

from skipc.passes.base import run_passes
from skipc.passes.corrections import AddCorrections, AddError, Correction
from skipc.passes.expose import with_outputs
from skipc.passes.inject import ReplaceRegions
from skipc.runtime import names
from tests.gated import block, run, surveyed
from tests.graphs import transformer


@pytest.mark.parametrize("kind", ["affine", "low-rank", "linear"])
def test_corrections_are_added_to_what_the_bypass_writes(kind: str) -> None:
    network = transformer()
    found, feeds = surveyed(network), network.feeds(batch=2, length=3)
    bypassed = block(found.survey.blocks[1], kind)
    region = bypassed.region
    correction = Correction(region, region.entry, region.channels)
    replaced = run_passes(found.model, [ReplaceRegions((bypassed,))])
    before = run(with_outputs(replaced, [region.entry, correction.merged]), feeds)
    corrected = run_passes(replaced, [AddCorrections((correction,))])
    random = np.random.default_rng(0)
    weight = random.standard_normal((region.channels, region.channels)).astype(np.float32)
    shift = random.standard_normal(before[correction.merged].shape).astype(np.float32)

    def fed(scale: float) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
        added = {names.weight(correction.merged): weight, names.shift(correction.merged): shift}
        return {**feeds, **{name: np.float32(scale) * array for name, array in added.items()}}

    still = run(corrected, fed(0.0))
    for item in found.model.graph.output:
        np.testing.assert_array_equal(still[item.name], before[item.name])
    moved = run(with_outputs(corrected, [correction.merged]), fed(1.0))[correction.merged]
    expected = before[correction.merged] + before[region.entry] @ weight + shift
    np.testing.assert_allclose(moved, expected, rtol=1e-4, atol=1e-4)


def test_the_error_is_weighed_and_summed_up() -> None:
    network = transformer()
    found, feeds = surveyed(network), network.feeds(batch=2, length=3)
    values = [found.survey.blocks[0].exit, found.model.graph.output[0].name]
    made = run(with_outputs(found.model, values), feeds)
    random = np.random.default_rng(0)
    wanted = {value: random.standard_normal(made[value].shape).astype(np.float32) for value in values}
    weights = np.array([0.5, 3.0], np.float32)
    model = run_passes(found.model, [AddError(tuple((value, made[value].ndim) for value in values))])
    fed = {**feeds, names.ERROR_WEIGHTS: weights, **{names.wanted(value): wanted[value] for value in values}}
    squares = [float(((made[value].astype(np.float64) - wanted[value]) ** 2).sum()) for value in values]
    result = run(model, fed)
    assert list(result) == [names.ERROR]
    np.testing.assert_allclose(result[names.ERROR], [float(weights @ np.array(squares))], rtol=1e-5)
