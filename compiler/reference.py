"""Write down what the gates' scores are on *calibrate*, for the monitor of a deployment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from skipc.compiler.impact import instrument
from skipc.compiler.planner import window_of
from skipc.compiler.running import Judged, Window, in_parallel
from skipc.compiler.survey import Surveyed
from skipc.runtime import names
from skipc.runtime.plan import Plan, Reference
from skipc.runtime.session import Session

BINS = 20

Rows = NDArray[np.float32]


def with_references(plan: Plan, surveyed: Surveyed, fit: Judged, calibrate: Sequence[Judged]) -> Plan:
    """The plan with a `Reference` for every block whose gate reads its input.

    Several data sets are counted together.

    Args:
        plan: without them.
        surveyed: the original.
        fit: where the edges of the bins come from, at the plan's level.
        calibrate: where the counts come from, at every level.
    """
    if all(block.gate.pooling == "constant" for block in plan.blocks):
        return plan
    session = instrument(surveyed.model, plan.blocks, surveyed.executor).session
    floors = [block.gate.floor for block in plan.blocks]
    windows = [window_of(row, floors) for row in plan.thresholds]
    scores, _ = _shown(session, windows[plan.level], [fit])
    found = [_shown(session, window, calibrate) for window in windows]
    blocks = tuple(
        block if block.gate.pooling == "constant" else replace(block, reference=_reference(gate, scores, found))
        for gate, block in enumerate(plan.blocks)
    )
    return replace(plan, blocks=blocks)


def _shown(session: Session, window: Window, data: Sequence[Judged]) -> tuple[Rows, Rows]:
    """Scores and shares bypassed as a deployment sees them, float32 [samples, gates] each."""
    wanted = (names.SCORES, names.DECISIONS)
    items = [item for part in data for item in part.items]
    found = in_parallel(lambda item: session.run({**item.feeds, names.WINDOW: window}, wanted), items, session.parallel)
    scores, shares = (np.concatenate([result[name] for result in found]) for name in wanted)
    return scores, shares


def _reference(gate: int, scores: Rows, found: Sequence[tuple[Rows, Rows]]) -> Reference:
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
