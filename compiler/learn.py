"""Learn what bypasses write, all of them at once, by what the whole network makes of it.

Each bypass was fitted to give back its own block's value. What the network behind it does with the errors is not in
that fit; so from there on all of them are moved together along the gradient of the error at the network's output and at
the end of each bypassed block (hints: Romero et al. 2015, arXiv 1412.6550). No data but the inputs are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto

from skipc.compiler.adam import Adam
from skipc.compiler.data import Batch, input_specs
from skipc.compiler.error_sweep import ErrorSweep, Group, Moves, still_moves
from skipc.compiler.moments import CHUNK
from skipc.compiler.progress import SILENT, Progress
from skipc.compiler.running import in_parallel
from skipc.passes.corrections import Correction
from skipc.passes.expose import up_to
from skipc.passes.flow import Flow
from skipc.passes.heads import hidden_of
from skipc.passes.narrow import constants_of
from skipc.runtime import names
from skipc.runtime.plan import Block, Bypass
from skipc.runtime.session import open_session

EPOCHS = 6

AGAIN = 2
"""Epochs where most of the bypasses have learnt before, beside others."""

RATE = 0.0075
"""Length of the first steps, relative to the root mean square of a bypass's weights; falls to zero along a line."""

STEP_SAMPLES = 16
"""Samples that a step goes by."""

TOGETHER = 6
"""Samples of one shape that run as one batch, at most; with more of them cores wait for one another."""

MOST_BYTES = 2**29
"""Of the original's values, which are kept for every sample; samples beyond are left out."""

LEARNT = {"linear": "weight", "narrow": "down"}
"""Kinds of bypass, with the array that corrections are added to."""


def learnt(
    model: onnx.ModelProto,
    blocks: Sequence[Block],
    items: Sequence[Batch],
    output: str,
    seed: int,
    epochs: int = EPOCHS,
    progress: Progress = SILENT,
) -> tuple[Block, ...] | str:
    """The same blocks with bypasses that know what becomes of their errors, or why that cannot be learnt.

    Args:
        model: normalised original.
        blocks: in graph order, without overlaps; all of them bypassed for most inputs.
        items: batches without padding, of one sample each.
        output: name of the judged output.
        seed: of the order in which samples are taken.
        epochs: how often each is taken.
        progress: told of every step.
    """
    corrections = _corrections(model, blocks)
    if not corrections:
        return "no bypass ends in a product in float32 with its features last"
    values = list(dict.fromkeys([*(block.region.exit for block in blocks), output]))
    try:
        groups = _groups(model, values, items, seed)
        sweep = ErrorSweep.of(model, blocks, list(corrections.values()), values, groups)
        rates = [RATE * _size(block.bypass) for block in blocks if block.region.name in corrections]
        moves = _descended(sweep, _steps(groups, seed, epochs), rates, progress)
    except Exception as error:
        return " ".join(str(error).split()).rstrip(".") or type(error).__name__
    moved = dict(zip(corrections, moves, strict=True))
    return tuple(
        replace(block, bypass=_moved(block.bypass, moved[block.region.name])) if block.region.name in moved else block
        for block in blocks
    )


def _descended(
    sweep: ErrorSweep, steps: Sequence[Sequence[Group]], rates: Sequence[float], progress: Progress
) -> list[Moves]:
    """Where the steps lead, each with the gradient of its own samples."""
    state = [(Adam.at(still.weight), Adam.at(still.shift)) for still in map(still_moves, sweep.corrections)]
    for done, step in enumerate(steps):
        gradients = sweep.derivatives(step, [Moves(weight.value, shift.value) for weight, shift in state])
        left = 1.0 - done / len(steps)
        state = [
            (weight.moved(gradient.weight, left * rate), shift.moved(gradient.shift, left * rate))
            for (weight, shift), gradient, rate in zip(state, gradients, rates, strict=True)
        ]
        progress.to((done + 1) / len(steps))
    return [Moves(weight.value, shift.value) for weight, shift in state]


def _corrections(model: onnx.ModelProto, blocks: Sequence[Block]) -> dict[str, Correction]:
    """Where bypasses can be corrected, by region name."""
    flow, constants = Flow.of(model.graph), constants_of(model.graph)
    found = {}
    for block in blocks:
        region, kind = block.region, block.bypass.kind
        if region.elem_type != TensorProto.FLOAT or region.channel_axis != len(region.dims) - 1 or kind not in LEARNT:
            continue
        hidden = hidden_of(flow, constants, region) if kind == "narrow" else None
        if hidden is not None and hidden.form is not None:
            continue
        features = f"{names.kept(region.name)}/{hidden.value}" if hidden else region.entry
        found[region.name] = Correction(region, features, len(block.bypass.arrays[LEARNT[kind]]))
    return found


def _groups(model: onnx.ModelProto, values: Sequence[str], items: Sequence[Batch], seed: int) -> list[Group]:
    """Samples of one shape together, with what the original makes of them; as many as memory is meant to hold."""
    session = open_session(up_to(model, values).SerializeToString())
    size = TOGETHER if all(spec.batched and not spec.fixed_batch for spec in input_specs(model)) else 1
    by_shape: dict[tuple[object, ...], list[Batch]] = {}
    for item in items:
        by_shape.setdefault(tuple(array.shape for array in item.feeds.values()), []).append(item)
    stacks = [same[start : start + size] for same in by_shape.values() for start in range(0, len(same), size)]
    order = np.random.default_rng(seed).permutation(len(stacks))

    def group(place: int) -> Group:
        stack = stacks[place]
        feeds = dict(stack[0].feeds)
        if len(stack) > 1:
            feeds = {name: np.concatenate([item.feeds[name] for item in stack]) for name in feeds}
        return Group(feeds, sum(len(item.indices) for item in stack), session.run(feeds, list(values)))

    found: list[Group] = []
    for start in range(0, len(stacks), CHUNK):
        found += in_parallel(group, order[start : start + CHUNK].tolist())
        if sum(array.nbytes for each in found for array in each.wanted.values()) > MOST_BYTES:
            break
    return found


def _steps(groups: Sequence[Group], seed: int, epochs: int) -> list[list[Group]]:
    """Groups of `STEP_SAMPLES` samples or a few more, in an order of their own for every epoch."""
    random = np.random.default_rng(seed)
    found: list[list[Group]] = []
    for _ in range(epochs):
        step: list[Group] = []
        for place in random.permutation(len(groups)):
            step.append(groups[place])
            if sum(group.samples for group in step) >= STEP_SAMPLES:
                found.append(step)
                step = []
        found += [step] if step else []
    return found


def _size(bypass: Bypass) -> float:
    """Root mean square of the weights that are learnt."""
    return float(np.sqrt(np.square(bypass.arrays[LEARNT[bypass.kind]]).mean()))


def _moved(bypass: Bypass, moves: Moves) -> Bypass:
    kind, arrays = LEARNT[bypass.kind], bypass.arrays
    moved = {kind: arrays[kind] + moves.weight, "shift": arrays["shift"] + moves.shift}
    return replace(bypass, arrays={**arrays, **moved})
