"""Fit the gates of blocks that know what they read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from skipc.compiler.data import Batch
from skipc.compiler.fit import TINY, GateFit, fit_gate, rank_correlation
from skipc.compiler.impact import ablate, instrument
from skipc.compiler.loss import Loss
from skipc.compiler.moments import Observed
from skipc.compiler.progress import Progress
from skipc.compiler.running import Instrumented, Judged, opened, run_gated, shut
from skipc.compiler.settings import Settings
from skipc.compiler.splices import Made, made_samples
from skipc.compiler.survey import Surveyed
from skipc.compiler.token_fit import Rows, observe_tokens
from skipc.passes.gate import is_by_token
from skipc.runtime.plan import Block

BINARY_GATE_UNITS, STEADY_GATE_UNITS = 600, 24
"""Units of *fit* that gates are fitted on for binary losses, whose limits ask for many samples, and for steady ones;
each costs a run for every gate."""


@dataclass(frozen=True)
class Evidence:
    """What gates are fitted on.

    Attributes:
        observed: activations, by region name.
        judged: the data, in batches of the size that is decided for.
        single: the same samples one by one.
        joined: some of them in batches of several, to prove that rows are independent.
        mask: graph input that tells padding; empty where there is none.
        steady: names of regions that together keep to the limit when they are always bypassed.
    """

    observed: Mapping[str, Observed]
    judged: Judged
    single: tuple[Batch, ...]
    joined: tuple[Batch, ...]
    mask: str
    steady: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Fitted:
    """Blocks with fitted gates, and what they were fitted on.

    Attributes:
        blocks: in graph order.
        fits: how well each gate predicts.
        losses: of bypassing each block alone, [gates, units].
        smooth: the same by the smooth proxy.
        scores: of each gate while nothing is bypassed, on the same units.
    """

    blocks: tuple[Block, ...]
    fits: tuple[GateFit, ...]
    losses: NDArray[np.float64]
    smooth: NDArray[np.float64]
    scores: tuple[NDArray[np.float32], ...]


def fit_gates(
    surveyed: Surveyed,
    plain: Sequence[Block],
    evidence: Evidence,
    loss: Loss,
    settings: Settings,
    progress: Progress,
) -> Fitted:
    """Run each block's bypass alone, and fit the gates to what that does.

    Args:
        surveyed: the original.
        plain: blocks whose gates have their form and know nothing yet, in graph order.
        evidence: what gates are fitted on.
        loss: to predict.
        settings: of the compilation.
        progress: of the runs.
    """
    seen = _gate_units(evidence.judged, loss)
    bypassed = instrument(surveyed.model, plain, surveyed.executor)
    losses, smooth = ablate(bypassed, seen, loss, progress)
    by_token = [block for block in plain if is_by_token(block.gate)]
    tokens = settings.cache.recall(
        "tokens",
        (surveyed.model, by_token, evidence.single, settings.seed),
        lambda: observe_tokens(surveyed.model, by_token, evidence.single, settings.seed),
    )
    regions = [region for block in plain for region in block.bypassed]
    pooled = {region.entry: evidence.observed[region.name].pooled for region in regions}
    guards = [i for i, block in enumerate(plain) if evidence.steady.issuperset(names_of(block))]
    made = _made(surveyed, [plain[gate] for gate in guards], evidence, seen, loss, settings)
    targets = _targets(bypassed, guards, smooth, made, loss)
    fits = tuple(
        _fit(block, pooled, seen, tokens, smooth[gate], targets.get(gate), made) for gate, block in enumerate(plain)
    )
    blocks = tuple(replace(block, gate=fit.gate) for block, fit in zip(plain, fits, strict=True))
    model = instrument(surveyed.model, blocks, surveyed.executor)
    return Fitted(blocks, fits, losses, smooth, run_gated(model, shut(len(blocks)), seen, loss).scores)


def names_of(block: Block) -> tuple[str, ...]:
    """Names of the regions that a block bypasses."""
    return tuple(region.name for region in block.bypassed)


def _made(
    surveyed: Surveyed, guards: Sequence[Block], evidence: Evidence, seen: Judged, loss: Loss, settings: Settings
) -> Made | None:
    """More samples for guards; None where none can be made, or where what a gate decides on is no single sample."""
    if not guards or loss.steady or seen.units != seen.samples or any(is_by_token(block.gate) for block in guards):
        return None
    read = {_read(block): block.bypassed[0] for block in guards}
    if any(region.entry != name for name, region in read.items()):
        return None
    items = evidence.single[: seen.samples]
    return made_samples(surveyed.model, read, items, surveyed.inputs, seen.output, loss, settings.seed)


def _targets(
    bypassed: Instrumented, guards: Sequence[int], smooth: NDArray[np.float64], made: Made | None, loss: Loss
) -> Mapping[int, NDArray[np.float64]]:
    """What each guard learns to predict, [samples, the made ones behind the others]."""
    impacts = smooth[list(guards)]
    if made is not None:
        each = [run_gated(bypassed, opened(bypassed.gates, [gate]), made.judged, loss).smooth for gate in guards]
        impacts = np.concatenate([impacts, each], axis=1)
    return dict(zip(guards, in_common(impacts), strict=True))


def in_common(impacts: NDArray[np.float64]) -> NDArray[np.float64]:
    """What guards learn to predict: what all of them have in common of their blocks' losses, each on its own scale.

    A guard tells the samples that bypasses are not made for, and that is much the same for all of them; the mean of the
    logarithms has less in it that only this block and this sample know. `benchmarks/results/widths.json` compares both.

    Args:
        impacts: smooth loss of bypassing each block, [guards, samples]; the blocks keep to the limit together when they
            are always bypassed.
    """
    if len(impacts) < 2:
        return impacts
    logs = np.log(impacts + TINY)
    common = logs.mean(axis=0)
    return np.asarray(np.exp(common - common.mean() + logs.mean(axis=1, keepdims=True)) - TINY)


def _gate_units(judged: Judged, loss: Loss) -> Judged:
    """What gates are fitted on."""
    if loss.steady:
        return judged.first(STEADY_GATE_UNITS)
    return judged.first(BINARY_GATE_UNITS) if loss.binary else judged


def _fit(
    block: Block,
    pooled: Mapping[str, NDArray[np.float32]],
    seen: Judged,
    tokens: Mapping[str, Rows],
    impact: NDArray[np.float64],
    target: NDArray[np.float64] | None,
    made: Made | None,
) -> GateFit:
    """Fit a gate to what it reads: tokens, or the pooled entry value of its own region or of an earlier one.

    What a guard learns to predict is another measure than the impact that it is judged by, and of made samples too.
    """
    if is_by_token(block.gate):
        fit = fit_gate(*tokens[block.region.name])
    else:
        rows = _by_unit(pooled[_read(block)], seen)
        if target is None:
            fit = fit_gate(rows, impact)
        else:
            more = [made.pooled[_read(block)]] if made else []
            fit = fit_gate(np.concatenate([rows, *more]), target, real=len(rows))
        fit = replace(fit, rank_correlation=rank_correlation(fit.predicted, impact))
    gate = replace(block.gate, weight=fit.gate.weight, bias=fit.gate.bias, floor=fit.gate.floor)
    return replace(fit, gate=gate)


def _read(block: Block) -> str:
    """Name of the value that a block's gate reads."""
    return block.gate.reading.value if block.gate.reading else block.region.entry


def _by_unit(pooled: NDArray[np.float32], judged: Judged) -> NDArray[np.float32]:
    """Pooled entry values, averaged over the samples of each unit."""
    pooled = pooled[: judged.samples] if len(pooled) > judged.samples and judged.units == judged.samples else pooled
    if len(pooled) == judged.units:
        return pooled
    ends = np.cumsum([len(item.indices) for item in judged.items])
    return np.stack([part.mean(axis=0) for part in np.split(pooled[: ends[-1]], ends[:-1])])
