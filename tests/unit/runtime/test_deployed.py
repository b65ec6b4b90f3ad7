"""A deployment's session: the shipped file's answers, at any level, with the decisions behind them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import skipc.runtime
from skipc.compiler.build import build, serialized
from skipc.passes.stamp import SetLevel
from skipc.runtime import Answer, Session, names
from skipc.runtime.errors import InputError
from skipc.runtime.session import is_equal
from skipc.runtime.variants import Level
from tests.deployment import NETWORK, compiled, feeds, original, parsed, plain, plan
from tests.gated import block, surveyed
from tests.graphs import transformer

FILE = compiled()


class Watcher:
    """Remembers what it is shown."""

    def __init__(self) -> None:
        self.seen: list[Answer] = []
        self.sessions: list[Session] = []

    def attach(self, session: Session) -> None:
        self.sessions.append(session)

    def observe(self, answer: Answer) -> None:
        self.seen.append(answer)


def test_every_public_name_is_there() -> None:
    for name in skipc.runtime.__all__:
        assert getattr(skipc.runtime, name).__name__ == name
    with pytest.raises(AttributeError, match="nonsense"):
        _ = skipc.runtime.nonsense


def test_it_answers_as_the_file_does() -> None:
    session = Session(FILE)
    for seed in range(20):
        assert is_equal(session.run(["y"], feeds(seed))[0], plain(FILE, feeds(seed)))
        assert is_equal(session.run(None, feeds(seed))[0], plain(FILE, feeds(seed)))


def test_it_looks_like_an_inference_session() -> None:
    session = Session(FILE)
    assert [item.name for item in session.get_inputs()] == ["x"]
    assert [item.name for item in session.get_outputs()] == ["y"]
    assert session.get_providers() == ["CPUExecutionProvider"]
    assert (session.provider, session.level) == ("cpu", 1)
    assert session.plan is not None
    assert session.plan.thresholds == plan().thresholds


def test_with_observers_it_looks_the_same() -> None:
    session = Session(FILE, observers=[Watcher()])
    assert [item.name for item in session.get_outputs()] == ["y"]
    assert len(session.run(None, feeds(0))) == 1


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_level_computes_what_the_file_at_that_level_computes(level: int) -> None:
    changed = SetLevel(level).apply(parsed(FILE)).SerializeToString()
    session = Session(FILE, level=level)
    switched = Session(FILE)
    switched.level = level
    for seed in range(10):
        expected = plain(changed, feeds(seed))
        assert is_equal(session.run(None, feeds(seed))[0], expected)
        assert is_equal(switched.run(None, feeds(seed))[0], expected)
        assert is_equal(Session(FILE).answer(feeds(seed), level=level).outputs["y"], expected)


def test_level_zero_is_the_original() -> None:
    """Within what the order of float32 sums allows, as ONNX Runtime optimises both in its own way."""
    found = Session(FILE, level=0).run(None, feeds(3))[0]
    np.testing.assert_allclose(found, plain(original(), feeds(3)), rtol=1e-5, atol=1e-6)


def test_all_bypass_bypasses_all() -> None:
    answer = Session(FILE, level="bypass").answer(feeds(0, batch=4))
    assert answer.decisions is not None
    np.testing.assert_array_equal(answer.decisions.bypassed, np.ones((4, 3)))


@pytest.mark.parametrize("level", [-1, 3, "full"])
def test_a_level_that_is_not_there_is_refused(level: int) -> None:
    session = Session(FILE)
    with pytest.raises(InputError, match="no level") as caught:
        session.level = level
    assert caught.value.code == "level-unknown"
    assert session.level == 1


def test_decisions_are_those_of_the_exposing_file() -> None:
    exposing = compiled(decisions=True)
    for seed in range(10):
        given = feeds(seed, batch=2)
        expected = Session(exposing).run([names.DECISIONS, names.SCORES], given)
        for data in (FILE, exposing):
            decisions = Session(data).answer(given).decisions
            assert decisions is not None
            assert is_equal(decisions.bypassed, expected[0])
            assert is_equal(decisions.scores, expected[1])


@pytest.mark.parametrize("level", [0, 1, "bypass"])
def test_gates_that_read_nothing_decide_as_their_level_says(level: Level) -> None:
    """Nothing in the file shows it, and nothing need."""
    constant = plan().blocks[1]
    given = feeds(0, batch=2)
    made = plan(blocks=(constant,), thresholds=((-np.inf,), (np.inf,)))
    decisions = Session(compiled(made)).answer(given, level=level).decisions
    assert decisions is not None
    np.testing.assert_array_equal(decisions.bypassed, np.full((2, 1), float(level != 0)))
    np.testing.assert_array_equal(decisions.scores, np.zeros((2, 1)))


def test_requests_without_a_name_get_different_ones() -> None:
    sessions = (Session(FILE), Session(FILE))
    found = {session.answer(feeds(0)).request for session in sessions for _ in range(20)}
    assert len(found) == 40


def test_both_decisions_occur() -> None:
    """Else the tests here would prove little."""
    session = Session(FILE)
    shares = [decisions.bypassed[0, 0] for k in range(20) if (decisions := session.answer(feeds(k)).decisions)]
    assert set(shares) == {0.0, 1.0}


def test_showing_decisions_does_not_change_the_answer() -> None:
    shown, bare = Session(FILE, observers=[Watcher()]), Session(FILE)
    for seed in range(20):
        assert is_equal(shown.run(None, feeds(seed))[0], bare.run(None, feeds(seed))[0])


def test_an_original_runs_too(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(parsed(original()), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    session = Session(path)
    assert (session.plan, session.level) == (None, 0)
    assert is_equal(session.run(None, feeds(0))[0], plain(original(), feeds(0)))
    assert session.answer(feeds(0)).decisions is None
    assert session.warm_up([feeds(0)]) == ()
    with pytest.raises(InputError, match="no level"):
        session.level = 1


def test_an_output_may_be_asked_for_twice() -> None:
    for session in (Session(FILE), Session(FILE, observers=[Watcher()])):
        first, second = session.run(["y", "y"], feeds(0))
        assert is_equal(first, second)


@pytest.mark.parametrize(("given", "level"), [(0, 0), (2, 2), (-5, 0)])
def test_the_level_may_be_an_input(given: int, level: int) -> None:
    data = serialized(build(surveyed(NETWORK).model, plan(), level_input=True))
    answer = Session(data).answer({**feeds(0), names.LEVEL: np.array(given)})
    expected = Session(FILE).answer(feeds(0), level=level)
    assert answer.level == level
    assert is_equal(answer.outputs["y"], expected.outputs["y"])
    assert answer.decisions is not None
    assert expected.decisions is not None
    assert answer.decisions.of(0) == expected.decisions.of(0)


@pytest.mark.parametrize("granularity", ["sample", "token"])
def test_rows_may_decide_for_themselves(granularity: str) -> None:
    """What is shown for a sample does not depend on its batch mates, and tells which part of it was bypassed."""
    network = transformer(norm="post")
    found = surveyed(network)
    region = next(item for item in found.survey.blocks if item.kind == "feed-forward")
    made = block(region)
    pooling = "none" if granularity == "token" else "mean"
    made = replace(made, gate=replace(made.gate, pooling=pooling, granularity=granularity))

    def opened(threshold: float) -> Session:
        made_for = plan(blocks=(made,), thresholds=((-np.inf,), (threshold,)))
        return Session(serialized(build(found.model, made_for)))

    given = network.feeds(batch=6, length=8)
    shut = opened(-np.inf).answer(given).decisions
    assert shut is not None
    session = opened(float(np.median(shut.scores)))
    together = session.answer(given).decisions
    assert together is not None
    shares = together.bypassed[:, 0]
    assert 0.0 < shares.mean() < 1.0
    assert bool(((shares > 0) & (shares < 1)).any()) == (granularity == "token")
    for row in range(6):
        alone = session.answer({name: array[row : row + 1] for name, array in given.items()}).decisions
        assert alone is not None
        np.testing.assert_allclose(alone.bypassed, together.bypassed[row : row + 1])
        np.testing.assert_allclose(alone.scores, together.scores[row : row + 1], rtol=1e-4, atol=1e-5)
        expected = "of the rows bypassed" if 0 < shares[row] < 1 else "bypassed: " if shares[row] == 1 else "in full: "
        assert expected in together.of(row)[0].reason


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        Session(tmp_path / "nothing.onnx")
    assert caught.value.code == "model-unreadable"


def test_observers_see_every_answer_but_those_at_another_level() -> None:
    watcher = Watcher()
    session = Session(FILE, observers=[watcher], clock=lambda: 12.5)
    session.run(None, feeds(0))
    session.answer(feeds(1), request="r", reference="film 1")
    session.answer(feeds(2), level=0)
    assert watcher.sessions == [session]
    assert [item.level for item in watcher.seen] == [1, 1]
    last = watcher.seen[-1]
    assert (last.request, last.reference, last.time_s, last.model) == ("r", "film 1", 12.5, session.digest)
    assert watcher.seen[0].request != ""


def test_batches_are_read_one_by_one() -> None:
    read: list[int] = []

    def source() -> object:
        for seed in range(3):
            read.append(seed)
            yield feeds(seed)

    answers = Session(FILE).run_batches(source())  # type: ignore[arg-type]
    assert is_equal(next(answers)[0], plain(FILE, feeds(0)))
    assert read == [0]
    assert len(list(answers)) == 2


def test_bindings_stay_at_their_level() -> None:
    session = Session(FILE)
    given = feeds(0)
    first = session.io_binding()
    session.level = 0
    second = session.io_binding()
    for binding, level in ((first, 1), (second, 0)):
        binding.bind_cpu_input("x", given["x"])
        binding.bind_output("y")
        session.run_with_iobinding(binding)
        assert is_equal(binding.copy_outputs_to_cpu()[0], Session(FILE, level=level).run(None, given)[0])


def test_a_warm_up_says_which_gates_took_one_branch_only() -> None:
    session = Session(FILE)
    first = plan().blocks[0].region.name
    assert session.warm_up([feeds(0)]) == (first,)
    assert session.warm_up([feeds(seed) for seed in range(20)]) == ()
    assert Session(FILE, forcible=True).warm_up([feeds(0)]) == ()


def test_a_forcible_session_takes_both_branches() -> None:
    session = Session(FILE, forcible=True)
    forced = [session._serving.session.inference.run(None, {**feeds(0), **limits})[0] for limits in session._forced()]
    levels = (0, "bypass")
    for found, level in zip(forced, levels, strict=True):
        expected = Session(FILE, level=level).run(None, feeds(0))[0]  # type: ignore[arg-type]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert is_equal(session.run(None, feeds(0))[0], plain(FILE, feeds(0)))
    assert [item.name for item in session.get_inputs()] == ["x"]


def test_threads_get_the_answers_of_one_thread() -> None:
    session = Session(FILE, observers=[Watcher()])
    given = [feeds(seed) for seed in range(50)]
    expected = [plain(FILE, item) for item in given]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda k: session.run(None, given[k % 50])[0], range(1000)))
    assert all(is_equal(answer, expected[k % 50]) for k, answer in enumerate(found))
