"""Along which axis of a value its features lie.

Matrix products act on the last axis and convolutions on the second one, but of their own input: between a region's
entry and its convolution there may be transpositions, as in networks that keep images channels-last (NHWC).
"""

from __future__ import annotations

from collections.abc import Mapping

from onnx.helper import get_attribute_value

from skipc.passes.candidate import ValueType
from skipc.passes.flow import Flow, NodeSet, members
from skipc.passes.operators import CONVOLUTION_OPS
from skipc.runtime.plan import Dim


def channel_axis(flow: Flow, types: Mapping[str, ValueType], entry: str, nodes: NodeSet) -> int:
    """The axis of an entry value along which its features lie.

    Args:
        flow: of the graph.
        types: of its values.
        entry: has a type.
        nodes: the region that it enters.
    """
    dims = types[entry].dims
    last = len(dims) - 1
    convolutions = [i for i in members(nodes) if flow.nodes[i].op_type in CONVOLUTION_OPS]
    if last < 2 or not convolutions:
        return last
    traced = (_traced(flow, types, entry, nodes, i) for i in convolutions)
    usual = 1 if last > 2 or isinstance(dims[1], int) else last
    return _fixed(dims, next((axis for axis in traced if axis is not None), usual))


def _fixed(dims: tuple[Dim, ...], axis: int) -> int:
    """The axis itself, or the last one where only that has a fixed extent."""
    return axis if isinstance(dims[axis], int) or not isinstance(dims[-1], int) else len(dims) - 1


def _traced(flow: Flow, types: Mapping[str, ValueType], entry: str, nodes: NodeSet, convolution: int) -> int | None:
    """The entry's axis that becomes the channels of a convolution; None where the way back to it is not plain."""
    node = flow.nodes[convolution]
    value = node.input[0]
    axis = len(types[value].dims) - 1 if node.op_type == "NhwcConv" and value in types else 1
    while value != entry:
        made_by = flow.producer.get(value)
        if made_by is None or not nodes >> made_by & 1:
            return None
        node, before = flow.nodes[made_by], flow.data_inputs(made_by)[0]
        if node.op_type == "Transpose":
            perm = next((get_attribute_value(item) for item in node.attribute if item.name == "perm"), None)
            axis = perm[axis] if perm else len(types[value].dims) - 1 - axis
        elif not _keeps(types.get(before), types.get(value), axis):
            return None
        value = before
    return axis


def _keeps(before: ValueType | None, after: ValueType | None, axis: int) -> bool:
    """Whether a node that moves no axes leaves this one in its place: ranks agree, or all extents up to it do."""
    if before is None or after is None:
        return False
    same_rank = len(before.dims) == len(after.dims)
    return (same_rank and axis < len(before.dims)) or before.dims[: axis + 1] == after.dims[: axis + 1]
