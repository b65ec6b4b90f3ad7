"""Prove that a region treats its rows independently: run it for some of them, and look at every row that comes out.

For each pattern of decisions, rows that run in full must equal the original's, whatever their neighbours do, and rows
that are bypassed must equal what they are when all rows are. The region then sees rows removed, in other company and in
the opposite order.

Where values are quantized as they come, the scale of all rows follows their common range, so that in the original too a
row depends on its company. Proved is then that nothing else depends on it: every scale is held at what the original
computes for the whole batch. What is left can only refine a row, since the range of some rows lies within that of all:
it is quantized in steps no coarser than the original's for that batch, and no finer than if it were alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from skipc.compiler.data import Batch
from skipc.compiler.running import in_parallel
from skipc.passes.base import run_passes
from skipc.passes.expose import with_outputs
from skipc.passes.freeze import FreezeScales, scales_of
from skipc.passes.gate import is_by_token
from skipc.passes.inject import ImposeDecisions
from skipc.runtime import names
from skipc.runtime.plan import Array, Block
from skipc.runtime.session import Session, open_session

TOLERANCES: Mapping[int, float] = {TensorProto.FLOAT: 1e-5, TensorProto.FLOAT16: 1e-2, TensorProto.BFLOAT16: 5e-2}
"""Of the value's largest magnitude: other numbers of rows make ONNX Runtime sum in another order, and no more."""

Decisions = Mapping[str, NDArray[np.float32]]


def imposed(model: onnx.ModelProto, blocks: Sequence[Block], *, provider: str = "cpu", threads: int = 1) -> Session:
    """The model with every row's decision as an input, and the blocks' exit values among its outputs."""
    gated = run_passes(model, [ImposeDecisions(tuple(blocks))])
    shown = with_outputs(gated, [block.region.exit for block in blocks])
    return open_session(shown.SerializeToString(), provider=provider, threads=threads)


def decisions(blocks: Sequence[Block], entries: Mapping[str, Array]) -> dict[str, NDArray[np.float32]]:
    """The decision to run every row of every block in full, by input name.

    Args:
        blocks: gated.
        entries: entry values of their regions, by value name.
    """
    found = {}
    for block in blocks:
        shape = entries[block.region.entry].shape
        rows = shape[:2] if is_by_token(block.gate) else shape[:1]
        found[names.agreed(block.region.name)] = np.zeros(rows, np.float32)
    return found


def dependent(model: onnx.ModelProto, blocks: Sequence[Block], items: Sequence[Batch]) -> dict[str, str]:
    """Why blocks cannot be run for some rows only, by region name; those that can are left out.

    Args:
        model: normalised original.
        blocks: by sample or by token; their regions do not overlap.
        items: batches of several samples.
    """
    if not items:
        return {block.region.name: "the data gives no batch of several samples to try it on" for block in blocks}
    exits = [block.region.exit for block in blocks]
    watched = [*(block.region.entry for block in blocks), *exits]
    scales = scales_of(model)
    original = open_session(with_outputs(model, [*watched, *scales]).SerializeToString())
    session = imposed(run_passes(model, [FreezeScales()]), blocks)
    found: dict[str, str] = {}
    for item in items:
        values = {**item.feeds, **original.run(item.feeds)}
        none, held = decisions(blocks, values), {name: values[name] for name in scales}
        for order, turned in ((item.feeds, 1), (_turned(item), -1)):
            feeds = {**order, **held}
            # A rounding that falls the other way grows from block to block: quantized runs compare within a session.
            whole = (
                session.run({**feeds, **none}, exits) if scales else {name: values[name][::turned] for name in exits}
            )
            tried = partial(_dependence, session, feeds, none, whole)
            for block, reason in zip(blocks, in_parallel(tried, blocks), strict=True):
                if reason:
                    found.setdefault(block.region.name, reason)
    return found


def _turned(item: Batch) -> dict[str, Array]:
    """The same samples in the opposite order, so that each is in other company and in another place."""
    rows = len(item.indices)
    return {
        name: np.ascontiguousarray(array[::-1]) if array.ndim and len(array) == rows else array
        for name, array in item.feeds.items()
    }


def _dependence(
    session: Session, feeds: Mapping[str, Array], none: Decisions, whole: Mapping[str, Array], block: Block
) -> str:
    """Why a block's rows are not independent on one batch, run in full as a whole; empty where they are."""
    name, leaving = names.agreed(block.region.name), block.region.exit
    expected = whole[leaving]

    def run(chosen: NDArray[np.float32]) -> Array:
        return session.run({**feeds, **none, name: chosen}, [leaving])[leaving]

    try:
        bypassed = run(np.ones_like(none[name]))
        tolerance = TOLERANCES[block.region.elem_type] * float(np.abs(expected).max(initial=0.0))
        for chosen in _patterns(none[name].shape):
            result = run(chosen)
            for part, reference in ((chosen == 0, expected), (chosen == 1, bypassed)):
                off = np.abs(result[part].astype(np.float64) - reference[part]).max(initial=0.0)
                if not off <= tolerance:
                    return f"a row changes by {off:.1e} when others are left out"
    except Exception as error:
        return f"it cannot run for some rows: {str(error).splitlines()[0][:200]}"
    return ""


def _patterns(shape: tuple[int, ...]) -> Iterator[NDArray[np.float32]]:
    """Decisions to try: none, half of the rows and the other half, all but one, and one."""
    rows = int(np.prod(shape))
    random = np.random.default_rng(0)
    half = np.zeros(rows, np.float32)
    half[random.permutation(rows)[: rows // 2]] = 1.0
    one = np.zeros(rows, np.float32)
    one[random.integers(rows)] = 1.0
    yield from (pattern.reshape(shape) for pattern in (np.zeros(rows, np.float32), half, 1 - half, 1 - one, one))
