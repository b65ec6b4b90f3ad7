"""Choose among regions that lie inside one another.

A region that holds others gives way to them where they carry most of its weights (a long skip around many blocks), and
is preferred where they are but a part of it (squeeze-and-excitation inside an inverted bottleneck).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from skipc.passes.candidate import Candidate, Rejection
from skipc.passes.search import Search

MOST = 0.5
"""Share of a region's weights from which on the regions inside it are preferred."""


@dataclass(frozen=True)
class Choice:
    """Regions of which no two overlap, and why the others were left out."""

    kept: tuple[Candidate, ...]
    refused: tuple[Rejection, ...]


def choose(search: Search, found: Sequence[Candidate]) -> Choice:
    """Choose among candidates in the order in which their nodes close them."""
    kept: list[Candidate] = []
    refused: list[Rejection] = []
    # A region comes behind all that it holds, so that when its turn comes these are settled.
    for item in sorted(found, key=lambda item: (item.nodes.bit_count(), search.flow.producer[item.merge])):
        touching = [other for other in kept if other.nodes & item.nodes]
        if not touching:
            kept.append(item)
        elif any(other.nodes & ~item.nodes for other in touching):
            refused.append(_refusal(search, item, "overlaps", "it shares nodes with another region"))
        elif _share(search, item, touching) >= MOST:
            what = f"{_counted(len(touching))} inside it, with {_share(search, item, touching):.0%} of its weights"
            refused.append(_refusal(search, item, "nested", what))
        else:
            kept = [*(other for other in kept if other not in touching), item]
            node = search.flow.nodes[search.flow.producer[item.merge]].name
            refused += [_part(search, other, item, node) for other in touching]
    return Choice(tuple(kept), tuple(refused))


def _share(search: Search, outer: Candidate, inner: Sequence[Candidate]) -> float:
    """Share of a region's weights that lies in those inside it."""
    nodes = 0
    for item in inner:
        nodes |= item.nodes
    return search.weights.count(nodes) / max(1, search.weights.count(outer.nodes))


def _part(search: Search, inner: Candidate, outer: Candidate, node: str) -> Rejection:
    share = _share(search, outer, [inner])
    return _refusal(search, inner, "part-of-larger", f"it is {share:.0%} of the region that closes at {node}")


def _counted(regions: int) -> str:
    return "another region lies" if regions == 1 else f"{regions} other regions lie"


def _refusal(search: Search, item: Candidate, rule: str, reason: str) -> Rejection:
    return search.rejection(search.flow.producer[item.merge], rule, reason)
