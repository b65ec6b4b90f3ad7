"""Choose for each region what stands in for it, and whether whole layers or their parts are gated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from skipc.runtime.plan import Bypass, Region

LOSS_FLOOR_SHARE = 0.02
"""Losses below this share of the limit count as this much: such differences do not decide anything."""


@dataclass(frozen=True)
class Option:
    """One region on one bypass, measured alone.

    Attributes:
        loss: mean loss when it is always bypassed.
        saved_ms: latency saved by one bypass, milliseconds a batch.
    """

    region: Region
    bypass: Bypass
    loss: float
    saved_ms: float

    def worth(self, limit: float) -> float:
        """Milliseconds saved per loss; options that save nothing are worth nothing."""
        return max(0.0, self.saved_ms) / (self.loss + LOSS_FLOOR_SHARE * limit)


def best_options(options: Iterable[Option], limit: float) -> tuple[Option, ...]:
    """The option of greatest worth for each region, in order of first appearance; none for regions worth nothing."""
    best: dict[str, Option] = {}
    for option in options:
        known = best.get(option.region.name)
        if option.worth(limit) > (known.worth(limit) if known else 0.0):
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
