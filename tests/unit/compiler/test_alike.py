"""Blocks that compute the same share what was measured of their times."""

from __future__ import annotations

import numpy as np

from skipc.compiler.alike import evened
from skipc.compiler.impact import Costs
from tests.gated import block, surveyed
from tests.graphs import transformer


def costs(saved: list[float]) -> Costs:
    return Costs(10.0, 10.5, np.array(saved), np.array(saved) / 10, 0.1)


def test_blocks_of_one_kind_and_size_share_their_times() -> None:
    found = surveyed(transformer(layers=2))
    blocks = [block(region) for region in found.survey.blocks]
    assert [item.region.kind for item in blocks] == ["attention", "feed-forward"] * 2
    shared = evened(costs([1.0, 5.0, 3.0, 7.0]), blocks, found.model)
    np.testing.assert_allclose(shared.saved, [2.0, 6.0, 2.0, 6.0])
    np.testing.assert_allclose(shared.split, [0.2, 0.6, 0.2, 0.6])


def test_other_bypasses_are_not_alike() -> None:
    found = surveyed(transformer(layers=2))
    kinds = ("linear", "affine", "affine", "affine")
    blocks = [block(region, kind) for region, kind in zip(found.survey.blocks, kinds, strict=True)]
    shared = evened(costs([1.0, 5.0, 3.0, 7.0]), blocks, found.model)
    np.testing.assert_allclose(shared.saved, [1.0, 6.0, 3.0, 6.0])
