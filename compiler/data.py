"""Data for calibration: load it, split it, batch it, or make it up.

The names here are what the rest of the compiler uses; the modules `data_*` and `loaders` are behind them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipc.compiler.data_batches import batches, padding_mask
from skipc.compiler.data_types import Batch, Dataset, InputSpec, input_specs
from skipc.compiler.loaders import load_dataset
from skipc.runtime.errors import InputError

__all__ = [
    "Batch",
    "Dataset",
    "InputSpec",
    "batches",
    "input_specs",
    "load_dataset",
    "padding_mask",
    "split",
    "synthetic",
]

ROUNDING = 1e-9
"""Shares such as 0.7 + 0.2 + 0.1 miss 1 by a few units in the last place of a float64; this is far above that."""


def split(count: int, shares: tuple[float, ...], seed: int) -> tuple[NDArray[np.int64], ...]:
    """Disjoint, shuffled positions below `count`, one array for each share; what shares leave over is in none."""
    if count < 0 or any(not share >= 0 for share in shares) or sum(shares) > 1 + ROUNDING:
        raise InputError(
            "data-split-shares",
            f"cannot split {count} samples by the shares {list(shares)}",
            hint="shares are at least 0 and add up to at most 1",
        )
    order = np.random.default_rng(seed).permutation(count).astype(np.int64)
    ends = [min(count, round(sum(shares[: position + 1]) * count)) for position in range(len(shares))]
    return tuple(order[start:end] for start, end in zip([0, *ends], ends, strict=False))


def synthetic(inputs: Sequence[InputSpec], *, batch: int, extent: int, seed: int) -> Mapping[str, NDArray[Any]]:
    """One batch made up for probing: integers are 1, booleans true, floats standard normal.

    An open axis 0 has length `batch`, and so has any other axis with its symbol; further open axes have `extent`.
    """
    random = np.random.default_rng(seed)
    batch_symbols = {spec.shape[0] for spec in inputs if spec.batched and isinstance(spec.shape[0], str)}

    def length(axis: int, dim: int | str | None) -> int:
        if isinstance(dim, int):
            return dim
        return batch if axis == 0 or dim in batch_symbols else extent

    def values(spec: InputSpec) -> NDArray[Any]:
        shape = tuple(length(axis, dim) for axis, dim in enumerate(spec.shape))
        if spec.dtype.kind == "f":
            return np.asarray(random.standard_normal(shape)).astype(spec.dtype)
        return np.ones(shape, dtype=spec.dtype)

    return {spec.name: values(spec) for spec in inputs}
