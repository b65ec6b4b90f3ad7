"""Bets against a hypothesis, whose winnings are evidence that may be looked at after every observation.

The wealth of a gambler who starts with 1 and plays fair games never passes 1 / d with a probability above d, however
long the play (Ville's inequality): an alarm at that point is false with probability d at most, over the whole life of
the monitor (anytime-valid inference, arXiv 2210.01948). Data may go bad long after the start, when a gambler has lost
much: so one starts anew every so often with a share of the first wealth, 1 / (k (k + 1)) for the k-th. Their sum is
again a fair game, since the shares sum to one.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

EVERY = 50
"""Observations from one start to the next."""

MOST = 24
"""Gamblers at the table; the poorest leaves, and its wealth is given up, which can only lower the sum."""


class Game(Protocol):
    """One kind of bet; its state has a row for each gambler."""

    def sit_down(self) -> None:
        """Add a row for a new gambler."""
        ...

    def leave(self, row: int) -> None:
        """Remove a row."""
        ...

    def play(self, observation: float) -> Floats:
        """Log of the factor on each gambler's wealth, [gamblers]; fair or worse under the hypothesis."""
        ...


class Table:
    """Gamblers who start one after the other at the same game.

    Args:
        game: what they play, still without gamblers.
    """

    def __init__(self, game: Game) -> None:
        self._game = game
        self._seen = self._started = 0
        self._log = np.zeros(0)

    @property
    def log_wealth(self) -> float:
        """Natural log of the wealth of all, what later gamblers will start with included."""
        unspent = -math.log(self._started + 1)
        return float(np.logaddexp.reduce(np.append(self._log, unspent)))

    def observe(self, observation: float) -> None:
        """Let all bet on one observation; the factor of a game never depends on it before the bet."""
        if self._seen % EVERY == 0:
            self._start()
        self._seen += 1
        self._log = self._log + self._game.play(observation)

    def _start(self) -> None:
        self._started += 1
        self._game.sit_down()
        self._log = np.append(self._log, -math.log(self._started * (self._started + 1)))
        if len(self._log) > MOST:
            poorest = int(self._log[:-1].argmin())
            self._game.leave(poorest)
            self._log = np.delete(self._log, poorest)


BET_SIZES = (0.8, 0.4, 0.1, 0.02)
"""Shares of the largest bet that keeps wealth from turning negative, ``1 / limit``."""


class LossGame:
    """Bets that the mean of losses in [0, 1] lies above a limit (arXiv 2010.09686).

    Wealth is multiplied by ``1 + b (loss - limit)`` for each of a few constant bets b, on which it is spread evenly at
    the start. The factor's mean is at most 1 as long as the mean loss, given what came before, is at most the limit.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._bets = np.array(BET_SIZES) / limit
        self._log = np.zeros((0, len(BET_SIZES)))

    def sit_down(self) -> None:
        """See `Game.sit_down`."""
        self._log = np.vstack([self._log, np.full(len(BET_SIZES), -math.log(len(BET_SIZES)))])

    def leave(self, row: int) -> None:
        """See `Game.leave`."""
        self._log = np.delete(self._log, row, axis=0)

    def play(self, observation: float) -> Floats:
        """See `Game.play`; a loss that is no number counts as 1."""
        loss = min(max(observation, 0.0), 1.0) if math.isfinite(observation) else 1.0
        before = np.logaddexp.reduce(self._log, axis=1)
        self._log = self._log + np.log1p(self._bets * (loss - self._limit))
        return np.asarray(np.logaddexp.reduce(self._log, axis=1) - before)


CELLS = 10
"""Of the histogram by which a gambler bets on ranks."""

PRIOR = 1.0
"""Of each cell: the first bets are cautious."""


class RankGame:
    """Bets that numbers in [0, 1] are not uniform: each gambler on the histogram of those that it has seen.

    The factor is the density that the histogram predicts, whose mean over uniform numbers is 1.
    """

    def __init__(self) -> None:
        self._counts = np.zeros((0, CELLS))

    def sit_down(self) -> None:
        """See `Game.sit_down`."""
        self._counts = np.vstack([self._counts, np.full(CELLS, PRIOR)])

    def leave(self, row: int) -> None:
        """See `Game.leave`."""
        self._counts = np.delete(self._counts, row, axis=0)

    def play(self, observation: float) -> Floats:
        """See `Game.play`."""
        cell = min(int(observation * CELLS), CELLS - 1)
        factors = CELLS * self._counts[:, cell] / self._counts.sum(axis=1)
        self._counts[:, cell] += 1.0
        return np.asarray(np.log(factors))
