"""How far the measures of impact agree."""

from __future__ import annotations

import pytest

from skipc.compiler.candidates import Impact
from skipc.compiler.ranking import correlations


def impact(influence: float, gradient: float | None, ablation: float) -> Impact:
    return Impact("r", 0.5, influence, gradient, ablation, "linear", 1.0, 0.1)


def test_every_pair_is_compared() -> None:
    found = correlations([impact(1, 10, 3), impact(2, 20, 2), impact(3, 30, 1)])
    assert found == pytest.approx({"activation/gradient": 1.0, "activation/ablation": -1.0, "gradient/ablation": -1.0})


def test_only_regions_with_both_count() -> None:
    found = correlations([impact(1, 1, 1), impact(2, 2, 2), impact(3, 3, 3), impact(4, None, 0)])
    assert found["gradient/ablation"] == pytest.approx(1.0)
    assert found["activation/ablation"] == pytest.approx(-0.2)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_regions_have_no_correlation(count: int) -> None:
    assert correlations([impact(1, 2, 3)] * count) == {}


def test_what_was_not_measured_is_left_out() -> None:
    assert correlations([impact(1, None, 3), impact(2, None, 2), impact(3, None, 4)]).keys() == {"activation/ablation"}
