"""Options are chosen so that their joint loss, as measured, keeps to the limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from skipc.compiler.options import Option
from skipc.compiler.together import GAINED, ROOM, Together, chosen_anew, chosen_together
from skipc.runtime.plan import Bypass, Region

LIMIT = 0.1
REGIONS = ("a", "b", "c", "d")


def option(name: str, loss: float, saved_ms: float, nodes: str = "", kind: str = "linear") -> Option:
    region = Region(name, "feed-forward", "x", "y", "y", tuple(nodes or name), (), 1, ("n", 4), 1)
    return Option(region, Bypass(kind), loss, saved_ms)


def offered() -> list[Option]:
    """For each of four regions a gentle option and a bold one."""
    gentle = [option(name, 0.01, 1.0) for name in REGIONS]
    return gentle + [option(name, 0.023, 1.5, kind="narrow") for name in REGIONS]


def inflated(factor: float, seen: list[float]) -> Callable[[Sequence[Option]], float]:
    """Joint losses that are so many times the sum."""

    def measured(options: Sequence[Option]) -> float:
        seen.append(factor * sum(item.loss for item in options))
        return seen[-1]

    return measured


@pytest.mark.parametrize(("factor", "bold"), [(1.0, 4), (1.4, 2), (2.3, 0)])
def test_where_errors_compound_fewer_are_bold(factor: float, bold: int) -> None:
    seen: list[float] = []
    found = chosen_together(offered(), LIMIT, 1e9, inflated(factor, seen))
    assert found.steady == set(REGIONS)
    assert factor * sum(item.loss for item in found.options) <= ROOM * LIMIT
    assert len(seen) == len(set(seen))
    assert sum(item.bypass.kind == "narrow" for item in found.options) == bold


def test_what_does_not_fit_is_left_to_its_gate() -> None:
    options = [option("a", 0.02, 1.0), option("b", 0.3, 5.0)]
    found = chosen_together(options, LIMIT, 1e9, inflated(1.0, []))
    assert [item.region.name for item in found.options] == ["a", "b"]
    assert found.steady == {"a"}


def test_where_nothing_keeps_to_the_limit_all_is_left_to_gates() -> None:
    found = chosen_together([option("a", 0.3, 1.0)], LIMIT, 1e9, inflated(1.0, []))
    assert [item.region.name for item in found.options] == ["a"]
    assert not found.steady
    assert chosen_together([], LIMIT, 1e9, inflated(1.0, [])).options == ()


def test_of_regions_that_overlap_one_is_steady() -> None:
    options = [option("a", 0.01, 1.0, "1"), option("ab", 0.02, 3.0, "12"), option("b", 0.01, 1.0, "2")]
    found = chosen_together(options, LIMIT, 1e9, inflated(1.0, []))
    assert found.steady == {"ab"}


def test_where_a_smaller_aim_leads_to_the_same_choice_it_is_lowered_further() -> None:
    options = [option("a", 0.040, 1.0), option("b", 0.045, 1.2)]
    seen: list[float] = []
    found = chosen_together(options, LIMIT, 1e9, inflated(1.17, seen))
    assert seen[0] > ROOM * LIMIT
    assert found.steady == {"b"}
    assert len(seen) == len(set(seen))


def test_options_that_lose_nothing_alone_and_too_much_together_are_left_to_gates() -> None:
    options = [option("a", 0.0, 1.0), option("b", 0.0, 1.2)]
    seen: list[int] = []

    def measured(chosen: Sequence[Option]) -> float:
        seen.append(len(chosen))
        return 2.0 * LIMIT

    found = chosen_together(options, LIMIT, 1e9, measured)
    assert seen == [2]
    assert not found.steady
    assert {item.region.name for item in found.options} == {"a", "b"}


class Refits:
    """Refits that leave a share of the loss, and the joint losses before and after them."""

    def __init__(self, share: float) -> None:
        self.share = share
        self.done: list[tuple[Option, ...]] = []
        self.again: list[bool] = []

    def refit(self, options: Sequence[Option], again: bool) -> list[Option]:
        self.done.append(tuple(options))
        self.again.append(again)
        return [replace(item, growth=1) for item in options]

    def measured(self, options: Sequence[Option]) -> float:
        return sum(item.loss * (self.share if item.growth else 1.0) for item in options)


def graded() -> list[Option]:
    """For each of four regions many options, each a little bolder than the one before."""
    steps = [(0.01 * 1.03**step, 1.0 + 0.04 * step - 0.0004 * step**2) for step in range(40)]
    return [option(name, loss, saved_ms) for name in REGIONS for loss, saved_ms in steps]


def fitted_anew(refits: Refits, limit: float = LIMIT) -> Together:
    options = graded()

    def choose(aim: float) -> Together:
        return chosen_together(options, aim, 1e9, refits.measured)

    return chosen_anew(choose, refits.refit, refits.measured, limit)


def lost(found: Together) -> float:
    """As it was fitted one by one."""
    return sum(item.loss for item in found.options)


def test_what_refitting_gains_buys_a_bolder_choice() -> None:
    plain, refits = chosen_together(graded(), LIMIT, 1e9, Refits(1.0).measured), Refits(GAINED)
    gained = fitted_anew(refits)
    assert len(refits.done) == 1
    assert lost(gained) > lost(plain)
    assert all(item.growth for item in gained.options)
    assert refits.measured(gained.options) <= ROOM * LIMIT


def test_where_it_gains_less_the_choice_is_gentler() -> None:
    refits = Refits(0.97)
    found = fitted_anew(refits)
    assert len(refits.done) == 2
    assert all(item.growth for item in found.options)
    assert lost(found) < sum(item.loss for item in refits.done[0])
    assert refits.measured(found.options) <= ROOM * LIMIT


def test_a_second_try_is_another_choice() -> None:
    """Even where the first one lay far below what it aimed at."""
    coarse = [option(name, loss, saved) for name in REGIONS for loss, saved in ((0.024, 1.0), (0.0275, 1.1))]
    refits = Refits(0.94)
    found = chosen_anew(
        lambda aim: chosen_together(coarse, aim, 1e9, refits.measured), refits.refit, refits.measured, LIMIT
    )
    assert len(refits.done) == 2
    assert lost(found) < sum(item.loss for item in refits.done[0])
    assert all(item.growth for item in found.options)


def test_a_second_try_goes_on_from_what_both_choices_hold() -> None:
    coarse = [option(name, loss, saved) for name in REGIONS for loss, saved in ((0.024, 1.0), (0.0275, 1.1))]
    refits = Refits(0.94)
    chosen_anew(lambda aim: chosen_together(coarse, aim, 1e9, refits.measured), refits.refit, refits.measured, LIMIT)
    first, second = refits.done
    bolder = {item.region.name for item in first if item.loss == 0.0275}
    kept = {item.region.name for item in second if (item.loss == 0.0275) == (item.region.name in bolder)}
    assert 0 < len(kept) < len(second)
    assert {item.region.name for item in second if item.growth} == kept
    assert refits.again == [False, 2 * len(kept) > len(second)]


def test_nothing_is_fitted_again_where_what_both_choices_hold_is_enough() -> None:
    # The first choice lies above the limit by little, and the second differs from it in one region alone.
    options = [option(name, 0.0265, 1.0) for name in REGIONS] + [option("a", 0.02, 0.9)]
    refits = Refits(0.95)
    found = chosen_anew(
        lambda aim: chosen_together(options, aim, 1e9, refits.measured), refits.refit, refits.measured, LIMIT
    )
    assert len(refits.done) == 1
    assert {item.region.name for item in found.options if item.growth} == {"b", "c", "d"}
    assert refits.measured(found.options) <= ROOM * LIMIT


@pytest.mark.parametrize(("share", "bold"), [(0.88, 4), (0.93, 3)])
def test_a_near_miss_goes_on_learning(share: float, bold: int) -> None:
    """Where going on does not gain enough either, the next choice is gentler."""
    options = [option(name, 0.0275, 1.1) for name in REGIONS] + [option("a", 0.01, 0.9)]
    refits = Refits(0.9)

    def fit(chosen: Sequence[Option], again: bool) -> list[Option]:
        fitted = refits.refit(chosen, again)
        return [replace(item, loss=item.loss * share / 0.9) for item in fitted] if again else fitted

    found = chosen_anew(lambda aim: chosen_together(options, aim, 1e9, refits.measured), fit, refits.measured, LIMIT)
    assert refits.again == [False, True]
    assert sum(item.growth for item in found.always) == bold
    assert refits.measured(found.always) <= ROOM * LIMIT


def test_where_giving_up_one_leaves_as_much_nothing_is_fitted_again() -> None:
    first = tuple(option(name, 0.03, saved) for name, saved in zip(REGIONS, (0.05, 1.1, 1.1, 1.1), strict=True))
    second = tuple(option(name, 0.028, saved) for name, saved in zip(REGIONS, (0.05, 1.1, 1.1, 1.1), strict=True))
    choices = iter([Together(first, frozenset(REGIONS), 0.12), Together(second, frozenset(REGIONS), 0.112)])
    one_by_one = Together((option("a", 0.09, 0.1),), frozenset("a"), 0.09)
    refits = Refits(0.95)
    found = chosen_anew(lambda _: next(choices, one_by_one), refits.refit, refits.measured, LIMIT)
    assert len(refits.done) == 1
    assert found.steady == {"b", "c", "d"}
    assert {item.region.name for item in found.options} == set(REGIONS)


@pytest.mark.parametrize(("plain", "kept"), [(1.0, {"b", "c", "d"}), (5.0, {"a"})])
def test_where_a_second_try_misses_too_what_saves_least_goes(plain: float, kept: set[str]) -> None:
    """Unless bypasses as they were fitted one by one save more."""
    first = tuple(option(name, 0.03, 1.1) for name in REGIONS)
    second = tuple(option(name, 0.028, saved) for name, saved in zip(REGIONS, (1.0, 0.9, 0.8, 1.2), strict=True))
    choices = iter([Together(first, frozenset(REGIONS), 0.12), Together(second, frozenset(REGIONS), 0.112)])
    one_by_one = Together((option("a", 0.09, plain),), frozenset("a"), 0.09)
    refits = Refits(0.95)
    found = chosen_anew(lambda _: next(choices, one_by_one), refits.refit, refits.measured, LIMIT)
    assert len(refits.done) == 2
    assert found.steady == kept
    assert refits.measured(found.always) <= ROOM * LIMIT
    left_to_gates = {item.region.name for item in found.options} - kept
    assert left_to_gates == (set(REGIONS) - kept if plain == 1.0 else set())


def test_where_it_harms_fits_stay_as_they_were() -> None:
    refits = Refits(1.1)
    found = fitted_anew(refits)
    assert len(refits.done) == 1
    assert not any(item.growth for item in found.options)
    assert found == chosen_together(graded(), LIMIT, 1e9, Refits(1.0).measured)


def test_one_block_alone_has_nothing_before_it() -> None:
    refits = Refits(0.5)
    found = chosen_anew(
        lambda limit: chosen_together([option("a", 0.02, 1.0)], limit, 1e9, refits.measured),
        refits.refit,
        refits.measured,
        LIMIT,
    )
    assert found.steady == {"a"}
    assert not refits.done
