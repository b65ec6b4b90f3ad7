"""Write down what the gates' scores are on *calibrate*, for the monitor of a deployment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from skipc.compiler.loss import Loss
from skipc.compiler.planner import window_of
from skipc.compiler.running import Instrumented, Judged, Outcome, run_gated
from skipc.runtime.plan import Plan, Reference

BINS = 20

Rows = NDArray[np.float32]


def with_references(plan: Plan, model: Instrumented, fit: Judged, calibrate: Sequence[Judged], loss: Loss) -> Plan:
    """The plan with a `Reference` for every block whose gate reads its input.

    Several data sets are counted together.

    Args:
        plan: without them.
        model: the instrumented model of its blocks, and of others that no level bypasses.
        fit: where the edges of the bins come from, at the plan's level.
        calibrate: where the counts come from, at every level.
        loss: that was certified; what was run for that is not run again.
    """
    if all(block.gate.pooling == "constant" for block in plan.blocks):
        return plan
    place = {block.region.name: gate for gate, block in enumerate(model.blocks)}
    gates = [place[block.region.name] for block in plan.blocks]

    def run(level: int, judged: Judged) -> Outcome:
        own = dict(zip(gates, plan.thresholds[level], strict=True))
        thresholds = [own.get(gate, -np.inf) for gate in range(model.gates)]
        return run_gated(model, window_of(thresholds, [block.gate.floor for block in model.blocks]), judged, loss)

    scores = run(plan.level, fit).seen[0]
    levels = [[run(level, part).seen for part in calibrate] for level in range(len(plan.thresholds))]
    found = [tuple(np.concatenate(rows) for rows in zip(*parts, strict=True)) for parts in levels]
    blocks = tuple(
        block if block.gate.pooling == "constant" else replace(block, reference=_reference(gate, scores, found))
        for gate, block in zip(gates, plan.blocks, strict=True)
    )
    return replace(plan, blocks=blocks)


def _reference(gate: int, scores: Rows, found: Sequence[tuple[Rows, ...]]) -> Reference:
    finite = scores[np.isfinite(scores[:, gate]), gate]
    inner = np.linspace(0.0, 1.0, BINS + 1)[1:-1]
    edges = np.unique(np.quantile(finite, inner).astype(np.float32)) if finite.size else np.zeros(0, np.float32)
    return Reference(
        edges=tuple(float(edge) for edge in edges),
        counts=tuple(_counts(edges, level[:, gate]) for level, _ in found),
        bypassed=tuple(float(shares[:, gate].mean()) for _, shares in found),
    )


def _counts(edges: Rows, scores: Rows) -> tuple[int, ...]:
    cells = np.searchsorted(edges, scores, side="right")
    return tuple(int(count) for count in np.bincount(cells, minlength=len(edges) + 1))
