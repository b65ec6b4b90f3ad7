"""Run models over data: the only thing that ablation, calibration and verification do, with other thresholds."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from skipc.compiler.cache import Cache, digest
from skipc.compiler.data import Batch, Dataset, InputSpec, batches
from skipc.compiler.loss import Loss, Losses, resolve_loss
from skipc.compiler.progress import SILENT, Progress
from skipc.passes.gate import decides_by_row, is_by_token
from skipc.runtime import names
from skipc.runtime.errors import InputError
from skipc.runtime.plan import Array, Block
from skipc.runtime.session import Session

TASKS_A_THREAD = 16
"""Into which a thread's batches are divided: handing over each small run by itself costs as much as the run."""

Item = TypeVar("Item")
Result = TypeVar("Result")
Measure = Callable[[Array, Array, NDArray[np.int64] | None, NDArray[np.bool_] | None], Losses]
Window = NDArray[np.float32]
"""Thresholds and negated floors, float32 [2, gates]."""


def workers() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_parallel(
    function: Callable[[Item], Result], items: Sequence[Item], at_once: int = 0, progress: Progress = SILENT
) -> list[Result]:
    """Map over batches, in order, on all cores; ONNX Runtime works outside Python's lock.

    Args:
        function: runs a batch.
        items: the batches, or what stands for them.
        at_once: `Session.parallel` of what runs them.
        progress: told how far it is.
    """
    threads = at_once or workers()
    size = max(1, len(items) // (threads * TASKS_A_THREAD))
    tasks = [items[start : start + size] for start in range(0, len(items), size)]
    found: list[Result] = []
    with ThreadPoolExecutor(threads) as pool:
        for results in pool.map(lambda task: [function(item) for item in task], tasks):
            found += results
            progress.to(len(found) / len(items))
    return found


@dataclass(frozen=True)
class Judged:
    """A data set made into batches, with the original's output for each: what changed models are judged on.

    Attributes:
        items: the batches.
        references: what the loss keeps of the original's judged output, one for each batch.
        labels: one array for each batch, or None.
        output: name of the judged output.
        by_batch: whether a batch is decided on as one, so that its samples are no independent units.
    """

    items: tuple[Batch, ...]
    references: tuple[Array, ...]
    labels: tuple[NDArray[np.int64] | None, ...]
    output: str
    by_batch: bool = False

    @property
    def samples(self) -> int:
        """Number of samples."""
        return sum(len(item.indices) for item in self.items)

    @property
    def units(self) -> int:
        """Number of independent units: batches that are decided on as one, or samples."""
        return len(self.items) if self.by_batch else self.samples

    @cached_property
    def key(self) -> str:
        """Digest of all of it."""
        return digest(self.items, self.references, self.labels, self.output, self.by_batch)

    def first(self, units: int) -> Judged:
        """The first batches only, with at least so many units."""
        return self._part(slice(self._batches(units)))

    def behind(self, units: int) -> Judged:
        """The batches behind those of `first`; there may be none."""
        return self._part(slice(self._batches(units), None))

    def _batches(self, units: int) -> int:
        sizes = np.cumsum([1 if self.by_batch else len(item.indices) for item in self.items])
        return int(np.searchsorted(sizes, units)) + 1

    def _part(self, part: slice) -> Judged:
        return Judged(self.items[part], self.references[part], self.labels[part], self.output, self.by_batch)

    def losses(self, measure: Measure, outputs: Sequence[Array]) -> Losses:
        """Losses of these outputs, one for each batch: float64 [units].

        A sample that is several rows, since the model fixes its batch, counts as their mean.
        """
        if self._are_rows(outputs):
            labels = [label for label in self.labels if label is not None]
            joined = np.concatenate(labels) if labels else None
            return measure(np.concatenate(self.references), np.concatenate(outputs), joined, None)
        return np.concatenate([self._losses_at(i, measure, output) for i, output in enumerate(outputs)])

    def _losses_at(self, position: int, measure: Measure, output: Array) -> Losses:
        item = self.items[position]
        return self._units(measure(self.references[position], output, self.labels[position], item.valid), item)

    def lean(self, position: int, loss: Loss, output: Array) -> Array:
        """What is held of a batch's output: its losses and smooth losses, [2, units], where outputs are too large."""
        if loss.keep is None:
            return output
        return np.stack([self._losses_at(position, measure, output) for measure in (loss.of, loss.smooth)])

    def both_losses(self, loss: Loss, outputs: Sequence[Array]) -> tuple[Losses, Losses]:
        """Losses and smooth losses of lean outputs, float64 [units] each."""
        if loss.keep is not None:
            losses, smooth = np.concatenate(outputs, axis=1)
            return losses, smooth
        losses = self.losses(loss.of, outputs)
        return losses, self.losses(loss.smooth, outputs) if loss.proxy else losses

    def _are_rows(self, outputs: Sequence[Array]) -> bool:
        """Whether every output is one row of features for each sample, so that all are measured at once."""
        pairs = zip(self.items, self.references, outputs, strict=True)
        width = self.references[0].shape[1:]
        return not self.by_batch and all(
            reference.ndim == 2
            and len(reference) == len(item.indices)
            and reference.shape[1:] == width == out.shape[1:]
            for item, reference, out in pairs
        )

    def _units(self, losses: Losses, item: Batch) -> Losses:
        return losses.mean(keepdims=True) if self.by_batch or len(losses) != len(item.indices) else losses


def judge(
    original: Session,
    data: Dataset,
    inputs: Sequence[InputSpec],
    batch_size: int,
    output: str,
    *,
    loss: Loss | None = None,
    by_batch: bool = False,
    progress: Progress = SILENT,
) -> Judged:
    """Run the original over a data set.

    Args:
        original: opened.
        data: to run.
        inputs: of the model.
        batch_size: samples in a batch, at most.
        output: that is judged.
        loss: says what to keep of the outputs; without it they are kept as they are.
        by_batch: whether batches are decided on as one.
        progress: told how far it is.

    Raises:
        InputError: the original's output holds NaN or infinity, or has no batch axis, so that nothing can be judged.
    """
    items = batches(data, batch_size, inputs)

    def reference(item: Batch) -> Array:
        found = original.run(item.feeds, [output])[output]
        if not np.isfinite(found).all():
            hint = "leave the sample out, or mend the model"
            what = f"the original gives NaN or infinity for sample {item.indices[0]} of {data.name}"
            raise InputError("original-not-finite", what, where=output, hint=hint)
        return loss.kept(found, item.feeds, item.valid) if loss else found

    references = in_parallel(reference, items, progress=progress)
    labels = tuple(None if data.labels is None else data.labels[list(item.indices)].reshape(-1) for item in items)
    return Judged(items, tuple(references), labels, output, by_batch and batch_size > 1)


def loss_for(name: str, original: Session, data: Dataset, inputs: Sequence[InputSpec], output: str) -> Loss:
    """The loss that a name stands for, told by the original's output for the first sample.

    Raises:
        InputError: as `resolve_loss`.
    """
    item = batches(data.subset(range(1)), 1, inputs)[0]
    return resolve_loss(name, original.run(item.feeds, [output])[output], data.labels)


@dataclass(frozen=True)
class Instrumented:
    """An instrumented model: thresholds are an input, decisions and scores are outputs.

    Attributes:
        session: the model.
        blocks: in the order of its gates.
        key: digest of the model and of how it was opened.
        cache: of what was measured on it.
        outcomes: what it did so far, by window, data and loss.
    """

    session: Session
    blocks: tuple[Block, ...]
    key: str
    cache: Cache = field(default_factory=Cache)
    outcomes: dict[tuple[bytes, str, Loss], Outcome] = field(default_factory=dict, repr=False, compare=False)

    @property
    def gates(self) -> int:
        """Number of gates."""
        return len(self.blocks)


@dataclass(frozen=True)
class Outcome:
    """What a changed model did on judged data.

    Attributes:
        losses: float64 [units].
        smooth: the same by the loss's smooth proxy.
        shares: float32 [batches, gates]: share of the rows for which the block was bypassed.
        scores: for each gate, of what it decides on: of samples or tokens float32 [rows], or [batches] the largest
            score of each batch.
        seen: scores and shares bypassed as a deployment sees them, float32 [samples, gates] each.
    """

    losses: Losses
    smooth: Losses
    shares: NDArray[np.float32]
    scores: tuple[NDArray[np.float32], ...]
    seen: tuple[NDArray[np.float32], NDArray[np.float32]]

    @property
    def mean(self) -> float:
        """Mean loss."""
        return float(self.losses.mean())


def run_gated(model: Instrumented, window: Window, judged: Judged, loss: Loss) -> Outcome:
    """Run an instrumented model over judged data, or remember what it did.

    Args:
        model: to run.
        window: thresholds and negated floors.
        judged: the data.
        loss: what to measure.
    """
    key = (window.tobytes(), judged.key, loss)
    if key not in model.outcomes:
        parts = (model.key, window, judged.key, loss.name)
        cache = model.cache if loss.is_known else Cache()
        model.outcomes[key] = cache.recall("losses", parts, lambda: _run_gated(model, window, judged, loss))
    return model.outcomes[key]


def _run_gated(model: Instrumented, window: Window, judged: Judged, loss: Loss) -> Outcome:
    tokens = [names.score(block.region.name) for block in model.blocks if is_by_token(block.gate)]
    wanted = [judged.output, names.DECISIONS, names.SCORES, *tokens]
    session = model.session

    def run(position: int) -> dict[str, Array]:
        result = dict(session.run({**judged.items[position].feeds, names.WINDOW: window}, wanted))
        return result | {judged.output: judged.lean(position, loss, result[judged.output])}

    results = in_parallel(run, range(len(judged.items)), session.parallel)
    losses, smooth = judged.both_losses(loss, [result[judged.output] for result in results])
    return Outcome(
        losses=losses,
        smooth=smooth,
        shares=np.stack([result[names.DECISIONS].mean(axis=0) for result in results]),
        scores=tuple(_scores(block, gate, judged.items, results) for gate, block in enumerate(model.blocks)),
        seen=(
            np.concatenate([result[names.SCORES] for result in results]),
            np.concatenate([result[names.DECISIONS] for result in results]),
        ),
    )


def _scores(
    block: Block, gate: int, items: Sequence[Batch], results: Sequence[Mapping[str, Array]]
) -> NDArray[np.float32]:
    if is_by_token(block.gate):
        of_tokens = [result[names.score(block.region.name)][..., 0] for result in results]
        valid = [item.valid if item.valid is not None else ... for item in items]
        return np.concatenate([scores[real].reshape(-1) for scores, real in zip(of_tokens, valid, strict=True)])
    by_sample = [result[names.SCORES][:, gate] for result in results]
    if decides_by_row(block.gate):
        return np.concatenate(by_sample)
    return np.array([scores.max() for scores in by_sample], np.float32)


def run_plain(session: Session, judged: Judged, loss: Loss) -> Losses:
    """Losses of a model without gates over judged data, float64 [units]."""

    def run(position: int) -> Array:
        output = session.run(judged.items[position].feeds, [judged.output])[judged.output]
        return judged.lean(position, loss, output)

    outputs = in_parallel(run, range(len(judged.items)))
    return judged.both_losses(loss, outputs)[0] if loss.keep else judged.losses(loss.of, outputs)


def shut(gates: int) -> Window:
    """The window that bypasses nothing."""
    return np.full((2, gates), -np.inf, np.float32)


def opened(gates: int, which: Sequence[int]) -> Window:
    """The window that always bypasses these blocks and no others."""
    window = shut(gates)
    window[:, list(which)] = np.inf
    return window
