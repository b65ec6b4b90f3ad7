"""A second look for classifiers: a cheap read-out answers first, and the rest of the network runs where it is unsure.

The region is everything from an inner value to the class scores. Its bypass is a linear read-out of that value, pooled,
which runs for every sample, since its own highest scores are what the gate reads. The `else` branch holds the rest of
the network, unchanged; in batches it runs for the samples that need it, whose scores replace those of the read-out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto, helper

from skipc.passes.builder import Builder
from skipc.passes.candidate import ValueType
from skipc.passes.cut import Cut, result
from skipc.passes.flow import Flow, NodeSet, members
from skipc.passes.gate import decides_by_row
from skipc.passes.rows import RowWriter
from skipc.runtime import names
from skipc.runtime.plan import Block, Region

NAME = "second-look"
"""Name and kind of the region; there is one at most in a file."""

READ_OUT = "read-out"

FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16})

MONOTONE = frozenset({"Softmax", "LogSoftmax", "Identity"})
"""What may follow class scores without changing their order."""


def is_second_look(block: Block) -> bool:
    """Whether a block stands for the rest of the network."""
    return block.bypass.kind == READ_OUT


def find_second_looks(
    model: onnx.ModelProto, blocks: Sequence[Region], types: Mapping[str, ValueType], output: str
) -> tuple[Region, ...]:
    """Where a classifier could answer early: at the ends of its blocks, from first to last.

    Left out are values from which something else than the class scores is computed, which would not be looked at again.

    Args:
        model: normalised.
        blocks: regions found in it.
        types: of its values; extents of one name are equal.
        output: that is judged, [batch, classes].
    """
    flow = Flow.of(model.graph)
    scores = _scores_before(flow, output, types)
    values = dict.fromkeys(name for block in blocks for name in (block.entry, block.exit))
    placed = sorted(values, key=lambda name: flow.producer.get(name, -1))
    found = (look for entry in placed for look in _look(flow, entry, scores, types))
    return tuple(replace(look, weights=blocks[0].weights) for look in found)


def _scores_before(flow: Flow, output: str, types: Mapping[str, ValueType]) -> str:
    """The value whose order the output has, without what normalises it at the end."""
    made_by = flow.producer.get(output)
    while made_by is not None and flow.nodes[made_by].op_type in MONOTONE:
        before = flow.nodes[made_by].input[0]
        if types.get(before) != types.get(output):
            break
        output, made_by = before, flow.producer.get(before)
    return output


def _look(flow: Flow, entry: str, scores: str, types: Mapping[str, ValueType]) -> Iterator[Region]:
    """The region from a value to the class scores, if there is one."""
    first, last = types.get(entry), types.get(scores)
    if first is None or last is None or scores not in flow.producer:
        return
    fits = len(last.dims) == 2 and len(first.dims) > 1 and first.dims[0] == last.dims[0] is not None
    same = first.elem_type == last.elem_type and first.elem_type in FLOATS
    nodes = flow.between(entry, flow.producer[scores])
    if not (fits and same and isinstance(last.dims[1], int) and last.dims[1] > 1) or not nodes:
        return
    if not flow.escaping(nodes, scores):
        inside = tuple(flow.nodes[i].name for i in members(nodes))
        yield Region(NAME, NAME, entry, scores, scores, inside, (), last.elem_type, last.dims, 1)


def window_of_grid(extent: int, cells: int) -> tuple[int, int]:
    """Kernel and stride of the windows that cover an extent in so many cells."""
    stride = max(1, extent // cells)
    return extent - (cells - 1) * stride, stride


def write_first_look(builder: Builder, block: Block) -> None:
    """Add the nodes from the entry value to the class scores of the read-out, computed in float32."""
    region, arrays = block.region, block.bypass.arrays
    value = builder.to_float32(region.entry, region.elem_type)
    operands = [_features(builder, block, value), *(builder.constant(arrays[name]) for name in ("weight", "shift"))]
    if region.elem_type == TensorProto.FLOAT:
        builder.op("Gemm", operands, output=names.first_look(region.name))
    else:
        builder.cast(builder.op("Gemm", operands), region.elem_type, output=names.first_look(region.name))


def _features(builder: Builder, block: Block, value: str) -> str:
    """The pooled entry value, float32 [batch, F]."""
    arrays = block.bypass.arrays
    if "kernel" in arrays:
        window = {"kernel_shape": arrays["kernel"].tolist(), "strides": arrays["stride"].tolist()}
        return builder.op("Flatten", [builder.op("AveragePool", [value], **window)], axis=1)
    if block.gate.mask:
        mean = builder.op("MatMul", [names.mask(block.gate.mask), value])
        return builder.op("Reshape", [mean, builder.constant([0, len(arrays["weight"])], np.int64)])
    axes = arrays["axes"].tolist()
    return builder.reduce("ReduceMean", value, axes) if axes else value


def look_again(cut: Cut, block: Block, moved: NodeSet, opset: int) -> tuple[onnx.GraphProto, onnx.GraphProto]:
    """The branches of the `If`: the first look as it is, and the rest of the network."""
    region = block.region
    first, settled = names.first_look(region.name), names.bypass(region.name)
    builder = Builder(f"{settled}/same", opset)
    builder.op("Identity", [first], output=settled)
    then = helper.make_graph(builder.fragment().nodes, settled, [], [result(region, settled)])
    full = cut.full_branch(region, cut.full_nodes(region, moved), moved)
    if not decides_by_row(block.gate):
        return then, full
    some = RowWriter(region, tokens=False, opset=opset).branch(full.name, full.node, agreed=False, base=first)
    some.initializer.extend(full.initializer)
    return then, some
