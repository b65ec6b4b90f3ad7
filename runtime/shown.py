"""The values of a compiled file that tell its decisions, and how they are read.

They are in the graph anyway: a session makes outputs of them, and what remains is done by who looks at the decisions.
Nodes that put them in order would cost each request more than its log does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from skipc.runtime import names
from skipc.runtime.decisions import Decisions, Limits, Rows
from skipc.runtime.plan import Array, Block, Gate, Plan


@dataclass(frozen=True)
class Shown:
    """Where a plan's decisions are found.

    Attributes:
        blocks: in graph order.
        values: names of values in the file, whose arrays `decisions` takes in this order.
    """

    blocks: tuple[Block, ...]
    values: tuple[str, ...]

    @classmethod
    def of(cls, plan: Plan) -> Shown:
        """What the gates of a plan show; those that read nothing need not."""
        found = [name for block in plan.blocks for name in _values(block.region.name, block.gate)]
        return cls(plan.blocks, tuple(dict.fromkeys(found)))

    def decisions(self, limits: tuple[Limits, ...], found: Sequence[Array], rows: int) -> Decisions:
        """All gates' decisions for one request.

        Args:
            limits: in force.
            found: the arrays of `values`.
            rows: samples in the batch.
        """
        arrays = dict(zip(self.values, found, strict=True))
        columns = [_column(block, own, arrays, rows) for block, own in zip(self.blocks, limits, strict=True)]
        scores, bypassed = (np.stack(column, axis=1) for column in zip(*columns, strict=True))
        return Decisions(limits, scores, bypassed)


def _values(region: str, gate: Gate) -> tuple[str, ...]:
    if gate.pooling == "constant":
        return ()
    if gate.granularity == "batch":
        return names.score(region), names.gate(region)
    mask = (names.mask(gate.mask),) if gate.granularity == "token" and gate.mask else ()
    return names.score(region), names.agreed(region), *mask


def _column(block: Block, limits: Limits, arrays: Mapping[str, Array], rows: int) -> tuple[Rows, Rows]:
    """Scores and shares bypassed of one gate, float32 [batch] each."""
    region, gate = block.region.name, block.gate
    if gate.pooling == "constant":
        return np.zeros(rows, np.float32), np.full(rows, limits.floor < 0.0 < limits.threshold, np.float32)
    score = arrays[names.score(region)][..., 0]
    if gate.granularity == "batch":
        return score, np.full(rows, arrays[names.gate(region)], np.float32)
    agreed = arrays[names.agreed(region)]
    if gate.granularity == "sample":
        return score, agreed
    weights = arrays[names.mask(gate.mask)][:, 0] if gate.mask else np.full_like(score, 1.0 / score.shape[1])
    # In float64, so that a sample's mean does not depend on its padding.
    means = ((weights.astype(np.float64) * value).sum(axis=1) for value in (score, agreed))
    first, second = (mean.astype(np.float32) for mean in means)
    return first, second
