"""Gates that read the same value: one pooling, one product and one comparison for all of them.

Where samples decide for themselves, one NonZero finds the rows of all these gates. On CUDA each NonZero waits until the
device has counted, and so does each condition that is computed by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from skipc.passes.builder import Builder
from skipc.passes.gate import decides_by_row, pooled, reading_of, weights_of, write_gate
from skipc.runtime import names
from skipc.runtime.plan import Block

SPLIT_TAKES_SIZES = 13
"""The first opset in which a Split computes how much each of its outputs gets."""

SPLIT_TAKES_COUNT = 18
"""The first opset in which a Split into equal parts must say how many."""

Group = tuple[int, ...]
"""Numbers of gates that read one value and decide on the same rows."""


def groups_of(blocks: Sequence[Block]) -> tuple[Group, ...]:
    """Gates that can share their nodes, in graph order; most stand alone."""
    found: dict[tuple[str, ...], list[int]] = {}
    for number, block in enumerate(blocks):
        gate = block.gate
        alone = (str(number),) if gate.pooling != "mean" else ()
        reading = reading_of(block.region, gate)
        # Two regions may begin at one value and have their features along different axes of it.
        key = (reading.value, str(reading.channel_axis), gate.mask, gate.granularity, *alone)
        found.setdefault(key, []).append(number)
    return tuple(tuple(numbers) for numbers in found.values())


def score_columns(blocks: Sequence[Block]) -> Mapping[str, tuple[str, int]]:
    """Where the score of each region's gate lies: the value and its column; its negative lies behind it."""
    return {
        blocks[number].region.name: (names.score(blocks[group[0]].region.name), 2 * place)
        for group in groups_of(blocks)
        for place, number in enumerate(group)
    }


def has_shared_rows(group: Group, blocks: Sequence[Block], opset: int) -> bool:
    """Whether one NonZero finds the rows of all gates of a group."""
    return len(group) > 1 and decides_by_row(blocks[group[0]].gate) and opset >= SPLIT_TAKES_SIZES


def write_gates(builder: Builder, blocks: Sequence[Block], limits: Sequence[str], opset: int) -> None:
    """Add the nodes from a value to the conditions of all gates that read it.

    Args:
        builder: collects the nodes.
        blocks: of one group.
        limits: for each gate the name of a value, float32 [2]: the threshold and the negated floor.
        opset: to write for.
    """
    if len(blocks) == 1:
        write_gate(builder, blocks[0].region, blocks[0].gate, limits[0])
        return
    gates = [block.gate for block in blocks]
    leader = blocks[0].region
    parts = [weights_of(gate) for gate in gates]
    weight = builder.constant(np.concatenate([part for part, _ in parts], axis=1), name=_weight(leader.name))
    bias = builder.constant(np.concatenate([part for _, part in parts]), name=f"{names.gate(leader.name)}/bias")
    reading = reading_of(leader, gates[0])
    value = pooled(builder, reading, gates[0], builder.to_float32(reading.value, reading.elem_type))
    scores = builder.op("Gemm", [value, weight, bias], output=names.score(leader.name))
    inside = builder.op("Less", [scores, builder.op("Concat", limits, axis=0)])
    ends = builder.constant([0, len(blocks), 2], np.int64)
    pairs = builder.op("Reshape", [builder.cast(inside, TensorProto.FLOAT), ends])
    writer = _Conditions(builder, tuple(blocks), opset)
    if decides_by_row(gates[0]):
        writer.of_rows(builder.reduce("ReduceMin", pairs, [2]))
    else:
        least = builder.cast(builder.reduce("ReduceMin", pairs, [0, 2]), TensorProto.BOOL)
        writer.write(least, [names.gate(block.region.name) for block in blocks])


def _weight(name: str) -> str:
    return f"{names.gate(name)}/weight"


class _Conditions:
    """Takes decisions apart.

    Args:
        builder: collects the nodes.
        blocks: of one group.
        opset: to write for.
    """

    def __init__(self, builder: Builder, blocks: tuple[Block, ...], opset: int) -> None:
        self._builder, self._blocks, self._opset = builder, blocks, opset
        self._regions = [block.region.name for block in blocks]

    def write(self, decisions: str, outputs: Sequence[str]) -> None:
        """Scalar conditions from decisions, bool [gates]."""
        builder = self._builder
        scalar = builder.constant([], np.int64)
        for part, output in zip(self._split(decisions, 0), outputs, strict=True):
            builder.op("Reshape", [part, scalar], output=output)

    def of_rows(self, rows: str) -> None:
        """Everything that decisions of samples are needed as; they are float32 [batch, gates], 1 for the bypass."""
        builder = self._builder
        flat = builder.constant([-1], np.int64)
        for part, name in zip(self._split(rows, 1), self._regions, strict=True):
            builder.op("Reshape", [part, flat], output=names.agreed(name))
        least, most = (builder.reduce(op_type, rows, [0]) for op_type in ("ReduceMin", "ReduceMax"))
        self.write(builder.cast(least, TensorProto.BOOL), [names.gate(name) for name in self._regions])
        self.write(builder.op("Less", [least, most]), [f"{names.mixed(name)}/condition" for name in self._regions])
        if self._opset >= SPLIT_TAKES_SIZES:
            self._write_index(builder.cast(rows, TensorProto.BOOL))

    def _write_index(self, agreed: str) -> None:
        """The rows that need each region, then the rows that do not: NonZero tells them in that order."""
        builder = self._builder
        both = builder.op("Concat", [builder.op("Not", [agreed]), agreed], axis=1)
        chosen = builder.op("Transpose", [both], perm=[1, 0])
        rows = builder.op("Gather", [builder.op("NonZero", [chosen]), builder.constant(1, np.int64)], axis=0)
        counts = builder.reduce("ReduceSum", builder.cast(both, TensorProto.FLOAT), [0])
        sizes = builder.cast(counts, TensorProto.INT64)
        outputs = [names.index(name, agreed=which) for which in (False, True) for name in self._regions]
        builder.op("Split", [rows, sizes], output=outputs[0], others=outputs[1:], axis=0)

    def _split(self, value: str, axis: int) -> Sequence[str]:
        """Equal parts of a value, one for each gate."""
        builder, count = self._builder, len(self._blocks)
        parts = [builder.name("part") for _ in range(count)]
        told: dict[str, Any] = {"num_outputs": count} if self._opset >= SPLIT_TAKES_COUNT else {}
        builder.op("Split", [value], output=parts[0], others=parts[1:], axis=axis, **told)
        return parts
