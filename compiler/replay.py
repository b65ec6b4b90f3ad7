"""Replay a decision log: the same file and inputs must give the same decisions and outputs again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from skipc.compiler.report import Json
from skipc.runtime.decisions import Decisions
from skipc.runtime.deployed import Session
from skipc.runtime.errors import InputError
from skipc.runtime.lines import decode, fingerprint

SCORE_TOLERANCE = 1e-4
"""Of a score's size, or of 1 where it is smaller: another machine adds float32 numbers in another order. On the same
machine and with the same number of threads nothing differs."""


@dataclass(frozen=True)
class Replay:
    """What replaying found.

    Attributes:
        requests: replayed.
        skipped: requests without inputs in the log.
        changed: requests whose decisions differ.
        score_difference: the largest, relative to the score's size or to 1.
        outputs_changed: requests whose outputs are not bit for bit the same.
    """

    requests: int
    skipped: int
    changed: tuple[str, ...]
    score_difference: float
    outputs_changed: int

    @property
    def ok(self) -> bool:
        """Whether all decisions came out the same, from the same scores; outputs may differ in their last bits."""
        return not self.changed and self.score_difference <= SCORE_TOLERANCE

    def as_json(self) -> Json:
        """What `skipc verify --log` prints."""
        return {"ok": self.ok, **vars(self), "changed": list(self.changed)}


def replay(session: Session, records: Iterable[Json], *, limit: int, where: str) -> Replay:
    """Run the logged requests again, the first `limit` of those that carry their inputs.

    Raises:
        InputError: the log is of another file, or carries no inputs.
    """
    changed: list[str] = []
    requests = skipped = outputs_changed = 0
    largest = 0.0
    for item in records:
        if "inputs" not in item:
            skipped += 1
            continue
        if requests == limit:
            break
        _require_same_file(item, session, where)
        requests += 1
        feeds = {name: decode(raw) for name, raw in item["inputs"].items()}
        answer = session.answer(feeds, list(item["outputs"]), level=item["level"])
        prints = {name: fingerprint(array) for name, array in answer.outputs.items()}
        outputs_changed += prints != item["outputs"]
        same, difference = _compare(answer.decisions, item["gates"])
        changed += [] if same else [item["request"]]
        largest = max(largest, difference)
    if not requests:
        hint = "log with keep_inputs=True, or --keep-inputs"
        raise InputError(
            "log-without-inputs", f"none of its {skipped} requests can be replayed", where=where, hint=hint
        )
    return Replay(requests, skipped, tuple(changed), largest, outputs_changed)


def _require_same_file(item: Json, session: Session, where: str) -> None:
    if item["model"] != session.digest:
        what = f"the log is of the file with digest {item['model'][:12]}, this one has {session.digest[:12]}"
        raise InputError("log-of-another-file", what, where=where, hint="give the file that was served")


def _compare(decisions: Decisions | None, gates: Sequence[Json]) -> tuple[bool, float]:
    """Whether the same rows were bypassed, and the largest difference of scores."""
    if decisions is None or not gates:
        return decisions is None and not gates, 0.0
    bypassed, scores = (_logged(gates, key) for key in ("bypassed", "score"))
    if bypassed.shape != decisions.bypassed.shape:
        return False, float("inf")
    found = decisions.scores.astype(np.float64)
    alike = (found == scores) | (np.isnan(found) & np.isnan(scores))
    with np.errstate(invalid="ignore"):
        difference = np.where(alike, 0.0, np.abs(found - scores) / np.maximum(np.abs(scores), 1.0))
    difference = np.nan_to_num(difference, nan=np.inf, posinf=np.inf)
    return bool(np.array_equal(bypassed, decisions.bypassed)), float(difference.max(initial=0.0))


def _logged(gates: Sequence[Json], key: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([[float(value) for value in gate[key]] for gate in gates]).T
