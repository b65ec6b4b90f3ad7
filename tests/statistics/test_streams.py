"""The monitor on what MiniLM's gates really said, stored: films, other languages, random tokens, films again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.streams import Seen, load
from skipc.runtime.plan import Plan, Reference
from skipc.runtime.watch import Alarm, Watch
from tests.deployment import CERTIFICATE, plan

STORED = load()
FILMS = STORED.streams["films"]

CALIBRATED = 800
"""Samples of *calibrate* in the compilation that the streams come from."""

BEFORE = 300
WITHIN = 500
STREAMS = 200
PROMISED_SHARE = 0.05
LEVEL = 1

Order = NDArray[np.int64]
Streams = list[tuple[Seen, Order]]


def calibrated(rows: Order) -> Plan:
    """A plan with the stored gates, calibrated on some of the films."""
    blocks = []
    for edges, scores in zip(STORED.edges, FILMS.scores[rows].T, strict=True):
        cells = np.searchsorted(edges, scores, side="right")
        counts = tuple(np.bincount(cells, minlength=len(edges) + 1).tolist())
        blocks.append(replace(plan().blocks[0], reference=Reference(edges, (counts, counts), (0.5, 0.5))))
    return plan(blocks=tuple(blocks), certificate=replace(CERTIFICATE, limit=STORED.limit))


def watched(
    made: Plan, streams: list[tuple[Seen, Order]], *, false_alarms: float, audits: float, seed: int
) -> list[Alarm]:
    """All alarms over some rows of one stream after another."""
    watch = Watch(made, LEVEL, false_alarms=false_alarms, window=1000, seed=seed)
    random = np.random.default_rng([seed, 1])
    for seen, rows in streams:
        for row in rows.tolist():
            watch.observe("", LEVEL, seen.scores[row : row + 1], np.zeros_like(seen.scores[row : row + 1]))
            if random.random() < audits:
                watch.audit("", float(seen.losses[row]))
    return watch.alarms


@pytest.mark.parametrize("name", ["german", "spanish", "russian", "random tokens"])
def test_what_was_never_calibrated_is_found_within_500_requests(name: str) -> None:
    """At the monitor's defaults, and not before it comes: that would have a probability of 1 % a stream."""
    changed = STORED.streams[name]
    for seed in range(10):
        random = np.random.default_rng(seed)
        order, then = random.permutation(len(FILMS.losses)), random.permutation(len(changed.losses))[:WITHIN]
        made, before = calibrated(order[:CALIBRATED]), order[CALIBRATED:][:BEFORE]
        alarms = watched(made, [(FILMS, before), (changed, then)], false_alarms=0.01, audits=0.02, seed=seed)
        assert alarms
        assert alarms[0].requests > BEFORE


@pytest.mark.slow
def test_films_like_those_of_calibration_raise_no_more_alarms_than_promised() -> None:
    """Each stream divides the films anew into calibration and requests, so that its hypothesis holds exactly.

    Ville's inequality bounds the expected number; see `test_monitor.py` on why the number seen needs no slack.
    """
    alarms = 0
    for seed in range(STREAMS):
        order = np.random.default_rng(seed).permutation(len(FILMS.losses))
        stream = [(FILMS, order[CALIBRATED:])]
        made = calibrated(order[:CALIBRATED])
        alarms += bool(watched(made, stream, false_alarms=PROMISED_SHARE, audits=0.2, seed=seed))
    assert alarms <= STREAMS * PROMISED_SHARE


def test_films_do_not_break_the_promise_that_was_made_for_them() -> None:
    """Else an alarm in the test above would be a right one."""
    assert FILMS.losses.mean() <= STORED.limit
