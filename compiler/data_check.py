"""Whether arrays fit a model: one guard for each way in which they may not, each with its own code and hint."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipc.compiler.data_types import Arrays, InputSpec
from skipc.runtime.errors import InputError

LABELS = "labels"


@dataclass(frozen=True, eq=False)
class Chunk:
    """Arrays from one place, unchecked.

    Attributes:
        where: the file or the item of a function, for messages.
        arrays: by name, labels among them.
        may_be_single: whether the arrays may hold one sample without a batch axis.
    """

    where: str
    arrays: Arrays
    may_be_single: bool = False


@dataclass(frozen=True, eq=False)
class Block:
    """Arrays that fit the model: `count` whole samples along axis 0, a remainder of the rows already dropped."""

    where: str
    arrays: Arrays
    labels: NDArray[np.int64] | None
    count: int


def check_names(found: Collection[str], inputs: Sequence[InputSpec], where: str) -> None:
    """Refuse missing and unknown arrays, before any of them is read."""
    wanted = [spec.name for spec in inputs]
    unknown = [name for name in found if name not in wanted and name != LABELS]
    for name in wanted:
        if name not in found:
            raise _missing_input(name, unknown, found, where)
    for name in unknown:
        raise InputError(
            "data-extra-array",
            f"array {name!r} is neither an input of the model nor {LABELS!r}",
            where=where,
            hint=f"leave it out; the model's inputs are {', '.join(wanted)}",
        )


def _missing_input(name: str, unknown: Sequence[str], found: Collection[str], where: str) -> InputError:
    close = difflib.get_close_matches(name, unknown, n=1, cutoff=0.5) or (unknown if len(unknown) == 1 else [])
    listed = ", ".join(found) or "no arrays"
    return InputError(
        "data-missing-input",
        f"no array for the model's input {name!r}; found {listed}",
        where=where,
        hint=f"rename {close[0]!r} to {name!r}" if close else f"add an array named {name!r}",
    )


def check_chunk(chunk: Chunk, inputs: Sequence[InputSpec]) -> Block:
    """The chunk as whole samples of the model, or an `InputError` that names the first misfit."""
    where = chunk.where
    check_names(chunk.arrays, inputs, where)
    for spec in inputs:
        _check_type(spec, chunk.arrays[spec.name], where)
    arrays = _with_batch_axis(chunk, inputs)
    for spec in inputs:
        _check_shape(spec, arrays[spec.name], where)
    units = _check_counts(arrays, inputs, where)
    _check_shared_axes(arrays, inputs, where)
    for spec in inputs:
        _check_finite(spec, arrays[spec.name], where)
    labels = _checked_labels(arrays, inputs, where)
    whole = {spec.name: _whole(spec, arrays[spec.name], units) for spec in inputs}
    return Block(where, whole, _grouped_labels(labels, inputs, units), units)


def _whole(spec: InputSpec, array: NDArray[Any], units: int) -> NDArray[Any]:
    return array[: units * spec.rows] if spec.batched else array


def _with_batch_axis(chunk: Chunk, inputs: Sequence[InputSpec]) -> Arrays:
    """A single sample as a batch of one: every array has exactly one axis less than declared."""
    batched = [spec for spec in inputs if spec.batched]
    bare = bool(batched) and all(chunk.arrays[spec.name].ndim == len(spec.shape) - 1 for spec in batched)
    if not (chunk.may_be_single and bare):
        return chunk.arrays
    axes = {spec.name for spec in batched} | ({LABELS} if np.ndim(chunk.arrays.get(LABELS, [0])) == 0 else set())
    return {name: array[np.newaxis] if name in axes else array for name, array in chunk.arrays.items()}


def _check_type(spec: InputSpec, array: NDArray[Any], where: str) -> None:
    if array.dtype == spec.dtype:
        return
    raise InputError(
        "data-wrong-type",
        f"array {spec.name!r} is {array.dtype}, the model expects {spec.dtype}",
        where=where,
        hint=f'nothing is converted silently; save arrays["{spec.name}"].astype("{spec.dtype}") instead',
    )


def _check_shape(spec: InputSpec, array: NDArray[Any], where: str) -> None:
    what = f"array {spec.name!r} has shape {list(array.shape)}, the model expects {spec.shape_text()}"
    if array.ndim != len(spec.shape):
        hint = "samples lie along axis 0" if spec.batched else "a scalar input takes one value, np.array(value)"
        raise InputError("data-wrong-rank", what, where=where, hint=hint)
    for axis, (dim, extent) in enumerate(zip(spec.shape, array.shape, strict=True)):
        if axis and isinstance(dim, int) and dim != extent:
            hint = f"axis {axis} must be {dim}, not {extent}: resize, pad or transpose the array"
            raise InputError("data-wrong-shape", what, where=where, hint=hint)


def _check_counts(arrays: Arrays, inputs: Sequence[InputSpec], where: str) -> int:
    """How many whole samples there are; one where every input is a scalar."""
    batched = [spec for spec in inputs if spec.batched]
    if not batched:
        return 1
    first, length = batched[0], len(arrays[batched[0].name])
    for spec in batched:
        found = len(arrays[spec.name])
        if found * first.rows != length * spec.rows:
            raise InputError(
                "data-count-mismatch",
                f"array {spec.name!r} has {found} rows, array {first.name!r} has {length}",
                where=where,
                hint="all arrays need the same samples along axis 0",
            )
    if length == 0:
        what = f"array {first.name!r} has shape {list(arrays[first.name].shape)}: no samples"
        raise InputError("data-empty", what, where=where, hint="give at least one sample")
    return length // first.rows


def _check_shared_axes(arrays: Arrays, inputs: Sequence[InputSpec], where: str) -> None:
    """Refuse dimensions of one symbol that differ; axis 0 counts samples and is checked as such."""
    seen: dict[str, tuple[str, int, int]] = {}
    for spec in inputs:
        for axis, dim in enumerate(spec.shape):
            if axis == 0 or not isinstance(dim, str):
                continue
            extent = arrays[spec.name].shape[axis]
            other, other_axis, expected = seen.setdefault(dim, (spec.name, axis, extent))
            if extent == expected:
                continue
            raise InputError(
                "data-axis-mismatch",
                f"axis {axis} of array {spec.name!r} is {extent}, axis {other_axis} of {other!r} is {expected}",
                where=where,
                hint=f"the model calls both {dim!r}: they must be equal",
            )


def _check_finite(spec: InputSpec, array: NDArray[Any], where: str) -> None:
    if spec.dtype.kind != "f":
        return
    finite = np.isfinite(array)
    if finite.all():
        return
    place = tuple(int(axis) for axis in np.unravel_index(np.argmin(finite), finite.shape))
    at = f"at index {list(place)}, sample {place[0] // spec.rows}" if spec.batched else "as its value"
    raise InputError(
        "data-not-finite",
        f"array {spec.name!r} holds {array[place]} first {at}",
        where=where,
        hint="remove or repair samples with NaN or infinity: no loss can be measured on them",
    )


def _checked_labels(arrays: Arrays, inputs: Sequence[InputSpec], where: str) -> NDArray[np.int64] | None:
    if LABELS not in arrays or any(spec.name == LABELS for spec in inputs):
        return None
    labels = arrays[LABELS]
    if labels.dtype.kind not in "iu":
        what = f"array {LABELS!r} is {labels.dtype}, expected integers"
        hint = f'save arrays["{LABELS}"].astype("int64") instead, or leave {LABELS!r} out'
        raise InputError("data-labels-type", what, where=where, hint=hint)
    expected = _label_rows(arrays, inputs)
    if labels.shape != (expected,):
        what = f"array {LABELS!r} has shape {list(labels.shape)}, expected [{expected}]"
        raise InputError("data-labels-length", what, where=where, hint="give one class number for each sample")
    return labels.astype(np.int64)


def _label_rows(arrays: Mapping[str, NDArray[Any]], inputs: Sequence[InputSpec]) -> int:
    return next((len(arrays[spec.name]) for spec in inputs if spec.batched), 1)


def _grouped_labels(
    labels: NDArray[np.int64] | None, inputs: Sequence[InputSpec], units: int
) -> NDArray[np.int64] | None:
    """Labels by sample: a model whose batch is fixed at B has B of them in each."""
    if labels is None:
        return None
    rows = next((spec.rows for spec in inputs if spec.batched), 1)
    whole = labels[: units * rows]
    return whole.reshape(units, rows) if rows > 1 else whole
