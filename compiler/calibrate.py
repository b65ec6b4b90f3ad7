"""Tests of "the mean loss is at most this limit", and what can be claimed from them.

Every function takes the losses of n independent samples, each in [0, 1]. A p-value is for the null hypothesis that the
true mean exceeds the limit: over data sets drawn at or beyond the limit it falls to d or below with probability at
most d, for each d in (0, 1) and each n, without any appeal to large numbers. All of it assumes that the samples are
drawn independently from the distribution that the claim is about.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

BET_SIZES = (0.99, 0.8, 0.5)
"""Fractions of the largest bet that keeps the wealth from turning negative, `1 / (1 - limit)`."""

BET_SHARES = (0.6, 0.2, 0.2)
"""Share of the starting wealth put on each of `BET_SIZES`; they sum to one."""

_BISECTIONS = 40
_LARGEST_LIMIT = 1.0 - 2.0**-30


def p_value(losses: ArrayLike, limit: float, binary: bool) -> float:
    """The test that skipc certifies with: the binomial one for 0/1 losses, betting for any other.

    Args:
        losses: [n], in an order that does not depend on their values, such as a seeded shuffle.
        limit: claimed upper limit of the mean, in (0, 1).
        binary: whether the loss is declared to take only the values 0 and 1. It has to be a property of the loss, never
            read off the observed values: choosing a test after looking at the data gives the data two chances to
            reject, and neither p-value is then valid. A real-valued loss may also show only zeros by chance.

    Raises:
        ValueError: no losses, a loss that is not a number or lies outside [0, 1], a `binary` loss other than 0 and 1,
            or a limit outside (0, 1).
    """
    return binomial_p_value(losses, limit) if binary else betting_p_value(losses, limit)


def binomial_p_value(losses: ArrayLike, limit: float) -> float:
    """Exact lower tail `P(Bin(n, limit) <= sum(losses))` for losses [n] of 0 and 1 (Clopper and Pearson, 1934).

    Raises:
        ValueError: as for `p_value`.
    """
    values = _checked_losses(losses, binary=True)
    return _binomial_tail(int(values.sum()), values.size, _checked_limit(limit))


def hoeffding_bentkus_p_value(losses: ArrayLike, limit: float) -> float:
    """The smaller of Hoeffding's and Bentkus' tail bounds for losses [n] (Learn then Test, arXiv 2110.01052).

    It depends on the losses through their mean alone, so that it cannot profit from a small variance; reported for
    comparison with other work.

    Raises:
        ValueError: as for `p_value`.
    """
    values = _checked_losses(losses, binary=False)
    limit = _checked_limit(limit)
    mean = float(values.mean())
    hoeffding = math.exp(-values.size * _bernoulli_divergence(min(mean, limit), limit))
    bentkus = math.e * _binomial_tail(math.ceil(values.sum()), values.size, limit)
    return min(1.0, hoeffding, bentkus)


def betting_p_value(losses: ArrayLike, limit: float) -> float:
    """One over the most that a gambler who bets against the null ever owns (arXiv 2010.09686; Ville's inequality).

    The wealth after t samples is `K_t = prod(1 + bet_t * (limit - loss_t))`, which no bet from earlier losses alone
    makes grow in expectation under the null; the p-value is `min(1, 1 / max_t K_t)`. The gambler splits the starting
    wealth over the constant bets `BET_SIZES / (1 - limit)` (the paper calls it diversified Kelly betting), which is
    the plug-in bet that weighs each size by what it has earned so far. Constant sizes make every K_t grow with the
    limit, since `1 + c * (limit - loss) / (1 - limit)` does for any loss <= 1: the p-value is monotone in the limit,
    as `upper_bound` needs. With a bet fitted to the losses' mean and variance it would not be.

    Args:
        losses: [n]. The order matters, through the maximum over t: it must not depend on the values. Pass a seeded
            shuffle, and the same one for every configuration that is tested.
        limit: in (0, 1).

    Raises:
        ValueError: as for `p_value`.
    """
    values = _checked_losses(losses, binary=False)
    limit = _checked_limit(limit)
    edges = (limit - values) / (1.0 - limit)
    log_wealths = np.log(BET_SHARES)[:, None] + np.cumsum(np.log1p(np.multiply.outer(BET_SIZES, edges)), axis=1)
    best = float(np.logaddexp.reduce(log_wealths, axis=0).max())
    return min(1.0, math.exp(-best))


def upper_bound(losses: ArrayLike, confidence: float, binary: bool) -> float:
    """Upper confidence bound of the mean: the smallest limit that the test certifies, or 1 if it certifies none.

    Both tests are monotone in the limit, so the limits that they reject are an interval up to 1 and bisection finds its
    lower end. The end returned is the rejected one: the bound is never rounded downwards. It says what could have been
    claimed about one configuration; after a search over several, only `fixed_sequence` keeps the confidence.

    Args:
        losses: [n], ordered as `p_value` asks.
        confidence: in (0, 1).
        binary: as for `p_value`.

    Raises:
        ValueError: as for `p_value`, or a confidence outside (0, 1).
    """
    delta = _delta(confidence)
    if p_value(losses, _LARGEST_LIMIT, binary) > delta:
        return 1.0
    return _last_certified(_LARGEST_LIMIT, 0.0, lambda limit: p_value(losses, limit, binary) <= delta)


def certifiable_mean(samples: int, limit: float, confidence: float) -> float:
    """The largest mean for which losses that are all alike certify the limit by betting; 0 where not even zeros do.

    Losses that vary as those of small changes do need about the same: what a gambler may bet is bounded by the largest
    loss that there could be, not by their spread.

    Raises:
        ValueError: a limit or a confidence outside (0, 1).
    """
    target, limit = math.log(_delta(confidence)), _checked_limit(limit)
    return _last_certified(0.0, limit, lambda mean: _log_p_of_alike(samples, limit, False, mean) <= target)


def _last_certified(certified: float, refused: float, certifies: Callable[[float], bool]) -> float:
    """The value next to the border between those that are certified and those that are not, by bisection."""
    for _ in range(_BISECTIONS):
        middle = (certified + refused) / 2.0
        certified, refused = (middle, refused) if certifies(middle) else (certified, middle)
    return certified


def samples_needed(limit: float, confidence: float, binary: bool) -> int:
    """The fewest samples that can certify the limit: with zero loss on every one of them.

    At 1 % with 95 % confidence: 299 for a binary loss, 331 for any other.

    Raises:
        ValueError: a limit or a confidence outside (0, 1).
    """
    target = math.log(_delta(confidence))
    limit = _checked_limit(limit)
    enough = 1
    while _log_p_of_alike(enough, limit, binary) > target:
        enough *= 2
    too_few = enough // 2
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if _log_p_of_alike(middle, limit, binary) <= target:
            enough = middle
        else:
            too_few = middle
    return enough


def fixed_sequence(p_values: Sequence[float], delta: float) -> int:
    """How many leading configurations are certified, with the chance of any false one among them at most delta.

    Fixed-sequence testing (Learn then Test, arXiv 2110.01052): each hypothesis is tested at the full delta,
    and the first that fails ends the walk. The order must be fixed without the samples that the p-values come from.

    Raises:
        ValueError: a p-value outside [0, 1] or not a number, or a delta outside (0, 1).
    """
    if not 0.0 < delta < 1.0:
        raise ValueError(f"delta must lie between 0 and 1, not {delta}")
    if not all(0.0 <= value <= 1.0 for value in p_values):
        raise ValueError(f"p-values must lie in [0, 1]: {list(p_values)}")
    return next((index for index, value in enumerate(p_values) if value > delta), len(p_values))


def _checked_losses(losses: ArrayLike, *, binary: bool) -> NDArray[np.float64]:
    values = np.asarray(losses, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"one loss per sample is needed, in one axis; the shape is {values.shape}")
    if not np.all((values >= 0.0) & (values <= 1.0)):
        raise ValueError("losses must be numbers in [0, 1]")
    if binary and not np.all((values == 0.0) | (values == 1.0)):
        raise ValueError("a binary loss must be 0 or 1 for every sample")
    return values


def _checked_limit(limit: float) -> float:
    if not 0.0 < limit < 1.0:
        raise ValueError(f"the limit must lie between 0 and 1, not {limit}")
    return limit


def _delta(confidence: float) -> float:
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"the confidence must lie between 0 and 1, not {confidence}")
    return 1.0 - confidence


def _binomial_tail(successes: int, trials: int, rate: float) -> float:
    """`P(Bin(trials, rate) <= successes)`, each term in log space from the ratio to the one before."""
    if successes >= trials:
        return 1.0
    count = np.arange(1, successes + 1)
    ratios = np.log((trials - count + 1) / count) + (math.log(rate) - math.log1p(-rate))
    log_terms = trials * math.log1p(-rate) + np.concatenate([[0.0], np.cumsum(ratios)])
    return min(1.0, math.exp(np.logaddexp.reduce(log_terms)))


def _bernoulli_divergence(mean: float, rate: float) -> float:
    """Kullback-Leibler divergence of a Bernoulli mean in [0, 1) from a rate in (0, 1), in nats."""
    miss = (1.0 - mean) * (math.log1p(-mean) - math.log1p(-rate))
    return miss if mean == 0.0 else mean * math.log(mean / rate) + miss


def _log_p_of_alike(samples: int, limit: float, binary: bool, loss: float = 0.0) -> float:
    """Log of the p-value of so many losses of one size below the limit, in closed form: no array is made.

    Binary losses are zero then.
    """
    if binary:
        return samples * math.log1p(-limit)
    growth = np.log1p(np.multiply(BET_SIZES, (limit - loss) / (1.0 - limit)))
    return -float(np.logaddexp.reduce(np.log(BET_SHARES) + samples * growth))
