"""A compiled model gives its original back, byte for byte."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest

from skipc.passes.restore import Restore
from skipc.passes.stamp import SetLevel
from skipc.runtime import names
from skipc.runtime.errors import InputError
from tests.compiled import compiled
from tests.graphs import Network, conv_net, mbconv, mlp, transformer, with_node_constants

NETWORKS: dict[str, Callable[[], Network]] = {
    "mlp": lambda: mlp(tail="Relu"),
    "conv_net": conv_net,
    "mbconv": mbconv,
    "post_norm": lambda: transformer(norm="post", opset=13),
    "pre_norm": lambda: transformer(norm="pre", fused=True),
    "constants": lambda: with_node_constants(conv_net(), ["w0", "w2", "w3", "w5"]),
}


def as_bytes(model: onnx.ModelProto) -> bytes:
    return bytes(model.SerializeToString(deterministic=True))


def restored(model: onnx.ModelProto) -> onnx.ModelProto:
    return Restore().apply(model)


def with_types(network: Network) -> Network:
    """The same network with the type of every value written down, as some exporters do."""
    return Network(onnx.shape_inference.infer_shapes(network.model), network.inputs)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("typed", [False, True])
@pytest.mark.parametrize("exposed", [False, True])
@pytest.mark.parametrize("granularity", ["batch", "sample", "token"])
@pytest.mark.parametrize("kind", ["identity", "linear"])
def test_the_original_comes_back(name: str, typed: bool, exposed: bool, granularity: str, kind: str) -> None:
    network = with_types(NETWORKS[name]()) if typed else NETWORKS[name]()
    model = compiled(network, kind, exposed=exposed, granularity=granularity)
    assert any(node.op_type == "If" for node in model.graph.node)
    assert as_bytes(restored(model)) == as_bytes(network.model)


def test_what_stands_beside_the_graph_comes_back() -> None:
    network = mlp()
    model = network.model
    model.producer_version, model.domain, model.model_version, model.doc_string = "1.2", "org.example", 7, "of mine"
    model.metadata_props.add(key="author", value="nobody")
    model.graph.doc_string = "a graph"
    model.graph.node[2].doc_string = "a node"
    model.opset_import.add(domain="com.example", version=3)
    assert as_bytes(restored(compiled(network))) == as_bytes(model)


def test_what_normalising_changed_is_changed_back() -> None:
    network = mlp(opset=11)
    for position, node in enumerate(network.model.graph.node):
        node.name = "" if position % 2 else "twin"
    network.model.ir_version = 3
    network.model.graph.input.extend(
        onnx.helper.make_tensor_value_info(item.name, item.data_type, item.dims)
        for item in network.model.graph.initializer
    )
    model = compiled(Network(network.model, network.inputs))
    assert model.ir_version == 4
    assert as_bytes(restored(model)) == as_bytes(network.model)


def test_target_shapes_that_became_constants_are_computed_again() -> None:
    network = transformer()
    for node in network.model.graph.node:
        if node.op_type == "Reshape":
            node.attribute.append(onnx.helper.make_attribute("allowzero", 0))
    model = compiled(network)
    assert any(item.name.startswith("skipc/shape/") for item in model.graph.initializer)
    assert as_bytes(restored(model)) == as_bytes(network.model)


def test_nodes_that_were_not_sorted_are_unsorted_again() -> None:
    network = conv_net()
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in network.model.graph.node]
    del network.model.graph.node[:]
    network.model.graph.node.extend(reversed(nodes))
    model = compiled(network)
    assert len([node for node in model.graph.node if node.op_type == "If"]) == 2
    assert as_bytes(restored(model)) == as_bytes(network.model)


def test_types_that_are_written_twice_come_back_twice() -> None:
    network = with_types(conv_net())
    twice = [onnx.ValueInfoProto.FromString(item.SerializeToString()) for item in network.model.graph.value_info]
    network.model.graph.value_info.extend(twice)
    assert as_bytes(restored(compiled(network))) == as_bytes(network.model)


def test_the_level_makes_no_difference() -> None:
    network = conv_net()
    assert as_bytes(restored(SetLevel(0).apply(compiled(network)))) == as_bytes(network.model)


def test_the_compiled_model_stays_as_it_was() -> None:
    model = compiled(mlp())
    before = as_bytes(model)
    Restore().apply(model)
    assert as_bytes(model) == before


def test_a_model_that_was_not_compiled_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        restored(mlp().model)
    assert caught.value.code == "not-compiled"


def test_a_region_that_is_gone_is_named() -> None:
    model = compiled(mlp())
    (position,) = [i for i, node in enumerate(model.graph.node) if node.name == names.block("feed-forward.1")]
    del model.graph.node[position]
    with pytest.raises(InputError, match=r"skipc/feed-forward\.1 is gone") as caught:
        Restore().apply(model)
    assert caught.value.code == "original-changed"


def test_weights_that_are_gone_are_noticed() -> None:
    model = compiled(conv_net())
    (position,) = [i for i, item in enumerate(model.graph.initializer) if item.name == "w11"]
    del model.graph.initializer[position]
    with pytest.raises(InputError) as caught:
        Restore().apply(model)
    assert caught.value.code == "original-changed"


@pytest.mark.parametrize("value", ["no JSON", "[]", '{"nodes": 1}', '{"lost_value_info": ["%"]}'])
def test_a_record_that_skipc_did_not_write_is_refused(value: str) -> None:
    model = compiled(mlp())
    for item in list(model.metadata_props):
        if item.key == names.ORIGINAL_KEY:
            model.metadata_props.remove(item)
    model.metadata_props.add(key=names.ORIGINAL_KEY, value=value)
    with pytest.raises(InputError) as caught:
        Restore().apply(model)
    assert caught.value.code == "original-invalid"
