"""Narrow an attention block: the same block with fewer heads.

A head's queries, keys and values are columns of three projections, and no head sees another before the last projection
mixes them. So a head is a unit of the hidden layer, several features wide, and keeping a subset of heads means slicing
columns and changing the extents that Reshape nodes name. Which operators lie between does not matter as long as heads
stay apart, and that is for the caller to prove by running the narrowed block beside the whole one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import onnx

from skipc.passes.base import copied
from skipc.passes.bits import Bits
from skipc.passes.flow import SHAPE_OPS, Flow, members, node_set
from skipc.passes.narrow import Hidden, Narrowed, NotNarrowableError, find_hidden, last_projection
from skipc.passes.products import Product, product_at
from skipc.runtime.plan import Array, Region

PROJECTIONS = 3
"""Queries, keys and values."""


def hidden_of(flow: Flow, constants: Mapping[str, Array], region: Region) -> Hidden | None:
    """The hidden layer of a region, neurons or heads; None where it has none that can be narrowed.

    Args:
        flow: of the normalised model.
        constants: arrays by value name, of initializers and constant nodes.
        region: to look at.
    """
    return find_hidden(flow, constants, region) or find_heads(flow, constants, region)


def find_heads(flow: Flow, constants: Mapping[str, Array], region: Region) -> Hidden | None:
    """The heads of an attention region as units of a hidden layer; None where they cannot be told apart."""
    try:
        return _Finder(flow, constants, region).heads()
    except NotNarrowableError:
        return None


class _Finder:
    """Walks back from the last projection to those of queries, keys and values."""

    def __init__(self, flow: Flow, constants: Mapping[str, Array], region: Region) -> None:
        self._flow = flow
        self._constants = constants
        self._region = region
        position = {node.name: i for i, node in enumerate(flow.nodes)}
        self._inside = node_set(position[name] for name in region.nodes)
        self._extent = 0
        self._seen: set[int] = set()
        self._projections = 0
        self._slices: dict[str, int] = {}

    def heads(self) -> Hidden:
        projection, product = last_projection(self._flow, self._constants, self._region)
        if self._region.channel_axis != len(self._region.dims) - 1:
            raise NotNarrowableError
        self._extent = product.inputs
        self._walk(product.value)
        if self._projections != PROJECTIONS:
            raise NotNarrowableError
        nodes = self._flow.ancestors[self._flow.producer[product.value]] & self._inside
        targets = {i: shape for i in members(nodes) if (shape := self._target(i))}
        width = self._width(targets.values())
        units = self._extent // width
        return Hidden(product.value, units, projection, nodes, self._slices, product.form, width, targets)

    def _walk(self, value: str) -> None:
        """Note what must be sliced for a value to hold the kept heads only."""
        if value == self._region.entry:
            raise NotNarrowableError
        made_by = self._flow.producer.get(value, -1)
        if made_by < 0 or not self._inside >> made_by & 1 or made_by in self._seen:
            return
        self._seen.add(made_by)
        node = self._flow.nodes[made_by]
        product = product_at(self._flow, self._constants, made_by)
        if product is not None:
            self._slice(product)
        elif any(item.graphs or item.HasField("g") for item in node.attribute):
            raise NotNarrowableError
        else:
            for name in self._values(node):
                self._operand(name)

    def _values(self, node: onnx.NodeProto) -> Iterable[str]:
        """What a node reads beside shapes."""
        if node.op_type in SHAPE_OPS:
            return (name for name in node.input if name != self._region.entry)
        return node.input[:1] if node.op_type == "Reshape" else filter(None, node.input)

    def _slice(self, product: Product) -> None:
        """Columns of what makes queries, keys or values; those of packed weights are not told apart here."""
        shape = self._constants[product.weight].shape if product.weight in self._constants else ()
        if isinstance(product.form, Bits) or not shape or shape[product.output_axis] != self._extent:
            raise NotNarrowableError
        self._projections += 1
        self._slices[product.weight] = product.output_axis
        for name in filter(None, product.others):
            self._operand(name)

    def _operand(self, name: str) -> None:
        """A constant with a place for every feature of every head is sliced; others are kept."""
        if not self._flow.is_constant(name):
            self._walk(name)
            return
        shape = self._constants[name].shape if name in self._constants else ()
        if shape and shape[-1] == self._extent:
            self._slices[name] = len(shape) - 1

    def _target(self, position: int) -> tuple[int, ...]:
        """The constant target shape of a Reshape; empty where there is none."""
        node = self._flow.nodes[position]
        if node.op_type != "Reshape":
            return ()
        return tuple(int(extent) for extent in self._constants.get(node.input[1], ()))

    def _width(self, targets: Iterable[tuple[int, ...]]) -> int:
        """Features of a head: the last extent of what the projections' results are reshaped to."""
        ends = {shape[-1] for shape in targets}
        found = {end for end in ends if 1 < end < self._extent and self._extent % end == 0}
        if len(found) != 1:
            raise NotNarrowableError
        return found.pop()


def with_parts(model: onnx.ModelProto, parts: Sequence[Narrowed]) -> onnx.ModelProto:
    """A copy of a model that also computes some of the heads by themselves, for running and not for shipping."""
    model = copied(model)
    for part in parts:
        model.graph.node.extend(part.nodes)
        model.graph.initializer.extend(part.initializers)
    return model
