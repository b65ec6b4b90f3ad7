"""Narrow fits keep the units that matter and explain what can be explained."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from skipc.compiler.hidden import HiddenMoments
from skipc.compiler.narrow_fit import LINEAR_SHARES, SHARES, fit_narrow, narrow_ladder

CHANNELS, UNITS, ROWS = 4, 16, 4000
MATTERING = [1, 5, 6, 12]


def planted(taps: int = 1) -> tuple[HiddenMoments, NDArray[np.float64], NDArray[np.float64]]:
    """Features of which d depends on x and on four units; all of them random, and d with a little noise."""
    random = np.random.default_rng(0)
    f = random.standard_normal((ROWS, CHANNELS + UNITS * taps)) + 0.5
    weight = np.zeros((f.shape[1], CHANNELS))
    weight[:CHANNELS] = random.standard_normal((CHANNELS, CHANNELS))
    for unit in MATTERING:
        rows = slice(CHANNELS + unit * taps, CHANNELS + (unit + 1) * taps)
        weight[rows] = random.standard_normal((taps, CHANNELS))
    d = f @ weight + 0.25 + 0.01 * random.standard_normal((ROWS, CHANNELS))
    mean_f, mean_d = f.mean(axis=0), d.mean(axis=0)
    ff = f.T @ f / ROWS - np.outer(mean_f, mean_f)
    return HiddenMoments(CHANNELS, taps, mean_f, mean_d, ff, f.T @ d / ROWS - np.outer(mean_f, mean_d)), f, d


def test_the_units_that_matter_are_kept() -> None:
    for taps in (1, 3):
        (kept,) = fit_narrow(planted(taps)[0], shares=(0.25,))
        assert kept.arrays["units"].tolist() == MATTERING


def test_units_that_the_output_does_not_feel_go_first() -> None:
    """Half of the units act in the first two directions only, half in the others; the metric feels one half."""
    random = np.random.default_rng(1)
    h = random.standard_normal((ROWS, 8))
    weight = random.standard_normal((8, CHANNELS))
    weight[:4, 2:], weight[4:, :2] = 0.0, 0.0
    weight /= np.linalg.norm(weight, axis=1, keepdims=True)
    d = h @ weight
    ff, fd = np.cov(h.T, bias=True), (h - h.mean(axis=0)).T @ d / ROWS
    moments = HiddenMoments(0, 1, h.mean(axis=0), d.mean(axis=0), ff, fd)
    for felt, expected in (([1.0, 1.0, 0.0, 0.0], [0, 1, 2, 3]), ([0.0, 0.0, 1.0, 1.0], [4, 5, 6, 7])):
        (kept,) = fit_narrow(moments, (0.5,), metric=1e-9 * np.diag(felt))
        assert kept.arrays["units"].tolist() == expected
    (alike,) = fit_narrow(moments, (0.5,))
    (even,) = fit_narrow(moments, (0.5,), metric=np.eye(CHANNELS))
    (nothing,) = fit_narrow(moments, (0.5,), metric=np.zeros((CHANNELS, CHANNELS)))
    assert alike.arrays["units"].tolist() == even.arrays["units"].tolist() == nothing.arrays["units"].tolist()


def test_what_is_kept_is_refitted_alike_in_every_metric() -> None:
    moments = planted()[0]
    metric = np.diag([1.0, 2.0, 3.0, 4.0])
    (plain,), (measured,) = fit_narrow(moments, (0.25,)), fit_narrow(moments, (0.25,), metric=metric)
    assert plain.arrays["units"].tolist() == measured.arrays["units"].tolist() == MATTERING
    for name in ("weight", "down", "shift"):
        np.testing.assert_array_equal(plain.arrays[name], measured.arrays[name])


def test_the_fit_explains_all_but_the_noise() -> None:
    moments, f, d = planted()
    (bypass,) = fit_narrow(moments, shares=(0.25,))
    x, h = f[:, :CHANNELS], f[:, CHANNELS:][:, bypass.arrays["units"]]
    merged = x @ bypass.arrays["weight"] + h @ bypass.arrays["down"] + bypass.arrays["shift"]
    # The noise has a standard deviation of 0.01; the ridge of 1e-4 adds a bias well below it.
    assert np.sqrt(((merged - x - d) ** 2).mean()) < 0.012


def test_wider_is_nested_around_narrower() -> None:
    wide, narrow = fit_narrow(planted()[0], shares=(0.25, 0.5))
    assert set(narrow.arrays["units"]) <= set(wide.arrays["units"])
    assert (len(wide.arrays["units"]), len(narrow.arrays["units"])) == (8, 4)


def test_narrow_bypasses_on_offer() -> None:
    found = narrow_ladder(planted()[0])
    assert [len(item.arrays["units"]) for item in found] == [12, 10, 8, 6, 4]
    paths = [not np.array_equal(item.arrays["weight"], np.eye(CHANNELS)) for item in found]
    assert paths == [False] * len(SHARES) + [True] * len(LINEAR_SHARES)
    for wide, narrow in pairwise(found):
        assert set(narrow.arrays["units"]) <= set(wide.arrays["units"])
    assert found[-1].arrays["units"].tolist() == MATTERING


@pytest.mark.parametrize("units", [2, 3, 5])
def test_layers_of_few_units_are_narrowed_too(units: int) -> None:
    """Heads of small attention blocks; a quarter of them is less than one."""
    moments, _, _ = planted()
    behind = slice(0, CHANNELS + units)
    few = replace(moments, mean_f=moments.mean_f[behind], ff=moments.ff[behind, behind], fd=moments.fd[behind])
    kept = [bypass.arrays["units"] for bypass in fit_narrow(few, (1.0, 0.5, 0.1))]
    assert [len(each) for each in kept] == [units, round(0.5 * units), 1]
