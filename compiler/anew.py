"""Fit the bypasses of a choice anew, so that they know one another: learnt where that is possible, or refitted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import onnx

from skipc.compiler.data import Batch
from skipc.compiler.impact import ungated
from skipc.compiler.learn import learnt
from skipc.compiler.options import Option
from skipc.compiler.progress import SILENT, Progress
from skipc.compiler.refit import refitted
from skipc.compiler.settings import Settings
from skipc.runtime.plan import Block


def fitted_anew(
    model: onnx.ModelProto,
    chosen: Sequence[Option],
    items: Sequence[Batch],
    output: str,
    measured: Callable[[Sequence[Option]], float],
    epochs: int,
    settings: Settings,
    progress: Progress = SILENT,
) -> Sequence[Option]:
    """The same options with the bypasses of the first way that leaves a smaller joint loss; as they are, if none does.

    Args:
        model: normalised original.
        chosen: options in graph order, without overlaps.
        items: batches without padding, of one sample each: what bypasses are fitted to.
        output: name of the judged output.
        measured: the mean loss of always bypassing the regions of all these options.
        epochs: to learn for; none where *measured* does not hold other samples, since what is learnt fits its own so
            well that they no longer tell what it is worth.
        settings: of the compilation.
        progress: of this.
    """
    seed = settings.seed
    blocks = [ungated(option.region, option.bypass) for option in chosen]
    before = measured(chosen)
    given = (model, blocks, items, output, seed)
    ways: list[tuple[str, tuple[object, ...], Callable[[], Sequence[Block] | str]]] = [
        ("learn", (*given, epochs), lambda: learnt(model, blocks, items, output, seed, epochs, progress)),
        ("refit", given, lambda: refitted(model, blocks, items, seed, progress)),
    ]
    for name, key, way in ways if epochs else ways[1:]:
        found = settings.cache.recall(name, key, way)
        if isinstance(found, str):
            continue
        fresh = [replace(option, bypass=block.bypass) for option, block in zip(chosen, found, strict=True)]
        if measured(fresh) < before:
            return fresh
    return chosen
