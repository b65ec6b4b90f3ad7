"""Where weights are: in the graph around the branches, or inside the branch that reads them.

ONNX Runtime holds what is inside a branch twice, so weights stay outside but for those that it cannot use well, or at
all, from there:

- convolution kernels, which it lays out anew (NCHWc) only within their own graph: 1.3 to 1.6 times slower otherwise;
- weights of less than a byte an element, which its fusion of `DequantizeLinear` with the product behind wants in their
  own graph: otherwise 1.31 and 1.32 do not load the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx
from onnx import TensorProto

from skipc.passes.flow import node_inputs
from skipc.passes.operators import CONVOLUTION_OPS

PLACEMENTS = ("auto", "branch", "outer")
"""By the rules above, all that nothing else reads in the branch, nothing in the branch."""

SUB_BYTE = frozenset(
    elem_type
    for name, elem_type in TensorProto.DataType.items()
    if name in ("INT2", "UINT2", "INT4", "UINT4", "FLOAT4E2M1")
)


def for_branch(nodes: Iterable[onnx.NodeProto], placement: str, elem_types: Mapping[str, int]) -> frozenset[str]:
    """Names of the values that belong into the branch of these nodes, if they are weights that nothing else reads.

    Args:
        nodes: of the branch.
        placement: one of `PLACEMENTS`.
        elem_types: of initializers, by name.
    """
    if placement == "outer":
        return frozenset()
    return frozenset(name for node in nodes for name in _wanted(node, placement, elem_types) if name)


def _wanted(node: onnx.NodeProto, placement: str, elem_types: Mapping[str, int]) -> Iterable[str]:
    if placement == "branch":
        return node_inputs(node)
    if node.op_type in CONVOLUTION_OPS:
        return tuple(node.input[1:])
    if node.op_type == "DequantizeLinear" and elem_types.get(node.input[0]) in SUB_BYTE:
        return tuple(node.input)
    return ()
