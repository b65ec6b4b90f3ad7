"""A narrow bypass is the block itself with fewer hidden units."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from skipc.passes.base import run_passes
from skipc.passes.flow import Flow
from skipc.passes.inject import ReplaceRegions
from skipc.passes.narrow import Hidden, constants_of, find_hidden
from skipc.runtime.plan import Bypass, Region
from tests.gated import Array, Surveyed, block, instrumented, run, surveyed, window
from tests.graphs import Net, Network, conv_net, gated_mlps, mbconv, transformer

ROUNDING = 1e-4
"""Relative, of float32 sums in another order over at most a few hundred terms, through two blocks."""


def first_narrowable(found: Surveyed) -> tuple[Region, Hidden]:
    flow, constants = Flow.of(found.model.graph), constants_of(found.model.graph)
    layers = ((region, find_hidden(flow, constants, region)) for region in found.survey.blocks)
    return next((region, hidden) for region, hidden in layers if hidden is not None)


def last_weight(model: onnx.ModelProto, hidden: Hidden) -> tuple[str, Array]:
    name = Flow.of(model.graph).nodes[hidden.projection].input[1]
    return name, constants_of(model.graph)[name]


def behind(model: onnx.ModelProto, region: Region, hidden: Hidden) -> Array:
    """What is added behind the last projection: the bias, wherever the exporter put it."""
    flow, constants = Flow.of(model.graph), constants_of(model.graph)
    node = flow.nodes[hidden.projection]
    if len(node.input) > 2:
        return constants[node.input[2]]
    adds = [item for item in flow.nodes if item.op_type == "Add" and node.output[0] in item.input]
    found = [constants[name] for item in adds for name in item.input if name in constants]
    return found[0] if found else np.zeros(region.channels, np.float32)


def handmade(found: Surveyed, region: Region, hidden: Hidden, units: Array) -> Bypass:
    """The bypass that keeps these units and the original's own weights for them."""
    _, weight = last_weight(found.model, hidden)
    rows = np.moveaxis(weight[:, units], 0, -1).reshape(-1, region.channels) if weight.ndim > 2 else weight[units]
    arrays: dict[str, Array] = {
        "units": np.asarray(units, np.int64),
        "weight": np.eye(region.channels, dtype=np.float32),
        "down": np.ascontiguousarray(rows),
        "shift": behind(found.model, region, hidden),
    }
    return Bypass("narrow", arrays)


def without_units(model: onnx.ModelProto, hidden: Hidden, kept: Array) -> onnx.ModelProto:
    """The original with the last projection blind to all other units."""
    name, weight = last_weight(model, hidden)
    axis = 1 if weight.ndim > 2 else 0
    mask = np.zeros(weight.shape[axis], weight.dtype)
    mask[kept] = 1
    blind = weight * np.expand_dims(mask, [i for i in range(weight.ndim) if i != axis])
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for item in copy.graph.initializer:
        if item.name == name:
            item.CopyFrom(numpy_helper.from_array(blind, name))
    return copy


NETWORKS = {"convolutions": conv_net, "convolutions, activation first": lambda: conv_net(relu_behind=False)}


@pytest.mark.parametrize("name", [*NETWORKS, "transformer"])
@pytest.mark.parametrize("kept", ["all", "some"])
def test_a_narrow_block_equals_the_block_that_ignores_the_other_units(name: str, kept: str) -> None:
    network: Network = transformer() if name == "transformer" else NETWORKS[name]()
    found = surveyed(network)
    region, hidden = first_narrowable(found)
    units = np.arange(hidden.units) if kept == "all" else np.arange(0, hidden.units, 3)
    gated = replace(block(region), bypass=handmade(found, region, hidden, units))
    feeds = network.feeds(batch=3)
    opened = run(instrumented(found.model, [gated]), {**feeds, "skipc.window": window(1, np.inf)})
    expected = run(without_units(found.model, hidden, units), feeds)
    for output, array in expected.items():
        np.testing.assert_allclose(opened[output], array, rtol=ROUNDING, atol=ROUNDING * np.abs(array).max())


def test_dropping_units_changes_the_result() -> None:
    network = conv_net()
    found = surveyed(network)
    _, hidden = first_narrowable(found)
    feeds = network.feeds(batch=3)
    whole, blind = run(found.model, feeds), run(without_units(found.model, hidden, np.arange(0, 8, 3)), feeds)
    assert np.abs(whole["logits"] - blind["logits"]).max() > 10 * ROUNDING * np.abs(whole["logits"]).max()


def test_attention_has_no_hidden_layer_to_slice() -> None:
    found = surveyed(transformer())
    flow, constants = Flow.of(found.model.graph), constants_of(found.model.graph)
    attention = [region for region in found.survey.blocks if region.kind == "attention"]
    assert attention
    assert all(find_hidden(flow, constants, region) is None for region in attention)


def test_units_that_are_weighed_by_all_of_them_cannot_be_sliced() -> None:
    """Squeeze-and-excitation reads every unit to weigh each: fewer of them do not fit its first projection."""
    found = surveyed(mbconv())
    flow, constants = Flow.of(found.model.graph), constants_of(found.model.graph)
    assert [find_hidden(flow, constants, region) for region in found.survey.blocks] == [None, None]


def test_both_projections_of_a_gated_block_are_sliced() -> None:
    network = gated_mlps(hidden=24)
    found = surveyed(network)
    region, hidden = first_narrowable(found)
    assert hidden.units == 24
    assert len(hidden.slices) == 2
    gated = replace(block(region), bypass=handmade(found, region, hidden, np.arange(0, 24, 3)))
    feeds = network.feeds(batch=3)
    opened = run(instrumented(found.model, [gated]), {**feeds, "skipc.window": window(1, np.inf)})["logits"]
    expected = run(without_units(found.model, hidden, np.arange(0, 24, 3)), feeds)["logits"]
    np.testing.assert_allclose(opened, expected, rtol=ROUNDING, atol=ROUNDING * np.abs(expected).max())


def test_gates_shut_is_the_original_bit_for_bit() -> None:
    network = conv_net()
    found = surveyed(network)
    region, hidden = first_narrowable(found)
    gated = replace(block(region), bypass=handmade(found, region, hidden, np.arange(2)))
    feeds = network.feeds(batch=3)
    shut = run(instrumented(found.model, [gated]), {**feeds, "skipc.window": window(1, -np.inf)})
    assert run(found.model, feeds)["logits"].tobytes() == shut["logits"].tobytes()


@pytest.mark.parametrize("stem", ["merge", "MatMul_2", "Sub_4", "Add_4", "const_1"])
def test_hidden_values_may_have_names_that_skipc_gives(stem: str) -> None:
    net = Net()
    value = net.linear("x", 8, 8)
    hidden = net.node("Relu", net.linear(value, 8, 24), output=stem, name=stem)
    net.node("Tanh", net.node("Add", value, net.linear(hidden, 24, 8)), output="y")
    network = net.network([net.tensor("x", "batch", 8)], [net.tensor("y", "batch", 8)])
    found = surveyed(network)
    region, layer = first_narrowable(found)
    narrow = replace(block(region), bypass=handmade(found, region, layer, np.arange(0, 24, 2)))
    expected = run(without_units(found.model, layer, np.arange(0, 24, 2)), network.feeds())["y"]
    static = run_passes(found.model, [ReplaceRegions((narrow,))])
    np.testing.assert_allclose(run(static, network.feeds())["y"], expected, rtol=1e-4, atol=1e-5)


def weights_of(model: onnx.ModelProto, region: Region) -> tuple[set[str], set[str]]:
    """What is taken from the original's weights, and copies that stand in the graph around the branches."""
    prefix = f"skipc/{region.name}/bypass/kept/"
    taken = {node.output[0] for node in model.graph.node if node.op_type == "Gather" and node.name.startswith(prefix)}
    copied = {item.name for item in model.graph.initializer if item.name.startswith(prefix) and len(item.dims) > 1}
    return taken, copied


def test_kept_weights_are_taken_from_the_original_s() -> None:
    network = gated_mlps(hidden=24)
    found = surveyed(network)
    region, hidden = first_narrowable(found)
    narrow = replace(block(region), bypass=handmade(found, region, hidden, np.arange(0, 24, 3)))
    taken, copied = weights_of(instrumented(found.model, [narrow]), region)
    assert taken == {f"skipc/{region.name}/bypass/kept/{name}" for name in hidden.slices}
    assert not taken & copied
    # Where the region itself goes, its weights are not there any more.
    static = run_passes(found.model, [ReplaceRegions((narrow,))])
    taken, copied = weights_of(static, region)
    assert not taken
    assert copied >= {f"skipc/{region.name}/bypass/kept/{name}" for name in hidden.slices}
    assert not {item.name for item in static.graph.initializer} & hidden.slices.keys()


def test_both_ways_to_keep_weights_compute_the_same() -> None:
    network = gated_mlps(hidden=24)
    found = surveyed(network)
    region, hidden = first_narrowable(found)
    narrow = replace(block(region), bypass=handmade(found, region, hidden, np.arange(0, 24, 3)))
    feeds = network.feeds(batch=3)
    opened = run(instrumented(found.model, [narrow]), {**feeds, "skipc.window": window(1, np.inf)})
    static = run(run_passes(found.model, [ReplaceRegions((narrow,))]), feeds)
    for name, array in static.items():
        np.testing.assert_array_equal(opened[name], array)


def test_kernels_are_copied_since_they_lie_in_the_branch() -> None:
    found = surveyed(conv_net())
    region, hidden = first_narrowable(found)
    narrow = replace(block(region), bypass=handmade(found, region, hidden, np.arange(4)))
    assert not weights_of(instrumented(found.model, [narrow]), region)[0]
