"""Blocks that compute the same are timed together, and a chain saves what its parts do."""

from __future__ import annotations

import pytest

from skipc.compiler.alike import alike
from skipc.compiler.gating import priced
from skipc.compiler.options import Option
from skipc.passes.flow import Flow
from skipc.passes.policy import with_policy
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


def test_a_chain_saves_what_its_parts_do() -> None:
    found = surveyed(transformer(layers=2))
    regions = found.survey.blocks
    saved = (0.25, 1.0, -0.125, 2.0)
    blocks = [block(region, "linear") for region in regions]
    options = [
        Option(region, item.bypass, 0.01, saved_ms, 0)
        for region, item, saved_ms in zip(regions, blocks, saved, strict=True)
    ]
    assert [item.saved_ms for item in priced(blocks, options)] == [0.25, 1.0, 0.0, 2.0]
    chains = with_policy(blocks, "merged", Flow.of(found.model.graph))
    assert len(chains) < len(blocks)
    assert sum(item.saved_ms for item in priced(chains, options)) == pytest.approx(3.25)
