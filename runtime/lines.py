"""A line of the decision log, written and read.

A line holds ``schema``, ``request``, ``time`` (seconds since 1970), ``model`` (SHA-256 of the file), ``level``,
``latency_ms``, ``rows`` (of the batch), ``reference``, ``dropped`` (requests so far that ought to be here and are not)
and ``gates``: for each ``name`` and ``threshold``, and for each sample ``score``, ``margin`` (threshold less score),
``bypassed`` (share of its rows) and ``reason``. Numbers that JSON has no word for are the strings ``nan``, ``inf``,
``-inf``. With `keep_inputs` there are ``inputs`` and the SHA-256 of each of the ``outputs``: what a replay needs.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from skipc.runtime.answer import Facts, Feeds
from skipc.runtime.decisions import Decisions, Limits, decide
from skipc.runtime.errors import InputError
from skipc.runtime.plan import Array

SCHEMA = 1

Json = dict[str, Any]
Told = dict[tuple[Limits, tuple[float, ...]], str]


def line(facts: Facts, feeds: Feeds, outputs: Mapping[str, Array], dropped: int, told: Told) -> str:
    """A request as the log tells it.

    Args:
        facts: of the request.
        feeds: its inputs; none where they are not kept.
        outputs: its outputs, likewise.
        dropped: see the top of this file.
        told: JSON of gates that read nothing of their input, and need not be put into words again; added to.
    """
    decisions = facts.decisions
    gates = [] if decisions is None else _gates(decisions, told)
    found = _request(facts, 0 if decisions is None else len(decisions.scores), dropped)
    if feeds:
        found["inputs"] = {name: encode(np.asarray(array)) for name, array in feeds.items()}
        found["outputs"] = {name: fingerprint(array) for name, array in outputs.items()}
    rest = json.dumps(found, allow_nan=False)
    return f'{rest[:-1]}, "gates": [{", ".join(gates)}]}}'


def _request(facts: Facts, rows: int, dropped: int) -> Json:
    """All but the gates and the arrays."""
    return {
        "schema": SCHEMA,
        "request": facts.request,
        "time": facts.time_s,
        "model": facts.source.model,
        "level": facts.source.level,
        "latency_ms": round(facts.latency_ms, 4),
        "rows": rows,
        "reference": facts.reference,
        "dropped": dropped,
    }


def _gates(decisions: Decisions, told: Told) -> list[str]:
    columns = zip(decisions.limits, decisions.scores.T.tolist(), decisions.bypassed.T.tolist(), strict=True)
    return [_gate(limits, tuple(scores), tuple(shares), told) for limits, scores, shares in columns]


def _gate(limits: Limits, scores: tuple[float, ...], shares: tuple[float, ...], told: Told) -> str:
    key = (limits, shares)
    if limits.constant and key in told:
        return told[key]
    samples = [decide(limits, score, share) for score, share in zip(scores, shares, strict=True)]
    raw = {
        "name": limits.name,
        "threshold": number(limits.threshold),
        "score": [number(sample.score) for sample in samples],
        "margin": [number(sample.margin) for sample in samples],
        "bypassed": [sample.bypassed for sample in samples],
        "reason": [sample.reason for sample in samples],
    }
    text = json.dumps(raw, allow_nan=False)
    if limits.constant:
        told[key] = text
    return text


def number(value: float) -> float | str:
    """A number as JSON can hold it; `float` reads it back."""
    return value if math.isfinite(value) else str(value)


def encode(array: Array) -> Json:
    """An array as JSON can hold it."""
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")
    return {"dtype": str(array.dtype), "shape": list(array.shape), "base64": data}


def decode(raw: Mapping[str, Any]) -> Array:
    """What `encode` wrote."""
    return np.frombuffer(base64.b64decode(raw["base64"]), raw["dtype"]).reshape(raw["shape"])


def fingerprint(array: Array) -> str:
    """SHA-256 of an output's type, shape and bytes."""
    head = f"{array.dtype}{array.shape}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()


def read_log(path: Path) -> Iterator[Json]:
    """The requests of one file, in order.

    Raises:
        InputError: ``log-unreadable`` or ``log-invalid``, with the line.
    """
    try:
        with path.open(encoding="utf-8") as lines:
            for position, line in enumerate(lines, start=1):
                yield _parsed(line, f"{path}:{position}")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        hint = "give a file that a DecisionLog has written"
        raise InputError("log-unreadable", f"cannot read the log: {reason}", where=str(path), hint=hint) from error


def _parsed(line: str, where: str) -> Json:
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA or "gates" not in found:
        hint = "give a file that a DecisionLog of this version has written"
        raise InputError("log-invalid", "this line is no request of a decision log", where=where, hint=hint)
    return found
