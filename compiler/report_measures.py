"""Say what was measured on the way: how the measures of impact agree, and what happened on data left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from skipc.compiler.candidates import Candidates
from skipc.compiler.ranking import correlations
from skipc.compiler.shift import NOTE, LeftOut, Tried

Json = dict[str, Any]


def rounded(value: float, digits: int = 4) -> float:
    """A number with so many significant digits."""
    return float(f"{value:.{digits}g}")


def measures_json(candidates: Candidates) -> Json:
    """How the measures of impact rank the regions, and how the gradient came about."""
    found = candidates.gradients
    return {
        "rank_correlations": {pair: rounded(value) for pair, value in correlations(candidates.impacts).items()},
        "gradient_method": found.method,
        "gradient_samples": found.samples,
        "gradient_deviation": None if found.deviation is None else rounded(found.deviation),
        "gradient_reason": found.reason,
    }


def measures_text(found: Mapping[str, Any] | None) -> list[str]:
    """The same in words; nothing where nothing was measured."""
    if not found:
        return []
    pairs = ", ".join(f"{pair} {value:.2f}" for pair, value in found["rank_correlations"].items())
    lines = [f"rank correlation of the measures of impact: {pairs}"] if pairs else []
    if found["gradient_method"] == "none":
        return [*lines, f"gradient not measured: {found['gradient_reason']}"]
    method = f"gradient by {found['gradient_method']} on {found['gradient_samples']} samples"
    if found["gradient_deviation"] is not None:
        method += f", {found['gradient_deviation']:.1e} off central differences"
    return [*lines, f"{method}: {found['gradient_reason']}" if found["gradient_reason"] else method]


def shift_json(found: Sequence[LeftOut]) -> Json | None:
    """One row for each cluster that was left out, and what to make of them; None where none was."""
    if not found:
        return None
    return {"note": NOTE, "clusters": [_cluster_json(item) for item in found]}


def _cluster_json(item: LeftOut) -> Json:
    rows = [_tried_json(name, tried) for name, tried in (("gated", item.gated), ("static", item.static))]
    return {"units": item.units, **rows[0], **rows[1]}


def _tried_json(name: str, tried: Tried) -> Json:
    return {f"{name}_{field}": rounded(getattr(tried, field)) for field in Tried.__dataclass_fields__}


def shift_text(found: Mapping[str, Any] | None) -> list[str]:
    """The worst cluster of each kind in one line."""
    if not found:
        return []
    worst = {name: max(row[f"{name}_left_out_loss"] for row in found["clusters"]) for name in ("gated", "static")}
    return [
        f"estimated on unfamiliar data, the worst of {len(found['clusters'])} clusters left out: mean loss "
        f"{worst['gated']:.4g} with gates, {worst['static']:.4g} without (the report says what this can tell)"
    ]
