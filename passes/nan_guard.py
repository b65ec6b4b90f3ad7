"""Spare an attention's probabilities the test for NaN that exporters write behind a softmax.

Where a query may see no key at all, its scores are all -∞ and softmax gives NaN; so exporters of PyTorch's scaled dot
product attention put 0 there, and read all probabilities twice for it. A mask that is finite makes no NaN: queries with
a key to see get the very same probabilities, and those without one, which nothing reads, the mean of all values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from skipc.runtime.plan import Array


@dataclass(frozen=True)
class _Guard:
    """A test for NaN behind a softmax.

    Attributes:
        tested: the node that puts something else in NaN's place.
        tests: the node that tells NaN.
        masked: the node that adds the mask to the scores.
        mask: which of its inputs is the mask.
        dtype: of the probabilities.
    """

    tested: onnx.NodeProto
    tests: onnx.NodeProto
    masked: onnx.NodeProto
    mask: int
    dtype: np.dtype[np.floating[Any]]


def without_nan_guards(
    nodes: Sequence[onnx.NodeProto], constants: Mapping[str, Array], prefix: str
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Take tests for NaN behind softmax out of an approximation, where masks come from outside of it.

    Args:
        nodes: in topological order, which are changed; what they compute may differ where it was NaN before the test.
        constants: arrays by value name.
        prefix: of the names of what is added.

    Returns:
        the nodes, and the constants that they read beside others.
    """
    made = {name: node for node in nodes for name in node.output}
    guards = [guard for node in nodes if (guard := _guard_at(node, made, constants))]
    renamed = {guard.tested.output[0]: guard.tested.input[2] for guard in guards}
    gone = {id(node) for guard in guards for node in (guard.tested, guard.tests)}
    before: dict[int, onnx.NodeProto] = {}
    lowest: dict[str, onnx.TensorProto] = {}
    for guard in guards:
        masked, name = guard.masked, f"{prefix}/lowest"
        finite = f"{masked.output[0]}/finite"
        before[id(masked)] = helper.make_node("Max", [masked.input[guard.mask], name], [finite], name=finite)
        masked.input[guard.mask] = finite
        # Half of the lowest number: what scores add to it stays finite.
        lowest[name] = numpy_helper.from_array(np.array(np.finfo(guard.dtype).min / 2, guard.dtype), name)
    found = []
    for node in nodes:
        if id(node) in gone:
            continue
        node.input[:] = [renamed.get(name, name) for name in node.input]
        found += [before[id(node)], node] if id(node) in before else [node]
    return found, list(lowest.values())


def _guard_at(
    node: onnx.NodeProto, made: Mapping[str, onnx.NodeProto], constants: Mapping[str, Array]
) -> _Guard | None:
    """The test that ends with a node; None where it ends none."""
    if node.op_type != "Where":
        return None
    condition, filling, value = node.input
    tests, softmax, filled = made.get(condition), made.get(value), constants.get(filling)
    if tests is None or tests.op_type != "IsNaN" or tests.input[0] != value or filled is None or filled.size != 1:
        return None
    if softmax is None or softmax.op_type != "Softmax":
        return None
    masked = made.get(softmax.input[0])
    if masked is None or masked.op_type != "Add":
        return None
    masks = [place for place, name in enumerate(masked.input) if name not in made]
    if len(masks) != 1 or not np.issubdtype(filled.dtype, np.floating):
        return None
    return _Guard(node, tests, masked, masks[0], filled.dtype)
