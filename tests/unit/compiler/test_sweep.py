"""A sweep's metrics are the outer products of what central differences find."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from skipc.compiler.data import Batch
from skipc.compiler.moments import rows_of
from skipc.compiler.sweep import swept
from skipc.passes.base import run_passes
from skipc.passes.expose import with_outputs
from skipc.passes.mask import MaskRegions, ShiftMerges
from skipc.runtime import names
from tests.gated import Array, run, surveyed
from tests.graphs import Network, conv_net, mlp, transformer

STEP = 1e-3
DIRECTIONS = 2


def items_of(network: Network) -> tuple[Batch, ...]:
    return tuple(Batch(network.feeds(batch=1, length=3, seed=seed), (seed,), None) for seed in range(2))


@pytest.mark.parametrize("build", [transformer, conv_net, lambda: mlp(tail="Tanh")], ids=["transformer", "conv", "mlp"])
def test_metrics_agree_with_central_differences(build: Callable[[], Network]) -> None:
    found = surveyed(build())
    region, items = found.survey.blocks[0], items_of(build())
    output = found.model.graph.output[0].name
    random = np.random.default_rng(0)
    shape = run(found.model, items[0].feeds)[output].shape
    seeds = {item.indices: random.standard_normal((*shape, DIRECTIONS)).astype(np.float32) for item in items}
    regions = found.survey.regions
    masked = run_passes(found.model, [MaskRegions(regions)])
    result = swept(masked, len(regions), (region,), items, output, lambda item: seeds[item.indices])
    assert not isinstance(result, str), result
    shifted = run_passes(found.model, [ShiftMerges((region,))])
    name = names.shift(region.merge)
    merged = run(with_outputs(found.model, [region.merge]), items[0].feeds)[region.merge].shape

    def moved(item: Batch, place: int, step: float) -> Array:
        shift = np.zeros(merged, np.float32)
        shift.reshape(-1)[place] = step
        return run(shifted, {**item.feeds, name: shift})[output].astype(np.float64)

    expected = np.zeros((region.channels, region.channels))
    for item in items:
        along = seeds[item.indices].reshape(-1, DIRECTIONS).astype(np.float64)
        changes = [
            (moved(item, i, STEP) - moved(item, i, -STEP)).reshape(-1) @ along / (2 * STEP)
            for i in range(int(np.prod(merged)))
        ]
        for direction in range(DIRECTIONS):
            g = rows_of(np.array([change[direction] for change in changes]).reshape(merged), region)
            expected += g.T @ g / (len(items) * DIRECTIONS)
    # Kinks of ReLU within the step; and float32, over differences of 2e-3, leaves three digits.
    scale = np.abs(expected).max()
    np.testing.assert_allclose(result.metrics[region.name], expected, rtol=0, atol=0.02 * scale)


def test_what_cannot_be_swept_is_told_in_words() -> None:
    found = surveyed(mlp())
    masked = run_passes(found.model, [MaskRegions(found.survey.regions)])
    count = len(found.survey.regions)
    told = swept(masked, count, (), items_of(mlp()), "no-such-output", lambda _: np.zeros((1, 1), np.float32))
    assert isinstance(told, str)
    assert "no-such-output" in told
