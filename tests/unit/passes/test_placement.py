"""Wherever weights are put, the gated model loads, computes the same, and is undone."""

from __future__ import annotations

import importlib
from dataclasses import replace

import onnx
import pytest

from skipc.passes.flow import subgraphs
from skipc.passes.placement import PLACEMENTS
from skipc.passes.restore import Restore
from skipc.runtime.plan import Block
from skipc.runtime.session import open_session
from tests.compiled import built, deciding
from tests.gated import assert_gated, block, surveyed
from tests.graphs import Net, Network, conv_net, mbconv, mlp, transformer

NETWORKS = {
    "tokens": transformer(norm="post"),
    "conv": conv_net(),
    "mbconv": mbconv(),
    "mlp": mlp(tail="Tanh"),
}
each_placement = pytest.mark.parametrize("weights", PLACEMENTS)


def blocks(network: Network, weights: str, kind: str = "linear") -> list[Block]:
    found = surveyed(network).survey.blocks
    return [block(replace(region, weights=weights), kind, seed) for seed, region in enumerate(found)]


def inside(model: onnx.ModelProto) -> set[str]:
    """Weights in branches."""
    graphs = (graph for node in model.graph.node for graph in subgraphs(node))
    return {item.name for graph in graphs for item in graph.initializer}


@each_placement
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("kind", ["identity", "linear"])
def test_each_placement_computes_the_same(name: str, weights: str, kind: str) -> None:
    network = NETWORKS[name]
    assert_gated(surveyed(network).model, blocks(network, weights, kind), network.feeds(batch=3, length=6))


@each_placement
@pytest.mark.parametrize("granularity", ["batch", "sample", "token"])
def test_each_placement_is_undone(weights: str, granularity: str) -> None:
    for network in NETWORKS.values():
        model = built(surveyed(network), deciding(blocks(network, weights), granularity))
        open_session(model.SerializeToString())
        restored = Restore().apply(model)
        assert restored.SerializeToString(deterministic=True) == network.model.SerializeToString(deterministic=True)


def test_what_is_where() -> None:
    network = NETWORKS["mbconv"]
    kernels = {name for node in network.model.graph.node if node.op_type == "Conv" for name in node.input[1:]}
    found = {weights: inside(built(surveyed(network), blocks(network, weights))) for weights in PLACEMENTS}
    assert found["outer"] == set()
    own = {name for name in found["auto"] if not name.startswith("skipc/")}
    assert own
    assert own <= kernels
    assert found["auto"] <= found["branch"]
    tokens = NETWORKS["tokens"]
    assert inside(built(surveyed(tokens), blocks(tokens, "auto"))) == set()
    assert inside(built(surveyed(tokens), blocks(tokens, "branch")))


def test_what_two_regions_share_stays_outside() -> None:
    net = Net(17)
    shared = net.weight(4, 4)
    value = "x"
    for _ in range(2):
        inner = net.node("MatMul", net.node("Relu", net.node("MatMul", value, shared)), net.weight(4, 4))
        value = net.node("Add", value, inner)
    net.node("Identity", value, output="y")
    network = net.network([net.tensor("x", "batch", 4)], [net.tensor("y", "batch", 4)])
    found = inside(built(surveyed(network), blocks(network, "branch")))
    assert shared not in found
    assert any(not name.startswith("skipc/") for name in found)


def four_bit() -> Network:
    """A transformer whose products read weights of four bits through DequantizeLinear."""
    quantization = pytest.importorskip("onnxruntime.quantization.matmul_nbits_quantizer")
    network = transformer(norm="post", opset=21)
    formats = importlib.import_module("onnxruntime.quantization").QuantFormat
    quantizer = quantization.MatMulNBitsQuantizer(
        network.model, block_size=16, quant_format=formats.QDQ, op_types_to_quantize=("MatMul",)
    )
    quantizer.process()
    return replace(network, model=quantizer.model.model)


def test_weights_of_four_bits_are_beside_their_nodes() -> None:
    """ONNX Runtime's fusion for them looks no further; it does not load the model otherwise."""
    network = four_bit()
    model = built(surveyed(network), blocks(network, "auto", "identity"))
    open_session(model.SerializeToString())
    regional = {name for region in surveyed(network).survey.blocks for name in region.nodes}
    read = {name for node in surveyed(network).model.graph.node if node.name in regional for name in node.input}
    dequantizing = [node for node in network.model.graph.node if node.op_type == "DequantizeLinear"]
    assert inside(model) == {name for node in dequantizing if node.output[0] in read for name in node.input}
