"""The alternative without gates is the boldest that passes, and little is measured that leaves no doubt."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from skipc.compiler import static
from skipc.compiler.certify import Claim
from skipc.compiler.impact import ungated
from skipc.compiler.options import Option
from skipc.compiler.running import Window
from skipc.runtime.plan import Bypass, Region

LIMIT, UNITS, FIT_UNITS = 0.05, 800, 300


class Runs:
    """Each bypass loses as much as any other, and on *fit* they lose less than on *calibrate*.

    Args:
        each: mean loss of one bypass on *calibrate*.
        flattery: share of that on *fit*.
    """

    def __init__(self, each: float, flattery: float) -> None:
        self.each, self.flattery = each, flattery
        self.tested: list[int] = []

    def __call__(self, _model: object, window: Window, judged: Any, _loss: object) -> object:
        opened = int(np.isposinf(window[0]).sum())
        if judged.units == UNITS:
            self.tested.append(opened)
        mean = opened * self.each * (self.flattery if judged.units == FIT_UNITS else 1.0)
        losses = np.clip(mean * np.random.default_rng(opened).gamma(4.0, 0.25, judged.units), 0.0, 1.0)
        return SimpleNamespace(losses=losses, mean=float(losses.mean()))


def blocks_of(monkeypatch: pytest.MonkeyPatch, runs: Runs, count: int = 12) -> int:
    """How many blocks the static model bypasses; 0 where there is none."""
    monkeypatch.setattr(static, "run_gated", runs)
    regions = [Region(f"r{i}", "feed-forward", "x", "y", "y", (f"n{i}",), (), 1, ("n", 4), 1) for i in range(count)]
    options = [Option(region, Bypass("linear"), 0.01, 1.0 + i) for i, region in enumerate(regions)]
    blocks = [ungated(region, Bypass("linear")) for region in regions]
    loss = SimpleNamespace(name="mse", steady=False, binary=False, enough=lambda units: units)
    claim = Claim(cast(Any, loss), "y", LIMIT, 0.95, binary=False)
    fit = SimpleNamespace(units=UNITS + 1, first=lambda _: SimpleNamespace(units=FIT_UNITS))
    calibrate = [SimpleNamespace(units=UNITS)]
    found = static.best_static(cast(Any, None), blocks, options, cast(Any, fit), cast(Any, calibrate), claim)
    return len(found.blocks) if found else 0


@pytest.mark.parametrize("flattery", [1.0, 0.9, 0.75])
def test_the_boldest_that_passes_is_found_however_fit_flatters(
    monkeypatch: pytest.MonkeyPatch, flattery: float
) -> None:
    runs = Runs(0.0052, flattery)
    # Eight lose 0.0416 and pass, nine lose 0.0468 and do not.
    assert blocks_of(monkeypatch, runs) == 8
    assert runs.tested[-1] == 9


def test_what_leaves_no_doubt_is_not_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs(0.0052, 1.0)
    blocks_of(monkeypatch, runs)
    # Four lose 0.0208 and are sure to pass; the fewest that is tested is the last of those.
    assert runs.tested == [4, 5, 6, 7, 8, 9]


def test_there_is_none_where_one_block_is_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs(0.2, 1.0)
    assert blocks_of(monkeypatch, runs) == 0
    assert runs.tested == [1]
