"""What narrow bypasses of one region save lies on a line."""

from __future__ import annotations

import numpy as np
import pytest

from skipc.compiler.options import Option
from skipc.compiler.widths import smoothed
from skipc.runtime.plan import Bypass, Region

CHANNELS = 4


def narrow(name: str, units: int, saved_ms: float, *, path: bool = False) -> Option:
    region = Region(name, "feed-forward", "x", "y", "y", (name,), (), 1, ("n", CHANNELS), 1)
    weight = np.eye(CHANNELS, dtype=np.float32) * (2.0 if path else 1.0)
    return Option(region, Bypass("narrow", {"weight": weight, "units": np.arange(units)}), 0.01, saved_ms)


def test_a_line_through_all_widths_of_a_region() -> None:
    options = [narrow("a", 12, 1.2), narrow("b", 8, 9.0), narrow("a", 10, 0.9), narrow("a", 8, 2.1)]
    found = smoothed(options)
    # The mean is 1.4 at 10 units, the slope -0.225 a unit.
    assert [item.saved_ms for item in found] == pytest.approx([0.95, 9.0, 1.4, 1.85])
    assert [item.region.name for item in found] == ["a", "b", "a", "a"]


def test_a_linear_path_is_another_line() -> None:
    options = [narrow("a", units, saved) for units, saved in ((12, 1.0), (10, 2.0), (8, 3.0))]
    beside = [narrow("a", units, saved, path=True) for units, saved in ((6, 2.0), (4, 9.0))]
    assert [item.saved_ms for item in smoothed([*options, *beside])] == pytest.approx([1.0, 2.0, 3.0, 2.0, 9.0])


def test_more_units_never_save_more() -> None:
    found = smoothed([narrow("a", 12, 3.0), narrow("a", 10, 2.0), narrow("a", 8, 1.0)])
    assert [item.saved_ms for item in found] == pytest.approx([2.0, 2.0, 2.0])
