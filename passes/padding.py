"""Leave padding out of what treats every token by itself.

Samples of unequal length share a batch by padding the shorter ones, and a network spends as much on a padding token as
on a real one, to no effect: attention gives it no weight, and pooling leaves it out. Products with weights, and what
follows them token by token (biases, activations, normalisations, residual sums), run here on the real tokens of all
samples side by side, [tokens, features]; attention itself and whatever else looks across tokens is given
[batch, sequence, features] again, in which padding holds copies of the first real token. Two Gathers lead there and
back. Removing padding this way is known from ByteTransformer (arXiv 2210.03052) and ONNX Runtime's packed attention on
CUDA; here the branches of `If` nodes do the same, for all rows and for some.

Where values are quantized as they come, their range is then that of real tokens, as if each sample had come alone.

A sample without a single real token runs in full, and at level 0 everything does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from skipc.passes.base import copied, opset_of
from skipc.passes.builder import Builder
from skipc.passes.candidate import ValueType
from skipc.passes.flow import subgraphs
from skipc.passes.freeze import DYNAMIC
from skipc.passes.narrow import constants_of
from skipc.passes.normalize import copied_node
from skipc.passes.rows import rows_name
from skipc.passes.token_scope import Scope, Space, constant_rank
from skipc.passes.tokenwise import TOKENWISE, Tokenwise, is_flat
from skipc.runtime import names
from skipc.runtime.plan import Padding


@dataclass(frozen=True)
class LeaveOutPadding:
    """Run on real tokens alone what treats every token by itself.

    Requires what `padding_of` found in the same original, and no level but 0 to be true to the original at padding.

    Attributes:
        padding: which input tells it, and the values at which it is taken out.
    """

    padding: Padding

    def apply(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return the copy whose outputs are the same but at padding."""
        model = copied(model)
        _Writer(model, self.padding.mask, lambda _: False, self.padding.values).rewrite()
        return model


def padding_of(model: onnx.ModelProto, types: Mapping[str, ValueType], mask: str) -> Padding | None:
    """Where padding can be taken out of a model; None where nothing that is worth it treats tokens by themselves.

    Args:
        model: normalised original; one with subgraphs of its own is left alone.
        types: of its values; extents of one name are equal.
        mask: graph input [batch, sequence] that is zero at padding.
    """
    place = types[mask].dims if mask in types else ()
    if len(place) != 2 or any(True for node in model.graph.node for _ in subgraphs(node)):
        return None

    def by_token(name: str) -> bool:
        dims = types[name].dims if name in types else ()
        return len(dims) == 3 and dims[:2] == place and None not in place and isinstance(dims[2], int)

    writer = _Writer(copied(model), mask, by_token)
    writer.rewrite()
    return Padding(mask, tuple(sorted(writer.taken))) if writer.taken else None


class _Writer:
    """Goes through a graph once, in order, and brings each value into the form that its reader needs.

    Args:
        model: rewritten in place.
        mask: graph input that tells padding.
        by_token: whether a value has a row of features for each token.
        known: those of them from which padding is to be taken.
    """

    def __init__(
        self, model: onnx.ModelProto, mask: str, by_token: Callable[[str], bool], known: Sequence[str] = ()
    ) -> None:
        self._graph, self._opset, self._mask = model.graph, opset_of(model), mask
        self._outputs = frozenset(item.name for item in model.graph.output)
        self._level = any(item.name == names.LEVEL for item in model.graph.initializer)
        self.taken = set(known)
        """Values from which padding was taken, or is to be."""
        self._rules = Tokenwise(constants_of(model.graph), by_token, self.taken)

    def rewrite(self) -> None:
        """Rewrite the graph."""
        scope = Scope(self._graph, None, None)
        scope.space = self._all_tokens(scope)
        self._walk(scope)

    def _walk(self, scope: Scope) -> None:
        scope.ranks.update((item.name, len(item.dims)) for item in scope.graph.initializer)
        if scope.parent is None:
            for item in scope.graph.input:
                scope.ranks.pop(item.name, None)
        for node in list(scope.graph.node):
            self._rewrite(copied_node(node), scope)
            scope.written.update(node.output)
        del scope.graph.node[:]
        scope.graph.node.extend(scope.nodes)
        stale = [i for i, item in enumerate(scope.graph.value_info) if item.name in scope.home]
        for i in reversed(stale):
            del scope.graph.value_info[i]

    def _rewrite(self, node: onnx.NodeProto, scope: Scope) -> None:
        if any(True for _ in subgraphs(node)):
            self._if(node, scope)
        elif all(map(scope.is_constant, filter(None, node.input))):
            scope.ranks.update(dict.fromkeys(filter(None, node.output), constant_rank(node, scope)))
            scope.nodes.append(node)
        elif self._takes_rows(node, scope):
            self._take_rows(node, scope)
        elif self._puts_rows(node, scope):
            self._put_rows(node, scope)
        elif scope.space is not None and self._rules.can_run_on(node, scope):
            self._run_packed(node, scope, scope.space)
        else:
            if node.op_type in TOKENWISE and not any(map(scope.has_rows, node.input)) and is_flat(node, scope):
                scope.scales.update(node.output)
            node.input[:] = [self._plain(name, scope) for name in node.input]
            scope.nodes.append(node)

    def _run_packed(self, node: onnx.NodeProto, scope: Scope, space: Space) -> None:
        node.input[:] = [self._packed(name, scope, space) if scope.has_rows(name) else name for name in node.input]
        scope.nodes.append(node)
        rows = 1 if node.op_type == DYNAMIC else len(node.output)
        scope.scales.update(node.output[rows:])
        self._settle(node, range(rows), scope, space)

    def _settle(self, node: onnx.NodeProto, places: Sequence[int], scope: Scope, space: Space) -> None:
        """Note that outputs of the last node hold tokens side by side; outputs of the graph get padding again."""
        for place in places:
            name = node.output[place]
            if name in self._outputs and scope.parent is None:
                node.output[place] = scope.packed[name, space.index] = names.packed(name)
                scope.home[names.packed(name)] = space
                self._pad(names.packed(name), name, scope, space)
            elif name:
                scope.home[name] = space

    def _packed(self, name: str, scope: Scope, space: Space) -> str:
        """A value with its real tokens side by side."""
        if scope.space_of(name) == space:
            return name
        key = (name, space.index)
        found = next((around.packed[key] for around in scope.chain() if key in around.packed), "")
        if found:
            return found
        self.taken.add(name)
        packed = names.packed(name, scope.branch)
        builder = Builder(packed, self._opset)
        builder.op("Gather", [builder.op("Flatten", [name], axis=2), space.index], output=packed, axis=0)
        scope.add(builder.fragment())
        scope.packed[key] = packed
        return packed

    def _plain(self, name: str, scope: Scope) -> str:
        """A value with its padding."""
        space = scope.space_of(name) if name else None
        if space is None:
            return name
        found = next((around.plain[name] for around in scope.chain() if name in around.plain), "")
        return found or self._pad(name, names.padded(name, scope.branch), scope, space)

    def _pad(self, name: str, output: str, scope: Scope, space: Space) -> str:
        builder = Builder(output, self._opset)
        builder.op("Gather", [name, space.inverse], output=output, axis=0)
        fragment = builder.fragment()
        fragment.nodes[-1].name = output if names.is_ours(output) else names.padded(output)
        scope.add(fragment)
        scope.plain[name] = output
        return output

    def _all_tokens(self, scope: Scope) -> Space:
        """The space of all samples."""
        builder = Builder("skipc/tokens", self._opset)
        real = builder.cast(builder.cast(self._mask, TensorProto.BOOL), TensorProto.FLOAT)
        most = builder.reduce("ReduceMax", real, [1], keepdims=1)
        if self._level:
            skips = builder.op("Less", [builder.constant(0, np.int64), names.LEVEL])
            most = builder.op("Mul", [most, builder.cast(skips, TensorProto.FLOAT)])
        keep = builder.op("Not", [builder.op("Less", [real, most])])
        index, inverse = self._index(builder, keep)
        scope.add(builder.fragment())
        return Space(keep, index, inverse)

    def _index(self, builder: Builder, keep: str) -> tuple[str, str]:
        """Where the kept tokens are, and where each token is among them."""
        flat = builder.op("Reshape", [keep, builder.constant([-1], np.int64)])
        index = builder.op("Reshape", [builder.op("NonZero", [flat]), builder.constant([-1], np.int64)])
        kept = builder.cast(flat, TensorProto.INT64)
        before = builder.op("CumSum", [kept, builder.constant(0, np.int64)], exclusive=1)
        place = builder.op("Mul", [before, kept])
        return index, builder.op("Reshape", [place, builder.op("Shape", [keep])])

    def _takes_rows(self, node: onnx.NodeProto, scope: Scope) -> bool:
        """Whether a node in a branch takes the samples that the branch runs for from a value with tokens."""
        if scope.parent is None or node.op_type != "Gather" or scope.parent.space is None:
            return False
        takes = node.output[0].startswith(rows_name(scope.branch, ""))
        return takes and self._rules.has_tokens(node.input[0], scope.parent)

    def _take_rows(self, node: onnx.NodeProto, scope: Scope) -> None:
        value, rows = node.input
        assert scope.parent is not None
        assert scope.parent.space is not None
        around = scope.parent.space
        if not scope.chosen:
            builder = Builder(f"{scope.branch}/tokens", self._opset)
            keep = builder.op("Gather", [around.keep, rows], axis=0)
            index, inverse = self._index(builder, keep)
            places = builder.op("Gather", [around.inverse, rows], axis=0)
            flat = builder.op("Reshape", [places, builder.constant([-1], np.int64)])
            scope.chosen = builder.op("Gather", [flat, index], axis=0)
            scope.add(builder.fragment())
            scope.space = Space(keep, index, inverse)
        assert scope.space is not None
        node.input[:] = [self._packed(value, scope, around), scope.chosen]
        scope.nodes.append(node)
        scope.home[node.output[0]] = scope.space

    def _puts_rows(self, node: onnx.NodeProto, scope: Scope) -> bool:
        """Whether a node puts the rows of a branch over those of the value around it."""
        if not scope.chosen or node.op_type != "ScatterND" or scope.parent is None:
            return False
        base, _, rows = node.input
        return self._rules.has_tokens(base, scope.parent) and scope.space_of(rows) == scope.space

    def _put_rows(self, node: onnx.NodeProto, scope: Scope) -> None:
        base, _, rows = node.input
        assert scope.parent is not None
        assert scope.parent.space is not None
        around = scope.parent.space
        builder = Builder(f"{node.output[0]}/tokens", self._opset)
        places = builder.unsqueeze(scope.chosen, 1)
        scope.add(builder.fragment())
        node.input[:] = [self._packed(base, scope, around), places, rows]
        scope.nodes.append(node)
        scope.home[node.output[0]] = around

    def _if(self, node: onnx.NodeProto, scope: Scope) -> None:
        """Rewrite both branches; what both give with its tokens side by side stays so.

        Not where rows decide for themselves: OpenVINO 2026.4 then loses what the one `If` gives the other.
        """
        node.input[:] = [self._plain(name, scope) for name in node.input]
        by_rows = any(map(_takes_rows, subgraphs(node)))
        inner = []
        for graph in subgraphs(node):
            inner.append(Scope(graph, scope, None if _takes_rows(graph) else scope.space))
            self._walk(inner[-1])
        packed = []
        for place in range(len(node.output)):
            results = [branch.graph.output[place] for branch in inner]
            spaces = [branch.space_of(result.name) for branch, result in zip(inner, results, strict=True)]
            found = [space is not None and space == scope.space for space in spaces]
            if all(found) and not by_rows:
                packed.append(place)
                for result in results:
                    _flatten(result)
                continue
            if any(found):
                self.taken.add(node.output[place])
            for branch, result in zip(inner, results, strict=True):
                self._pad_result(branch, result)
        scope.nodes.append(node)
        if packed and scope.space is not None:
            self._settle(node, packed, scope, scope.space)

    def _pad_result(self, branch: Scope, result: onnx.ValueInfoProto) -> None:
        count = len(branch.nodes)
        result.name = self._plain(result.name, branch)
        branch.graph.node.extend(branch.nodes[count:])


def _flatten(result: onnx.ValueInfoProto) -> None:
    """Make the type of a value [batch, sequence, features] that of [tokens, features]."""
    features = onnx.TensorShapeProto.Dimension()
    features.CopyFrom(result.type.tensor_type.shape.dim[-1])
    result.type.tensor_type.shape.CopyFrom(onnx.TensorShapeProto(dim=[onnx.TensorShapeProto.Dimension(), features]))


def _takes_rows(graph: onnx.GraphProto) -> bool:
    """Whether a branch runs for some rows."""
    taken = rows_name(graph.output[0].name, "")
    return any(name.startswith(taken) for node in graph.node for name in node.output)
