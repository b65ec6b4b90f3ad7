"""The data: split into *fit*, *calibrate* and *test*, and judged by the original."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipc.compiler.certify import Claim, require_enough
from skipc.compiler.data import Batch, Dataset, batches, padding_mask, split
from skipc.compiler.progress import SILENT, Progress
from skipc.compiler.running import Judged, judge, loss_for
from skipc.compiler.settings import Settings
from skipc.compiler.survey import Surveyed
from skipc.passes.freeze import quantizes_dynamically
from skipc.runtime.errors import InputError
from skipc.runtime.plan import Array
from skipc.runtime.session import Session

SHARES = (0.4, 0.4, 0.2)
"""Of every data set: fit, calibrate, test."""

JOINED = 4
"""Samples in a batch on which the independence of rows is proved."""


@dataclass(frozen=True)
class Splits:
    """The data, split once: one judged part of each data set; *fit* also sample by sample, and some of it joined."""

    fit: Judged
    single_fit: tuple[Batch, ...]
    joined_fit: tuple[Batch, ...]
    calibrate: tuple[Judged, ...]
    test: tuple[Judged, ...]


def split_and_judge(
    surveyed: Surveyed, original: Session, data: Sequence[Dataset], settings: Settings, progress: Progress = SILENT
) -> tuple[Splits, Claim]:
    """Split the data, run the original over them, and settle what is to be certified.

    Raises:
        InputError: the data cannot be judged.
        PromiseError: there are too few of them for the claim.
    """
    output = _output(original, settings)
    parts = [_parts(dataset, settings.seed) for dataset in data]
    size, by_batch = settings.batch_size, settings.granularity == "batch"
    loss = loss_for(settings.loss, original, data[0], surveyed.inputs, output)
    # Scales that follow a batch's range make its samples depend on one another, in the original as well.
    together = (by_batch, *(by_batch or quantizes_dynamically(surveyed.model),) * 2)
    judged = [
        [
            judge(original, part, surveyed.inputs, size, output, loss=loss, by_batch=joint, progress=own)
            for (part, joint), own in whole.each(list(zip(row, together, strict=True)))
        ]
        for row, whole in progress.each(parts)
    ]
    fits, calibrations, tests = zip(*judged, strict=True)
    per_sample = calibrations[0].units == calibrations[0].samples == sum(map(len, calibrations[0].references))
    claim = Claim(loss, output, settings.risk, settings.confidence, loss.binary and per_sample)
    units = {dataset.name: part.units for dataset, part in zip(data, calibrations, strict=True)}
    if not settings.budget:
        require_enough(claim, units, SHARES[1], size if calibrations[0].by_batch else 1)
    fit, single = joined(fits, [batches(row[0], 1, surveyed.inputs) for row in parts])
    return Splits(fit, single, _several(parts[0][0], surveyed), calibrations, tests), claim


def _several(part: Dataset, surveyed: Surveyed) -> tuple[Batch, ...]:
    """A few batches of several samples; none where the samples or the model stand alone."""
    if any(spec.fixed_batch for spec in surveyed.inputs):
        return ()
    found = batches(part.subset(range(min(len(part), 4 * JOINED))), JOINED, surveyed.inputs)
    return tuple(item for item in found if len(item.indices) > 1)[:2]


def padding_input(surveyed: Surveyed, splits: Splits, settings: Settings) -> str:
    """The input that tells padding; empty where there is none."""
    if settings.mask == "none":
        return ""
    if settings.mask == "auto":
        found = padding_mask([item.feeds for item in splits.fit.items], surveyed.inputs)
        return found.name if found else ""
    fitting = [spec.name for spec in surveyed.inputs if len(spec.shape) == 2]
    if settings.mask not in fitting:
        hint = f"inputs [batch, sequence] are: {', '.join(fitting) or 'none'}"
        raise InputError("mask-unknown", f"{settings.mask!r} can be no mask", where="--mask", hint=hint)
    return settings.mask


def _output(original: Session, settings: Settings) -> str:
    if settings.output is None:
        return original.outputs[0]
    if settings.output not in original.outputs:
        hint = f"one of {', '.join(original.outputs)}"
        raise InputError("output-unknown", f"the model has no output {settings.output!r}", where="--output", hint=hint)
    return settings.output


def _parts(dataset: Dataset, seed: int) -> list[Dataset]:
    return [dataset.subset(chosen) for chosen in split(len(dataset), SHARES, seed)]


def joined(parts: Sequence[Judged], single: Sequence[Sequence[Batch]]) -> tuple[Judged, tuple[Batch, ...]]:
    """Several judged data sets as one, shuffled into one another so that its beginning stands for all of it.

    Args:
        parts: one for each data set.
        single: the samples of each of them one by one, which stay in the order of the batches that they are in.
    """
    units: list[tuple[Batch, Array, NDArray[np.int64] | None, Sequence[Batch]]] = []
    for part, samples in zip(parts, single, strict=True):
        ends = np.cumsum([len(item.indices) for item in part.items])
        own = [samples[end - len(item.indices) : end] for item, end in zip(part.items, ends, strict=True)]
        units += zip(part.items, part.references, part.labels, own, strict=True)
    order = np.random.default_rng(0).permutation(len(units)) if len(parts) > 1 else np.arange(len(units))
    items, references, labels, singles = zip(*(units[i] for i in order), strict=True)
    return Judged(items, references, labels, parts[0].output, parts[0].by_batch), tuple(
        item for unit in singles for item in unit
    )
