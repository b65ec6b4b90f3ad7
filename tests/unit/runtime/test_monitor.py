"""A session that is watched: rates, drift, audits, alarms and the way back to level 0."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from skipc.compiler.build import build
from skipc.compiler.probe import probe_types
from skipc.passes.padding import padding_of
from skipc.runtime import Monitor, Session
from skipc.runtime.errors import InputError
from skipc.runtime.losses import LOSSES
from skipc.runtime.plan import Array, Plan, Reference
from skipc.runtime.watch import Alarm
from tests.compiled import plan_for
from tests.deployment import CERTIFICATE, compiled, feeds, original, plan
from tests.gated import block, surveyed
from tests.graphs import transformer


def requests(count: int, start: int = 0, scale: float = 1.0) -> list[dict[str, Any]]:
    return [{"x": (scale * feeds(seed)["x"]).astype(np.float32)} for seed in range(start, start + count)]


def referenced(**changes: Any) -> Plan:
    """The plan with a reference for the first gate, from requests of its own."""
    session = Session(compiled())
    answers = [[session.answer(item, level=level).decisions for item in requests(400, 10_000)] for level in range(3)]
    scores = np.array([[item.scores[0, 0] for item in row if item] for row in answers])
    shares = tuple(float(np.mean([item.bypassed[0, 0] for item in row if item])) for row in answers)
    edges = np.quantile(scores[1], np.linspace(0, 1, 11)[1:-1])
    counts = tuple(tuple(np.bincount(np.searchsorted(edges, row), minlength=10).tolist()) for row in scores)
    found = plan(**changes)
    first = replace(found.blocks[0], reference=Reference(tuple(edges.tolist()), counts, shares))
    return replace(found, blocks=(first, *found.blocks[1:]))


def watched(made: Plan, given: list[dict[str, Any]], **options: Any) -> tuple[Session, Monitor]:
    """Serve requests one by one, so that an alarm has its effect before the next."""
    monitor = Monitor(**{"audit_share": 0.0, **options})
    session = Session(compiled(made), observers=[monitor])
    for item in given:
        session.run(None, item)
        monitor.flush()
    return session, monitor


LOOSE = replace(CERTIFICATE, limit=0.999)
TIGHT = replace(CERTIFICATE, limit=0.01)


def test_rates_are_those_of_the_answers() -> None:
    made = referenced()
    session, monitor = watched(made, requests(100))
    with monitor:
        state = monitor.state()
    decisions = [session.answer(item).decisions for item in requests(100)]
    shares = np.mean([item.bypassed[0] for item in decisions if item], axis=0)
    np.testing.assert_allclose([gate.bypassed for gate in state.gates], shares)
    assert (state.watched, state.skipped, state.audits, state.alarms) == (100, 0, 0, ())
    first, second, _ = state.gates
    assert made.blocks[0].reference is not None
    assert first.expected == made.blocks[0].reference.bypassed[1]
    assert first.ks is not None
    assert first.ks_critical is not None
    assert first.ks < first.ks_critical
    assert (second.expected, second.psi, second.log_evidence) == (None, None, None)


def test_other_inputs_raise_one_alarm_for_the_scores() -> None:
    seen: list[Alarm] = []
    _, monitor = watched(referenced(), requests(60) + requests(300, 60, 3.0), on_alarm=seen.append)
    monitor.close()
    (alarm,) = seen
    assert (alarm.kind, alarm.subject) == ("scores", plan().blocks[0].region.name)
    assert 60 < alarm.requests <= 360
    assert monitor.state().alarms == (alarm,)


def test_audits_measure_the_loss() -> None:
    session, monitor = watched(plan(certificate=LOOSE), requests(60), audit_share=1.0)
    monitor.close()
    state = monitor.state()
    assert (state.audits, state.audit_limit, state.alarms) == (60, 0.999, ())
    full, served = ([session.answer(item, level=level).outputs["y"] for item in requests(60)] for level in (0, 1))
    losses = [min(1.0, float(np.linalg.norm(a - b) / np.linalg.norm(a))) for a, b in zip(full, served, strict=True)]
    assert state.audit_mean == pytest.approx(np.mean(losses), rel=1e-5)


def test_a_share_is_audited() -> None:
    """300 draws at 0.2: four standard deviations are 28."""
    _, monitor = watched(plan(certificate=LOOSE), requests(300), audit_share=0.2)
    monitor.close()
    assert abs(monitor.state().audits - 60) < 28


@pytest.mark.parametrize("fall_back", [False, True])
def test_a_broken_promise_raises_an_alarm(fall_back: bool) -> None:
    session, monitor = watched(plan(certificate=TIGHT), requests(40), audit_share=1.0, fall_back=fall_back)
    monitor.close()
    state = monitor.state()
    assert [alarm.kind for alarm in state.alarms] == ["loss"]
    assert state.alarms[0].subject == "y"
    assert (session.level, state.level) == ((0, 0) if fall_back else (1, 1))
    assert state.audits == (state.alarms[0].requests if fall_back else 40)


def test_a_loss_of_ones_own() -> None:
    _, monitor = watched(
        plan(certificate=TIGHT),
        requests(9),
        audit_share=1.0,
        loss=lambda full, served: np.zeros(len(full) + 0 * len(served)),
    )
    monitor.close()
    assert (monitor.state().audit_mean, monitor.state().alarms) == (0.0, ())


def test_a_loss_that_needs_labels_is_refused() -> None:
    data = compiled(plan(certificate=replace(CERTIFICATE, loss="accuracy")))
    with pytest.raises(InputError) as caught:
        Session(data, observers=[Monitor()])
    assert caught.value.code == "loss-unknown"
    Session(data, observers=[Monitor(audit_share=0.0)])


def test_an_original_cannot_be_watched() -> None:
    with pytest.raises(InputError) as caught:
        Session(original(), observers=[Monitor()])
    assert caught.value.code == "not-compiled"


def test_without_a_certificate_nothing_is_audited() -> None:
    _, monitor = watched(plan(certificate=None), requests(5), audit_share=1.0)
    monitor.close()
    assert (monitor.state().audits, monitor.state().audit_limit) == (0, None)


def test_other_levels_are_not_compared() -> None:
    monitor = Monitor(audit_share=0.0)
    session = Session(compiled(referenced()), observers=[monitor])
    session.level = 2
    for item in requests(5):
        session.run(None, item)
    monitor.flush()
    assert (monitor.state().watched, monitor.state().level) == (0, 2)


def test_a_callback_that_fails_does_not_end_the_watch(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: Alarm) -> None:
        raise RuntimeError("no pager")

    _, monitor = watched(plan(certificate=TIGHT), requests(40), audit_share=1.0, on_alarm=fail)
    monitor.close()
    assert monitor.state().audits == 40
    assert "could not be watched" in caplog.text


def test_a_busy_monitor_skips_requests_and_counts_them() -> None:
    """Held back in its first audit until all requests are answered: two more wait, and the rest are skipped."""
    judging, answered = threading.Event(), threading.Event()

    def hold(full: Array, served: Array) -> Array:
        judging.set()
        assert answered.wait(60)
        return LOSSES["relative-l2"](full, served)

    monitor = Monitor(audit_share=1.0, waiting=2, loss=hold)
    session = Session(compiled(plan(certificate=LOOSE)), observers=[monitor])
    session.run(None, feeds(0))
    assert judging.wait(60)
    for item in requests(39):
        session.run(None, item)
    answered.set()
    monitor.close()
    assert (monitor.state().watched, monitor.state().skipped) == (3, 37)


def test_audits_leave_padding_out() -> None:
    """The served file gives copies of other tokens at padding, which must not look like damage."""
    network = transformer()
    found = surveyed(network)
    types = probe_types(found.model, [network.feeds(batch=1, length=4), network.feeds(batch=2, length=5)])
    padding = padding_of(found.model, types, "attention_mask")
    assert padding is not None
    never = ((-np.inf,) * len(found.survey.blocks),) * 2
    blocks = [block(region) for region in found.survey.blocks]
    certificate = replace(CERTIFICATE, output="hidden", limit=0.5)
    made = replace(plan_for(blocks, found.targets), thresholds=never, padding=padding, certificate=certificate)
    monitor = Monitor(audit_share=1.0)
    session = Session(build(found.original, made).SerializeToString(), observers=[monitor])
    for seed in range(5):
        feeds = network.feeds(batch=4, length=9, seed=seed)
        served, full = (session.answer(feeds, level=level).outputs["hidden"] for level in (1, 0))
        assert np.abs(served - full)[feeds["attention_mask"] == 0].max() > 0.1
        session.run(None, feeds)
        monitor.flush()
    monitor.close()
    state = monitor.state()
    assert state.audits == 5
    assert state.audit_mean == pytest.approx(0.0, abs=1e-5)
