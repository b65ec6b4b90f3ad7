"""The demo in use: compiled, served, logged, replayed and watched. Which gates it has depends on measured times."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from skipc.runtime import DecisionLog, Monitor, Session
from skipc.runtime.session import is_equal, open_session
from tests.end_to_end.command import invoke, run
from tests.end_to_end.conftest import Compiled

pytestmark = pytest.mark.slow


def pictures(path: Path, count: int) -> list[dict[str, np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]]:
    with np.load(path) as arrays:
        return [{"image": arrays["image"][row : row + 1]} for row in range(count)]


def test_the_session_answers_as_the_file_does(demo: Compiled) -> None:
    session, plain = Session(demo.model), open_session(demo.model)
    for feeds in pictures(demo.test, 50):
        assert is_equal(session.run(["logits"], feeds)[0], plain.run(feeds)["logits"])
        # Showing the decisions keeps constants from being folded in the same way: float32 sums in another order.
        shown = session.answer(feeds).outputs["logits"]
        np.testing.assert_allclose(shown, plain.run(feeds)["logits"], rtol=1e-4, atol=1e-4)


def test_level_zero_is_the_original(demo: Compiled) -> None:
    session, original = Session(demo.model, level=0), Session(demo.original)
    for feeds in pictures(demo.test, 20):
        expected = original.run(None, feeds)[0]
        np.testing.assert_allclose(session.run(None, feeds)[0], expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_the_log_is_summed_up_and_replayed(demo: Compiled, tmp_path: Path) -> None:
    with DecisionLog(tmp_path / "d.log", keep_inputs=True) as log:
        session = Session(demo.model, observers=[log])
        for number, feeds in enumerate(pictures(demo.test, 50)):
            session.answer(feeds, reference=f"test {number}")
    summed = run("explain", tmp_path / "d.log", "--output-format", "json").json
    assert summed["requests"] == 50
    assert len(summed["gates"]) == demo.ran.json["gates"]
    replayed = run("verify", demo.model, "--log", tmp_path / "d.log", "--output-format", "json")
    assert replayed.code == 0, replayed.stderr
    assert (replayed.json["requests"], replayed.json["outputs_changed"]) == (50, 0)


def test_gates_that_read_their_input_have_references(demo: Compiled) -> None:
    plan = Session(demo.model).plan
    assert plan is not None
    for block in plan.blocks:
        assert (block.reference is None) == (block.gate.pooling == "constant")
        if block.reference is not None:
            assert [sum(row) for row in block.reference.counts] == [1600] * len(plan.thresholds)


def test_test_pictures_raise_no_alarm(demo: Compiled) -> None:
    """They are like those of calibration, so at the default an alarm has a probability of 1 % at most."""
    with Monitor(audit_share=0.2, waiting=10_000) as monitor:
        session = Session(demo.model, observers=[monitor])
        for feeds in pictures(demo.test, 500):
            session.run(None, feeds)
    state = monitor.state()
    assert (state.watched, state.skipped, state.alarms) == (500, 0, ())
    assert 50 < state.audits < 150


def test_run_explain_and_report(demo: Compiled, tmp_path: Path) -> None:
    ran = invoke("run", demo.model, "--data", demo.test, "-o", tmp_path / "out.npz")
    assert ran.code == 0, ran.stderr
    told = invoke("explain", demo.model, "--data", demo.test, "--sample", 3)
    assert told.code == 0, told.stderr
    assert told.stdout.startswith("sample 3 at level")
    page = invoke("report", demo.model, "-o", tmp_path / "page.html")
    assert page.code == 0, page.stderr
    assert "the mean top1 of logits stays at or below 0.01" in (tmp_path / "page.html").read_text()
