"""The three measures of impact side by side: how much they agree on the order of the regions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from skipc.compiler.candidates import Impact
from skipc.compiler.fit import rank_correlation

MEASURES: Mapping[str, str] = {"activation": "influence", "gradient": "gradient", "ablation": "ablation"}
"""Field of `Impact` by name of the measure; activation ranks by Block Influence."""

FEWEST = 3
"""Regions that a rank correlation takes: two can only agree or disagree."""


def correlations(impacts: Sequence[Impact]) -> dict[str, float]:
    """Spearman's rank correlation of each pair of measures, such as ``activation/ablation``, over regions with both."""
    found = {}
    for first, second in combinations(MEASURES, 2):
        values = [[getattr(item, MEASURES[name]) for name in (first, second)] for item in impacts]
        both = np.array([pair for pair in values if None not in pair], np.float64)
        if len(both) >= FEWEST:
            found[f"{first}/{second}"] = rank_correlation(both[:, 0], both[:, 1])
    return found
