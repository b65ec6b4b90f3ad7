"""Which regions are found, what they are called, where they begin and end, and why others are refused."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from skipc.passes.candidate import Rejection
from skipc.passes.flow import Flow
from skipc.passes.narrow import constants_of, find_hidden
from skipc.passes.operators import ATTENTION_OPS
from skipc.runtime.plan import Region
from tests.gated import surveyed
from tests.graphs import OPSETS, WIDTH, Net, Network, conv_net, mbconv, mlp, transformer, with_node_constants


def blocks(network: Network) -> tuple[Region, ...]:
    return surveyed(network).survey.blocks


def rejections(network: Network) -> dict[str, Rejection]:
    return {item.node: item for item in surveyed(network).survey.rejected}


def op_types(network: Network, node_names: tuple[str, ...]) -> list[str]:
    by_name = {node.name: node.op_type for node in network.model.graph.node}
    return [by_name[name] for name in node_names]


def rows(net: Net, value: str, width: int = 8) -> Network:
    """The network that ends with this value, fed with x, [batch, 8]."""
    net.node("Identity", value, output="y")
    return net.network([net.tensor("x", "batch", width)], [net.tensor("y", "batch", None)])


LAYERS = ["attention.0", "feed-forward.0", "attention.1", "feed-forward.1"]


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("opset", OPSETS)
def test_a_transformer_offers_each_sublayer_and_each_layer(norm: str, opset: int) -> None:
    survey = surveyed(transformer(norm=norm, opset=opset)).survey
    assert [item.name for item in survey.blocks] == LAYERS
    assert [item.name for item in survey.layers] == ["layer.0", "layer.1"]
    assert {item.dims for item in survey.regions} == {("batch", "length", WIDTH)}
    assert {item.channel_axis for item in survey.regions} == {2}


@pytest.mark.parametrize("fused", [False, True])
def test_neighbouring_regions_share_their_border(fused: bool) -> None:
    found = blocks(transformer(fused=fused))
    assert found[0].entry == "embedded"
    assert [item.exit for item in found[:-1]] == [item.entry for item in found[1:]]


def test_behind_an_add_the_normalisation_is_the_tail() -> None:
    network = transformer(norm="post", fused=True)
    for item in blocks(network):
        assert op_types(network, item.tail) == ["LayerNormalization"]
        assert item.merge != item.exit


def test_a_normalisation_in_many_nodes_is_a_whole_tail() -> None:
    network = transformer(norm="post", fused=False)
    expected = ["ReduceMean", "Sub", "Pow", "ReduceMean", "Add", "Sqrt", "Div", "Mul", "Add"]
    assert [sorted(op_types(network, item.tail)) for item in blocks(network)] == [sorted(expected)] * 4


def test_in_front_of_a_sublayer_the_normalisation_is_inside_and_there_is_no_tail() -> None:
    network = transformer(norm="pre", fused=True)
    for item in blocks(network):
        assert item.tail == ()
        assert item.merge == item.exit
        assert op_types(network, item.nodes)[0] == "LayerNormalization"


def test_shape_computations_and_the_mask_stay_outside() -> None:
    network = transformer()
    inside = {name for item in blocks(network) for name in item.nodes}
    assert not set(op_types(network, tuple(inside))) & {"Shape", "Gather", "Concat", "Unsqueeze", "Cast"}


def test_attention_is_told_by_its_softmax() -> None:
    network = transformer()
    for item in blocks(network):
        assert (item.kind == "attention") == bool(set(op_types(network, item.nodes)) & ATTENTION_OPS)


def test_a_layer_is_its_sublayers() -> None:
    survey = surveyed(transformer()).survey
    first, second = survey.blocks[:2]
    layer = survey.layers[0]
    assert (layer.entry, layer.merge, layer.exit) == (first.entry, second.merge, second.exit)
    assert layer.nodes == first.nodes + second.nodes
    assert layer.tail == second.tail


def test_a_basic_block_ends_behind_its_relu() -> None:
    network = conv_net(relu_behind=True)
    for item in blocks(network):
        assert item.kind == "convolution"
        assert op_types(network, item.nodes) == ["Conv", "Relu", "Conv", "Add", "Relu"]
        assert op_types(network, item.tail) == ["Relu"]
        assert (item.channel_axis, item.channels) == (1, 8)


def test_a_pre_activation_block_ends_at_its_add() -> None:
    network = conv_net(relu_behind=False)
    for item in blocks(network):
        assert op_types(network, item.nodes) == ["Relu", "Conv", "Relu", "Conv", "Add"]
        assert item.tail == ()


def test_squeeze_and_excitation_is_part_of_the_inverted_bottleneck_around_it() -> None:
    network = mbconv()
    assert [op_types(network, item.nodes)[-1] for item in blocks(network)] == ["Add", "Add"]
    assert [(item.node, item.rule) for item in surveyed(network).survey.rejected] == [
        ("mul_10", "part-of-larger"),
        ("mul_22", "part-of-larger"),
    ]


def test_squeeze_and_excitation_without_a_residual_path_around_it_is_a_region() -> None:
    net = Net()
    wide = net.conv("x", 8, 8, 3)
    excited = net.node("Mul", wide, net.node("Sigmoid", net.conv(net.node("GlobalAveragePool", wide), 8, 8, 1)))
    net.node("Identity", excited, output="y")
    image = net.tensor("x", "batch", 8, 6, 6)
    (found,) = blocks(net.network([image], [net.tensor("y", "batch", 8, 6, 6)]))
    assert (found.entry, found.exit, found.channel_axis) == (wide, "y", 1)


def test_rows_of_features_make_feed_forward_regions() -> None:
    found = blocks(mlp(blocks=2))
    assert [(item.name, item.dims, item.channel_axis) for item in found] == [
        ("feed-forward.0", ("batch", 12), 1),
        ("feed-forward.1", ("batch", 12), 1),
    ]


def test_half_precision_is_found() -> None:
    assert {item.elem_type for item in blocks(mlp(elem_type=onnx.TensorProto.FLOAT16))} == {onnx.TensorProto.FLOAT16}


def test_double_precision_is_refused() -> None:
    network = mlp(elem_type=onnx.TensorProto.DOUBLE)
    assert blocks(network) == ()
    assert {(item.rule, "double" in item.reason) for item in rejections(network).values()} == {("element-type", True)}


def test_constants_written_as_nodes_change_nothing_but_are_not_part_of_regions() -> None:
    network = mlp()
    weights = [item.name for item in network.model.graph.initializer]
    held = blocks(with_node_constants(network, weights))
    assert [(item.name, item.nodes) for item in held] == [(item.name, item.nodes) for item in blocks(network)]


def test_a_chain_without_residual_path_offers_nothing() -> None:
    net = Net()
    survey = surveyed(rows(net, net.linear(net.node("Relu", net.linear("x", 8, 8)), 8, 8))).survey
    assert survey.regions == ()
    assert survey.rejected == ()


def test_paths_without_weights_are_refused() -> None:
    net = Net()
    value = net.linear("x", 8, 8)
    meeting = net.node("Mul", value, net.node("Sigmoid", value), name="swish")
    found = rejections(rows(net, meeting))
    assert found["swish"].rule == "no-weights"
    assert "weight matrix" in found["swish"].reason


def with_cache(width: int) -> tuple[Network, str]:
    """A region of which a hidden value is needed elsewhere, that takes most of the weights where it is wide."""
    net = Net()
    value = net.linear("x", 8, 8)
    cache = net.linear(net.linear(value, 8, width), width, 8)
    merged = net.node("Add", value, net.linear(cache, 8, 8), name="merge")
    return rows(net, net.node("Concat", merged, cache, axis=1)), cache


def test_a_dear_value_that_is_needed_elsewhere_refuses_the_region() -> None:
    network, cache = with_cache(16)
    found = rejections(network)
    assert found["merge"].rule == "value-escapes"
    assert cache in found["merge"].reason
    assert "20% of its weights" in found["merge"].reason


def test_where_enough_is_left_what_others_need_is_computed_outside() -> None:
    network, cache = with_cache(8)
    (found,) = blocks(network)
    assert op_types(network, found.nodes) == ["MatMul", "Add", "Add"]
    assert cache not in (found.entry, found.exit)


def test_a_key_value_cache_leaves_queries_and_projection_in_the_region() -> None:
    net = Net()
    value = net.linear("x", 8, 8)
    for index in (0, 1):
        query = net.linear(value, 8, 8)
        key = net.node("Add", net.linear(value, 8, 8), net.constant(0.0), output=f"key_{index}")
        values = net.node("Add", net.linear(value, 8, 8), net.constant(0.0), output=f"value_{index}")
        scores = net.node("MatMul", query, net.node("Transpose", key, perm=[0, 2, 1]))
        context = net.node("MatMul", net.node("Softmax", scores, axis=-1), values)
        value = net.node("Add", value, net.linear(context, 8, 8))
    cache = [f"{name}_{index}" for name in ("key", "value") for index in (0, 1)]
    outputs = [net.tensor(name, "batch", "length", 8) for name in (value, *cache)]
    network = net.network([net.tensor("x", "batch", "length", 8)], outputs)
    for index, found in enumerate(blocks(network)):
        assert (found.name, len(found.nodes)) == (f"attention.{index}", 9)
        assert not {f"key_{index}", f"value_{index}"} & {found.entry, found.exit}


def test_a_cheap_value_that_is_needed_elsewhere_is_computed_outside() -> None:
    net = Net()
    value = net.linear("x", 8, 8)
    cheap = net.node("Relu", value, name="cheap")
    merged = net.node("Add", value, net.linear(cheap, 8, 8))
    network = rows(net, net.node("Concat", merged, cheap, axis=1))
    (found,) = blocks(network)
    assert "cheap" not in found.nodes
    assert len(found.nodes) == 3


def test_the_tail_stops_where_another_reader_takes_the_value() -> None:
    net = Net()
    value = net.linear("x", 8, 8)
    merged = net.node("Add", value, net.linear(value, 8, 8))
    both = net.node("Concat", net.node("Relu", merged), merged, axis=1)
    (found,) = blocks(rows(net, both))
    assert found.exit == merged
    assert found.tail == ()


def test_the_tail_stops_at_an_output_of_the_graph() -> None:
    net = Net()
    value = net.linear("x", 8, 8)
    net.node("Add", value, net.linear(value, 8, 8), output="early")
    net.node("Relu", "early", output="late")
    outputs = [net.tensor(name, "batch", 8) for name in ("early", "late")]
    (found,) = blocks(net.network([net.tensor("x", "batch", 8)], outputs))
    assert (found.exit, found.tail) == ("early", ())


def test_features_of_no_fixed_extent_are_refused() -> None:
    net = Net()
    value = net.node("Conv", "x", net.weight(4, 4, 3), pads=[1, 1])
    turned = net.node("Transpose", value, perm=[0, 2, 1])
    square = net.node("MatMul", net.node("Transpose", turned, perm=[0, 2, 1]), net.node("Identity", turned))
    mixed = net.node("MatMul", square, net.node("Add", value, net.weight(4, 1)))
    grown = net.node("Mul", net.node("Add", mixed, net.weight(4, 1)), net.weight(1, 1))
    merged = net.node("Add", value, net.node("MatMul", net.weight(4, 4), grown), name="merge")
    net.node("Identity", merged, output="y")
    network = net.network([net.tensor("x", "batch", 4, "length")], [net.tensor("y", "batch", 4, "length")])
    assert rejections(network)["merge"].rule == "dynamic-features"


def nested(depth: int) -> Network:
    """A region between two linear layers, which is in the region around them; its own depth decides who matters."""
    net = Net()
    value = net.linear("x", 8, 8)
    first = net.linear(value, 8, 8)
    deep = first
    for _ in range(depth):
        deep = net.linear(deep, 8, 8)
    inner = net.node("Add", first, deep, name="inner")
    return rows(net, net.node("Add", value, net.linear(inner, 8, 8), name="outer"))


def test_of_two_nested_regions_the_inner_one_is_refused_where_it_is_a_small_part() -> None:
    network = nested(1)
    assert ["outer" in item.nodes for item in blocks(network)] == [True]
    assert rejections(network)["inner"].rule == "part-of-larger"
    assert "33% of the region that closes at outer" in rejections(network)["inner"].reason


def test_of_two_nested_regions_the_outer_one_is_refused_where_the_inner_is_most_of_it() -> None:
    network = nested(2)
    assert ["outer" in item.nodes for item in blocks(network)] == [False]
    assert rejections(network)["outer"].rule == "nested"
    assert "50% of its weights" in rejections(network)["outer"].reason


def test_a_subgraph_that_reads_the_inside_keeps_the_region_closed() -> None:
    net = Net()
    value = net.linear("x", 8, 8)
    hidden = net.linear(net.linear(value, 8, 16), 16, 8)
    merged = net.node("Add", value, net.linear(hidden, 8, 8), name="merge")
    branch = onnx.helper.make_graph(
        [onnx.helper.make_node("Neg", [hidden], ["spied"])], "spy", [], [net.tensor("spied", "batch", 8)]
    )
    condition = net.node("Less", net.node("ReduceSum", "x", keepdims=0), net.constant(0.0))
    other = onnx.helper.make_graph(
        [onnx.helper.make_node("Abs", [hidden], ["spied_2"])], "spy_2", [], [net.tensor("spied_2", "batch", 8)]
    )
    chosen = net.node("If", condition, then_branch=branch, else_branch=other)
    network = rows(net, net.node("Add", merged, chosen))
    assert rejections(network)["merge"].rule == "value-escapes"


def test_a_reader_whose_result_nobody_uses_is_no_tail() -> None:
    net = Net()
    value = net.linear("x", 8, 8)
    merged = net.node("Add", value, net.linear(value, 8, 8))
    net.node("Neg", merged, name="dead")
    (found,) = blocks(rows(net, net.linear(merged, 8, 8)))
    assert (found.exit, found.tail) == (merged, ())


def test_nodes_whose_result_nobody_uses_come_along() -> None:
    net = Net()
    value = net.linear("x", 8, 8)
    hidden = net.linear(value, 8, 8)
    dead = net.node("Neg", hidden, name="dead")
    net.node("MatMul", dead, net.weight(8, 8), name="deader")
    merged = net.node("Add", value, net.linear(hidden, 8, 8))
    net.node("Exp", merged, name="behind")
    (found,) = blocks(rows(net, net.node("Relu", merged)))
    assert {"dead", "deader", "behind"} <= set(found.nodes)
    assert found.kind == "feed-forward"


def test_an_unused_node_that_reads_inside_and_result_refuses_the_region() -> None:
    net = Net()
    value = net.linear("x", 8, 8)
    hidden = net.linear(value, 8, 8)
    merged = net.node("Add", value, net.linear(hidden, 8, 8), name="merge")
    behind = net.linear(merged, 8, 8)
    net.node("Add", hidden, behind)
    found = rejections(rows(net, behind))
    assert found["merge"].rule == "unused-reader"


def test_a_region_whose_result_nobody_uses_is_not_offered() -> None:
    net = Net()
    value = net.linear("x", 8, 8)
    net.node("Add", value, net.linear(value, 8, 8))
    assert surveyed(rows(net, value)).survey.regions == ()


def test_one_matrix_makes_no_feed_forward_layer() -> None:
    net = Net()
    value = net.linear("x", 8, 8)
    (found,) = blocks(rows(net, net.node("Add", value, net.linear(value, 8, 8))))
    assert (found.name, found.kind) == ("residual.0", "residual")


def test_attention_without_softmax_is_told_by_its_products() -> None:
    net = Net()
    value = net.linear("x", 8, 8)
    query, key, values = (net.linear(value, 8, 8) for _ in range(3))
    memory = net.node("MatMul", net.node("Transpose", key, perm=[0, 2, 1]), values)
    merged = net.node("Add", value, net.linear(net.node("MatMul", query, memory), 8, 8))
    net.node("Identity", merged, output="y")
    tokens = [net.tensor(name, "batch", "length", 8) for name in "xy"]
    (found,) = blocks(net.network(tokens[:1], tokens[1:]))
    assert found.kind == "attention"


def test_images_with_their_channels_last_keep_them_there() -> None:
    net = Net()
    value = net.node("Transpose", net.conv("image", 3, 8, 3), perm=[0, 2, 3, 1])
    for _ in range(2):
        inner = net.conv(net.node("Transpose", value, perm=[0, 3, 1, 2]), 8, 8, 3)
        value = net.node("Relu", net.node("Add", value, net.node("Transpose", inner, perm=[0, 2, 3, 1])))
    net.node("Identity", value, output="y")
    outputs = [net.tensor("y", "batch", 6, 6, 8)]
    found = blocks(net.network([net.tensor("image", "batch", 3, 6, 6)], outputs))
    assert [(item.kind, item.channel_axis, item.channels) for item in found] == [("convolution", 3, 8)] * 2


def test_a_convolution_over_tokens_leaves_features_last() -> None:
    net = Net()
    value = net.linear("x", 8, 8)
    turned = net.node("Conv", net.node("Transpose", value, perm=[0, 2, 1]), net.weight(8, 8, 3), pads=[1, 1])
    merged = net.node("Add", value, net.node("Transpose", turned, perm=[0, 2, 1]))
    net.node("Identity", merged, output="y")
    tokens = [net.tensor(name, "batch", "length", 8) for name in "xy"]
    (found,) = blocks(net.network(tokens[:1], tokens[1:]))
    assert (found.kind, found.channel_axis) == ("convolution", 2)


def test_positions_taken_from_a_shape_are_no_function_of_the_value() -> None:
    net = Net()
    value = net.linear("x", 8, 8)
    extent = net.node("Squeeze", net.node("Shape", value, start=1, end=2))
    places = net.node("Range", net.constant(0), extent, net.constant(1))
    positioned = net.node("Add", value, net.node("Gather", net.weight(20, 8), places), name="positions")
    net.node("Identity", positioned, output="y")
    tokens = [net.tensor(name, "batch", "length", 8) for name in "xy"]
    network = net.network(tokens[:1], tokens[1:])
    assert blocks(network) == ()
    assert rejections(network)["positions"].rule == "shape-only"


def test_the_scale_of_a_quantized_product_is_no_skip_path() -> None:
    net = Net()
    value = net.linear("x", 8, 8)
    weight = onnx.numpy_helper.from_array(np.ones((8, 8), np.uint8), "weight")
    net.initializers.append(weight)
    names = ["quantized", "scale", "zero"]
    net.nodes.append(onnx.helper.make_node("DynamicQuantizeLinear", [value], names, name="quantize"))
    product = net.node("Cast", net.node("MatMulInteger", "quantized", "weight", "zero"), to=onnx.TensorProto.FLOAT)
    scaled = net.node("Mul", product, net.node("Mul", "scale", net.constant(0.5)))
    survey = surveyed(rows(net, scaled)).survey
    assert (survey.regions, survey.rejected) == ((), ())


def test_a_transposed_value_is_not_the_value() -> None:
    net = Net()
    square = net.tensor("x", "batch", 8, 8)
    value = net.linear("x", 8, 8)
    net.node("Add", net.node("Transpose", value, perm=[0, 2, 1]), net.linear(value, 8, 8), output="y")
    survey = surveyed(net.network([square], [net.tensor("y", "batch", 8, 8)])).survey
    assert (survey.regions, survey.rejected) == ((), ())


def test_a_node_with_subgraphs_is_no_tail() -> None:
    net = Net()
    value = net.linear("x", 8, 8)
    merged = net.node("Add", value, net.linear(value, 8, 8))
    branches = {
        f"{name}_branch": onnx.helper.make_graph(
            [onnx.helper.make_node(op_type, [merged], [name])], name, [], [net.tensor(name, "batch", 8)]
        )
        for name, op_type in (("then", "Neg"), ("else", "Abs"))
    }
    condition = net.node("Constant", value=onnx.helper.make_tensor("always", onnx.TensorProto.BOOL, [], [True]))
    (found,) = blocks(rows(net, net.node("If", condition, **branches)))
    assert (found.exit, found.tail) == (merged, ())


def test_weights_are_counted_by_region_and_in_all() -> None:
    survey = surveyed(mlp(blocks=2)).survey
    block = 12 * 24 + 24 + 24 * 12 + 12
    assert survey.parameters == {
        "feed-forward.0": block,
        "feed-forward.1": block,
        "": 6 * 12 + 12 + 2 * block + 12 * 3 + 3,
    }
    assert survey.nodes == 11


def skip_normalised(network: Network) -> Network:
    """The network with each Add and the LayerNormalization behind it as one node, as ONNX Runtime's optimiser does."""
    model = onnx.ModelProto.FromString(network.model.SerializeToString())
    model.opset_import.add(domain="com.microsoft", version=1)
    sums = {node.output[0]: node for node in model.graph.node if node.op_type == "Add"}
    norms = [node for node in model.graph.node if node.op_type == "LayerNormalization" and node.input[0] in sums]
    for norm in norms:
        added = sums[norm.input[0]]
        model.graph.node.remove(added)
        norm.op_type, norm.domain = "SkipLayerNormalization", "com.microsoft"
        del norm.attribute[:]
        norm.attribute.append(onnx.helper.make_attribute("epsilon", 1e-5))
        norm.input[:] = [*added.input, *norm.input[1:]]
        norm.output[:] = [norm.output[0], "", "", added.output[0]]
    return Network(model, network.inputs)


def test_a_fused_sum_and_normalisation_stays_whole() -> None:
    network = skip_normalised(transformer(norm="pre", fused=True))
    producers = {name: node.op_type for node in network.model.graph.node for name in node.output}
    found = blocks(network)
    assert [item.name for item in found] == LAYERS
    assert [producers[item.entry] for item in found] == ["Gather", *["SkipLayerNormalization"] * 3]
    assert all("SkipLayerNormalization" not in op_types(network, item.nodes) for item in found)
    assert {item.dims for item in found} == {("batch", "length", WIDTH)}


def test_the_last_product_of_a_fused_block_can_be_narrowed() -> None:
    network = surveyed(skip_normalised(transformer(norm="pre", fused=True)))
    flow, constants = Flow.of(network.model.graph), constants_of(network.model.graph)
    hidden = [find_hidden(flow, constants, item) for item in network.survey.blocks if item.kind == "feed-forward"]
    assert [found.units if found else None for found in hidden] == [2 * WIDTH, 2 * WIDTH]


def test_a_quantized_value_and_its_scale_are_no_two_paths() -> None:
    net = Net(21)
    quantized = helper.make_node("DynamicQuantizeLinear", ["x"], ["level", "scale", "zero"], name="quantize")
    net.nodes.append(quantized)
    value = net.node("DequantizeLinear", "level", "scale", "zero", name="together")
    network = rows(net, net.node("Add", value, net.node("MatMul", value, net.weight(8, 8)), name="sum"))
    assert [item.entry for item in blocks(network)] == [value]
    assert "together" not in rejections(network)
