"""A bypass in 8 bits is the block itself, as exact as 8 bits are, row by row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from skipc.passes.base import run_passes
from skipc.passes.eight_bits import KIND, has_products, in_8_bits
from skipc.passes.flow import Flow
from skipc.passes.inject import ReplaceRegions
from skipc.passes.narrow import constants_of
from skipc.runtime.plan import Block, Bypass
from tests.arithmetic import exactly
from tests.gated import Array, Surveyed, block, deciding, instrumented, run, surveyed, window
from tests.graphs import Net, conv_net, transformer

CLOSE = 0.05
"""Relative, of outputs behind two layers whose products carry about 1 % of noise each."""


def blocks_of(found: Surveyed) -> list[Block]:
    return [replace(block(region), bypass=Bypass(KIND)) for region in found.survey.blocks]


def by_hand(value: Array, weight: Array) -> Array:
    """Value · weight, the value rounded to 8 bits row by row and the weight to 7 column by column."""
    step, steps = np.abs(value).max(axis=-1, keepdims=True) / 127, np.abs(weight).max(axis=0) / 64
    return np.asarray(np.rint(value / step) * step @ (np.rint(weight / steps) * steps))


def product_model(weight: Array) -> onnx.ModelProto:
    net = Net()
    net.node("MatMul", "x", net.constant(weight, "w"), output="y", name="product")
    return net.network([net.tensor("x", "batch", "length", len(weight))], [net.tensor("y", "batch", "length", 4)]).model


def product_in_8_bits(weight: Array) -> onnx.ModelProto:
    """x [batch, length, inputs] by the weight, written in 8 bits."""
    graph = product_model(weight).graph
    fragment = in_8_bits(Flow.of(graph), constants_of(graph), [0], {"y": "z"}, "p", 17)
    ends = [helper.make_tensor_value_info(name, 1, ["batch", "length", None]) for name in "xz"]
    written = helper.make_graph(fragment.nodes, "net", ends[:1], ends[1:], fragment.initializers)
    return helper.make_model(written, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_each_row_and_each_column_has_its_own_scale() -> None:
    random = np.random.default_rng(0)
    weight = (random.normal(size=(16, 4)) * [1.0, 10.0, 0.1, 1e-3]).astype(np.float32)
    quantized = product_in_8_bits(weight)
    value = random.normal(size=(2, 3, 16)).astype(np.float32)
    value[0, 1] *= 1000.0
    value[1, 2] = 0.0
    found = exactly(quantized, {"x": value})["z"]
    expected = by_hand(np.where(value == 0, np.float32(1e-30), value), weight)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(weight).max())
    assert np.abs(found - value @ weight).max() > 0


def test_no_processor_lets_sums_overflow() -> None:
    """The largest values by the largest weights, of one sign: pairs of products are added in 16 bits on some."""
    quantized = product_in_8_bits(np.full((64, 4), 3.0, np.float32))
    (levels,) = (item for item in map(numpy_helper.to_array, quantized.graph.initializer) if item.size == 64 * 4)
    assert 2 * 255 * int(np.abs(levels.astype(int)).max()) < 2**15
    for sign in (1.0, -1.0):
        # The levels of both are whole numbers here, so that only the last factors round: 1e-6 relative.
        found = run(quantized, {"x": np.full((1, 2, 64), 5.0 * sign, np.float32)})["z"]
        np.testing.assert_allclose(found, np.full((1, 2, 4), 64 * 15.0 * sign), rtol=1e-5)


@pytest.mark.parametrize("granularity", ["batch", "sample", "token"])
def test_blocks_in_8_bits_are_close_to_the_original_and_shut_they_are_equal(granularity: str) -> None:
    network = transformer()
    found, feeds = surveyed(network), network.feeds()
    blocks = blocks_of(found)
    if granularity == "token":
        blocks = [item for item in blocks if item.region.name.startswith("feed-forward")]
    if granularity != "batch":
        blocks = [deciding(item, granularity) for item in blocks]
    model = instrumented(found.model, blocks)
    original = run(found.model, feeds)
    shut = run(model, {**feeds, "skipc.window": window(len(blocks), -np.inf)})
    opened = run(model, {**feeds, "skipc.window": window(len(blocks), np.inf)})
    static = run(run_passes(found.model, [ReplaceRegions(tuple(blocks))]), feeds)
    exact = exactly(model, {**feeds, "skipc.window": window(len(blocks), np.inf)})
    for name, array in original.items():
        np.testing.assert_array_equal(shut[name], array)
        np.testing.assert_array_equal(static[name], opened[name])
        off = np.linalg.norm(exact[name] - array) / np.linalg.norm(array)
        assert 0 < off < CLOSE


def test_convolutions_are_left_alone() -> None:
    found = surveyed(conv_net())
    flow, constants = Flow.of(found.model.graph), constants_of(found.model.graph)
    assert not any(has_products(flow, constants, region) for region in found.survey.blocks)
