"""Narrow a block: the same block with fewer hidden units.

A block with a hidden layer ends in a projection h · W. Everything between the projections that make h and this last one
works on each hidden unit (neuron or channel) by itself, so that keeping a subset of units means slicing weights. What
the last projection does with the kept units is fitted anew, and not the concern of this module.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from skipc.passes.bits import Bits
from skipc.passes.dequantized import dequantizer, stored
from skipc.passes.external import is_external
from skipc.passes.flow import Flow, NodeSet, members, node_set
from skipc.passes.integers import Integers
from skipc.passes.nan_guard import without_nan_guards
from skipc.passes.normalize import copied_node
from skipc.passes.operators import ELEMENTWISE_OPS
from skipc.passes.products import Form, Product, attribute, product_at
from skipc.runtime.plan import Array, Region

UNITWISE = ELEMENTWISE_OPS | {"DequantizeLinear", "Dropout", "Pad", "QuantizeLinear"}
"""Operators that treat every hidden unit by itself, given that the number of units stays what it is."""

REFERRED_FROM = 4
"""Kept parts of weights that are so many times as large as their positions are taken from the original's weights."""


@dataclass(frozen=True)
class Hidden:
    """The hidden layer of a region.

    Attributes:
        value: name of its activations, with the units along the region's channel axis.
        units: how many there are.
        projection: position of the node that reads them last.
        nodes: positions of the nodes from the region's entry to the activations.
        slices: for each constant among them that has an extent of its own for every unit, the axis of the units.
        form: how the last projection is written; None in float.
        width: features of a unit that lie side by side: 1 for a neuron or channel, more for a head of attention.
        targets: by position, constant target shapes of Reshape nodes that heads lie in.
    """

    value: str
    units: int
    projection: int
    nodes: NodeSet
    slices: Mapping[str, int] = field(default_factory=dict)
    form: Form | None = None
    width: int = 1
    targets: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    def kernel(self, flow: Flow) -> tuple[int, ...]:
        """Extents of the last projection's kernel; empty for a matrix product."""
        node = flow.nodes[self.projection]
        return tuple(attribute(node, "kernel_shape", ())) if node.op_type == "Conv" else ()


class NotNarrowableError(Exception):
    """The region has no hidden layer that can be sliced."""


def find_hidden(flow: Flow, constants: Mapping[str, Array], region: Region) -> Hidden | None:
    """The hidden layer of a region; None where it has none that can be narrowed.

    Args:
        flow: of the normalised model.
        constants: arrays by value name, of initializers and constant nodes.
        region: to look at.
    """
    try:
        return _Slicer(flow, constants, region).hidden()
    except NotNarrowableError:
        return None


def last_projection(flow: Flow, constants: Mapping[str, Array], region: Region) -> tuple[int, Product]:
    """The only product with a constant weight that a region's merge is reached from without another one between.

    Returns:
        the position of the node that writes its result, and the product.

    Raises:
        NotNarrowableError: there are none or several.
    """
    return _Slicer(flow, constants, region).last_projection()


def constants_of(graph: onnx.GraphProto) -> dict[str, Array]:
    """Arrays of all initializers and constant nodes, by value name; without those that lie in another file."""
    found = {item.name: item for item in graph.initializer if not is_external(item)}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = node.attribute[0].t
    return {name: numpy_helper.to_array(item) for name, item in found.items()}


class _Slicer:
    """Walks back from a region's last projection and notes which constants to slice."""

    def __init__(self, flow: Flow, constants: Mapping[str, Array], region: Region) -> None:
        self._flow = flow
        self._constants = constants
        self._region = region
        position = {node.name: i for i, node in enumerate(flow.nodes)}
        self._inside = {position[name] for name in region.nodes}
        self._last_axis = region.channel_axis == len(region.dims) - 1
        self._slices: dict[str, int] = {}
        self._dequantizers: set[int] = set()
        self._reads: list[str] = []
        """What the projections that make the units read."""
        self._units = 0
        self._seen: set[str] = set()

    def hidden(self) -> Hidden:
        projection, product = self.last_projection()
        self._units = product.inputs
        self._slice(product.value)
        self._require_independent_reads()
        ancestors = self._flow.ancestors[self._flow.producer[product.value]] & node_set(self._inside)
        ancestors |= node_set(self._dequantizers)
        return Hidden(product.value, self._units, projection, ancestors, dict(self._slices), product.form)

    def last_projection(self) -> tuple[int, Product]:
        """See the function of this name."""
        merge = self._flow.producer[self._region.merge]
        # Where an optimiser has fused the residual sum, the region ends with the projection itself.
        waiting, found = ([], {merge}) if self._product(merge) else ([merge], set())
        while waiting:
            for name in self._flow.data_inputs(waiting.pop()):
                made_by = self._flow.producer.get(name)
                if name == self._region.entry or made_by is None or made_by not in self._inside:
                    continue
                if self._product(made_by):
                    found.add(made_by)
                else:
                    waiting.append(made_by)
        if len(found) != 1:
            raise NotNarrowableError
        projection = found.pop()
        product = self._product(projection)
        if product is None:
            raise NotNarrowableError
        if self._flow.nodes[projection].op_type == "Conv":
            self._require_same_extent(self._flow.nodes[projection])
        return projection, product

    def _product(self, position: int) -> Product | None:
        return product_at(self._flow, self._constants, position)

    def _require_same_extent(self, node: onnx.NodeProto) -> None:
        """The refitted projection reads the same places, which is only written for stride and dilation 1."""
        kernel = self._weight(node).shape[2:]
        pads = tuple((extent - 1) // 2 for extent in kernel) * 2
        plain = attribute(node, "auto_pad", b"NOTSET") in (b"NOTSET", b"") and all(extent % 2 for extent in kernel)
        ones = (*attribute(node, "strides", ()), *attribute(node, "dilations", ()))
        if not plain or set(ones) - {1} or tuple(attribute(node, "pads", (0,) * len(pads))) != pads:
            raise NotNarrowableError

    def _weight(self, node: onnx.NodeProto) -> Array:
        return self._constants.get(node.input[1], np.zeros(0))

    def _slice(self, value: str) -> None:
        """Note what must be sliced for a value to hold the kept units only."""
        if value in self._seen:
            return
        self._seen.add(value)
        made_by = self._flow.producer.get(value)
        if made_by is None or made_by not in self._inside:
            raise NotNarrowableError
        node, product = self._flow.nodes[made_by], self._product(made_by)
        if product is not None:
            self._slice_constant(product.weight, product.output_axis)
            self._slice_others(product.others, packed=isinstance(product.form, Bits))
            self._reads.append(product.value)
        elif node.op_type == "Conv" and attribute(node, "group", 1) == self._units == len(self._weight(node)):
            self._slice_constant(node.input[1], 0)
            self._slice_others(node.input[2:])
            self._slice(node.input[0])
        elif node.op_type in UNITWISE:
            self._slice_operands(node)
        else:
            raise NotNarrowableError

    def _require_independent_reads(self) -> None:
        """None of the projections may read what is made of the units, as squeeze-and-excitation does."""
        sliced = node_set({self._flow.producer[name] for name in self._seen})
        made_by = [self._flow.producer[name] for name in self._reads if name in self._flow.producer]
        if any(self._flow.ancestors[position] & sliced for position in made_by):
            raise NotNarrowableError

    def _slice_others(self, names: Iterable[str], *, packed: bool = False) -> None:
        for name in names:
            array = self._constants.get(stored(self._flow, self._constants, name))
            if array is not None and array.size > 1:
                self._slice_constant(name, 0 if packed else array.ndim - 1, packed=packed)

    def _slice_operands(self, node: onnx.NodeProto) -> None:
        if node.op_type in ("Pad", "Clip", "Dropout"):
            self._slice(node.input[0])
            return
        for name in node.input:
            if name and not self._flow.is_constant(name):
                self._slice(name)
            elif name:
                self._slice_broadcast(name)

    def _slice_broadcast(self, name: str) -> None:
        """A constant operand: sliced where it has an extent for every unit, kept where it is the same for all."""
        held = stored(self._flow, self._constants, name)
        if held not in self._constants:
            raise NotNarrowableError
        shape = self._constants[held].shape
        axis = len(shape) - (len(self._region.dims) - self._region.channel_axis)
        if axis >= 0 and shape[axis] != 1:
            self._slice_constant(name, axis)

    def _slice_constant(self, name: str, axis: int, *, packed: bool = False) -> None:
        """Note the axis of the units; packed constants may hold several elements for each of them."""
        made_by = dequantizer(self._flow, self._constants, name)
        if made_by is not None:
            self._slice_dequantizer(made_by, axis)
            return
        extent = self._constants[name].shape[axis] if name in self._constants else 0
        if extent == 0 or extent % self._units or (extent != self._units and not packed):
            raise NotNarrowableError
        if self._slices.setdefault(name, axis) != axis:
            raise NotNarrowableError

    def _slice_dequantizer(self, position: int, axis: int) -> None:
        """Slice what a value is dequantized from: its elements, and scales and zero points that follow the units."""
        node = self._flow.nodes[position]
        self._dequantizers.add(position)
        self._slice_constant(node.input[0], axis)
        rank = self._constants[node.input[0]].ndim
        for name in filter(None, node.input[1:]):
            array = self._constants[name]
            if array.ndim == rank > 1:
                self._slice_constant(name, axis)
            elif array.size > 1 and attribute(node, "axis", 1) % rank == axis:
                self._slice_constant(name, 0)


@dataclass(frozen=True)
class Narrowed:
    """The hidden layer with fewer units.

    Attributes:
        nodes: copies of those that make the hidden activations.
        initializers: the sliced constants, and the positions of those that are taken from the original's.
        weights: nodes that take them.
        value: name of the activations.
        entry: how products of the entry value are written next to these nodes; None in float.
        hidden: how the last projection is.
    """

    nodes: tuple[onnx.NodeProto, ...] = ()
    initializers: tuple[onnx.TensorProto, ...] = ()
    weights: tuple[onnx.NodeProto, ...] = ()
    value: str = ""
    entry: Form | None = None
    hidden: Form | None = None


def narrowed(
    flow: Flow,
    constants: Mapping[str, Array],
    hidden: Hidden,
    units: NDArray[np.int64],
    prefix: str,
    entry: Form | None = None,
    referable: Collection[str] = (),
) -> Narrowed:
    """Copies of the nodes that make the hidden activations, for these units only.

    Args:
        flow: of the normalised model.
        constants: arrays by value name.
        hidden: layer of a region.
        units: to keep.
        prefix: of the copies' names.
        entry: how the region writes products of its entry value.
        referable: names of constants whose parts need not be copied into the file, since the whole is there to take
            them from.
    """
    inside = {i: flow.nodes[i] for i in members(hidden.nodes)}
    new = {name: f"{prefix}/{name}" for node in inside.values() for name in node.output if name}
    sliced = {name: f"{prefix}/{name}" for name in hidden.slices}
    weights, tensors = _sliced(constants, hidden, units, prefix, referable)
    nodes = []
    for position, node in inside.items():
        copy = copied_node(node)
        copy.input[:] = [new.get(name, sliced.get(name, name)) for name in node.input]
        copy.output[:] = [new.get(name, name) for name in node.output]
        copy.name = f"{prefix}/{node.name}"
        _set_count(copy, hidden.units, len(units))
        if position in hidden.targets:
            tensors.append(_set_target(copy, _fewer(hidden.targets[position], hidden, len(units))))
        nodes.append(copy)
    nodes, lowest = without_nan_guards(nodes, constants, prefix)
    tensors += lowest
    entry = entry.renamed(new) if isinstance(entry, Integers) else entry
    needed = _needed(nodes, new[hidden.value])
    return Narrowed(needed, tuple(tensors), weights, new[hidden.value], entry, hidden.form)


def _sliced(
    constants: Mapping[str, Array], hidden: Hidden, units: NDArray[np.int64], prefix: str, referable: Collection[str]
) -> tuple[tuple[onnx.NodeProto, ...], list[onnx.TensorProto]]:
    """The kept parts of constants, named under the prefix: nodes that take them from the whole, or copies."""
    nodes: list[onnx.NodeProto] = []
    tensors: dict[str, onnx.TensorProto] = {}
    for name, axis in hidden.slices.items():
        array, new = constants[name], f"{prefix}/{name}"
        width = array.shape[axis] // hidden.units
        features = features_of(units, width)
        kept_bytes = array.nbytes * len(units) // hidden.units
        if name in referable and kept_bytes >= REFERRED_FROM * features.nbytes:
            index = f"{prefix}/units_{width}"
            nodes.append(helper.make_node("Gather", [name, index], [new], name=new, axis=axis))
            tensors[index] = numpy_helper.from_array(features, index)
        else:
            tensors[new] = numpy_helper.from_array(np.ascontiguousarray(array.take(features, axis=axis)), new)
    return tuple(nodes), list(tensors.values())


def features_of(units: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    """Positions of units that are several features wide."""
    return np.asarray((units[:, None] * width + np.arange(width)).reshape(-1))


def _fewer(target: tuple[int, ...], hidden: Hidden, units: int) -> list[int]:
    """A target shape with fewer units: it may name their number, next to last, or that of their features, last."""
    fewer = list(target)
    if len(fewer) > 1 and fewer[-2] == hidden.units:
        fewer[-2] = units
    if fewer[-1] == hidden.units * hidden.width:
        fewer[-1] = units * hidden.width
    return fewer


def _set_target(node: onnx.NodeProto, target: Sequence[int]) -> onnx.TensorProto:
    """Give a Reshape a constant target, which is returned."""
    node.input[1] = f"{node.name}/target"
    kept = [item for item in node.attribute if item.name != "allowzero"]
    del node.attribute[:]
    node.attribute.extend(kept)
    return numpy_helper.from_array(np.array(target, np.int64), node.input[1])


def _needed(nodes: Sequence[onnx.NodeProto], value: str) -> tuple[onnx.NodeProto, ...]:
    """The nodes that a value depends on; others computed a shape that is constant now."""
    wanted, found = {value}, []
    for node in reversed(nodes):
        if not wanted.isdisjoint(node.output):
            wanted.update(node.input)
            found.append(node)
    return tuple(reversed(found))


def _set_count(node: onnx.NodeProto, before: int, after: int) -> None:
    for item in node.attribute:
        counts = (node.op_type, item.name) in (("Conv", "group"), ("MatMulNBits", "N"))
        if counts and item.i == before and before > 1:
            item.i = after
