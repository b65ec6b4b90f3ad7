"""Products with dequantized weights, alone and between quantized values, narrowed in their own form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from skipc.passes.builder import Builder
from skipc.passes.dequantized import Dequantized, dequantizer
from skipc.passes.flow import Flow
from skipc.passes.narrow import Hidden, constants_of, find_hidden
from skipc.passes.products import product_at
from skipc.runtime.plan import Bypass, Region
from skipc.runtime.session import open_session
from tests.arithmetic import saturates
from tests.gated import Array, Surveyed, assert_equal, block, instrumented, run, surveyed, window
from tests.graphs import Network, conv_net, transformer
from tests.quantized import four_bit, static_int8

FORMS: dict[str, tuple[Callable[[], Network], str, float]] = {
    "4 bits": (lambda: four_bit(transformer(fused=True), dequantized=True), "uint4", 0.15),
    "4 bits, symmetric": (lambda: four_bit(transformer(fused=True), dequantized=True, symmetric=True), "int4", 0.15),
    "8 bits all round": (lambda: static_int8(transformer(fused=True)), "int8", 0.05),
    "8 bits all round, by channel": (lambda: static_int8(transformer(fused=True), per_channel=True), "int8", 0.05),
}
"""Each with the type of its weights, and how far a second rounding of one block's weights may move the output."""


def narrowable(found: Surveyed) -> list[tuple[Region, Hidden]]:
    flow, constants = Flow.of(found.model.graph), constants_of(found.model.graph)
    layers = [(region, find_hidden(flow, constants, region)) for region in found.survey.blocks]
    return [(region, hidden) for region, hidden in layers if hidden is not None]


def value_of(model: onnx.ModelProto, name: str) -> Array:
    """A value that no input of the graph changes, by running the node that makes it."""
    flow, constants = Flow.of(model.graph), constants_of(model.graph)
    if name in constants:
        return constants[name]
    node = flow.nodes[flow.producer[name]]
    kept = [item for item in model.graph.initializer if item.name in node.input]
    made = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "one", [], [made], kept)
    return run(helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version), {})[name]


def keeping(found: Surveyed, region: Region, hidden: Hidden, units: Array) -> Bypass:
    """The bypass that keeps these units and the original's own weights for them."""
    flow = Flow.of(found.model.graph)
    last = flow.nodes[hidden.projection]
    made = last.output[0]
    readers = [node for node in flow.nodes if made in node.input]
    while readers[0].op_type != "Add":
        readers = [node for node in flow.nodes if readers[0].output[0] in node.input]
    shift = next(value_of(found.model, name) for name in readers[0].input if flow.is_constant(name))
    weight = value_of(found.model, last.input[1])
    arrays = {"units": units, "weight": np.eye(region.channels), "down": weight[units], "shift": shift}
    types = {"units": np.int64}
    return Bypass("narrow", {name: np.asarray(array, types.get(name, np.float32)) for name, array in arrays.items()})


def blind(found: Surveyed, hidden: Hidden, kept: Array) -> onnx.ModelProto:
    """The original with zeros for all other units before its last projection."""
    copy = onnx.ModelProto()
    copy.CopyFrom(found.model)
    mask = np.isin(np.arange(hidden.units), kept).astype(np.float32)
    copy.graph.initializer.append(onnx.numpy_helper.from_array(mask, "kept"))
    copy.graph.node[hidden.projection].input[0] = "masked"
    copy.graph.node.insert(hidden.projection, helper.make_node("Mul", [hidden.value, "kept"], ["masked"], name="mask"))
    return copy


@pytest.mark.parametrize("form", FORMS)
def test_a_narrow_block_equals_the_block_that_ignores_the_other_units(form: str) -> None:
    make, kind, close = FORMS[form]
    network = make()
    found = surveyed(network)
    assert len(narrowable(found)) == 2
    region, hidden = narrowable(found)[0]
    assert isinstance(hidden.form, Dequantized)
    assert hidden.form.kind == kind
    feeds, units = network.feeds(batch=3), np.arange(0, hidden.units, 2)
    gated = instrumented(found.model, [replace(block(region), bypass=keeping(found, region, hidden, units))])
    opened = run(gated, {**feeds, "skipc.window": window(1, np.inf)})["hidden"]
    expected = run(blind(found, hidden, units), feeds)["hidden"]
    whole = run(found.model, feeds)["hidden"]
    off, dropped = np.abs(opened - expected).max(), np.abs(whole - expected).max()
    assert off <= close * np.abs(expected).max()
    assert dropped > 2 * off
    assert_equal(run(gated, {**feeds, "skipc.window": window(1, -np.inf)}), {"hidden": whole})


@pytest.mark.parametrize("form", FORMS)
def test_the_runtime_opens_it_optimised_and_weights_keep_their_type(form: str) -> None:
    make, kind, _ = FORMS[form]
    network = make()
    found = surveyed(network)
    region, hidden = narrowable(found)[0]
    units = np.arange(0, hidden.units, 2)
    gated = instrumented(found.model, [replace(block(region), bypass=keeping(found, region, hidden, units))])
    feeds = {**network.feeds(batch=3), "skipc.window": window(1, np.inf)}
    plain = run(gated, feeds)["hidden"]
    optimised = open_session(gated.SerializeToString()).run(feeds)["hidden"]
    # Fused products round elsewhere: a step of 8 bits, and of the 8 bits that the runtime computes 4-bit products in.
    if not (saturates() and form.startswith("8 bits")):
        assert np.abs(plain - optimised).max() <= 0.05 * np.abs(plain).max()
    then = next(item.g for node in gated.graph.node if node.op_type == "If" for item in node.attribute)
    products = [node for node in then.node if node.op_type == "MatMul"]
    made_by = {node.output[0]: node for node in then.node}
    types = {item.name: item.data_type for item in (*gated.graph.initializer, *then.initializer)}
    weights = [made_by[node.input[1]] for node in products]
    assert len(weights) == 2
    assert {types[node.input[0]] for node in weights} == {TensorProto.DataType.Value(kind.upper())}


@pytest.mark.parametrize(("form", "multiplies"), [("4 bits", True), ("8 bits all round", False)])
def test_a_linear_bypass_is_quantized_unless_its_value_is_too(form: str, multiplies: bool) -> None:
    found = surveyed(FORMS[form][0]())
    region, _ = narrowable(found)[0]
    gated = instrumented(found.model, [block(region)])
    then = next(item.g for node in gated.graph.node if node.op_type == "If" for item in node.attribute)
    made_by = {name: node.op_type for node in then.node for name in node.output}
    products = [node for node in then.node if node.op_type == "MatMul"]
    assert [made_by.get(node.input[1]) for node in products] == (["DequantizeLinear"] if multiplies else [None])


@pytest.mark.parametrize("kind", ["int8", "uint8", "int4", "uint4"])
@pytest.mark.parametrize("block_size", [0, 16])
def test_a_written_weight_is_read_as_it_was_meant(kind: str, block_size: int) -> None:
    weight = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)
    weight[:, 5] = 0
    builder = Builder("new", 21)
    result = Dequantized(kind, block_size, np.dtype(np.float32)).write(builder, "x", weight)
    fragment = builder.fragment()
    given, made = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", result))
    graph = helper.make_graph(fragment.nodes, "one", [given], [made], fragment.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    read = run(model, {"x": np.eye(40, dtype=np.float32)})[result]
    size = block_size or 40
    highest = np.stack([np.abs(weight[start : start + size]).max(axis=0) for start in range(0, 40, size)])
    step = np.repeat(highest / (7 if "4" in kind else 127), size, axis=0)[:40]
    assert (np.abs(read - weight) <= 0.501 * step).all()


def test_convolutions_with_dequantized_kernels_are_not_narrowed() -> None:
    found = surveyed(static_int8(conv_net()))
    assert found.survey.blocks
    assert narrowable(found) == []


def test_only_constants_are_dequantized_weights() -> None:
    found = surveyed(static_int8(transformer(fused=True)))
    flow, constants = Flow.of(found.model.graph), constants_of(found.model.graph)
    values = [node.output[0] for node in flow.nodes if node.op_type == "DequantizeLinear"]
    told = {name: dequantizer(flow, constants, name) is not None for name in values}
    assert told == {name: flow.is_constant(name) for name in values}
    assert set(told.values()) == {True, False}
    assert product_at(flow, constants, flow.producer[values[0]]) is None
