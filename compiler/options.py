"""Choose for each region what stands in for it, and whether whole layers or their parts are gated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from skipc.runtime.plan import Bypass, Region

LOSS_FLOOR_SHARE = 0.02
"""Losses below this share of the limit count as this much: such differences do not decide anything."""

PRICES_AN_OCTAVE = 4


@dataclass(frozen=True)
class Option:
    """One region on one bypass, measured alone.

    Attributes:
        loss: mean loss when it is always bypassed.
        saved_ms: latency saved by one bypass, milliseconds a batch.
        growth: bytes that the bypass adds to the file.
    """

    region: Region
    bypass: Bypass
    loss: float
    saved_ms: float
    growth: int = 0

    def worth(self, limit: float) -> float:
        """Milliseconds saved per loss; options that save nothing are worth nothing."""
        return max(0.0, self.saved_ms) / (self.loss + LOSS_FLOOR_SHARE * limit)


def affordable_options(options: Iterable[Option], limit: float, most_bytes: float) -> tuple[Option, ...]:
    """The best options whose bypasses together add at most so many bytes to the file.

    A price of bytes, the same for all regions, is taken off what each option saves, and raised until they fit: cheaper
    kinds take the place of dear ones, and what saves little for its size goes. Blocks that are alike change over at one
    price all together, so that the last step may leave much room: it is filled with what was chosen before it, what
    is worth most for its size first. Regions that overlap count once.
    """
    offered = tuple(options)
    dearer: tuple[Option, ...] = ()
    for price in _byte_prices(offered):
        charged = [replace(option, saved_ms=option.saved_ms - price * option.growth) for option in offered]
        own = {id(paid): option for paid, option in zip(charged, offered, strict=True)}
        chosen = tuple(own[id(option)] for option in best_options(charged, limit))
        if _growth(chosen, limit) <= most_bytes:
            return _filled(chosen, dearer, limit, most_bytes)
        dearer = chosen
    return _filled(best_options([item for item in offered if item.growth == 0], limit), dearer, limit, most_bytes)


def _growth(options: Sequence[Option], limit: float) -> int:
    return sum(option.growth for option in without_overlap(options, limit))


def _filled(
    options: tuple[Option, ...], dearer: Sequence[Option], limit: float, most_bytes: float
) -> tuple[Option, ...]:
    """Options with as many of the dearer ones in their places as fit, as long as each of them is worth more."""
    for option in sorted(dearer, key=lambda option: -option.worth(limit) / max(1, option.growth)):
        others = tuple(item for item in options if item.region.name != option.region.name)
        replaced = max((item.worth(limit) for item in options if item.region.name == option.region.name), default=0.0)
        if option.worth(limit) > replaced and _growth((*others, option), limit) <= most_bytes:
            options = (*others, option)
    return options


def _byte_prices(options: Sequence[Option]) -> Iterator[float]:
    """Milliseconds a byte: none, and rising from where it hardly counts to where no option is worth its size."""
    yield 0.0
    dearest = max((option.saved_ms / option.growth for option in options if option.growth), default=0.0)
    yield from (dearest * 2.0 ** (step / PRICES_AN_OCTAVE) for step in range(-8 * PRICES_AN_OCTAVE, 0))


def best_options(options: Iterable[Option], limit: float) -> tuple[Option, ...]:
    """One option for each region, in order of first appearance; none for regions that nothing saves time in.

    Of the choices whose losses together keep to the limit, the one that saves most time; losses are taken as additive,
    and one price for all regions weighs loss against time (Everett 1963, generalized Lagrange multipliers). Blocks that
    are alike change over at one price; the room that is left then goes to some of them.
    """
    saving = [option for option in options if option.saved_ms > 0]
    bolder: float | None = None
    for price in _prices(saving, limit):
        if _loss_at(saving, price, limit) <= limit:
            chosen = _at_price(saving, price)
            return chosen if bolder is None else _emboldened(chosen, _at_price(saving, bolder), price, limit)
        bolder = price
    return _greatest_worth(saving, limit)


def _emboldened(
    options: tuple[Option, ...], bolder: Sequence[Option], price: float, limit: float
) -> tuple[Option, ...]:
    """Options with as many of the bolder ones in their places as fit, what saves most for its loss first."""
    counted = {option.region.name: option for option in _counted(options, price, limit)}
    total = sum(option.loss for option in counted.values())
    places = {option.region.name: place for place, option in enumerate(options)}
    found = list(options)
    steps = [(counted[option.region.name], option) for option in bolder if option.region.name in counted]
    for before, after in sorted(steps, key=lambda step: -_gain(*step)):
        if before is not after and total + after.loss - before.loss <= limit:
            total += after.loss - before.loss
            found[places[after.region.name]] = after
    return tuple(found)


def _gain(before: Option, after: Option) -> float:
    """Milliseconds saved more, per loss added."""
    return (after.saved_ms - before.saved_ms) / max(after.loss - before.loss, 1e-12)


def _prices(options: Sequence[Option], limit: float) -> Iterator[float]:
    """Milliseconds a unit of loss, rising from where loss hardly counts to where nothing else does."""
    most = max((option.saved_ms for option in options), default=0.0)
    steps = range(-8 * PRICES_AN_OCTAVE, 8 * PRICES_AN_OCTAVE)
    return (most / limit * 2.0 ** (step / PRICES_AN_OCTAVE) for step in steps)


def _at_price(options: Sequence[Option], price: float) -> tuple[Option, ...]:
    return _best_by(options, lambda option: option.saved_ms - price * option.loss)


def _loss_at(options: Sequence[Option], price: float, limit: float) -> float:
    """Of the choice at a price."""
    return sum(option.loss for option in _counted(_at_price(options, price), price, limit))


def _counted(options: Sequence[Option], price: float, limit: float) -> list[Option]:
    """Those of a choice that are worth their loss, without overlaps; the others are left to their gates."""
    return [option for option in without_overlap(options, limit) if option.saved_ms > price * option.loss]


def _greatest_worth(options: Sequence[Option], limit: float) -> tuple[Option, ...]:
    return _best_by(options, lambda option: option.worth(limit))


def _best_by(options: Sequence[Option], value: Callable[[Option], float]) -> tuple[Option, ...]:
    best: dict[str, Option] = {}
    for option in options:
        known = best.get(option.region.name)
        if known is None or value(option) > value(known):
            best[option.region.name] = option
    return tuple(best.values())


def without_overlap(options: Sequence[Option], limit: float) -> tuple[Option, ...]:
    """Of options whose regions share nodes keep the one of greatest worth, in the order given."""
    kept: dict[str, Option] = {}
    taken: set[str] = set()
    for option in sorted(options, key=lambda option: -option.worth(limit)):
        if taken.isdisjoint(option.region.nodes):
            kept[option.region.name] = option
            taken.update(option.region.nodes)
    return tuple(option for option in options if option.region.name in kept)


def in_graph_order(options: Sequence[Option], position: Mapping[str, int]) -> tuple[Option, ...]:
    """Options by the position of their region's first node."""
    return tuple(sorted(options, key=lambda option: position[option.region.nodes[0]]))


def lesser_half(options: Sequence[Option], impact: Mapping[str, float]) -> tuple[Option, ...]:
    """The half of the options whose regions have the least impact, by region name, in the order given."""
    ranked = sorted(options, key=lambda option: impact[option.region.name])
    kept = {option.region.name for option in ranked[: (len(ranked) + 1) // 2]}
    return tuple(option for option in options if option.region.name in kept)
