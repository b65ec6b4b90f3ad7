"""Observe what bypasses do to single tokens: what the gates of tokens learn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from skipc.compiler.data import Batch
from skipc.compiler.running import in_parallel, opened, shut
from skipc.passes.base import run_passes
from skipc.passes.expose import with_outputs
from skipc.passes.inject import InjectGates
from skipc.passes.window import InputWindow
from skipc.runtime import names
from skipc.runtime.plan import Array, Block
from skipc.runtime.session import open_session

MOST_TOKENS = 8192
"""Of one block: more do not better a linear read-out of a few hundred features."""

Rows = tuple[NDArray[np.float32], NDArray[np.float64]]
"""Entry values [tokens, C], and the squared relative error that the bypass makes at the exit, [tokens]."""


def observe_tokens(
    model: onnx.ModelProto, blocks: Sequence[Block], items: Sequence[Batch], seed: int
) -> dict[str, Rows]:
    """Run every block in full and bypassed, the others in full, and compare token by token; by region name.

    Args:
        model: normalised original.
        blocks: that decide by token.
        items: batches without padding; only as many as needed are run.
        seed: of the tokens drawn.
    """
    if not blocks:
        return {}
    gated = run_passes(model, [InjectGates(tuple(blocks), InputWindow())])
    watched = [name for block in blocks for name in (block.region.entry, block.region.exit)]
    session = open_session(with_outputs(gated, watched).SerializeToString())
    wanted = [name for name in session.outputs if name in watched]

    def run(item: Batch) -> list[Rows]:
        full = {**item.feeds, **session.run({**item.feeds, names.WINDOW: shut(len(blocks))}, wanted)}
        return [compared(item, block, gate, full) for gate, block in enumerate(blocks)]

    def compared(item: Batch, block: Block, gate: int, full: Mapping[str, Array]) -> Rows:
        leaving = block.region.exit
        bypassed = session.run({**item.feeds, names.WINDOW: opened(len(blocks), [gate])}, [leaving])[leaving]
        return full[block.region.entry].reshape(-1, block.region.channels), _errors(full[leaving], bypassed)

    found: list[list[Rows]] = []
    while items and sum(len(rows[0][1]) for rows in found) < MOST_TOKENS:
        chunk, items = items[:16], items[16:]
        found += in_parallel(run, chunk)
    return {block.region.name: _drawn([rows[gate] for rows in found], seed) for gate, block in enumerate(blocks)}


def _errors(full: Array, bypassed: Array) -> NDArray[np.float64]:
    """Squared relative error of each token, [tokens]."""
    one, two = (value.astype(np.float64).reshape(-1, value.shape[-1]) for value in (full, bypassed))
    return np.asarray(((one - two) ** 2).sum(axis=1) / np.maximum((one**2).sum(axis=1), 1e-30))


def _drawn(rows: Sequence[Rows], seed: int) -> Rows:
    """At most `MOST_TOKENS` of all rows."""
    entries = np.concatenate([entry for entry, _ in rows]).astype(np.float32)
    errors = np.concatenate([error for _, error in rows])
    chosen = np.sort(np.random.default_rng(seed).permutation(len(errors))[:MOST_TOKENS])
    return entries[chosen], errors[chosen]
