"""What a narrow bypass saves falls with the units that it keeps, along a line: all widths together tell it best."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np

from skipc.compiler.options import Option

LEAST = 3
"""Widths that a line is laid through."""


def smoothed(options: Sequence[Option]) -> tuple[Option, ...]:
    """Options with what narrow ones save read off a line through the widths of their region.

    Each width is timed in a model of its own, and models differ by some per cent in nothing but where their weights lie
    in memory: neighbouring widths differ by no more. The work of a narrow block is linear in the units that it keeps.

    Args:
        options: measured one by one; in any order, which is kept.
    """
    groups: dict[Hashable, list[int]] = {}
    for place, option in enumerate(options):
        if option.bypass.kind == "narrow":
            groups.setdefault((option.region.name, _has_linear_path(option)), []).append(place)
    found = list(options)
    for places in groups.values():
        if len(places) < LEAST:
            continue
        units = np.array([len(options[place].bypass.arrays["units"]) for place in places], np.float64)
        saved = np.array([options[place].saved_ms for place in places])
        for place, value in zip(places, _falling_line(units, saved), strict=True):
            found[place] = replace(options[place], saved_ms=float(value))
    return tuple(found)


def _has_linear_path(option: Option) -> bool:
    weight = option.bypass.arrays["weight"]
    return not np.array_equal(weight, np.eye(len(weight)))


def _falling_line(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Least squares, with a slope that is not positive; values are not negative."""
    centred = x - x.mean()
    slope = min(0.0, float(centred @ y) / max(float(centred @ centred), 1e-12))
    return np.asarray(np.maximum(0.0, y.mean() + slope * centred))
