"""Give the chosen regions their gates, and lay the path of configurations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from skipc.compiler.calibrate import p_value
from skipc.compiler.candidates import TIMED_BATCHES
from skipc.compiler.certify import Claim
from skipc.compiler.fit import GateFit, fit_gate
from skipc.compiler.impact import ablate, instrument, instrument_for, measure_costs, typical, ungated
from skipc.compiler.moments import Observed
from skipc.compiler.options import Option
from skipc.compiler.planner import Offer, Step, Trial, best_path
from skipc.compiler.running import Judged, run_gated, shut
from skipc.compiler.settings import Settings
from skipc.compiler.survey import Surveyed
from skipc.runtime.plan import Block
from skipc.runtime.session import Session

PATH_UNITS = {True: 1000, False: 300}
"""Units of *fit* that steps are tried on, for binary losses and for others: rare errors need more to be seen."""

Item = TypeVar("Item")

HEADROOM = 1.25
"""Gates that only open beyond this multiple of the limit are left out of the file."""


@dataclass(frozen=True)
class Gated:
    """Blocks with their gates, and the path through their thresholds.

    Attributes:
        blocks: in graph order.
        fits: how well each gate predicts.
        path: configurations from gentle to bold; thresholds by block.
        session: the instrumented model of these blocks.
    """

    blocks: tuple[Block, ...]
    fits: tuple[GateFit, ...]
    path: tuple[Step, ...]
    session: Session


def gate_options(
    surveyed: Surveyed,
    original: Session,
    options: Sequence[Option],
    observed: Mapping[str, Observed],
    judged: Judged,
    claim: Claim,
    settings: Settings,
) -> Gated:
    """Fit a gate for each option, lay the path on *fit*, and drop the gates that it never opens within the limit."""
    plain = [ungated(option.region, option.bypass) for option in options]
    session = instrument(surveyed.model, plain, surveyed.executor)
    losses, smooth = ablate(session, len(plain), judged, claim.loss)
    pooled = [_by_unit(observed[option.region.name].pooled, judged) for option in options]
    fits = [fit_gate(features, impact) for features, impact in zip(pooled, smooth, strict=True)]
    blocks = [replace(block, gate=fit.gate) for block, fit in zip(plain, fits, strict=True)]
    whole = _with_path(surveyed, original, blocks, fits, (losses, smooth), judged, claim, settings)
    useful = _useful(whole.path, settings.risk)
    return _only(surveyed, whole, useful, settings.risk) if useful and len(useful) < len(blocks) else whole


def _only(surveyed: Surveyed, whole: Gated, gates: Sequence[int], limit: float) -> Gated:
    """The same blocks and the same path without the gates that no configuration within reach opens."""

    def kept(items: tuple[Item, ...]) -> tuple[Item, ...]:
        return tuple(items[gate] for gate in gates)

    path = tuple(
        replace(step, thresholds=kept(step.thresholds), shares=kept(step.shares))
        for step in whole.path
        if step.loss <= HEADROOM * limit
    )
    blocks = kept(whole.blocks)
    return Gated(blocks, kept(whole.fits), path, instrument(surveyed.model, blocks, surveyed.executor))


def _by_unit(pooled: NDArray[np.float32], judged: Judged) -> NDArray[np.float32]:
    """Pooled entry values, averaged over the samples of each unit."""
    ends = np.cumsum([len(item.indices) for item in judged.items])
    if len(pooled) == len(ends):
        return pooled
    return np.stack([part.mean(axis=0) for part in np.split(pooled, ends[:-1])])


def _with_path(
    surveyed: Surveyed,
    original: Session,
    blocks: Sequence[Block],
    fits: Sequence[GateFit],
    losses: tuple[NDArray[np.float64], NDArray[np.float64]],
    judged: Judged,
    claim: Claim,
    settings: Settings,
) -> Gated:
    timed = instrument_for(surveyed.model, blocks, settings)
    costs = measure_costs(original, timed, len(blocks), typical(judged.items, TIMED_BATCHES))
    measured = tuple(
        replace(
            block,
            saved_ms=float(saved),
            time_share=float(saved) / costs.original,
            impact=float(losses[0][gate].mean()),
        )
        for gate, (block, saved) in enumerate(zip(blocks, costs.saved, strict=True))
    )
    session = instrument(surveyed.model, measured, surveyed.executor)
    scores = run_gated(session, shut(len(blocks)), judged, claim.loss).unit_scores
    few = judged.first(PATH_UNITS[claim.loss.binary])
    offer = Offer(scores.T.astype(np.float64), losses[1], costs.saved, costs.gate)
    trial = Trial(
        run=lambda window: run_gated(session, window, few, claim.loss),
        p_value=lambda losses: p_value(np.resize(losses, len(judged.items)), claim.limit, claim.binary),
        floors=tuple(block.gate.floor for block in measured),
        limit=claim.limit,
    )
    path = best_path(offer, trial, 1.0 - claim.confidence)
    return Gated(measured, tuple(fits), path, session)


def _useful(path: Sequence[Step], limit: float) -> list[int]:
    """Gates that some configuration within reach of the limit opens."""
    reachable = [step for step in path if step.loss <= HEADROOM * limit]
    opened = np.array([step.shares for step in reachable]) > 0
    return [int(gate) for gate in np.flatnonzero(opened.any(axis=0))] if reachable else []
