"""Products with weights in few bits: read as the runtime reads them, and narrowed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from skipc.passes.bits import Bits, packed_weight
from skipc.passes.builder import Builder
from skipc.passes.flow import Flow
from skipc.passes.narrow import Hidden, constants_of, find_hidden
from skipc.passes.products import product_at
from skipc.runtime.plan import Bypass, Region
from tests.gated import Array, Surveyed, assert_equal, block, instrumented, run, surveyed, window
from tests.graphs import transformer
from tests.quantized import four_bit

FORMS = [(4, False), (4, True), (8, True)]
"""Bits of a weight, and whether levels lie symmetric about zero."""


def written(form: Bits, x: Array, weight: Array) -> Array:
    """What the runtime makes of a product that skipc writes."""
    builder = Builder("new", 17)
    result = form.write(builder, "x", weight)
    fragment = builder.fragment()
    given, made = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", result))
    graph = helper.make_graph(fragment.nodes, "one", [given], [made], fragment.initializers)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return run(helper.make_model(graph, opset_imports=opsets, ir_version=9), {"x": x})[result]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("inputs", [16, 32, 40])
def test_the_runtime_reads_a_packed_weight_as_it_was_meant(bits: int, inputs: int) -> None:
    random = np.random.default_rng(inputs)
    weight = random.standard_normal((inputs, 8)).astype(np.float32)
    read = written(Bits(bits, 16, 0, np.dtype(np.float32)), np.eye(inputs, dtype=np.float32), weight)
    _, scales = packed_weight(weight, bits, 16)
    # The level farthest above the middle is missing, so that what lies there may be off by a whole step.
    step = np.repeat(np.abs(scales), 16, axis=1).T[:inputs]
    assert (np.abs(read - weight) <= 1.001 * step).all()
    assert np.abs(read - weight).mean() < 0.3 * step.mean()


def test_a_block_of_zeros_stays_one() -> None:
    assert not written(Bits(4, 16, 0, np.dtype(np.float32)), np.ones((1, 16), np.float32), np.zeros((16, 2))).any()


def narrowable(found: Surveyed) -> list[tuple[Region, Hidden]]:
    flow, constants = Flow.of(found.model.graph), constants_of(found.model.graph)
    layers = [(region, find_hidden(flow, constants, region)) for region in found.survey.blocks]
    return [(region, hidden) for region, hidden in layers if hidden is not None]


def decoded(found: Surveyed, hidden: Hidden) -> Array:
    """The last projection's weight in float: the product with every unit alone."""
    node = found.model.graph.node[hidden.projection]
    kept = [item for item in found.model.graph.initializer if item.name in node.input]
    given, made = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in (node.input[0], node.output[0])
    )
    graph = helper.make_graph([node], "one", [given], [made], kept)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    return run(model, {node.input[0]: np.eye(hidden.units, dtype=np.float32)})[node.output[0]]


def keeping(found: Surveyed, region: Region, hidden: Hidden, units: Array) -> Bypass:
    """The bypass that keeps these units and the original's own weights for them."""
    flow, constants = Flow.of(found.model.graph), constants_of(found.model.graph)
    made = flow.nodes[hidden.projection].output[0]
    behind = next(node for node in flow.nodes if node.op_type == "Add" and made in node.input)
    shift = next(constants[name] for name in behind.input if name in constants)
    arrays = {"units": units, "weight": np.eye(region.channels), "down": decoded(found, hidden)[units], "shift": shift}
    types = {"units": np.int64}
    return Bypass("narrow", {name: np.asarray(array, types.get(name, np.float32)) for name, array in arrays.items()})


@pytest.mark.parametrize(("bits", "symmetric"), FORMS)
def test_a_narrow_block_is_written_in_as_many_bits(bits: int, symmetric: bool) -> None:
    network = four_bit(transformer(fused=True), bits=bits, symmetric=symmetric)
    found = surveyed(network)
    region, hidden = narrowable(found)[0]
    assert isinstance(hidden.form, Bits)
    assert (hidden.form.bits, hidden.form.accuracy_level) == (bits, 4)
    units = np.arange(0, hidden.units, 2)
    gated = instrumented(found.model, [replace(block(region), bypass=keeping(found, region, hidden, units))])
    then = next(item.g for node in gated.graph.node if node.op_type == "If" for item in node.attribute)
    products = [node for node in then.node if node.op_type == "MatMulNBits"]
    assert [node.op_type for node in then.node].count("MatMul") == 0
    counts = [{item.name: item.i for item in node.attribute} for node in products]
    assert [(item["K"], item["N"]) for item in counts] == [(region.channels, len(units)), (len(units), region.channels)]


@pytest.mark.parametrize(("bits", "symmetric"), FORMS)
def test_a_narrow_block_equals_the_block_that_ignores_the_other_units(bits: int, symmetric: bool) -> None:
    network = four_bit(transformer(fused=True), bits=bits, symmetric=symmetric)
    found = surveyed(network)
    region, hidden = narrowable(found)[0]
    feeds = network.feeds(batch=3)
    units = np.arange(0, hidden.units, 2)
    gated = replace(block(region), bypass=keeping(found, region, hidden, units))
    opened = run(instrumented(found.model, [gated]), {**feeds, "skipc.window": window(1, np.inf)})["hidden"]
    expected = run(blind(found, hidden, units), feeds)["hidden"]
    whole = run(found.model, feeds)["hidden"]
    off, dropped = np.abs(opened - expected).max(), np.abs(whole - expected).max()
    # The kept weights are quantized once more, in blocks of other inputs: a step of 1/8 or 1/128 of the largest.
    assert off <= (0.15 if bits == 4 else 0.02) * np.abs(expected).max()
    assert dropped > 2 * off


def blind(found: Surveyed, hidden: Hidden, kept: Array) -> onnx.ModelProto:
    """The original with zeros for all other units before its last projection."""
    copy = onnx.ModelProto()
    copy.CopyFrom(found.model)
    mask = np.isin(np.arange(hidden.units), kept).astype(np.float32)
    copy.graph.initializer.append(onnx.numpy_helper.from_array(mask, "kept"))
    node = copy.graph.node[hidden.projection]
    node.input[0] = "masked"
    copy.graph.node.insert(hidden.projection, helper.make_node("Mul", [hidden.value, "kept"], ["masked"], name="mask"))
    return copy


def test_gates_shut_is_the_original_bit_for_bit() -> None:
    network = four_bit(transformer(fused=True))
    found = surveyed(network)
    region, hidden = narrowable(found)[0]
    gated = replace(block(region), bypass=keeping(found, region, hidden, np.arange(4)))
    feeds = network.feeds(batch=3)
    shut = run(instrumented(found.model, [gated]), {**feeds, "skipc.window": window(1, -np.inf)})
    assert_equal(shut, run(found.model, feeds))


def test_inputs_out_of_order_are_left_alone() -> None:
    found = surveyed(four_bit(transformer(fused=True)))
    flow, constants = Flow.of(found.model.graph), constants_of(found.model.graph)
    place = next(i for i, node in enumerate(flow.nodes) if node.op_type == "MatMulNBits")
    assert product_at(flow, constants, place) is not None
    node = flow.nodes[place]
    node.input[:] = [*node.input, *[""] * (4 - len(node.input)), "order"]
    assert product_at(flow, {**constants, "order": np.arange(16)}, place) is None
