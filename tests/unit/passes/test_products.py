"""Products in 8 bits: recognised, written anew, narrowed, and run for some rows with their scales held."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from skipc.compiler.data import Batch
from skipc.compiler.independence import dependent
from skipc.passes.base import run_passes
from skipc.passes.builder import Builder
from skipc.passes.expose import with_outputs
from skipc.passes.flow import Flow, node_set
from skipc.passes.freeze import FreezeScales, quantizes_dynamically, scales_of
from skipc.passes.integers import FusedIntegers, Integers, quantized_weight
from skipc.passes.narrow import Hidden, constants_of, find_hidden
from skipc.passes.products import form_of, product_at
from skipc.runtime.plan import Block, Bypass, Region
from tests.arithmetic import exactly
from tests.gated import Array, Surveyed, assert_equal, block, deciding, instrumented, run, surveyed, window
from tests.graphs import Net, Network, mlp, transformer
from tests.quantized import dynamic_int8, optimised

FORMS = {
    "signed": {},
    "by channel": {"per_channel": True},
    "unsigned": {"unsigned": True},
    "reduced": {"reduced": True},
}


def encoder() -> Network:
    """A post-norm encoder of two layers."""
    return transformer(fused=True)


def narrowable(found: Surveyed) -> list[tuple[Region, Hidden]]:
    flow, constants = Flow.of(found.model.graph), constants_of(found.model.graph)
    layers = [(region, find_hidden(flow, constants, region)) for region in found.survey.blocks]
    return [(region, hidden) for region, hidden in layers if hidden is not None]


def integers_of(hidden: Hidden) -> Integers:
    assert isinstance(hidden.form, Integers)
    return hidden.form


@pytest.mark.parametrize("form", FORMS)
def test_every_product_with_a_weight_is_recognised(form: str) -> None:
    model = surveyed(dynamic_int8(encoder(), **FORMS[form])).model
    flow, constants = Flow.of(model.graph), constants_of(model.graph)
    found = [product_at(flow, constants, i) for i, node in enumerate(flow.nodes) if node.op_type == "Mul"]
    products = [product for product in found if product is not None]
    quantized = {node.output[0] for node in flow.nodes if node.op_type == "DynamicQuantizeLinear"}
    # What reads rows of a quantized table is none: nothing is there in float.
    expected = [node for node in flow.nodes if node.op_type == "MatMulInteger" and node.input[0] in quantized]
    assert len(products) == len(expected) == 10
    assert all(product.form is not None and product.inputs for product in products)


@pytest.mark.parametrize(
    ("form", "elem_type", "largest"),
    [("signed", TensorProto.INT8, 127), ("unsigned", TensorProto.UINT8, 127), ("reduced", TensorProto.INT8, 64)],
)
def test_new_weights_have_the_type_and_the_range_of_the_old(form: str, elem_type: int, largest: int) -> None:
    found = surveyed(dynamic_int8(encoder(), **FORMS[form]))
    forms = [integers_of(hidden) for _, hidden in narrowable(found)]
    assert forms
    assert {(item.elem_type, item.largest) for item in forms} == {(elem_type, largest)}


def test_a_product_of_floats_is_none_of_8_bits() -> None:
    found = surveyed(encoder())
    flow, constants = Flow.of(found.model.graph), constants_of(found.model.graph)
    assert all(hidden.form is None for _, hidden in narrowable(found))
    every = node_set(range(len(flow.nodes)))
    assert all(form_of(flow, constants, every, region.entry) is None for region in found.survey.blocks)


def test_a_scale_of_another_value_makes_no_product() -> None:
    """Read on its own, the Mul would pass for a product whose result is off by the ratio of two scales."""
    model = surveyed(dynamic_int8(encoder())).model
    flow, constants = Flow.of(model.graph), constants_of(model.graph)
    place = next(i for i, node in enumerate(flow.nodes) if product_at(flow, constants, i))
    pair = next(flow.nodes[flow.producer[name]] for name in flow.nodes[place].input if "scales" in name)
    scales = [node.output[1] for node in flow.nodes if node.op_type == "DynamicQuantizeLinear"]
    pair.input[0] = next(name for name in scales if name not in pair.input)
    assert product_at(Flow.of(model.graph), constants, place) is None


@pytest.mark.parametrize("form", ["signed", "unsigned", "reduced"])
def test_a_written_product_is_the_integer_product(form: str) -> None:
    found = surveyed(dynamic_int8(encoder(), **FORMS[form]))
    like = integers_of(narrowable(found)[0][1])
    random = np.random.default_rng(0)
    x, weight = (random.standard_normal(shape).astype(np.float32) for shape in ((5, 8), (8, 3)))
    builder = Builder("new", 17)
    result = like.write(builder, "x", weight)
    fragment = builder.fragment()
    given, made = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", result))
    graph = helper.make_graph(fragment.nodes, "one", [given], [made], fragment.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    levels, steps = quantized_weight(weight, like.largest)
    step = (max(x.max(), 0) - min(x.min(), 0)) / 255
    rounded = np.rint(x / step) * step
    found_product = exactly(model, {"x": x})[result]
    # Zero lies on a level of its own, which moves every other one by less than half a step.
    off = 0.51 * step * np.abs(levels * steps).sum(axis=0)
    assert (np.abs(found_product - rounded @ (levels * steps)) <= off).all()
    assert np.abs(found_product - x @ weight).max() > 1e-5
    assert np.abs(levels).max() == like.largest
    assert np.abs(levels * steps - weight).max() <= 0.501 * steps.max()


def test_a_column_of_zeros_stays_one() -> None:
    levels, steps = quantized_weight(np.zeros((4, 2), np.float32), 127)
    assert not levels.any()
    assert (steps > 0).all()


def handmade(found: Surveyed, region: Region, hidden: Hidden, units: Array, *, direct: bool = False) -> Bypass:
    """The bypass that keeps these units and the original's own weights for them."""
    flow, constants = Flow.of(found.model.graph), constants_of(found.model.graph)
    product = product_at(flow, constants, hidden.projection)
    assert product is not None
    scale, zero_point = (constants[name] for name in product.others)
    weight = (constants[product.weight].astype(np.float32) - zero_point) * scale
    behind = next(
        node
        for node in flow.nodes
        if node.op_type == "Add" and set(flow.nodes[hidden.projection].output) & set(node.input)
    )
    shift = next(constants[name] for name in behind.input if name in constants)
    # A linear path that is not exactly the identity, and next to nothing.
    weights = np.eye(region.channels, dtype=np.float32) * (1 + 1e-6 * direct)
    arrays = {"units": units.astype(np.int64), "weight": weights, "down": weight[units], "shift": shift}
    return Bypass("narrow", {name: np.ascontiguousarray(array) for name, array in arrays.items()})


def without_units(model: onnx.ModelProto, hidden: Hidden, kept: Array) -> onnx.ModelProto:
    """The original with the last projection blind to all other units: their weights stand at the zero point."""
    flow, constants = Flow.of(model.graph), constants_of(model.graph)
    product = product_at(flow, constants, hidden.projection)
    assert product is not None
    blind = constants[product.weight].copy()
    others = np.setdiff1d(np.arange(hidden.units), kept)
    blind[others] = constants[product.others[1]]
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for item in copy.graph.initializer:
        if item.name == product.weight:
            item.CopyFrom(numpy_helper.from_array(blind, product.weight))
    return copy


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("direct", [False, True])
def test_a_narrow_block_equals_the_block_that_ignores_the_other_units(form: str, direct: bool) -> None:
    network = dynamic_int8(encoder(), **FORMS[form])
    found = surveyed(network)
    region, hidden = narrowable(found)[0]
    units = np.arange(0, hidden.units, 2)
    gated = replace(block(region), bypass=handmade(found, region, hidden, units, direct=direct))
    feeds = network.feeds(batch=3)
    opened = run(instrumented(found.model, [gated]), {**feeds, "skipc.window": window(1, np.inf)})["hidden"]
    expected = run(without_units(found.model, hidden, units), feeds)["hidden"]
    whole = run(found.model, feeds)["hidden"]
    off, dropped = np.abs(opened - expected).max(), np.abs(whole - expected).max()
    # Steps of 1/64 to 1/255 of a range, twice over, in one block; dropping half of the units must be far from that.
    assert off <= 0.05 * np.abs(expected).max()
    assert dropped > 3 * off


@pytest.mark.parametrize("kind", ["linear", "narrow"])
def test_what_comes_in_quantized_goes_out_quantized(kind: str) -> None:
    found = surveyed(dynamic_int8(encoder()))
    region, hidden = narrowable(found)[0]
    item = block(region) if kind == "linear" else _narrow(found, region, hidden)
    gated = instrumented(found.model, [item])
    node = next(node for node in gated.graph.node if node.op_type == "If")
    then = next(attribute.g for attribute in node.attribute if attribute.name == "then_branch")
    operators = [inner.op_type for inner in then.node]
    assert "MatMul" not in operators
    assert operators.count("MatMulInteger") == (1 if kind == "linear" else 2)
    weights = {item.name: item.data_type for item in gated.graph.initializer}
    read = {name for inner in then.node if inner.op_type == "MatMulInteger" for name in inner.input[1:2]}
    assert {weights[name] for name in read} == {TensorProto.INT8}


def _narrow(found: Surveyed, region: Region, hidden: Hidden) -> Block:
    return replace(block(region), bypass=handmade(found, region, hidden, np.arange(0, hidden.units, 2)))


def test_gates_shut_is_the_original_bit_for_bit() -> None:
    network = dynamic_int8(encoder())
    found = surveyed(network)
    blocks = [_narrow(found, region, hidden) for region, hidden in narrowable(found)]
    assert len(blocks) == 2
    feeds = network.feeds(batch=3)
    shut = run(instrumented(found.model, blocks), {**feeds, "skipc.window": window(2, -np.inf)})
    assert_equal(shut, run(found.model, feeds))


def test_held_scales_give_the_same_values() -> None:
    network = dynamic_int8(encoder())
    model = surveyed(network).model
    feeds, scales = network.feeds(batch=3), scales_of(model)
    values = run(with_outputs(model, scales), feeds)
    frozen = run_passes(model, [FreezeScales()])
    assert scales
    assert not quantizes_dynamically(frozen)
    held = {name: values[name] for name in scales}
    assert_equal(run(frozen, {**feeds, **held}), {"hidden": values["hidden"]})


@pytest.mark.parametrize("granularity", ["sample", "token"])
def test_rows_are_proved_independent_but_for_their_common_scale(granularity: str) -> None:
    network = dynamic_int8(encoder())
    found = surveyed(network)
    blocks = [deciding(_narrow(found, *pair), granularity) for pair in narrowable(found)]
    batch = Batch(network.feeds(batch=4), (0, 1, 2, 3), None)
    assert dependent(found.model, blocks, [batch]) == {}


def test_a_quantized_block_that_mixes_rows_is_refused() -> None:
    net = Net(17)
    value = net.linear("x", 6, 12)
    centred = net.node("Sub", value, net.mean(value, [0]))
    value = net.node("Add", value, net.node("Tanh", net.linear(centred, 12, 12)))
    net.node("MatMul", value, net.weight(12, 3), output="y")
    network = dynamic_int8(net.network([net.tensor("x", "batch", 6)], [net.tensor("y", "batch", 3)]))
    found = surveyed(network)
    item = deciding(block(found.survey.blocks[0]), "sample")
    batch = Batch(network.feeds(batch=4), (0, 1, 2, 3), None)
    assert "a row changes by" in dependent(found.model, [item], [batch])[item.region.name]


def test_fused_products_are_narrowed_in_their_own_form() -> None:
    network = optimised(dynamic_int8(encoder()))
    found = surveyed(network)
    assert scales_of(found.model)
    region, hidden = narrowable(found)[0]
    assert isinstance(hidden.form, FusedIntegers)
    flow, constants = Flow.of(found.model.graph), constants_of(found.model.graph)
    last = flow.nodes[hidden.projection]
    weight, scale, zero_point, shift = (constants[name] for name in last.input[1:5])
    kept = np.arange(0, hidden.units, 2)
    arrays = {
        "weight": np.eye(region.channels),
        "down": ((weight - zero_point.astype(int)) * scale)[kept],
        "shift": shift,
    }
    typed = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
    bypass = Bypass("narrow", {**typed, "units": kept.astype(np.int64)})
    gated = instrumented(found.model, [replace(block(region), bypass=bypass)])
    blind = onnx.ModelProto.FromString(found.model.SerializeToString())
    item = next(item for item in blind.graph.initializer if item.name == last.input[1])
    masked = np.where(np.isin(np.arange(hidden.units), kept)[:, None], weight, zero_point)
    item.CopyFrom(numpy_helper.from_array(masked, item.name))
    feeds, added = network.feeds(batch=3), last.output[0]
    values = run(with_outputs(blind, [region.entry, added]), feeds)
    # The optimiser has put the normalisation into the node where paths meet: fitting learns it, this bypass has none.
    expected = values[region.entry] + values[added]
    shown = with_outputs(gated, [region.exit])
    opened = run(shown, {**feeds, "skipc.window": window(1, np.inf)})[region.exit]
    whole = values[region.entry] + run(with_outputs(found.model, [added]), feeds)[added]
    off = np.abs(opened - expected).max()
    assert off <= 0.02 * np.abs(expected).max()
    assert np.abs(whole - expected).max() > 3 * off
    then = next(item.g for node in gated.graph.node if node.op_type == "If" for item in node.attribute)
    assert [node.op_type for node in then.node].count("DynamicQuantizeMatMul") == 2


def test_quantizers_inside_branches_count() -> None:
    found = surveyed(dynamic_int8(mlp()))
    gated = instrumented(found.model, [block(region) for region in found.survey.blocks])
    outside = [node for node in gated.graph.node if node.op_type == "DynamicQuantizeLinear"]
    for node in outside:
        gated.graph.node.remove(node)
    assert quantizes_dynamically(gated)
    assert not quantizes_dynamically(surveyed(mlp()).model)
