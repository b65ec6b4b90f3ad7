"""Fit the bypasses of a choice anew, so that they know one another: learnt where that is possible, or refitted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import onnx

from skipc.compiler.cache import Cache
from skipc.compiler.data import Batch
from skipc.compiler.impact import ungated
from skipc.compiler.learn import learnt
from skipc.compiler.options import Option
from skipc.compiler.progress import SILENT, Progress
from skipc.compiler.refit import refitted


def fitted_anew(
    model: onnx.ModelProto,
    chosen: Sequence[Option],
    items: Sequence[Batch],
    output: str,
    measured: Callable[[Sequence[Option]], float],
    seed: int,
    cache: Cache,
    progress: Progress = SILENT,
) -> Sequence[Option]:
    """The same options with the bypasses of the first way that leaves a smaller joint loss; as they are, if none does.

    Args:
        model: normalised original.
        chosen: options in graph order, without overlaps.
        items: batches without padding, of one sample each: what bypasses are fitted to.
        output: name of the judged output.
        measured: the mean loss of always bypassing the regions of all these options, on other samples.
        seed: of all that is drawn.
        cache: of what took long.
        progress: of this.
    """
    blocks = [ungated(option.region, option.bypass) for option in chosen]
    before = measured(chosen)
    ways = {
        "learn": lambda: learnt(model, blocks, items, output, seed, progress),
        "refit": lambda: refitted(model, blocks, items, seed, progress),
    }
    for name, way in ways.items():
        found = cache.recall(name, (model, blocks, items, output, seed), way)
        if isinstance(found, str):
            continue
        fresh = [replace(option, bypass=block.bypass) for option, block in zip(chosen, found, strict=True)]
        if measured(fresh) < before:
            return fresh
    return chosen
