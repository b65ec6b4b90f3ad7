"""Blocks that compute the same are timed together."""

from __future__ import annotations

from skipc.compiler.alike import alike
from tests.gated import block, surveyed
from tests.graphs import transformer


def test_blocks_of_one_kind_and_size_are_alike() -> None:
    found = surveyed(transformer(layers=2))
    blocks = [block(region) for region in found.survey.blocks]
    assert [item.region.kind for item in blocks] == ["attention", "feed-forward"] * 2
    assert alike(blocks, found.model) == ((0, 2), (1, 3))


def test_other_bypasses_are_not_alike() -> None:
    found = surveyed(transformer(layers=2))
    kinds = ("linear", "affine", "affine", "affine")
    blocks = [block(region, kind) for region, kind in zip(found.survey.blocks, kinds, strict=True)]
    assert alike(blocks, found.model) == ((0,), (1, 3), (2,))
