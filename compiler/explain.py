"""Say what the gates did: over a decision log, or for one input."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from skipc.compiler.report import Json, table
from skipc.compiler.report_measures import rounded
from skipc.runtime.decisions import GateDecision

SCALE_WIDTH = 33
CLOSE = 0.1
"""Of a margin, in units of the score: the predicted loss is within some 10 % of what the level allows."""


class _GateCount:
    """Counts one gate over a log: shares bypassed, finite margins, and how often each reason, without its numbers."""

    def __init__(self) -> None:
        self.bypassed: list[float] = []
        self.margins: list[float] = []
        self.reasons: Counter[str] = Counter()

    def add(self, gate: Json) -> None:
        """Count one request in."""
        self.bypassed += gate["bypassed"]
        self.margins += [margin for margin in map(float, gate["margin"]) if math.isfinite(margin)]
        self.reasons.update(_kind(reason) for reason in gate["reason"])


def _kind(reason: str) -> str:
    """A reason without its numbers."""
    words = [word for word in reason.split() if not any(letter.isdigit() for letter in word)]
    return " ".join(words)


def summary(records: Iterable[Json]) -> Json:
    """What a log says altogether."""
    gates: dict[str, _GateCount] = {}
    levels: Counter[str] = Counter()
    models: Counter[str] = Counter()
    times, latencies, dropped = [], [], 0
    for item in records:
        levels[str(item["level"])] += 1
        models[item["model"]] += 1
        times.append(item["time"])
        latencies.append(item["latency_ms"])
        dropped = max(dropped, item["dropped"])
        for gate in item["gates"]:
            gates.setdefault(gate["name"], _GateCount()).add(gate)
    return {
        "requests": len(times),
        "dropped": dropped,
        "seconds": rounded(max(times) - min(times)) if times else 0.0,
        "latency_ms": rounded(float(np.median(latencies))) if latencies else None,
        "levels": dict(sorted(levels.items())),
        "models": dict(sorted(models.items())),
        "gates": [_gate_json(name, gate) for name, gate in gates.items()],
    }


def _gate_json(name: str, gate: _GateCount) -> Json:
    margins = np.array(gate.margins)
    return {
        "name": name,
        "samples": len(gate.bypassed),
        "bypassed": rounded(float(np.mean(gate.bypassed))) if gate.bypassed else None,
        "margin": rounded(float(np.median(margins))) if margins.size else None,
        "close": rounded(float((np.abs(margins) < CLOSE).mean())) if margins.size else None,
        "reasons": dict(gate.reasons.most_common()),
    }


def summary_text(found: Json) -> str:
    """A log's summary for a terminal."""
    levels = ", ".join(f"{count} at level {level}" for level, count in found["levels"].items())
    lines = [f"{found['requests']} requests in {found['seconds']:g} s ({levels}); {found['dropped']} were dropped"]
    if len(found["models"]) > 1:
        lines.append(f"the log mixes {len(found['models'])} models")
    rows = [
        (gate["name"], _share(gate["bypassed"]), _number(gate["margin"]), _share(gate["close"]))
        for gate in found["gates"]
    ]
    lines += table(("block", "bypassed", "median margin", "close calls"), rows)
    for gate in found["gates"]:
        lines += [f"{gate['name']}: {count} times {reason}" for reason, count in gate["reasons"].items()]
    return "\n".join(lines)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def story_json(decisions: Sequence[GateDecision], time_shares: Sequence[float]) -> list[Json]:
    """One input's way through the gates; figures that are no numbers are None."""
    return [
        {
            "name": item.name,
            "score": _finite(item.score),
            "threshold": _finite(item.threshold),
            "bypassed": item.bypassed,
            "time_share_saved": rounded(share * item.bypassed),
            "reason": item.reason,
        }
        for item, share in zip(decisions, time_shares, strict=True)
    ]


def _finite(value: float) -> float | None:
    return rounded(value) if math.isfinite(value) else None


def story_text(found: Json) -> str:
    """One input's story for a terminal, with a picture of every score beside its threshold."""
    lines = [
        f"sample {found['sample']} at level {found['level']}: {found['time_share_saved']:.1%} of the time bypassed"
    ]
    if found["difference"] is not None:
        lines.append(f"largest difference to the full network: {found['difference']:.3g}")
    for gate in found["gates"]:
        lines += ["", f"{gate['name']}: {gate['reason']}"]
        if gate["score"] is not None and gate["threshold"] is not None:
            lines.append(f"  {picture(gate['score'], gate['threshold'])}")
    return "\n".join(lines)


def picture(score: float, threshold: float) -> str:
    """A score (o) beside its threshold (|), which stands in the middle; bypassing is to the left.

    A hyperbolic tangent brings far scores onto the line: four units of margin are one half of it, nearly.
    """
    middle = SCALE_WIDTH // 2
    place = middle + round(middle * math.tanh((score - threshold) / 2.0))
    cells = ["-"] * SCALE_WIDTH
    cells[middle] = "|"
    cells[place] = "o"
    return f"bypass {''.join(cells)} full   (score {score:.3g}, threshold {threshold:.3g})"


def largest_difference(first: dict[str, Any], second: dict[str, Any]) -> float | None:
    """Over all outputs of floating point that both have; None where there is none."""
    pairs = [(first[name], second[name]) for name in first if first[name].dtype.kind == "f"]
    found = [float(np.abs(one.astype(np.float64) - two).max(initial=0.0)) for one, two in pairs]
    return max(found) if found and all(map(math.isfinite, found)) else None
