"""Say what the portrait of a compilation holds, as JSON."""

from __future__ import annotations

from typing import Any

from skipc.compiler.portrait import COMPILED, ORIGINAL, SHUT, GateQuality, Portrait
from skipc.compiler.prices import Latency
from skipc.compiler.report_measures import rounded

Json = dict[str, Any]


def portrait_json(found: Portrait | None) -> Json | None:
    """Everything in it; None where it was not taken."""
    if found is None:
        return None
    original, compiled = found.memory or (None, None)
    return {
        "opponents": [_opponent_json(found, position) for position in range(len(found.opponents))],
        "gates": [_gate_json(item) for item in found.gates],
        "run": [list(row) for row in found.run],
        "latency_ms": {name: _latency_json(found.latencies[name]) for name in (ORIGINAL, COMPILED, SHUT)},
        "file_bytes": {ORIGINAL: found.file_bytes[0], COMPILED: found.file_bytes[1]},
        "load_mib": {
            name: {"peak": rounded(memory.peak), "kept": rounded(memory.kept)}
            for name, memory in ((ORIGINAL, original), (COMPILED, compiled))
            if memory is not None
        },
    }


def _opponent_json(found: Portrait, position: int) -> Json:
    item = found.opponents[position]
    latency = found.latencies.get(item.name)
    return {
        "name": item.name,
        "certified": item.certified,
        "loss": None if item.loss is None else rounded(item.loss),
        "speedup": _speedup_json(latency),
        "growth": None if item.model is None else rounded(item.model.ByteSize() / found.file_bytes[0] - 1.0),
        "note": item.note,
    }


def _latency_json(latency: Latency) -> Json:
    figures = {name: rounded(getattr(latency, name)) for name in ("median", "p95", "p99")}
    return {**figures, "speedup": _speedup_json(latency)}


def _speedup_json(latency: Latency | None) -> Json | None:
    if latency is None or latency.speedup is None:
        return None
    return {name: rounded(getattr(latency.speedup, name)) for name in ("median", "low", "high")}


def _gate_json(item: GateQuality) -> Json:
    return {
        "block": item.block,
        "share": rounded(item.share),
        "loss_added": rounded(item.chosen),
        "by_chance": rounded(item.by_chance),
        "oracle": rounded(item.oracle),
        "rank_correlation": rounded(item.rank_correlation),
    }
