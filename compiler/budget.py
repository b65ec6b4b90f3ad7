"""Compile to a budget: the gentlest configuration that is fast enough, and what can be promised of its loss.

The risk is not given but sought. Paths are laid for one limit after the other until the end of one is fast enough, and
then the first configuration on it that is. All of that happens on *fit*. *Calibrate* sees that one configuration only,
so the upper confidence bound of its mean loss there holds with the confidence asked for, and becomes the limit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from skipc.compiler.bench import CHOICE_MS, Bench, compare
from skipc.compiler.candidates import Candidates
from skipc.compiler.certify import Claim, bound_certificate
from skipc.compiler.gating import Gated
from skipc.compiler.levels import Levels
from skipc.compiler.planner import Step, window_of
from skipc.compiler.running import Judged, run_gated
from skipc.compiler.settings import Settings
from skipc.compiler.shipped import speed_as_shipped
from skipc.compiler.splits import Splits
from skipc.compiler.survey import Surveyed
from skipc.runtime.errors import InputError, PromiseError
from skipc.runtime.session import Session

MARGIN = 1.02
"""What is sought is a little faster than asked for, since what is timed later may come out a little slower."""

LARGEST_LIMIT = 0.64
"""No path is laid for a larger one: what loses more is no longer the same model."""

FORM = re.compile(r"(?P<value>\d+(\.\d+)?)\s*(?P<unit>ms|x)")

Speed = Callable[[Gated, Step], float]


@dataclass(frozen=True)
class Budget:
    """What is asked for.

    Attributes:
        text: as the user wrote it.
        latency_ms: of a batch, at most; None where a speed-up is asked for.
        speedup: at least; None where a latency is asked for.
    """

    text: str
    latency_ms: float | None = None
    speedup: float | None = None

    def needed(self, original: Session, judged: Judged) -> float:
        """The speed-up that it takes; the original is timed for that where a latency is asked for."""
        if self.speedup is not None:
            return self.speedup
        assert self.latency_ms is not None
        return compare(original, original, judged.items, budget_ms=CHOICE_MS).original_ms / self.latency_ms


@dataclass(frozen=True)
class Laid:
    """A path for one limit, and what it was laid from."""

    candidates: Candidates
    gated: Gated


@dataclass(frozen=True)
class Reached:
    """The configuration that is fast enough.

    Attributes:
        budget: that was asked for.
        needed: speed-up that it takes.
        laid: the path that it is on.
        step: the configuration.
    """

    budget: Budget
    needed: float
    laid: Laid
    step: Step


def parse_budget(text: str) -> Budget:
    """Read what ``--budget`` says.

    Raises:
        InputError: it is neither a latency nor a speed-up above 1.
    """
    found = FORM.fullmatch(text.strip())
    hint = "give a latency of a batch such as 5ms, or a speed-up such as 1.3x"
    if found is None:
        raise InputError("budget-unclear", f"{text!r} is no budget", where="--budget", hint=hint)
    value = float(found["value"])
    if found["unit"] == "ms" and value > 0:
        return Budget(text, latency_ms=value)
    if found["unit"] == "x" and value > 1:
        return Budget(text, speedup=value)
    raise InputError("budget-unclear", f"{text!r} asks for nothing that can be gained", where="--budget", hint=hint)


def limits(first: float) -> Iterator[float]:
    """Limits for which paths are laid, each twice the one before."""
    while first <= LARGEST_LIMIT:
        yield first
        first *= 2


def reach(budget: Budget, needed: float, first_limit: float, lay: Callable[[float], Laid], speed: Speed) -> Reached:
    """Lay paths for larger and larger limits until one is fast enough, and take its first step that is.

    Args:
        budget: to reach.
        needed: the speed-up that it takes.
        first_limit: of the mean loss.
        lay: lays the path for a limit.
        speed: how many times faster than the original a configuration is.

    Raises:
        PromiseError: ``budget-missed``, with what can be reached.
    """
    best = (1.0, 0.0)
    for limit in limits(first_limit):
        laid = lay(limit)
        if not laid.gated.path:
            continue
        end = laid.gated.path[-1]
        best = max(best, (speed(laid.gated, end), end.loss))
        if best[0] >= MARGIN * needed:
            return Reached(budget, needed, laid, _first(laid.gated, speed, MARGIN * needed))
    what = f"the budget of {budget.text} takes {needed:.2f}x; the most that was found is {best[0]:.2f}x"
    raise PromiseError("budget-missed", f"{what}, at a mean loss of {best[1]:.3g} on the fit data", where="--budget")


def _first(gated: Gated, speed: Speed, enough: float) -> Step:
    """By bisection the first step that is enough, where the last one is: each saves more time than the one before."""
    low, high = -1, len(gated.path) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if speed(gated, gated.path[middle]) >= enough else (middle, high)
    return gated.path[high]


def speed_of(surveyed: Surveyed, judged: Judged, settings: Settings) -> Callable[[Gated, Step], float]:
    """Measures configurations on *fit*, built as they would be shipped."""
    measured = speed_as_shipped(surveyed, judged, settings)

    def speed(gated: Gated, step: Step) -> float:
        found = measured(gated.blocks, step)
        if all(block.gate.pooling != "top" for block in gated.blocks):
            return found
        # A read-out knows the samples of *fit*, and is surer of them than the path, which forecasts, says it will be.
        saved = sum(block.time_share for block in gated.blocks) / sum(block.saved_ms for block in gated.blocks)
        return min(found, 1.0 / (1.0 - step.saved_ms * saved))

    return speed


def bounded_level(reached: Reached, splits: Splits, claim: Claim) -> Levels:
    """The configuration with the upper confidence bound of its mean loss as its limit; of several data sets the worst.

    The limit is no less than the mean on *test*, where that is larger by chance.

    Raises:
        PromiseError: there is too little data for any bound.
    """
    gated, step = reached.laid.gated, reached.step
    window = window_of(step.thresholds, [block.gate.floor for block in gated.blocks])
    groups, tests = (
        [run_gated(gated.model, window, judged, claim.loss).losses for judged in part]
        for part in (splits.calibrate, splits.test)
    )
    return Levels((step,), bound_certificate(claim, groups, tests))


def require_budget(reached: Reached, bench: Bench) -> None:
    """Refuse a model that was measured to miss its budget, noise set aside.

    Raises:
        PromiseError: ``budget-missed``, with what was measured.
    """
    if bench.speedup.high >= reached.needed:
        return
    takes = f"the budget of {reached.budget.text} takes {reached.needed:.2f}x"
    what = f"{takes}; in the end {bench.speedup.median:.2f}x was measured"
    hint = "try again when the machine is quiet, or ask for a little more"
    raise PromiseError("budget-missed", what, where="--budget", hint=hint)
