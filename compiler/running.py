"""Run models over data: the only thing that ablation, calibration and verification do, with other thresholds."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from skipc.compiler.data import Batch, Dataset, InputSpec, batches
from skipc.compiler.loss import Loss, Losses
from skipc.runtime import names
from skipc.runtime.errors import InputError
from skipc.runtime.plan import Array
from skipc.runtime.session import Session

Result = TypeVar("Result")
Measure = Callable[[Array, Array, NDArray[np.int64] | None, NDArray[np.bool_] | None], Losses]
Window = NDArray[np.float32]
"""Thresholds and negated floors, float32 [2, gates]."""


def workers() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_parallel(function: Callable[[Batch], Result], items: Sequence[Batch], at_once: int = 0) -> list[Result]:
    """Map over batches, in order, on all cores; ONNX Runtime works outside Python's lock.

    Args:
        function: runs a batch.
        items: the batches.
        at_once: `Session.parallel` of what runs them.
    """
    with ThreadPoolExecutor(at_once or workers()) as pool:
        return list(pool.map(function, items))


@dataclass(frozen=True)
class Judged:
    """A data set made into batches, with the original's output for each: what changed models are judged on.

    Attributes:
        items: the batches.
        references: the original's judged output, one for each batch.
        labels: one array for each batch, or None.
        output: name of the judged output.
    """

    items: tuple[Batch, ...]
    references: tuple[Array, ...]
    labels: tuple[NDArray[np.int64] | None, ...]
    output: str

    @property
    def samples(self) -> int:
        """Number of samples."""
        return sum(len(item.indices) for item in self.items)

    def first(self, count: int) -> Judged:
        """The first batches only."""
        return Judged(self.items[:count], self.references[:count], self.labels[:count], self.output)


def judge(original: Session, data: Dataset, inputs: Sequence[InputSpec], batch_size: int, output: str) -> Judged:
    """Run the original over a data set.

    Raises:
        InputError: the original's output holds NaN or infinity, or has no batch axis, so that nothing can be judged.
    """
    items = batches(data, batch_size, inputs)
    references = in_parallel(lambda item: original.run(item.feeds, [output])[output], items)
    for item, reference in zip(items, references, strict=True):
        if not np.isfinite(reference).all():
            hint = "leave the sample out, or mend the model"
            what = f"the original gives NaN or infinity for sample {item.indices[0]} of {data.name}"
            raise InputError("original-not-finite", what, where=output, hint=hint)
    labels = tuple(None if data.labels is None else data.labels[list(item.indices)].reshape(-1) for item in items)
    return Judged(items, tuple(references), labels, output)


@dataclass(frozen=True)
class Outcome:
    """What a changed model did on judged data.

    Attributes:
        losses: float64 [units]: one a batch, its mean; a batch is what is decided together.
        smooth: the same by the loss's smooth proxy.
        decisions: float32 [units, gates]: share of samples for which the block was bypassed.
        scores: float32 [samples, gates].
        unit_scores: float32 [units, gates]: the largest in each batch, which decides for all of it.
    """

    losses: Losses
    smooth: Losses
    decisions: NDArray[np.float32]
    scores: NDArray[np.float32]
    unit_scores: NDArray[np.float32]

    @property
    def mean(self) -> float:
        """Mean loss."""
        return float(self.losses.mean())


def run_gated(session: Session, window: Window | None, judged: Judged, loss: Loss) -> Outcome:
    """Run an instrumented model, or a compiled one that exposes its decisions, over judged data.

    Args:
        session: the model.
        window: thresholds and negated floors of an instrumented model, None for a compiled one.
        judged: the data.
        loss: what to measure.
    """
    extra: Mapping[str, Array] = {} if window is None else {names.WINDOW: window}
    wanted = [judged.output, names.DECISIONS, names.SCORES]
    results = in_parallel(lambda item: session.run({**item.feeds, **extra}, wanted), judged.items, session.parallel)
    rows = list(zip(judged.items, judged.references, judged.labels, results, strict=True))

    def losses(measure: Measure) -> Losses:
        means = [measure(ref, result[judged.output], labels, item.valid).mean() for item, ref, labels, result in rows]
        return np.array(means)

    actual = losses(loss.of)
    return Outcome(
        losses=actual,
        smooth=losses(loss.smooth) if loss.proxy else actual,
        decisions=np.stack([result[names.DECISIONS].mean(axis=0) for result in results]),
        scores=np.concatenate([result[names.SCORES] for result in results]),
        unit_scores=np.stack([result[names.SCORES].max(axis=0) for result in results]),
    )


def run_plain(session: Session, judged: Judged, loss: Loss) -> Losses:
    """Losses of a model without gates over judged data, float64 [units]."""
    results = in_parallel(lambda item: session.run(item.feeds, [judged.output])[judged.output], judged.items)
    rows = zip(judged.items, judged.references, judged.labels, results, strict=True)
    return np.array([loss.of(reference, result, labels, item.valid).mean() for item, reference, labels, result in rows])


def shut(gates: int) -> Window:
    """The window that bypasses nothing."""
    return np.full((2, gates), -np.inf, np.float32)


def opened(gates: int, which: Sequence[int]) -> Window:
    """The window that always bypasses these blocks and no others."""
    window = shut(gates)
    window[:, list(which)] = np.inf
    return window
