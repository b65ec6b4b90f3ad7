"""Give the chosen regions their gates, and lay the path of configurations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from skipc.compiler.alike import alike
from skipc.compiler.calibrate import p_value
from skipc.compiler.candidates import Candidates
from skipc.compiler.certify import Claim
from skipc.compiler.fit import GateFit
from skipc.compiler.gate_fit import Evidence, Fitted, fit_gates, names_of
from skipc.compiler.granularity import Choice, choose_granularity
from skipc.compiler.impact import (
    TIMING_BUDGET_MS,
    Costs,
    instrument,
    instrument_for,
    measure_costs,
    typical,
    ungated,
)
from skipc.compiler.independence import dependent
from skipc.compiler.ladder import Offer, forecast
from skipc.compiler.options import Option
from skipc.compiler.planner import REACH, Step, Trial, best_path, boldest, settled, threshold_at
from skipc.compiler.policies import fastest, may_share, policies_of
from skipc.compiler.progress import SILENT, Progress
from skipc.compiler.running import Instrumented, Judged, Outcome, Window, run_gated
from skipc.compiler.settings import Settings
from skipc.compiler.shipped import as_deployed, as_shipped, speed_as_shipped
from skipc.compiler.survey import Surveyed
from skipc.compiler.thinning import LEVELS, telling
from skipc.passes.flow import Flow
from skipc.passes.gate import decides_by_row, is_by_token
from skipc.passes.policy import with_policy
from skipc.runtime.plan import Block
from skipc.runtime.session import Session

HOPE = 1.5
"""How many times more time a path may save than is forecast from the blocks one by one."""

PATH_UNITS = {True: 1000, False: 300}
"""Units of *fit* that steps are tried on, for binary losses and for others: rare errors need more to be seen."""

SETTLED_UNITS = 2000
"""Units of *fit* that thresholds are settled on, at most."""

DOUBTFUL = 8
"""Configurations that a path keeps, at most, of those that *fit* leaves in doubt: what lies between two of them is
hardly faster than the first, and takes as long to settle and to test."""

ABLATION_SHARE = 0.3
"""Of the time that this stage takes, for its progress bar."""

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
        model: the instrumented model of these blocks.
        note: why the gates read what they read, where that was measured.
    """

    blocks: tuple[Block, ...]
    fits: tuple[GateFit, ...]
    path: tuple[Step, ...]
    model: Instrumented
    note: str = ""


def gate_options(
    surveyed: Surveyed,
    original: Session,
    candidates: Candidates,
    evidence: Evidence,
    claim: Claim,
    settings: Settings,
    beat: float = 0.0,
    progress: Progress = SILENT,
) -> Gated | None:
    """Fit a gate for each option, lay the path on *fit*, and drop the gates that it never opens within the limit.

    Where several gate policies are to be measured this is done for each, and the fastest within the risk is kept.
    Unless a policy is asked for, gates for several regions at once are for those that can always be bypassed together:
    the others need a gate each.

    Args:
        surveyed: the original.
        original: opened as it will be deployed.
        candidates: the regions and what stands in for each.
        evidence: what gates are fitted on.
        claim: to be certified.
        settings: of the compilation.
        beat: speed-up that another way has reached.
        progress: of this stage.

    Returns:
        None where the gates cannot be as fast as that, so that no path is laid.
    """
    judged, options = evidence.judged, candidates.chosen
    evidence = replace(evidence, steady=candidates.steady)
    parts = (surveyed.model, options, evidence.joined, judged.key, *as_deployed(settings))
    choices = settings.cache.recall(
        "granularity",
        parts,
        lambda: choose_granularity(surveyed, options, judged.items, evidence.joined, settings),
    )
    unread = [_unfitted(surveyed, option, choices[option.region.name], evidence.mask) for option in options]
    flow = Flow.of(surveyed.model.graph)
    policies = policies_of(settings)
    plain: dict[str, tuple[Block, ...]] = {}
    for policy in policies:
        blocks = priced(_with_policy(surveyed, unread, policy, flow, evidence, settings), options)
        if not any(_read_alike(blocks, others) for others in plain.values()):
            plain[policy] = blocks
    found: dict[str, Gated] = {}
    for policy, own in progress.each(list(plain)):
        laid = _gated(surveyed, original, plain[policy], evidence, claim, settings, beat, own)
        if laid is not None:
            found[policy] = laid
    if len(found) <= 1:
        return next(iter(found.values()), None)
    speed = speed_as_shipped(surveyed, judged, settings)
    paths = {policy: item.path for policy, item in found.items()}

    def speed_of(policy: str, step: Step) -> float:
        return speed(found[policy].blocks, step)

    best, note = fastest(paths, claim.limit, 1.0 - claim.confidence, speed_of)
    return replace(found[best], note=note)


def _with_policy(
    surveyed: Surveyed, blocks: Sequence[Block], policy: str, flow: Flow, evidence: Evidence, settings: Settings
) -> tuple[Block, ...]:
    """The blocks with gates that read what the policy says.

    Regions that are not bypassed lie between two that share a gate only where samples are proved to stay apart in all
    of them together.
    """
    steady = may_share(evidence.steady, settings)
    if steady is None:
        return with_policy(blocks, policy, flow)
    bridged = with_policy(blocks, policy, flow, steady, surveyed.survey.blocks)
    wide = [block for block in bridged if not all(part.is_bypassed for part in block.bypass.parts)]
    doubtful = [block for block in wide if decides_by_row(block.gate)]
    if doubtful and dependent(surveyed.model, doubtful, evidence.joined):
        return with_policy(blocks, policy, flow, steady)
    return bridged


def _read_alike(blocks: Sequence[Block], others: Sequence[Block]) -> bool:
    """Whether the same regions have gates that read the same."""
    first, second = ([(block.region.name, block.gate.reading) for block in each] for each in (blocks, others))
    return first == second


def _gated(
    surveyed: Surveyed,
    original: Session,
    plain: Sequence[Block],
    evidence: Evidence,
    claim: Claim,
    settings: Settings,
    beat: float,
    progress: Progress,
) -> Gated | None:
    """Fit the gates of blocks that know what they read, and lay the path; None where they cannot be fast enough."""
    judged = evidence.judged
    fitted = fit_gates(surveyed, plain, evidence, claim.loss, settings, progress.part(0.0, ABLATION_SHARE))
    costs = _timed(surveyed, original, fitted, judged, settings)
    if beat > 1.0:
        hoped = HOPE * forecast(_offer(fitted, fitted.losses, costs, judged), claim.limit)
        if costs.original <= beat * (costs.original - hoped):
            return None
    whole = _with_path(surveyed, fitted, costs, judged, claim, settings, progress.part(ABLATION_SHARE, 1.0))
    useful = _useful(whole.path, settings.risk)
    return _only(surveyed, whole, useful, settings.risk) if useful and len(useful) < len(plain) else whole


def _unfitted(surveyed: Surveyed, option: Option, choice: Choice, mask: str) -> Block:
    """A block whose gate has its form and knows nothing yet."""
    region = option.region
    known = surveyed.types.get(mask)
    masked = known is not None and len(region.dims) == 3 and region.channel_axis == 2 and known.dims == region.dims[:2]
    block = ungated(region, option.bypass, choice.granularity, mask if masked else "")
    return replace(block, granularity_reason=choice.reason)


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


def _timed(surveyed: Surveyed, original: Session, fitted: Fitted, judged: Judged, settings: Settings) -> Costs:
    """What gates that decide row by row lose in parted batches, measured; what blocks save is known."""
    halves = {
        gate: threshold_at(fitted.scores[gate], 0.5)
        for gate, block in enumerate(fitted.blocks)
        if is_by_token(block.gate) or (decides_by_row(block.gate) and settings.batch_size > 1)
    }
    model = instrument_for(surveyed.model, fitted.blocks, settings)
    groups = [group for group in alike(fitted.blocks, surveyed.model) if halves.keys() >= set(group)]
    costs = measure_costs(original, model, typical(judged.items), groups, halves, 2 * TIMING_BUDGET_MS)
    return replace(costs, saved=np.array([block.saved_ms for block in fitted.blocks]))


def priced(blocks: Sequence[Block], options: Sequence[Option]) -> tuple[Block, ...]:
    """Blocks with what they save by what was measured of their options; a chain saves what its parts do.

    Options were timed at every width, and blocks of one kind together: opening one gate after another tells small
    blocks apart by differences that are smaller than what disturbs them.
    """
    saved = {option.region.name: max(0.0, option.saved_ms) for option in options}

    return tuple(replace(block, saved_ms=sum(saved[name] for name in names_of(block))) for block in blocks)


def _with_path(
    surveyed: Surveyed,
    fitted: Fitted,
    costs: Costs,
    judged: Judged,
    claim: Claim,
    settings: Settings,
    progress: Progress,
) -> Gated:
    costs = as_shipped(costs, surveyed.model, fitted.blocks, typical(judged.items), settings)
    blocks = tuple(
        replace(block, saved_ms=float(saved), time_share=float(saved) / costs.original, impact=float(losses.mean()))
        for block, saved, losses in zip(fitted.blocks, costs.saved, fitted.losses, strict=True)
    )
    model = instrument(surveyed.model, blocks, surveyed.executor)
    few = judged.first(claim.loss.enough(PATH_UNITS[claim.loss.binary]))

    def tried(window: Window) -> Outcome:
        outcome = run_gated(model, window, few, claim.loss)
        progress.to(outcome.mean / (REACH * claim.limit))
        return outcome

    trial = Trial(
        run=tried,
        p_value=lambda losses: p_value(np.resize(losses, judged.units), claim.limit, claim.binary),
        floors=tuple(block.gate.floor for block in blocks),
        limit=claim.limit,
    )
    speed = speed_as_shipped(surveyed, judged, settings)
    offer = _offer(fitted, fitted.smooth, costs, judged)
    path = best_path(offer, trial, 1.0 - claim.confidence, partial(speed, blocks))
    if not settings.budget:
        path = telling(path, LEVELS, DOUBTFUL, boldest(path, claim.limit, 1.0 - claim.confidence))
    if judged.units > few.units:
        seen = judged.first(claim.loss.enough(SETTLED_UNITS))
        path = settled(path, offer, trial, lambda window: run_gated(model, window, seen, claim.loss))
    return Gated(blocks, fitted.fits, path, model)


def _offer(fitted: Fitted, losses: NDArray[np.float64], costs: Costs, judged: Judged) -> Offer:
    scores, blocks = fitted.scores, fitted.blocks
    by_row = [_by_row(block, *pair) for block, *pair in zip(blocks, scores, losses, strict=True)]
    # A gate that decides for a whole batch ties its samples together: they are no independent units then.
    gated = [decides_by_row(block.gate) or judged.units == len(judged.items) for block in blocks]
    return Offer([item.astype(np.float64) for item in scores], by_row, costs.saved, costs.split, costs.gate, gated)


def _by_row(block: Block, scores: NDArray[np.float32], losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """A block's losses by what its gate decides on: of units, or their mean laid on tokens as their scores say."""
    if not is_by_token(block.gate):
        return losses
    errors = np.exp(scores.astype(np.float64) - float(scores.max()))
    return np.asarray(errors / errors.mean() * float(losses.mean()))


def _useful(path: Sequence[Step], limit: float) -> list[int]:
    """Gates that some configuration within reach of the limit opens."""
    reachable = [step for step in path if step.loss <= HEADROOM * limit]
    opened = np.array([step.shares for step in reachable]) > 0
    return [int(gate) for gate in np.flatnonzero(opened.any(axis=0))] if reachable else []
