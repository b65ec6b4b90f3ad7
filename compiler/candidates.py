"""Measure every region on every kind of bypass, and choose what each gate will stand before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipc.compiler.alike import alike
from skipc.compiler.anew import fitted_anew
from skipc.compiler.calibrate import certifiable_mean
from skipc.compiler.data import Batch
from skipc.compiler.fit import fit_bypass
from skipc.compiler.gradient import LARGE_BYTES, Gradients
from skipc.compiler.growth import growths, most_bytes
from skipc.compiler.hidden import HiddenMoments, observe_hidden
from skipc.compiler.impact import Costs, ablate, instrument, instrument_for, is_plain, measure_costs, typical, ungated
from skipc.compiler.learn import AGAIN, EPOCHS
from skipc.compiler.loss import Loss
from skipc.compiler.moments import Observed, observe
from skipc.compiler.narrow_fit import narrow_ladder
from skipc.compiler.options import Option, in_graph_order, lesser_half, without_overlap
from skipc.compiler.progress import SILENT, Progress
from skipc.compiler.running import Instrumented, Judged, in_parallel, opened, run_gated
from skipc.compiler.settings import Settings
from skipc.compiler.splits import Splits
from skipc.compiler.survey import Surveyed
from skipc.compiler.together import Together, chosen_anew, chosen_together
from skipc.compiler.widths import smoothed
from skipc.passes.eight_bits import KIND as EIGHT_BITS
from skipc.passes.eight_bits import has_products
from skipc.passes.flow import Flow
from skipc.passes.narrow import constants_of
from skipc.passes.surrogate import KINDS
from skipc.runtime.plan import Block, Bypass
from skipc.runtime.session import Session

ABLATION_UNITS = 120

OPTIONS_SHARE = 0.75
"""Of the time that this stage takes, for its progress bar; the rest is for fitting the chosen ones anew."""

GUARDED = 0.87
"""What guards leave of the loss: they shut for one input in ten, and those lose more than others do (MiniLM: 0.86)."""

HELD_OUT = 0.25
"""Share of *fit*, its beginning, that no bypass is fitted to, and that whole choices are judged on: to data that it was
fitted to, a bypass does less damage than to others like them."""

LEAST_HELD_OUT = 100
"""Samples; where that share is less, all of them are better used for fitting."""

SCREEN_UNITS = 30
"""Units that every option is tried on; the rest only judges those that may be bypassed often."""

HOPELESS = 2.0
"""Options that lose more than this multiple of the limit on the first units are not measured more exactly."""

SPREADS = 3.0
"""Standard errors by which they must."""

AUTO_KINDS = tuple(kind for kind in KINDS if kind != EIGHT_BITS)
"""What ``auto`` chooses from: in 8 bits nothing is left out but precision, which is for the user to ask for."""

LAYER_KINDS = ("identity", "linear")
"""What may stand in for a whole layer; what lies between the two is hardly ever worth its measuring there."""


@dataclass(frozen=True)
class Impact:
    """How much a region matters, by each measure.

    Attributes:
        region: its name.
        change: mean relative change of the value that passes through it (activation).
        influence: Block Influence (activation).
        gradient: second-order estimate of the loss of leaving the region out; None where it was not measured.
        ablation: mean loss when the best of its bypasses always runs.
        bypass: kind of that bypass.
        saved_ms: latency that it saves, milliseconds a batch.
        time_share: of the original's latency.
    """

    region: str
    change: float
    influence: float
    gradient: float | None
    ablation: float
    bypass: str
    saved_ms: float
    time_share: float


@dataclass(frozen=True)
class Candidates:
    """What measuring found.

    Attributes:
        chosen: one option for each region to gate, in graph order, without overlaps.
        steady: names of those regions that together keep to the limit when they are always bypassed.
        impacts: of all regions that were measured.
        gradients: how the gradient measure came about.
        original_ms: median latency of the original on the timed batches.
    """

    chosen: tuple[Option, ...]
    steady: frozenset[str]
    impacts: tuple[Impact, ...]
    gradients: Gradients
    original_ms: float


@dataclass(frozen=True)
class Studied:
    """What was observed of the regions, by region name.

    Attributes:
        activations: of all regions.
        hidden: of those with a hidden layer that can be narrowed.
    """

    activations: Mapping[str, Observed]
    hidden: Mapping[str, HiddenMoments]


def study(surveyed: Surveyed, items: Sequence[Batch], settings: Settings, progress: Progress = SILENT) -> Studied:
    """Run the original over batches without padding, and sum up what fitting needs; some of them are held out."""
    held_out, regions = _held_out(len(items)), surveyed.survey.regions
    activations = observe(surveyed.model, regions, items, settings.seed, held_out, progress.part(0.0, 0.5))
    narrow = settings.bypass in ("auto", "narrow")
    hidden = observe_hidden(surveyed.model, surveyed.survey.blocks if narrow else (), items[held_out:], settings.seed)
    return Studied(activations, hidden)


def _held_out(count: int) -> int:
    share = round(HELD_OUT * count)
    return share if share >= LEAST_HELD_OUT else 0


def measure_candidates(
    surveyed: Surveyed,
    original: Session,
    studied: Studied,
    gradients: Gradients,
    splits: Splits,
    loss: Loss,
    settings: Settings,
    progress: Progress = SILENT,
) -> Candidates:
    """Ablate and time every region on every kind of bypass asked for, and choose one for each.

    Args:
        surveyed: the original.
        original: opened as it will be deployed.
        studied: what bypasses are fitted to.
        gradients: what the output feels of each region.
        splits: whose *fit* was studied.
        loss: to measure.
        settings: of the compilation.
        progress: of this stage.
    """
    held_out = _held_out(len(splits.single_fit))
    judged, items = splits.fit, splits.single_fit[held_out:]
    few = judged.first(loss.enough(ABLATION_UNITS))
    held_out_units = _held_out(judged.samples) * judged.units // judged.samples
    unseen = judged.first(loss.enough(held_out_units or ABLATION_UNITS))
    position = {node.name: i for i, node in enumerate(surveyed.model.graph.node)}
    options: list[Option] = []
    original_ms: list[float] = []
    for blocks, own in progress.part(0.0, OPTIONS_SHARE).each(_rungs(surveyed, studied, gradients.metrics, settings)):
        found, costs = _measure(surveyed, original, blocks, few, loss, settings, own)
        options += found
        original_ms.append(costs.original)
    middle = float(np.median(original_ms)) if original_ms else 0.0

    joint = _Joint(surveyed, unseen, loss, position)

    offered, most = smoothed(options), most_bytes(surveyed.model, settings.max_growth)

    def choose(limit: float) -> Together:
        return chosen_together(offered, limit, most, joint)

    def anew(chosen: Sequence[Option], again: bool) -> Sequence[Option]:
        ordered = in_graph_order(chosen, position)
        left = progress.part(OPTIONS_SHARE, 1.0)
        epochs = 0 if not held_out else AGAIN if again else EPOCHS
        return fitted_anew(surveyed.model, ordered, items, judged.output, joint, epochs, settings, left)

    small, limit = surveyed.model.ByteSize() <= LARGE_BYTES, _aim(splits, loss, settings)
    together = chosen_anew(choose, anew, joint, limit) if small else choose(limit)
    best = together.options
    impacts = tuple(_impact(option, studied.activations[option.region.name], gradients, middle) for option in best)
    if settings.impact == "activation":
        best = lesser_half(best, {name: observed.influence for name, observed in studied.activations.items()})
    elif settings.impact == "gradient":
        best = lesser_half(best, gradients.impact)
    chosen = in_graph_order(without_overlap(best, settings.risk), position)
    return Candidates(chosen, together.steady, impacts, gradients, middle)


def _aim(splits: Splits, loss: Loss, settings: Settings) -> float:
    """The joint loss that what is always bypassed may have, so that it can be certified behind its guards.

    The limit itself where a few hundred losses of 0 and 1 tell too little to aim that closely, and where a budget is
    asked for, whose limits are not what is certified.
    """
    if loss.binary or settings.budget:
        return settings.risk
    units = min(part.units for part in splits.calibrate)
    most = certifiable_mean(units, settings.risk, settings.confidence)
    return most / GUARDED if most > 0 else settings.risk


class _Joint:
    """The mean loss of always bypassing the regions of some options, measured once for the same bypasses."""

    def __init__(self, surveyed: Surveyed, judged: Judged, loss: Loss, position: Mapping[str, int]) -> None:
        self._surveyed = surveyed
        self._judged = judged
        self._loss = loss
        self._position = position
        self._known: list[tuple[list[Block], float]] = []

    def __call__(self, chosen: Sequence[Option]) -> float:
        """Measure, or remember."""
        blocks = [ungated(option.region, option.bypass) for option in in_graph_order(chosen, self._position)]
        for others, mean in self._known:
            if len(others) == len(blocks) and all(
                block.region is other.region and block.bypass is other.bypass
                for block, other in zip(blocks, others, strict=True)
            ):
                return mean
        model = instrument(self._surveyed.model, blocks, self._surveyed.executor)
        mean = run_gated(model, opened(len(blocks), range(len(blocks))), self._judged, self._loss).mean
        self._known.append((blocks, mean))
        return mean


def _rungs(
    surveyed: Surveyed, studied: Studied, metrics: Mapping[str, NDArray[np.float64]], settings: Settings
) -> list[list[Block]]:
    """Sets of blocks to measure together, one for each kind of bypass; the regions of a set do not overlap."""
    kinds = AUTO_KINDS if settings.bypass == "auto" else (settings.bypass,)
    found = [
        [ungated(region, fit_bypass(kind, studied.activations[region.name].halves)) for region in tier]
        for tier, sensible in ((surveyed.survey.blocks, KINDS), (surveyed.survey.layers, LAYER_KINDS))
        for kind in kinds
        if kind not in ("narrow", EIGHT_BITS) and kind in sensible and tier
    ]
    if EIGHT_BITS in kinds:
        found.append(_in_8_bits(surveyed))

    def ladder(work: tuple[str, HiddenMoments]) -> tuple[Bypass, ...]:
        name, moments = work
        parts = (moments, metrics.get(name))
        return settings.cache.recall("narrow", parts, lambda: narrow_ladder(*parts))

    narrow = dict(zip(studied.hidden, in_parallel(ladder, list(studied.hidden.items())), strict=True))
    regions = [region for region in surveyed.survey.blocks if region.name in narrow]
    widths = max(map(len, narrow.values()), default=0)
    return found + [
        [ungated(region, narrow[region.name][width]) for region in regions if width < len(narrow[region.name])]
        for width in range(widths)
    ]


def _in_8_bits(surveyed: Surveyed) -> list[Block]:
    flow, constants = Flow.of(surveyed.model.graph), constants_of(surveyed.model.graph)
    regions = [region for region in surveyed.survey.blocks if has_products(flow, constants, region)]
    return [ungated(region, Bypass(EIGHT_BITS)) for region in regions]


def _measure(
    surveyed: Surveyed,
    original: Session,
    blocks: Sequence[Block],
    judged: Judged,
    loss: Loss,
    settings: Settings,
    progress: Progress,
) -> tuple[list[Option], Costs]:
    session = instrument(surveyed.model, blocks, surveyed.executor)
    losses = _mean_losses(session, judged, loss, HOPELESS * settings.risk, progress)
    timed = session if is_plain(settings) else instrument_for(surveyed.model, blocks, settings)
    costs = measure_costs(original, timed, typical(judged.items), alike(blocks, surveyed.model))
    rows = zip(blocks, losses, costs.saved, growths(surveyed.model, blocks), strict=True)
    return [
        Option(block.region, block.bypass, float(lost), float(ms), growth) for block, lost, ms, growth in rows
    ], costs


def _mean_losses(
    model: Instrumented, judged: Judged, loss: Loss, hopeless: float, progress: Progress
) -> NDArray[np.float64]:
    """Mean loss of bypassing each block alone, [gates]; roughly where even a few units show it to be hopeless."""
    found = ablate(model, judged.first(SCREEN_UNITS), loss, progress.part(0.0, 0.3))[0]
    means = found.mean(axis=1)
    if found.shape[1] >= judged.units:
        return np.asarray(means)
    errors = found.std(axis=1) / np.sqrt(found.shape[1])
    hopeful = np.flatnonzero(means - SPREADS * errors <= hopeless)
    rest = judged.behind(SCREEN_UNITS)
    share = found.shape[1] / judged.units
    for gate, _ in progress.part(0.3, 1.0).each(hopeful.tolist()):
        others = run_gated(model, opened(model.gates, [gate]), rest, loss).mean
        means[gate] = share * means[gate] + (1.0 - share) * others
    return np.asarray(means)


def _impact(option: Option, observed: Observed, gradients: Gradients, original_ms: float) -> Impact:
    return Impact(
        region=option.region.name,
        change=observed.change,
        influence=observed.influence,
        gradient=gradients.impact.get(option.region.name),
        ablation=option.loss,
        bypass=option.bypass.kind,
        saved_ms=option.saved_ms,
        time_share=option.saved_ms / original_ms if original_ms else 0.0,
    )
