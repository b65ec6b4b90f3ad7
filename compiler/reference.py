"""Write down what the gates' scores are on *calibrate*, for the monitor of a deployment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
from numpy.typing import NDArray

from skipc.compiler.impact import instrument
from skipc.compiler.loss import Loss
from skipc.compiler.planner import window_of
from skipc.compiler.running import Judged, Outcome, run_gated
from skipc.runtime.plan import Plan, Reference

BINS = 20

Rows = NDArray[np.float32]


def with_references(plan: Plan, model: onnx.ModelProto, fit: Judged, calibrate: Sequence[Judged], loss: Loss) -> Plan:
    """The plan with a `Reference` for every block whose gate reads its input.

    Several data sets are counted together.

    Args:
        plan: without them.
        model: the normalised original.
        fit: where the edges of the bins come from, at the plan's level.
        calibrate: where the counts come from, at every level.
        loss: that `run_gated` wants.
    """
    if all(block.gate.pooling == "constant" for block in plan.blocks):
        return plan
    session = instrument(model, plan.blocks)
    floors = [block.gate.floor for block in plan.blocks]
    windows = [window_of(row, floors) for row in plan.thresholds]
    scores = run_gated(session, windows[plan.level], fit, loss).scores
    outcomes = [[run_gated(session, window, part, loss) for part in calibrate] for window in windows]
    blocks = tuple(
        block if block.gate.pooling == "constant" else replace(block, reference=_reference(gate, scores, outcomes))
        for gate, block in enumerate(plan.blocks)
    )
    return replace(plan, blocks=blocks)


def _reference(gate: int, scores: Rows, outcomes: Sequence[Sequence[Outcome]]) -> Reference:
    finite = scores[np.isfinite(scores[:, gate]), gate]
    inner = np.linspace(0.0, 1.0, BINS + 1)[1:-1]
    edges = np.unique(np.quantile(finite, inner).astype(np.float32)) if finite.size else np.zeros(0, np.float32)
    found = [np.concatenate([part.scores[:, gate] for part in level]) for level in outcomes]
    shares = [float(np.concatenate([part.decisions[:, gate] for part in level]).mean()) for level in outcomes]
    return Reference(
        edges=tuple(float(edge) for edge in edges),
        counts=tuple(_counts(edges, values) for values in found),
        bypassed=tuple(shares),
    )


def _counts(edges: Rows, scores: Rows) -> tuple[int, ...]:
    cells = np.searchsorted(edges, scores, side="right")
    return tuple(int(count) for count in np.bincount(cells, minlength=len(edges) + 1))
