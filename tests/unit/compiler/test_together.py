"""Options are chosen so that their joint loss, as measured, keeps to the limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from skipc.compiler.options import Option
from skipc.compiler.together import ROOM, chosen_together
from skipc.runtime.plan import Bypass, Region

LIMIT = 0.1
REGIONS = ("a", "b", "c", "d")


def option(
    name: str, loss: float, saved_ms: float, nodes: str = "", kind: str = "linear", family: str = "feed-forward"
) -> Option:
    region = Region(name, family, "x", "y", "y", tuple(nodes or name), (), 1, ("n", 4), 1)
    return Option(region, Bypass(kind), loss, saved_ms)


def offered() -> list[Option]:
    """For each of four regions a gentle option and a bold one."""
    gentle = [option(name, 0.01, 1.0) for name in REGIONS]
    return gentle + [option(name, 0.024, 1.5, kind="narrow") for name in REGIONS]


def inflated(factor: float, seen: list[float]) -> Callable[[Sequence[Option]], float]:
    """Joint losses that are so many times the sum."""

    def measured(options: Sequence[Option]) -> float:
        seen.append(factor * sum(item.loss for item in options))
        return seen[-1]

    return measured


def never(_: Sequence[Option]) -> float:
    raise AssertionError("there is nothing to choose between")


@pytest.mark.parametrize(("factor", "bold"), [(1.0, 4), (1.4, 2), (2.4, 0)])
def test_where_errors_compound_fewer_are_bold(factor: float, bold: int) -> None:
    seen: list[float] = []
    found = chosen_together(offered(), LIMIT, 1e9, inflated(factor, seen), never)
    assert found.steady == set(REGIONS)
    assert factor * sum(item.loss for item in found.options) <= ROOM * LIMIT
    assert len(seen) == len(set(seen))
    assert sum(item.bypass.kind == "narrow" for item in found.options) == bold


def test_what_does_not_fit_is_left_to_its_gate() -> None:
    options = [option("a", 0.02, 1.0), option("b", 0.3, 5.0)]
    found = chosen_together(options, LIMIT, 1e9, inflated(1.0, []), never)
    assert [item.region.name for item in found.options] == ["a", "b"]
    assert found.steady == {"a"}


def test_where_nothing_keeps_to_the_limit_all_is_left_to_gates() -> None:
    found = chosen_together([option("a", 0.3, 1.0)], LIMIT, 1e9, inflated(1.0, []), never)
    assert [item.region.name for item in found.options] == ["a"]
    assert not found.steady
    assert chosen_together([], LIMIT, 1e9, inflated(1.0, []), never).options == ()


def test_of_regions_that_overlap_one_is_steady() -> None:
    options = [option("a", 0.01, 1.0, "1"), option("ab", 0.02, 3.0, "12"), option("b", 0.01, 1.0, "2")]
    found = chosen_together(options, LIMIT, 1e9, inflated(1.0, []), never)
    assert found.steady == {"ab"}


def two_kinds() -> list[Option]:
    """Attention blocks that save, measured one by one, a little more for their loss than feed-forward blocks."""
    attention = [option(name, 0.045, 1.1, family="attention") for name in REGIONS[:2]]
    return attention + [option(name, 0.045, 1.0) for name in REGIONS[2:]]


@pytest.mark.parametrize(("faster", "steady"), [("attention", {"a", "b"}), ("feed-forward", {"c", "d"})])
def test_of_choices_between_kinds_the_fastest_as_a_whole_wins(faster: str, steady: set[str]) -> None:
    timed: list[frozenset[str]] = []

    def speed_of(options: Sequence[Option]) -> float:
        timed.append(frozenset(item.region.name for item in options))
        return 1.0 + sum(item.region.kind == faster for item in options)

    found = chosen_together(two_kinds(), LIMIT, 1e9, inflated(1.0, []), speed_of)
    assert found.steady == steady
    assert {item.saved_ms for item in found.options} == {1.0, 1.1}
    assert len(timed) == len(set(timed)) == 2
