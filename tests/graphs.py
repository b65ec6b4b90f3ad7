"""Small networks with random weights, written node by node: the shapes of graph that skipc meets in the wild."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]
Dim = int | str | None

NEWEST_OPSET = 25
OPSETS = (11, 13, 17, 18, 21, NEWEST_OPSET)
"""Opsets at which an operator that skipc writes or meets changed its form: Squeeze 13, ReduceMean 18, types 21, 25."""

WIDTH = 16


@dataclass(frozen=True)
class Network:
    """A model and a way to feed it."""

    model: onnx.ModelProto
    inputs: tuple[onnx.ValueInfoProto, ...]

    def feeds(self, *, batch: int = 2, length: int = 5, seed: int = 0) -> dict[str, Array]:
        """Random input: named dimensions are `batch` where they are called so, and `length` otherwise."""
        random = np.random.default_rng(seed)
        found: dict[str, Array] = {}
        for item in self.inputs:
            dims = item.type.tensor_type.shape.dim
            extents = {"batch": batch}
            shape = tuple(int(dim.dim_value) or extents.get(dim.dim_param, length) for dim in dims)
            found[item.name] = _random_values(item, shape, random)
        return found


def _random_values(item: onnx.ValueInfoProto, shape: tuple[int, ...], random: np.random.Generator) -> Array:
    if "mask" in item.name:
        kept = random.integers(1, shape[1] + 1, shape[0])
        return (np.arange(shape[1]) < kept[:, None]).astype(np.int64)
    if item.type.tensor_type.elem_type == TensorProto.INT64:
        return random.integers(0, VOCABULARY, shape)
    dtype = helper.tensor_dtype_to_np_dtype(item.type.tensor_type.elem_type)
    return np.asarray(random.standard_normal(shape)).astype(dtype)


class Net:
    """Collects nodes and initializers; values are passed around by name."""

    def __init__(self, opset: int = NEWEST_OPSET, *, seed: int = 0, elem_type: int = TensorProto.FLOAT) -> None:
        self.opset = opset
        self.elem_type = elem_type
        self.dtype = helper.tensor_dtype_to_np_dtype(elem_type)
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def weight(self, *shape: int, name: str = "", scale: float | None = None) -> str:
        """A random initializer, scaled so that values keep their size."""
        spread = scale if scale is not None else 1.0 / np.sqrt(max(1, int(np.prod(shape[:-1]))))
        return self.constant((self.random.standard_normal(shape) * spread).astype(self.dtype), name)

    def constant(self, values: Any, name: str = "") -> str:
        """An initializer; floats take the network's type, integers become int64."""
        array = np.asarray(values)
        array = array.astype(np.int64 if array.dtype.kind in "iu" else self.dtype)
        name = name or f"w{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def node(self, op_type: str, *inputs: str, output: str = "", name: str | None = None, **attrs: Any) -> str:
        """A node with one output, which it returns."""
        output = output or f"v{len(self.nodes)}"
        name = f"{op_type.lower()}_{len(self.nodes)}" if name is None else name
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=name, **attrs))
        return output

    def mean(self, value: str, axes: Sequence[int]) -> str:
        """ReduceMean, whose axes became an input at opset 18."""
        if self.opset < 18:
            return self.node("ReduceMean", value, axes=list(axes), keepdims=1)
        return self.node("ReduceMean", value, self.constant(np.array(axes)), keepdims=1)

    def linear(self, value: str, inputs: int, outputs: int) -> str:
        """MatMul and Add, as exporters write a linear layer over the last axis."""
        return self.node("Add", self.node("MatMul", value, self.weight(inputs, outputs)), self.weight(outputs))

    def layer_norm(self, value: str, width: int, *, fused: bool) -> str:
        """LayerNormalization over the last axis: one node, or the nine that exporters wrote before opset 17."""
        scale, shift = self.constant(1 + 0.1 * self.random.standard_normal(width)), self.weight(width, scale=0.1)
        if fused:
            return self.node("LayerNormalization", value, scale, shift, axis=-1, epsilon=1e-5)
        centred = self.node("Sub", value, self.mean(value, [-1]))
        variance = self.mean(self.node("Pow", centred, self.constant(2.0)), [-1])
        spread = self.node("Sqrt", self.node("Add", variance, self.constant(1e-5)))
        return self.node("Add", self.node("Mul", self.node("Div", centred, spread), scale), shift)

    def conv(self, value: str, inputs: int, outputs: int, size: int, *, group: int = 1) -> str:
        """A convolution that keeps height and width, with bias."""
        kernel = self.weight(outputs, inputs // group, size, size, scale=1.0 / np.sqrt(inputs // group * size * size))
        pads = [size // 2] * 4
        bias = self.weight(outputs, scale=0.1)
        return self.node("Conv", value, kernel, bias, kernel_shape=[size, size], pads=pads, group=group)

    def network(self, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]) -> Network:
        """What was collected, checked."""
        graph = helper.make_graph(self.nodes, "net", list(inputs), list(outputs), self.initializers)
        opsets = [helper.make_opsetid("", self.opset)]
        ir_version = helper.find_min_ir_version_for(opsets)
        model = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version, producer_name="tests")
        onnx.checker.check_model(model, full_check=True)
        return Network(model, tuple(inputs))

    def tensor(self, name: str, *dims: Dim, elem_type: int | None = None) -> onnx.ValueInfoProto:
        """The type of an input or output."""
        return helper.make_tensor_value_info(name, elem_type or self.elem_type, list(dims))


VOCABULARY = 11
HEADS = 2


def transformer(
    *,
    norm: str = "post",
    fused: bool = False,
    layers: int = 2,
    opset: int = NEWEST_OPSET,
    elem_type: int = TensorProto.FLOAT,
) -> Network:
    """An encoder over token numbers with a padding mask; shapes are computed from the input, once, for all layers.

    Args:
        norm: ``pre`` or ``post``.
        fused: whether normalisations are single nodes, from opset 17 on.
        layers: each attention and feed-forward.
        opset: to write for.
        elem_type: of the activations.
    """
    net = Net(opset, elem_type=elem_type)
    value = net.node("Gather", net.weight(VOCABULARY, WIDTH, scale=1.0), "ids", output="embedded")
    mask, split_shape, joined_shape = _shared_by_layers(net)
    for _ in range(layers):
        for sublayer in (_attention, _feed_forward):
            before = net.layer_norm(value, WIDTH, fused=fused) if norm == "pre" else value
            inner = sublayer(net, before, mask, split_shape, joined_shape)
            value = net.node("Add", value, inner)
            value = net.layer_norm(value, WIDTH, fused=fused) if norm == "post" else value
    net.node("MatMul", value, net.weight(WIDTH, 4), output="hidden")
    ids = net.tensor("ids", "batch", "length", elem_type=TensorProto.INT64)
    attention_mask = net.tensor("attention_mask", "batch", "length", elem_type=TensorProto.INT64)
    return net.network([ids, attention_mask], [net.tensor("hidden", "batch", "length", 4)])


def _shared_by_layers(net: Net) -> tuple[str, str, str]:
    """The additive mask, and the shapes to which attention's heads are split and joined again."""
    inverse = net.node("Sub", net.constant(1.0), net.node("Cast", "attention_mask", to=net.elem_type))
    mask = net.node("Mul", inverse, net.constant(-1e4))
    for axis in (1, 1):
        if net.opset < 13:
            mask = net.node("Unsqueeze", mask, axes=[axis])
        else:
            mask = net.node("Unsqueeze", mask, net.constant([axis]))
    shape = net.node("Shape", "ids")
    sizes = [net.node("Gather", shape, net.constant([axis]), axis=0) for axis in (0, 1)]
    split_shape = net.node("Concat", *sizes, net.constant([HEADS]), net.constant([WIDTH // HEADS]), axis=0)
    joined_shape = net.node("Concat", *sizes, net.constant([WIDTH]), axis=0)
    return mask, split_shape, joined_shape


def _attention(net: Net, value: str, mask: str, split_shape: str, joined_shape: str) -> str:
    heads = [net.node("Reshape", net.linear(value, WIDTH, WIDTH), split_shape) for _ in range(3)]
    query, values = (net.node("Transpose", heads[i], perm=[0, 2, 1, 3]) for i in (0, 2))
    key = net.node("Transpose", heads[1], perm=[0, 2, 3, 1])
    scaled = net.node("Div", net.node("MatMul", query, key), net.constant(np.sqrt(WIDTH / HEADS)))
    weights = net.node("Softmax", net.node("Add", scaled, mask), axis=-1 if net.opset >= 13 else 3)
    context = net.node("Transpose", net.node("MatMul", weights, values), perm=[0, 2, 1, 3])
    return net.linear(net.node("Reshape", context, joined_shape), WIDTH, WIDTH)


def _feed_forward(net: Net, value: str, *_unused: str) -> str:
    hidden = net.linear(value, WIDTH, 2 * WIDTH)
    return net.linear(net.node("Relu", hidden), 2 * WIDTH, WIDTH)


def gated_mlps(*, layers: int = 2, width: int = 8, hidden: int = 24, vocabulary: int = VOCABULARY) -> Network:
    """A language model of gated feed-forward blocks alone (SwiGLU), behind root-mean-square norms; no token mixes."""
    net = Net()
    value = net.node("Gather", net.weight(vocabulary, width, scale=1.0), "input_ids", output="embedded")
    for _ in range(layers):
        normed = _root_mean_square_norm(net, value, width)
        gate, up = (net.node("MatMul", normed, net.weight(width, hidden)) for _ in range(2))
        silu = net.node("Mul", gate, net.node("Sigmoid", gate))
        down = net.node("MatMul", net.node("Mul", silu, up), net.weight(hidden, width))
        value = net.node("Add", value, down)
    head = net.weight(width, vocabulary, scale=0.5 / np.sqrt(width))
    net.node("MatMul", _root_mean_square_norm(net, value, width), head, output="logits")
    ids = net.tensor("input_ids", "batch", "length", elem_type=TensorProto.INT64)
    return net.network([ids], [net.tensor("logits", "batch", "length", vocabulary)])


def _root_mean_square_norm(net: Net, value: str, width: int) -> str:
    mean = net.mean(net.node("Pow", value, net.constant(2.0)), [-1])
    spread = net.node("Sqrt", net.node("Add", mean, net.constant(1e-5)))
    scaled = net.node("Mul", value, net.node("Div", net.constant(1.0), spread))
    return net.node("Mul", net.constant(1 + 0.1 * net.random.standard_normal(width)), scaled)


def conv_net(*, relu_behind: bool = True, blocks: int = 2, opset: int = NEWEST_OPSET) -> Network:
    """Basic residual blocks with the activation behind the Add, or in front of the convolutions (pre-activation)."""
    net = Net(opset)
    value = net.node("Relu", net.conv("image", 3, 8, 3))
    for _ in range(blocks):
        first = value if relu_behind else net.node("Relu", value)
        inner = net.conv(net.node("Relu", net.conv(first, 8, 8, 3)), 8, 8, 3)
        value = net.node("Add", inner, value)
        value = net.node("Relu", value) if relu_behind else value
    return _classified(net, value, 8)


def _classified(net: Net, value: str, channels: int) -> Network:
    flat = net.node("Flatten", net.node("GlobalAveragePool", value))
    net.node("Gemm", flat, net.weight(channels, 5), net.weight(5), output="logits")
    return net.network([net.tensor("image", "batch", 3, 6, 6)], [net.tensor("logits", "batch", 5)])


def mbconv(*, opset: int = NEWEST_OPSET) -> Network:
    """Two inverted bottlenecks with squeeze-and-excitation, linear at their end."""
    net = Net(opset)
    value = net.conv("image", 3, 8, 3)
    for _ in range(2):
        wide = net.node("Relu", net.conv(value, 8, 16, 1))
        wide = net.node("Relu", net.conv(wide, 16, 16, 3, group=16))
        squeezed = net.node("Relu", net.conv(net.node("GlobalAveragePool", wide), 16, 4, 1))
        excited = net.node("Mul", wide, net.node("Sigmoid", net.conv(squeezed, 4, 16, 1)))
        value = net.node("Add", net.conv(excited, 16, 8, 1), value)
    return _classified(net, value, 8)


def mlp(
    *, blocks: int = 3, width: int = 12, opset: int = NEWEST_OPSET, elem_type: int = TensorProto.FLOAT, tail: str = ""
) -> Network:
    """A residual network over rows of features; `tail` is an operator behind each Add."""
    net = Net(opset, elem_type=elem_type)
    value = net.linear("x", 6, width)
    for _ in range(blocks):
        hidden = net.node("Relu", net.node("Gemm", value, net.weight(width, 24), net.weight(24)))
        value = net.node("Add", value, net.node("Gemm", hidden, net.weight(24, width), net.weight(width)))
        value = net.node(tail, value) if tail else value
    net.node("Gemm", value, net.weight(width, 3), net.weight(3), output="y")
    return net.network([net.tensor("x", "batch", 6)], [net.tensor("y", "batch", 3)])


def with_node_constants(network: Network, names: Sequence[str]) -> Network:
    """The same network with some initializers written as Constant nodes right before their first reader."""
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    held = {item.name: item for item in model.graph.initializer if item.name in names}
    kept = [item for item in model.graph.initializer if item.name not in names]
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        for name in node.input:
            if name in held:
                nodes.append(helper.make_node("Constant", [], [name], name=f"constant_{name}", value=held.pop(name)))
        nodes.append(node)
    graph = helper.make_graph(nodes, "net", list(model.graph.input), list(model.graph.output), kept)
    rebuilt = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    onnx.checker.check_model(rebuilt, full_check=True)
    return Network(rebuilt, network.inputs)
