"""Fit bypasses anew one behind the other, each to what those before it really make of the data.

A bypass is fitted to activations of the original, and behind other bypasses it reads what these write. So the same
regression is solved again for what the block reads there, and still towards the original's own merge: what earlier
bypasses got wrong, and what can be told from what they wrote, is made good (He et al. 2017, arXiv 1707.06168, where the
channels of a whole network are pruned). What it reads in the original counts as much, since gates before it may be
shut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
from numpy.typing import NDArray

from skipc.compiler.data import Batch
from skipc.compiler.fit import fit_bypass
from skipc.compiler.hidden import LEAST_ROWS, ROWS_PER_FEATURE, Sums, hidden_moments
from skipc.compiler.moments import Run, moments_of
from skipc.compiler.narrow_fit import has_linear, refit_narrow
from skipc.compiler.progress import SILENT, Progress
from skipc.passes.base import run_passes
from skipc.passes.expose import up_to
from skipc.passes.flow import Flow
from skipc.passes.heads import hidden_of
from skipc.passes.inject import ReplaceRegions
from skipc.passes.narrow import constants_of, features_of
from skipc.runtime.plan import Array, Block, Bypass
from skipc.runtime.session import Session, open_session

FITTED = frozenset({"affine", "linear", "low-rank", "narrow"})


def refitted(
    model: onnx.ModelProto, blocks: Sequence[Block], items: Sequence[Batch], seed: int, progress: Progress = SILENT
) -> tuple[Block, ...]:
    """The same blocks with bypasses that know the bypasses before them.

    Args:
        model: normalised original.
        blocks: in graph order, without overlaps; all of them bypassed for most inputs.
        items: batches without padding, the ones that the bypasses were fitted to.
        seed: of the rows drawn where there are more than needed.
        progress: told of every block.
    """
    flow, constants = Flow.of(model.graph), constants_of(model.graph)
    done: list[Block] = []

    def behind(block: Block) -> Bypass:
        region, kind = block.region, block.bypass.kind
        hidden = hidden_of(flow, constants, region) if kind == "narrow" else None
        before = run_passes(model, [ReplaceRegions(tuple(done))])
        read = [region.entry, *([hidden.value] if hidden else ())]
        values = (*read, region.merge, region.exit)
        run = _both(_session(before, read), _session(model, values), values)
        if hidden is not None:
            units = block.bypass.arrays["units"]
            sums = Sums(region, replace(hidden, units=len(units)), flow, linear=has_linear(block.bypass), times=2)
            kept = _keeping(run, hidden.value, features_of(units, hidden.width), region.channel_axis)
            return refit_narrow(hidden_moments(sums, items, kept, seed), block.bypass)
        rows = 2 * max(LEAST_ROWS, ROWS_PER_FEATURE * region.channels)
        return fit_bypass(kind, moments_of(region, items, run, rows, seed))

    for block, _ in progress.each(blocks):
        fresh = behind(block) if done and block.bypass.kind in FITTED else block.bypass
        done.append(replace(block, bypass=fresh))
    return tuple(done)


def _session(model: onnx.ModelProto, values: Sequence[str]) -> Session:
    return open_session(up_to(model, values).SerializeToString())


def _keeping(run: Run, value: str, features: NDArray[np.int64], axis: int) -> Run:
    """The same values, these features of one of them alone."""

    def kept(item: Batch) -> Mapping[str, Array]:
        found = run(item)
        return {**found, value: found[value].take(features, axis=axis)}

    return kept


def _both(changed: Session, original: Session, values: Sequence[str]) -> Run:
    """What a block reads behind bypasses, then what it reads in the original, beside what it writes in the original."""

    def run(item: Batch) -> Mapping[str, Array]:
        plain = {**item.feeds, **original.run(item.feeds)}
        behind = {**plain, **changed.run(item.feeds)}
        return {name: np.concatenate([behind[name], plain[name]]) for name in values}

    return run
