"""Show values of a model as outputs: for probing types, for collecting activations, and for reading decisions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import numpy as np
import onnx
from onnx import helper

from skipc.passes.base import copied, opset_of
from skipc.passes.builder import Builder
from skipc.passes.cut import take
from skipc.passes.flow import Flow, members, node_set
from skipc.passes.gate import decides_by_row, is_by_token
from skipc.passes.shared import score_columns
from skipc.runtime import names
from skipc.runtime.plan import Block, Dim, Region


def with_outputs(model: onnx.ModelProto, values: Sequence[str]) -> onnx.ModelProto:
    """A copy of a model with more outputs, for running and not for shipping: their types are left to be inferred.

    Values that are outputs already stay where they are; the others follow in the order given. Inputs of the graph
    are left out: whoever feeds them has them.
    """
    model = copied(model)
    present = {item.name for item in (*model.graph.output, *model.graph.input)}
    new = [name for name in dict.fromkeys(values) if name not in present]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in new)
    return model


def up_to(model: onnx.ModelProto, values: Sequence[str]) -> onnx.ModelProto:
    """The part of a model that computes these values and nothing else, for running and not for shipping."""
    flow = Flow.of(model.graph)
    made_by = {flow.producer[name] for name in values if name in flow.producer}
    needed = flow.union(flow.ancestors, made_by) | node_set(made_by)
    part = onnx.ModelProto()
    part.CopyFrom(model)
    for field in (part.graph.node, part.graph.output, part.graph.value_info):
        del field[:]
    part.graph.node.extend(flow.nodes[i] for i in members(needed))
    part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in values if name in flow.producer)
    read = {name for i in members(needed) for name in flow.inputs[i]}
    take(part.graph.initializer, [item.name for item in model.graph.initializer if item.name not in read], ())
    return part


@dataclass(frozen=True)
class ExposeDecisions:
    """Append `skipc.decisions` and `skipc.scores`, float32 [batch, gates], to a gated model's outputs."""

    blocks: tuple[Block, ...]

    def apply(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return the copy with the two outputs."""
        model = copied(model)
        builder = Builder("skipc/decisions", opset_of(model))
        rows = _Rows(builder, _inputs_by_extent(model))
        columns = score_columns(self.blocks)
        runs = [tuple(run) for _, run in groupby(self.blocks, _settled)]
        score, first = partial(_score, columns), partial(_first, columns)
        scores = [_joined(builder, run, rows, score, first) for run in runs]
        builder.op("Concat", scores, output=names.SCORES, axis=1)
        builder.op(
            "Concat", [_joined(builder, run, rows, _decision, _decided) for run in runs], output=names.DECISIONS, axis=1
        )
        fragment = builder.fragment()
        model.graph.node.extend(fragment.nodes)
        model.graph.initializer.extend(fragment.initializers)
        for name in (names.DECISIONS, names.SCORES):
            shape = [self.blocks[0].region.dims[0], len(self.blocks)]
            model.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
        return model


def _inputs_by_extent(model: onnx.ModelProto) -> dict[Dim, str]:
    """An input of the graph for each name that a first extent has."""
    filled = {item.name for item in model.graph.initializer}
    found: dict[Dim, str] = {}
    for item in model.graph.input:
        dims = item.type.tensor_type.shape.dim
        if item.name not in filled and dims and dims[0].dim_param:
            found.setdefault(dims[0].dim_param, item.name)
    return found


class _Rows:
    """The shape [batch, 1], computed once for all regions whose first extent has the same name: each node costs."""

    def __init__(self, builder: Builder, inputs: Mapping[Dim, str]) -> None:
        self._builder, self._inputs = builder, inputs
        self._known: dict[Dim, str] = {}

    def of(self, region: Region) -> str:
        """The value with the shape for a region."""
        extent = region.dims[0]
        if extent is None or extent not in self._known:
            self._known[extent] = self._computed(region)
        return self._known[extent]

    def _computed(self, region: Region) -> str:
        builder = self._builder
        if isinstance(region.dims[0], int):
            return builder.constant([region.dims[0], 1], np.int64)
        # Where padding is left out, an entry value holds the tokens of all samples side by side.
        value = self._inputs.get(region.dims[0], region.entry)
        batch = builder.op("Gather", [builder.op("Shape", [value]), builder.constant([0], np.int64)], axis=0)
        return builder.op("Concat", [batch, builder.constant([1], np.int64)], axis=0)


def _settled(block: Block) -> tuple[bool, Dim]:
    """Whether a gate reads nothing; such blocks next to each other share their nodes."""
    return block.gate.pooling == "constant", block.region.dims[0]


def _joined(
    builder: Builder,
    run: Sequence[Block],
    rows: _Rows,
    column: Callable[[Builder, Block, _Rows], str],
    value: Callable[[Builder, Block], str],
) -> str:
    """The columns of some blocks: float32 [batch, blocks]; what is settled is joined first, which folds at load."""
    if _settled(run[0])[0] and len(run) > 1:
        joined = builder.op("Concat", [value(builder, block) for block in run], axis=1)
        return builder.op("Expand", [joined, rows.of(run[0].region)])
    columns = [column(builder, block, rows) for block in run]
    return builder.op("Concat", columns, axis=1) if len(columns) > 1 else columns[0]


def _first(columns: Mapping[str, tuple[str, int]], builder: Builder, block: Block) -> str:
    """A score without its negative."""
    value, column = columns[block.region.name]
    return builder.op("Gather", [value, builder.constant([column], np.int64)], axis=2 if is_by_token(block.gate) else 1)


def _decided(builder: Builder, block: Block) -> str:
    """The decision for a whole batch: float32 [1, 1]."""
    decided = builder.cast(names.gate(block.region.name), onnx.TensorProto.FLOAT)
    return builder.op("Reshape", [decided, builder.constant([1, 1], np.int64)])


def _score(columns: Mapping[str, tuple[str, int]], builder: Builder, block: Block, rows: _Rows) -> str:
    """A gate's score without its negative, for each sample: float32 [batch, 1]; of tokens, their mean."""
    first = _first(columns, builder, block)
    if is_by_token(block.gate):
        return _over_tokens(builder, block, first)
    # A constant score has one row, whatever the batch.
    constant = block.gate.pooling == "constant"
    return builder.op("Expand", [first, rows.of(block.region)]) if constant else first


def _decision(builder: Builder, block: Block, rows: _Rows) -> str:
    """The share of each sample that is bypassed: float32 [batch, 1]."""
    region = block.region
    if not decides_by_row(block.gate):
        decided = builder.cast(names.gate(region.name), onnx.TensorProto.FLOAT)
        return builder.op("Expand", [decided, rows.of(region)])
    agreed = names.agreed(region.name)
    if not is_by_token(block.gate):
        return builder.unsqueeze(agreed, 1)
    return _over_tokens(builder, block, builder.unsqueeze(agreed, 2))


def _over_tokens(builder: Builder, block: Block, value: str) -> str:
    """The mean over each sample's tokens: [batch, sequence, 1] to [batch, 1]."""
    if not block.gate.mask:
        return builder.reduce("ReduceMean", value, [1])
    mean = builder.op("MatMul", [names.mask(block.gate.mask), value])
    return builder.op("Reshape", [mean, builder.constant([0, 1], np.int64)])
