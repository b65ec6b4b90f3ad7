"""Lay a path of configurations from "never skip" to "skip most", each step the most time saved per loss added.

A configuration says for each block whether it is bypassed never, for a share of the inputs that its gate chooses, or
always, without a gate. Errors of several blocks do not simply add up and early bypasses shift the scores of later
gates, so every step is measured as a whole before it is taken, and thresholds follow the scores that the configuration
before it really produced.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

from skipc.compiler.ladder import FEW, FINE_SHARES, SHARES, SMALLEST_LOSS, Offer, Rung, ladder, rung_at
from skipc.compiler.loss import Losses
from skipc.compiler.running import Outcome, Window

GATED_WORTH = 0.9
"""Gates hold on unfamiliar data where static bypasses do not, so a file with gates may be this much slower."""

GATED_GAIN = 0.5
"""And it must keep at least this share of what the static file gains: where blocks are so small that gates cost as much
as they save, a tenth of the latency is all that there is to gain."""

NEVER, ALWAYS = float("-inf"), float("inf")

REACH = 1.5
"""A path goes on to this multiple of the limit: *calibrate* may be kinder than *fit*, but not by more than that."""

SURE = 1e-4
"""Of configurations with a smaller p-value on *fit* hardly one fails on *calibrate*."""

TRIES = 2
"""Steps measured before one is taken, where measuring shows the first to be worth less than predicted."""


@dataclass(frozen=True)
class Step:
    """One configuration of a path.

    Attributes:
        thresholds: one for each gate; `NEVER` and `ALWAYS` at the ends.
        shares: share of *fit* that each gate was meant to open for.
        loss: mean loss on *fit*, measured.
        p_value: on *fit*, of the hypothesis that the loss exceeds the limit; a forecast of what *calibrate* will say.
        saved_ms: measured saving, milliseconds a batch: how often each block was bypassed by what that saves, less what
            the gates cost.
    """

    thresholds: tuple[float, ...]
    shares: tuple[float, ...]
    loss: float
    p_value: float
    saved_ms: float


@dataclass(frozen=True)
class Trial:
    """How configurations are tried on *fit*.

    Attributes:
        run: runs the instrumented model with a window.
        p_value: of losses, against the limit, were there as many of them as there are in *calibrate*.
        floors: of the gates.
        limit: of the mean loss; a path ends where the measured loss exceeds `REACH` times this.
    """

    run: Callable[[Window], Outcome]
    p_value: Callable[[Losses], float]
    floors: tuple[float, ...]
    limit: float


@dataclass(frozen=True)
class _State:
    """A measured configuration."""

    shares: tuple[float, ...]
    thresholds: tuple[float, ...]
    outcome: Outcome
    saved_ms: float

    @property
    def smooth(self) -> float:
        return float(self.outcome.smooth.mean())


def best_path(offer: Offer, trial: Trial, delta: float, speed_of: Callable[[Step], float]) -> tuple[Step, ...]:
    """The path with gates, or the one without any where that is faster by far at the same risk.

    Args:
        offer: what is known of the gates.
        trial: measures configurations on *fit*, so that the choice costs nothing of the guarantee.
        delta: one minus the confidence.
        speed_of: measures how many times faster than the original a configuration is, built as it would be shipped.
    """
    rungs = FINE_SHARES if len(offer.scores) <= FEW else SHARES
    paths = [lay_path(offer, trial, shares) for shares in (rungs, ())]
    ends = [boldest(path, trial.limit, delta) for path in paths]
    if ends[0] == ends[1]:
        return paths[0]
    gated, static = (speed_of(end) if end else 0.0 for end in ends)
    return paths[0] if gated >= asked_of_gates(static) else paths[1]


def asked_of_gates(static: float) -> float:
    """The least speed-up of a file with gates that is taken in place of one without, which has this speed-up."""
    return max(GATED_WORTH * static, 1.0 + GATED_GAIN * (static - 1.0))


def boldest(path: Sequence[Step], limit: float, delta: float) -> Step | None:
    """The boldest configuration that passes on *fit*; where *fit* is too small, by its mean."""
    passing = list(takewhile(lambda step: step.p_value <= delta, path))
    within = passing or list(takewhile(lambda step: step.loss <= limit / 2, path))
    return within[-1] if within else None


def lay_path(offer: Offer, trial: Trial, shares: Sequence[float]) -> tuple[Step, ...]:
    """Configurations in the order in which they will be tested.

    Args:
        offer: what is known of the gates.
        trial: measures configurations.
        shares: for which a gate may open, beside a guard's; with none of them blocks are bypassed always or never.
    """
    search = _Search(offer, trial, shares)
    gates = len(trial.floors)
    state = _measured(offer, trial, (0.0,) * gates, (NEVER,) * gates)
    path: list[Step] = []
    while (following := search.step(state)) is not None:
        state = following
        path.append(_step_of(state, trial))
        if path[-1].loss > REACH * trial.limit:
            break
    return tuple(path)


def settled(path: Sequence[Step], offer: Offer, trial: Trial, whole: Callable[[Window], Outcome]) -> tuple[Step, ...]:
    """A path whose last configurations within the limit open each gate for the share of *fit* that they name.

    While a path is laid, thresholds are quantiles of the scores that the configuration before produced, on a part of
    *fit*. The tenth that a guard shuts for is then off by a sixth, and it is the guards that hold on unfamiliar
    data.

    Args:
        path: laid with this trial.
        offer: what is known of the gates.
        trial: measures configurations on a part of *fit*.
        whole: runs the instrumented model on all of it.
    """
    first = max((place for place, step in enumerate(path) if step.p_value < SURE), default=0)

    def settle(step: Step) -> Step:
        scores = whole(window_of(step.thresholds, trial.floors)).scores
        thresholds = tuple(threshold_at(own, share) for own, share in zip(scores, step.shares, strict=True))
        return _step_of(_measured(offer, trial, step.shares, thresholds), trial)

    late = [place >= first and step.loss <= trial.limit and _gated(step.shares) > 0 for place, step in enumerate(path)]
    return tuple(settle(step) if wanted else step for step, wanted in zip(path, late, strict=True))


def _gated(shares: Sequence[float]) -> int:
    """How many of these shares ask for a gate."""
    return sum(0 < share < 1 for share in shares)


def _measured(offer: Offer, trial: Trial, shares: tuple[float, ...], thresholds: tuple[float, ...]) -> _State:
    outcome = trial.run(window_of(thresholds, trial.floors))
    saved = float(offer.saved(outcome.shares.astype(np.float64)).mean(axis=0).sum())
    return _State(shares, thresholds, outcome, saved - offer.gate_ms * _gated(shares))


def _step_of(state: _State, trial: Trial) -> Step:
    outcome = state.outcome
    return Step(state.thresholds, state.shares, outcome.mean, trial.p_value(outcome.losses), state.saved_ms)


class _Search:
    """Takes steps along the ladders of all gates."""

    def __init__(self, offer: Offer, trial: Trial, shares: Sequence[float]) -> None:
        self._offer = offer
        self._trial = trial
        self._ladders = [ladder(offer, gate, shares if may else ()) for gate, may in enumerate(offer.gated)]
        self._excess = np.ones(len(trial.floors))
        """How many times more loss than predicted a gate's last measured step added."""

    def step(self, state: _State) -> _State | None:
        """The best next configuration by measurement; None at the end of all ladders."""
        tried: dict[int, tuple[float, _State]] = {}
        while len(tried) < TRIES:
            gate = self._most_promising(state, tried)
            if gate is None:
                break
            found = self._raised(state, gate)
            if found.saved_ms <= state.saved_ms:
                self._ladders[gate].pop(0)
                continue
            tried[gate] = (self._measured_worth(state, found, gate), found)
            others = [self._predicted_worth(state, other) for other in self._open_gates(tried)]
            if tried[gate][0] >= max(others, default=0.0):
                break
        if not tried:
            return None
        best = max(tried, key=lambda gate: tried[gate][0])
        self._ladders[best].pop(0)
        return tried[best][1]

    def _open_gates(self, tried: dict[int, tuple[float, _State]]) -> list[int]:
        return [gate for gate, rungs in enumerate(self._ladders) if rungs and gate not in tried]

    def _most_promising(self, state: _State, tried: dict[int, tuple[float, _State]]) -> int | None:
        return max(self._open_gates(tried), key=lambda gate: self._predicted_worth(state, gate), default=None)

    def _predicted_worth(self, state: _State, gate: int) -> float:
        rung, below = self._ladders[gate][0], self._rung_at(state.shares[gate], gate)
        loss = (rung.loss - below.loss) * self._excess[gate]
        return (rung.saved_ms - below.saved_ms) / max(float(loss), SMALLEST_LOSS)

    def _rung_at(self, share: float, gate: int) -> Rung:
        return Rung(0.0, 0.0, 0.0) if share == 0 else rung_at(self._offer, gate, share)

    def _raised(self, state: _State, gate: int) -> _State:
        """The configuration with one gate on its next rung, thresholds at the quantiles of the scores just seen."""
        shares = (*state.shares[:gate], self._ladders[gate][0].share, *state.shares[gate + 1 :])
        scores = state.outcome.scores
        thresholds = tuple(threshold_at(scores[i], share) for i, share in enumerate(shares))
        return _measured(self._offer, self._trial, shares, thresholds)

    def _measured_worth(self, state: _State, found: _State, gate: int) -> float:
        rung, below = self._ladders[gate][0], self._rung_at(state.shares[gate], gate)
        loss = found.smooth - state.smooth
        self._excess[gate] = max(loss, SMALLEST_LOSS) / max(rung.loss - below.loss, SMALLEST_LOSS)
        return (found.saved_ms - state.saved_ms) / max(loss, SMALLEST_LOSS)


def window_of(thresholds: Sequence[float], floors: Sequence[float]) -> Window:
    """The instrumented model's input for a configuration, float32 [2, gates]; what is always bypassed has no floor."""
    rows = [ALWAYS if limit == ALWAYS else -floor for limit, floor in zip(thresholds, floors, strict=True)]
    return np.array([thresholds, rows], np.float32)


def threshold_at(scores: NDArray[np.float64] | NDArray[np.float32], share: float) -> float:
    """The threshold below which a share of scores lies, midway between two of them; float32, as the graph compares."""
    if share in (0.0, 1.0):
        return NEVER if share == 0 else ALWAYS
    ordered = np.sort(scores).astype(np.float32)
    count = max(1, round(share * len(ordered)))
    last = ordered[count - 1]
    following = ordered[count] if count < len(ordered) else last
    middle = np.float32((last + following) / 2)
    return float(middle if last < middle else np.nextafter(last, np.float32(np.inf)))
