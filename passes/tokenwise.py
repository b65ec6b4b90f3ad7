"""Which nodes treat every token by itself, so that they can run on real tokens alone (`padding.py`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx

from skipc.passes.freeze import DYNAMIC
from skipc.passes.operators import ELEMENTWISE_OPS
from skipc.passes.products import attribute
from skipc.passes.token_scope import Scope
from skipc.runtime import names
from skipc.runtime.plan import Array

TOKENWISE = ELEMENTWISE_OPS | {"BiasGelu", "Reciprocal"}
"""Operators that treat every element by itself, or a feature of every token alike."""

PRODUCTS = frozenset({"MatMul", "MatMulInteger"})
PACKED_PRODUCTS = frozenset({"MatMulBnb4", "MatMulNBits"})
"""Products with a weight matrix, and those that hold it in blocks."""

QUANTIZERS = frozenset({"DequantizeLinear", "QuantizeLinear"})
"""Operators that treat every element by itself where one scale serves all."""

REDUCTIONS = frozenset({"ReduceL2", "ReduceMax", "ReduceMean", "ReduceSum"})

ALONG_FEATURES = {
    **dict.fromkeys(("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"), -1),
    **dict.fromkeys(("LogSoftmax", "Softmax", "Split"), 0),
}
"""Operators that keep to the axis which their attribute names, and which one that is where it is absent."""

COPIES = ("/copy/", "/kept/", "/rows/", "/tail/")
"""What stands between the region and the original's name in the name of a copy that a bypass holds."""


@dataclass(frozen=True)
class Tokenwise:
    """Asks one node at a time.

    Attributes:
        constants: arrays of the original's initializers and constant nodes, by value name.
        by_token: whether a value of the original has a row of features for each token.
        taken: values of the original from which padding was taken, or is to be; whoever takes more adds them.
    """

    constants: Mapping[str, Array]
    by_token: Callable[[str], bool]
    taken: set[str]

    def can_run_on(self, node: onnx.NodeProto, scope: Scope) -> bool:
        """Whether a node is to run on real tokens: it can, and is worth it or the values it reads are there already."""
        if names.is_score(node.output[0]):
            return False  # Others read it, and know its shape.
        live = list(filter(scope.has_rows, node.input))
        return self._is_worth_it(node, live, scope) or self._goes_along(node, live, scope)

    def _is_worth_it(self, node: onnx.NodeProto, live: Sequence[str], scope: Scope) -> bool:
        """Whether a node is a product with weights of values with a row for each token, or quantizes such for one."""
        if live != [node.input[0]] or not self.has_tokens(live[0], scope):
            return False
        if node.op_type in PRODUCTS:
            return scope.rank(node.input[1]) == 2
        if node.op_type == "QuantizeLinear":
            return _has_one_scale(node, scope)
        return node.op_type in PACKED_PRODUCTS or node.op_type == DYNAMIC

    def _goes_along(self, node: onnx.NodeProto, live: Sequence[str], scope: Scope) -> bool:
        """Whether a node treats tokens by themselves, and real ones of what it reads are side by side already."""
        if not any(scope.space_of(name) == scope.space for name in live):
            return False
        if not all(self._is_at_hand(name, scope) for name in live):
            return False
        if node.op_type in TOKENWISE:
            return is_flat(node, scope)
        if node.op_type in QUANTIZERS:
            return _has_one_scale(node, scope)
        if node.op_type in REDUCTIONS:
            return self._reduces_features(node)
        along = node.op_type in ALONG_FEATURES and live == [node.input[0]]
        return along and attribute(node, "axis", ALONG_FEATURES[node.op_type]) == -1

    def _reduces_features(self, node: onnx.NodeProto) -> bool:
        """Whether a reduction is along the last axis, counted from the end, and keeps it."""
        given = self.constants.get(node.input[1]) if len(node.input) > 1 else attribute(node, "axes", ())
        return given is not None and list(given) == [-1] and attribute(node, "keepdims", 1) == 1

    def has_tokens(self, name: str, scope: Scope) -> bool:
        """Whether a value has a row of features for each token of this scope."""
        found = scope.space_of(name)
        if found is not None:
            return found == scope.space
        return scope.owner(name).space == scope.space and (origin(name) in self.taken or self.by_token(name))

    def _is_at_hand(self, name: str, scope: Scope) -> bool:
        """Whether the real tokens of a value are wanted by a product too.

        No others are taken out: what a mask has made zero at padding must be zero there for the sum over tokens.
        """
        return self.has_tokens(name, scope) and (scope.space_of(name) is not None or origin(name) in self.taken)


def is_flat(node: onnx.NodeProto, scope: Scope) -> bool:
    """Whether none of the constants that a node reads has more than an axis of features."""
    return all(scope.rank(name) in (0, 1) for name in node.input if name and scope.is_constant(name))


def _has_one_scale(node: onnx.NodeProto, scope: Scope) -> bool:
    return all(scope.rank(name) == 0 for name in filter(None, node.input[1:]))


def origin(name: str) -> str:
    """The original's name of a value that is a copy of one of its own."""
    while names.is_ours(name):
        ends = [name.index(mark) + len(mark) for mark in COPIES if mark in name]
        if not ends:
            break
        name = name[min(ends) :]
    return name
