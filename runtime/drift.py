"""Whether live scores look like those of calibration: two figures to look at, and one test to act on.

*PSI*, the population stability index, sums ``(live - expected) ln(live / expected)`` over bins. By convention below 0.1
is no change, and above 0.25 a large one (Siddiqi, Credit Risk Scorecards, 2006). Without any drift it is about
``(bins - 1) (1 / live + 1 / calibrated)``, 0.04 for 20 bins and 1,000 of each: windows much smaller than that mislead.
*KS* is the largest distance between the two distribution functions, here at the edges of the bins; a distance above
`ks_critical` has a probability of 1 % without drift, if looked at once.

Looked at again and again, both cry wolf. The alarm therefore rests on a conformal test martingale (Vovk, Gammerman and
Shafer, Algorithmic Learning in a Random World, 2005): the rank of each live score among calibration's and those before
it, ties broken at random, is uniform if live and calibration data are exchangeable. `RankGame` bets that it is not.
"""

from __future__ import annotations

import math
import random
from collections import deque

import numpy as np
from numpy.typing import NDArray

from skipc.runtime.martingales import RankGame, Table
from skipc.runtime.plan import Reference

Counts = NDArray[np.int64]

KS_FACTOR = 1.63
"""Of Kolmogorov's distribution at 1 %."""


def psi(expected: Counts, live: Counts) -> float:
    """Population stability index of two histograms, [bins] each; half a count more in each bin keeps it finite."""
    one, two = (counts + 0.5 for counts in (expected, live))
    one, two = one / one.sum(), two / two.sum()
    return float(((two - one) * np.log(two / one)).sum())


def ks(expected: Counts, live: Counts) -> float:
    """Largest distance between the distribution functions of two histograms, [bins] each; 0 where one is empty."""
    if not expected.sum() or not live.sum():
        return 0.0
    return float(np.abs(np.cumsum(expected) / expected.sum() - np.cumsum(live) / live.sum()).max())


def ks_critical(expected: int, live: int) -> float:
    """Distance that two samples of these sizes exceed with a probability of 1 % if nothing differs."""
    return KS_FACTOR * math.sqrt((expected + live) / (expected * live)) if expected and live else math.inf


class ScoreDrift:
    """One gate's live scores against its calibration. Not safe to use from several threads.

    Args:
        reference: of the gate.
        level: in force.
        window: live scores that PSI and KS look at.
        seed: of the random breaking of ties.
    """

    def __init__(self, reference: Reference, level: int, *, window: int, seed: int) -> None:
        self._edges = np.array(reference.edges)
        self._expected = np.array(reference.counts[level], np.int64)
        self._seen = self._expected.copy()
        self._window: deque[int] = deque(maxlen=window)
        self._random = random.Random(seed)
        self._table = Table(RankGame())

    def observe(self, score: float) -> None:
        """Take in one score; what is no number counts as larger than all others."""
        cell = int(np.searchsorted(self._edges, score, side="right"))
        self._window.append(cell)
        above, ties = int(self._seen[cell + 1 :].sum()), int(self._seen[cell]) + 1
        rank = (above + self._random.random() * ties) / (int(self._seen.sum()) + 1)
        self._seen[cell] += 1
        self._table.observe(rank)

    @property
    def log_wealth(self) -> float:
        """Natural log of the evidence for drift."""
        return self._table.log_wealth

    @property
    def psi(self) -> float:
        """Of the window."""
        return psi(self._expected, self._live())

    @property
    def ks(self) -> float:
        """Of the window."""
        return ks(self._expected, self._live())

    @property
    def ks_critical(self) -> float:
        """For the scores that are in the window."""
        return ks_critical(int(self._expected.sum()), len(self._window))

    def _live(self) -> Counts:
        return np.bincount(np.fromiter(self._window, np.int64), minlength=len(self._expected))
