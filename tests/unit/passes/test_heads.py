"""A narrow bypass of attention is the block itself with fewer heads, proved to stay apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper

from skipc.compiler.data import Batch
from skipc.compiler.head_proof import with_proof
from skipc.passes.base import run_passes
from skipc.passes.flow import Flow
from skipc.passes.heads import find_heads
from skipc.passes.inject import ReplaceRegions
from skipc.passes.narrow import Hidden, constants_of, features_of
from skipc.passes.restore import Restore
from skipc.runtime import names
from skipc.runtime.plan import Block, Bypass, Region
from tests.compiled import built
from tests.gated import Array, Surveyed, assert_equal, block, deciding, instrumented, run, surveyed, window
from tests.graphs import HEADS, WIDTH, Network, transformer
from tests.unit.passes.test_narrow import ROUNDING, behind, last_weight

KEPT = np.arange(0, HEADS, 2)


def heads_in(model: onnx.ModelProto, regions: tuple[Region, ...]) -> dict[str, Hidden]:
    flow, constants = Flow.of(model.graph), constants_of(model.graph)
    found = {region.name: find_heads(flow, constants, region) for region in regions}
    return {name: hidden for name, hidden in found.items() if hidden is not None}


def blind(model: onnx.ModelProto, hidden: Hidden) -> onnx.ModelProto:
    """The original with the last projection blind to heads that are not kept."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    name, weight = last_weight(model, hidden)
    weight = weight.copy()
    weight[np.setdiff1d(np.arange(len(weight)), features_of(KEPT, hidden.width))] = 0
    holder = next(item for item in changed.graph.initializer if item.name == name)
    holder.CopyFrom(onnx.numpy_helper.from_array(weight, name))
    return changed


def own_heads(found: Surveyed, region: Region, hidden: Hidden) -> Bypass:
    """The bypass that keeps some heads and the original's own weights for them."""
    _, weight = last_weight(found.model, hidden)
    arrays: Mapping[str, Array] = {
        "units": KEPT.astype(np.int64),
        "weight": np.eye(region.channels, dtype=np.float32),
        "down": np.ascontiguousarray(weight[features_of(KEPT, hidden.width)]),
        "shift": behind(found.model, region, hidden),
    }
    return Bypass("narrow", arrays)


def items(network: Network) -> list[Batch]:
    return [Batch(network.feeds(batch=2), (0, 1), None)]


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_heads_are_found_where_there_is_attention(norm: str) -> None:
    found = surveyed(transformer(norm=norm))
    heads = heads_in(found.model, found.survey.blocks)
    assert set(heads) == {region.name for region in found.survey.blocks if region.kind == "attention"}
    assert {(hidden.units, hidden.width) for hidden in heads.values()} == {(HEADS, WIDTH // HEADS)}


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_fewer_heads_are_the_block_blind_to_the_others(norm: str) -> None:
    network = transformer(norm=norm)
    found = surveyed(network)
    region = next(item for item in found.survey.blocks if item.kind == "attention")
    hidden = heads_in(found.model, (region,))[region.name]
    gated = replace(block(region), bypass=own_heads(found, region, hidden))
    feeds = network.feeds(batch=3)
    expected = run(blind(found.model, hidden), feeds)["hidden"]
    result = run(instrumented(found.model, [gated]), {**feeds, "skipc.window": window(1, np.inf)})["hidden"]
    assert np.abs(expected - result).max() <= ROUNDING * np.abs(expected).max()
    assert np.abs(expected - run(found.model, feeds)["hidden"]).max() > 10 * ROUNDING * np.abs(expected).max()


def guarded(network: Network) -> Network:
    """The same with 0 in place of NaN behind softmax, as PyTorch's exporters write it."""
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    nodes = []
    for node in model.graph.node:
        nodes.append(node)
        if node.op_type == "Softmax":
            result, name = node.output[0], f"guard/{node.output[0]}"
            node.output[0] = f"{name}/bare"
            zero = onnx.numpy_helper.from_array(np.zeros(1, np.float32))
            nodes += [
                helper.make_node("IsNaN", [node.output[0]], [f"{name}/bad"], name=f"{name}/bad"),
                helper.make_node("Constant", [], [f"{name}/zero"], name=f"{name}/zero", value=zero),
                helper.make_node("Where", [f"{name}/bad", f"{name}/zero", node.output[0]], [result], name=name),
            ]
    graph = helper.make_graph(nodes, "net", model.graph.input, model.graph.output, model.graph.initializer)
    rebuilt = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    return Network(rebuilt, network.inputs)


def narrow_attention(network: Network, granularity: str) -> tuple[Surveyed, list[Block]]:
    """The network, and all of its attention on fewer heads."""
    found = surveyed(network)
    heads = heads_in(found.model, found.survey.blocks)
    regions = [region for region in found.survey.blocks if region.name in heads]
    bypasses = [own_heads(found, region, heads[region.name]) for region in regions]
    return found, [
        deciding(replace(block(region), bypass=bypass), granularity)
        for region, bypass in zip(regions, bypasses, strict=True)
    ]


def test_fewer_heads_do_without_the_test_for_nan() -> None:
    network = transformer()
    found, blocks = narrow_attention(guarded(network), "batch")
    bare, same = narrow_attention(network, "batch")
    assert "IsNaN" in {node.op_type for node in found.model.graph.node}
    changed, expected = (
        run_passes(model.model, [ReplaceRegions(tuple(items))]) for model, items in ((found, blocks), (bare, same))
    )
    assert "IsNaN" not in {node.op_type for node in changed.graph.node}
    read = {name for node in changed.graph.node for name in node.input}
    assert all(node.output[0] in read for node in changed.graph.node if node.op_type == "Constant")
    feeds = network.feeds(batch=3)
    assert_equal(run(changed, feeds), run(expected, feeds))


@pytest.mark.parametrize("granularity", ["batch", "sample"])
def test_so_do_they_where_rows_decide(granularity: str) -> None:
    network = transformer()
    found, blocks = narrow_attention(guarded(network), granularity)
    bare, same = narrow_attention(network, granularity)
    feeds = network.feeds(batch=4)
    for limit in (-np.inf, 0.0, np.inf):
        gated, expected = (
            run(instrumented(model.model, items), {**feeds, names.WINDOW: window(len(items), limit)})
            for model, items in ((found, blocks), (bare, same))
        )
        assert_equal(gated, expected)
    original = guarded(network).model
    restored = Restore().apply(built(found, blocks))
    assert restored.SerializeToString(deterministic=True) == original.SerializeToString(deterministic=True)


def test_heads_that_stay_apart_are_proved() -> None:
    network = transformer()
    found = surveyed(network)
    heads = heads_in(found.model, found.survey.blocks)
    assert set(with_proof(found.model, heads, items(network), Flow.of(found.model.graph))) == set(heads)


def test_heads_that_see_one_another_are_no_units() -> None:
    """A softmax over heads instead of positions looks the same from afar."""
    network = transformer()
    found = surveyed(network)
    model = onnx.ModelProto()
    model.CopyFrom(found.model)
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    softmax.attribute[0].i = 1
    heads = heads_in(model, found.survey.blocks)
    proved = with_proof(model, heads, items(network), Flow.of(model.graph))
    mixed = {region.name for region in found.survey.blocks if softmax.name in region.nodes}
    assert mixed
    assert set(proved) == set(heads) - mixed


def test_without_data_nothing_is_proved() -> None:
    found = surveyed(transformer())
    heads = heads_in(found.model, found.survey.blocks)
    assert heads
    assert not with_proof(found.model, heads, [], Flow.of(found.model.graph))
