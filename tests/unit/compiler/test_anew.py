"""Bypasses are fitted anew by the first way that leaves a smaller loss, or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
import pytest

from skipc.compiler import anew
from skipc.compiler.anew import fitted_anew
from skipc.compiler.options import Option
from skipc.compiler.settings import Settings
from skipc.runtime.plan import Block, Bypass, Region

LOSSES = {"plain": 0.10, "learnt": 0.08, "refitted": 0.09, "worse": 0.11}
SHIFTS = {name: float(place) for place, name in enumerate(LOSSES)}


def bypass(name: str) -> Bypass:
    return Bypass("linear", {"shift": np.array([SHIFTS[name]], np.float32)})


def name_of(options: Sequence[Option]) -> str:
    (place,) = {float(option.bypass.arrays["shift"][0]) for option in options}
    return list(LOSSES)[int(place)]


@pytest.mark.parametrize(
    ("learnt", "refitted", "apart", "expected"),
    [
        ("learnt", "refitted", True, "learnt"),
        ("learnt", "refitted", False, "refitted"),
        (None, "refitted", True, "refitted"),
        ("worse", "refitted", True, "refitted"),
        ("worse", "worse", True, "plain"),
        (None, "worse", True, "plain"),
    ],
)
def test_the_first_way_that_gains_is_taken(
    monkeypatch: pytest.MonkeyPatch, learnt: str | None, refitted: str, apart: bool, expected: str
) -> None:
    def way(name: str | None) -> object:
        def fit(_: onnx.ModelProto, blocks: Sequence[Block], *rest: object) -> object:
            assert name != "learnt" or 3 in rest
            return "no rule for it" if name is None else [replace(block, bypass=bypass(name)) for block in blocks]

        return fit

    monkeypatch.setattr(anew, "learnt", way(learnt))
    monkeypatch.setattr(anew, "refitted", way(refitted))
    regions = [Region(name, "feed-forward", "x", "y", "y", (name,), (), 1, ("n", 4), 1) for name in "ab"]
    chosen = [Option(region, bypass("plain"), 0.05, 1.0) for region in regions]
    measured = lambda options: LOSSES[name_of(options)]  # noqa: E731
    found = fitted_anew(onnx.ModelProto(), chosen, (), "y", measured, 3 if apart else 0, Settings())
    assert name_of(found) == expected
    assert [option.region for option in found] == regions
    assert [(option.loss, option.saved_ms) for option in found] == [(0.05, 1.0)] * 2
