"""Batches of a data set: neighbours of one shape joined, and padding cut down to what each batch needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from skipc.compiler.data_types import Arrays, Batch, Dataset, InputSpec
from skipc.runtime.errors import InputError


def batches(data: Dataset, batch_size: int, inputs: Sequence[InputSpec]) -> tuple[Batch, ...]:
    """Consecutive samples whose shapes agree, at most `batch_size` together, padding trimmed per batch.

    A padding mask has rank 2 and "mask" in its name, holds only zeros and ones, and each of its rows is padded on one
    side and not empty. Columns of padding alone are cut from it and from every input that shares its axis 1, where
    the model leaves that axis open. Feeds may be views of the data set: do not write to them.
    """
    size = _samples_together(batch_size, inputs)
    runs = _runs(data, size, inputs)
    feeds = [_joined([data.samples[index] for index in run], inputs) for run in runs]
    mask = padding_mask(feeds, inputs)
    return tuple(_batch(run, feed, mask, inputs) for run, feed in zip(runs, feeds, strict=True))


def _samples_together(batch_size: int, inputs: Sequence[InputSpec]) -> int:
    if batch_size < 1:
        raise InputError("data-batch-size", f"batch size {batch_size} is below 1", hint="use 1 or more")
    fixed = next((spec for spec in inputs if spec.fixed_batch), None)
    if fixed is None:
        return batch_size
    if batch_size in (1, fixed.rows):
        return 1
    raise InputError(
        "data-fixed-batch",
        f"batch size {batch_size} asked for, but the model fixes axis 0 at {fixed.rows}",
        where=f"graph input {fixed.name!r}",
        hint=f"use batch size {fixed.rows}, or export the model with an open batch axis",
    )


def _runs(data: Dataset, size: int, inputs: Sequence[InputSpec]) -> list[tuple[int, ...]]:
    """Positions that go into one batch each."""
    runs: list[list[int]] = []
    last: object = None
    for index, sample in enumerate(data.samples):
        key = _run_key(sample, inputs)
        if not runs or key != last or len(runs[-1]) == size:
            runs.append([])
        runs[-1].append(index)
        last = key
    return [tuple(run) for run in runs]


def _run_key(sample: Arrays, inputs: Sequence[InputSpec]) -> tuple[object, ...]:
    """Equal for samples that fit into one batch: shapes agree, and so do the values of scalar inputs."""
    return tuple(sample[spec.name].shape if spec.batched else sample[spec.name].tobytes() for spec in inputs)


def _joined(samples: Sequence[Arrays], inputs: Sequence[InputSpec]) -> Arrays:
    first = samples[0]
    return {
        spec.name: _stacked([sample[spec.name] for sample in samples]) if spec.batched else first[spec.name]
        for spec in inputs
    }


def _stacked(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """The parts along axis 0: a view where they are neighbours in one array, a copy otherwise."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if not _neighbours(parts):
        return np.concatenate(parts)
    rows = len(first)
    return as_strided(
        first, shape=(rows * len(parts), *first.shape[1:]), strides=(first.nbytes // rows, *first.strides[1:])
    )


def _neighbours(parts: Sequence[NDArray[Any]]) -> bool:
    first = parts[0]
    if first.base is None or first.nbytes == 0:
        return False
    start = _address(first)
    return all(
        part.base is first.base and part.flags.c_contiguous and _address(part) == start + position * first.nbytes
        for position, part in enumerate(parts)
    )


def _address(array: NDArray[Any]) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def padding_mask(feeds: Sequence[Arrays], inputs: Sequence[InputSpec]) -> InputSpec | None:
    """The first input that is a padding mask in every batch; ``attention_mask`` goes before all others."""
    named = [spec for spec in inputs if len(spec.shape) == 2 and "mask" in spec.name.lower()]
    named.sort(key=lambda spec: spec.name != "attention_mask")
    return next((spec for spec in named if all(_is_padding(feed[spec.name]) for feed in feeds)), None)


def _is_padding(mask: NDArray[Any]) -> bool:
    real = mask != 0
    if not np.array_equal(real, mask) or not real.any(axis=1).all():
        return False
    changes = np.count_nonzero(real[:, 1:] != real[:, :-1], axis=1)
    return bool((changes <= 1).all())


def _batch(run: tuple[int, ...], feeds: Arrays, mask: InputSpec | None, inputs: Sequence[InputSpec]) -> Batch:
    if mask is None:
        return Batch(feeds, run, None)
    trimmed = _trimmed(feeds, mask, inputs)
    return Batch(trimmed, run, trimmed[mask.name] != 0)


def _trimmed(feeds: Arrays, mask: InputSpec, inputs: Sequence[InputSpec]) -> Arrays:
    used = np.flatnonzero((feeds[mask.name] != 0).any(axis=0))
    kept = slice(int(used[0]), int(used[-1]) + 1)
    if kept.stop - kept.start == feeds[mask.name].shape[1]:
        return feeds
    axes = _shared_axes(feeds, mask, inputs)
    return {name: _cut(array, axes.get(name, ()), kept) for name, array in feeds.items()}


def _cut(array: NDArray[Any], axes: Sequence[int], kept: slice) -> NDArray[Any]:
    if not axes:
        return array
    return np.ascontiguousarray(array[tuple(kept if axis in axes else slice(None) for axis in range(array.ndim))])


def _shared_axes(feeds: Arrays, mask: InputSpec, inputs: Sequence[InputSpec]) -> Mapping[str, tuple[int, ...]]:
    """Axes that are the mask's axis 1, by input; none where the model fixes it or no other input has it.

    Exporters that name each input's axes apart leave the mask's symbol alone: there the extent of axis 1 decides.
    """
    if isinstance(mask.shape[1], int):
        return {}
    extent = feeds[mask.name].shape[1]
    for by_symbol in (True, False):
        axes = {spec.name: _matching_axes(spec, feeds[spec.name], mask, extent, by_symbol) for spec in inputs}
        if any(found for name, found in axes.items() if name != mask.name):
            return axes
    return {}


def _matching_axes(
    spec: InputSpec, array: NDArray[Any], mask: InputSpec, extent: int, by_symbol: bool
) -> tuple[int, ...]:
    symbol = mask.shape[1]

    def matches(axis: int) -> bool:
        dim = spec.shape[axis]
        if isinstance(dim, int) or array.shape[axis] != extent:
            return False
        if by_symbol and dim is not None and symbol is not None:
            return dim == symbol
        return axis == 1

    return tuple(axis for axis in range(1, len(spec.shape)) if matches(axis))
