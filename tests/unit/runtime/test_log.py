"""The decision log: what is in a line, and what happens when it cannot keep up."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skipc.runtime import DecisionLog, Session
from skipc.runtime import lines as lines_module
from skipc.runtime import log as logging
from skipc.runtime.errors import InputError
from skipc.runtime.lines import decode, encode, fingerprint, number, read_log
from tests.deployment import compiled, feeds, plan

FILE = compiled()


def lines(path: Path) -> list[dict[str, Any]]:
    return list(read_log(path))


def test_a_line_tells_the_request_and_its_decisions(tmp_path: Path) -> None:
    path = tmp_path / "d.log"
    with DecisionLog(path) as log:
        session = Session(FILE, observers=[log], clock=lambda: 12.5)
        session.answer(feeds(0, batch=2), request="r", reference="film 1")
    (found,) = lines(path)
    decisions = Session(FILE).answer(feeds(0, batch=2)).decisions
    assert decisions is not None
    assert (found["request"], found["reference"], found["time"], found["rows"]) == ("r", "film 1", 12.5, 2)
    assert (found["model"], found["level"], found["dropped"]) == (session.digest, 1, 0)
    assert [gate["name"] for gate in found["gates"]] == [item.region.name for item in plan().blocks]
    first = found["gates"][0]
    np.testing.assert_array_equal(first["score"], decisions.scores[:, 0])
    np.testing.assert_array_equal(first["bypassed"], decisions.bypassed[:, 0])
    np.testing.assert_allclose(first["margin"], 4.5 - decisions.scores[:, 0])
    assert first["reason"] == [decisions.of(row)[0].reason for row in range(2)]
    assert "inputs" not in found


def test_the_file_is_json_for_strict_readers(tmp_path: Path) -> None:
    path = tmp_path / "d.log"
    with DecisionLog(path) as log:
        Session(FILE, observers=[log]).run(None, {"x": np.full((1, 6), np.nan, np.float32)})

    def refuse(word: str) -> None:
        raise AssertionError(word)

    found = json.loads(path.read_text(), parse_constant=refuse)
    assert found["gates"][0]["score"] == ["nan"]
    assert found["gates"][0]["reason"] == ["in full: the score is not a number"]


def test_inputs_are_kept_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "d.log"
    given = feeds(0)
    before = given["x"].copy()
    with DecisionLog(path, keep_inputs=True) as log:
        outputs = Session(FILE, observers=[log]).run(None, given)
        prints = fingerprint(outputs[0])
        given["x"][:] = 0
        outputs[0][:] = 0
    (found,) = lines(path)
    np.testing.assert_array_equal(decode(found["inputs"]["x"]), before)
    assert found["outputs"] == {"y": prints}


def test_a_share_is_logged(tmp_path: Path) -> None:
    """1,000 draws at 0.3: five standard deviations are 72."""
    with DecisionLog(tmp_path / "d.log", sample=0.3) as log:
        session = Session(FILE, observers=[log])
        for _ in range(1000):
            session.run(None, feeds(0))
    assert abs(log.written - 300) < 72
    assert log.dropped == 0
    assert len(lines(tmp_path / "d.log")) == log.written


def test_full_files_are_kept_and_old_ones_go(tmp_path: Path) -> None:
    with DecisionLog(tmp_path / "d.log", max_bytes=2000, files=2) as log:
        session = Session(FILE, observers=[log])
        for k in range(40):
            session.answer(feeds(0), request=str(k))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.log", "d.log.1", "d.log.2"]
    kept = [line["request"] for name in ("d.log.2", "d.log.1", "d.log") for line in lines(tmp_path / name)]
    assert kept == [str(k) for k in range(40 - len(kept), 40)]


def test_an_existing_log_is_continued(tmp_path: Path) -> None:
    for _ in range(2):
        with DecisionLog(tmp_path / "d.log") as log:
            Session(FILE, observers=[log]).run(None, feeds(0))
    assert len(lines(tmp_path / "d.log")) == 2


def test_a_writer_that_is_behind_costs_lines_and_not_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer is held back until all requests have been answered: two wait, one is with the writer, the rest go."""
    answered, writing = threading.Event(), threading.Event()
    real = lines_module.line

    def slow(*request: Any) -> str:
        writing.set()
        assert answered.wait(60)
        return real(*request)

    monkeypatch.setattr(logging, "line", slow)
    with DecisionLog(tmp_path / "d.log", waiting=2) as log:
        session = Session(FILE, observers=[log])
        session.run(None, feeds(0))
        assert writing.wait(60)
        for _ in range(9):
            session.run(None, feeds(0))
        answered.set()
    assert (log.written, log.dropped) == (3, 7)
    assert lines(tmp_path / "d.log")[-1]["dropped"] == 7


def test_a_disk_that_refuses_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(DecisionLog, "_write", refuse)
    with DecisionLog(tmp_path / "d.log") as log:
        session = Session(FILE, observers=[log])
        for _ in range(3):
            session.run(None, feeds(0))
    assert (log.written, log.dropped) == (0, 3)


def test_closing_twice_is_no_error(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "d.log")
    log.close()
    log.close()


def test_requests_after_the_end_are_counted(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "d.log")
    session = Session(FILE, observers=[log])
    log.close()
    session.run(None, feeds(0))
    assert (log.written, log.dropped) == (0, 1)


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        DecisionLog(tmp_path / "no" / "d.log")
    assert caught.value.code == "log-unwritable"


@pytest.mark.slow
def test_eight_threads_and_ten_thousand_requests(tmp_path: Path) -> None:
    given = [feeds(seed) for seed in range(50)]
    expected = [Session(FILE).answer(item) for item in given]
    with DecisionLog(tmp_path / "d.log") as log:
        session = Session(FILE, observers=[log])

        def ask(k: int) -> bool:
            answer = session.answer(given[k % 50], request=str(k))
            same = expected[k % 50]
            assert answer.decisions is not None
            assert same.decisions is not None
            alike = answer.decisions.scores.tobytes() == same.decisions.scores.tobytes()
            return alike and answer.outputs["y"].tobytes() == same.outputs["y"].tobytes()

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(ask, range(10_000)))
    assert log.written + log.dropped == 10_000
    found = lines(tmp_path / "d.log")
    assert len(found) == len({item["request"] for item in found}) == log.written


def held_mib() -> float:
    """Memory that this process holds now."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells a process's memory in a file")
def test_memory_stays_flat_over_ten_thousand_requests(tmp_path: Path) -> None:
    """One KiB kept for each request would be 10 MiB; what threads and allocators settle at comes before the count."""
    given = [feeds(seed) for seed in range(50)]
    with DecisionLog(tmp_path / "d.log", waiting=1000) as log:
        session = Session(FILE, observers=[log])

        def ask_many(count: int) -> None:
            for k in range(count):
                session.run(None, given[k % 50])

        def ask(count: int) -> float:
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(ask_many, [count // 8] * 8))
            return held_mib()

        before = ask(8000)
        assert ask(10_000) - before < 8
    assert log.written + log.dropped == 18_000


@pytest.mark.parametrize("text", ["no json\n", "[]\n", '{"schema": 2, "gates": []}\n', '{"schema": 1}\n'])
def test_nonsense_is_no_log(tmp_path: Path, text: str) -> None:
    path = tmp_path / "d.log"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        lines(path)
    assert (caught.value.code, caught.value.where) == ("log-invalid", f"{path}:1")


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name in ("nothing", "binary"):
        with pytest.raises(InputError) as caught:
            lines(tmp_path / name)
        assert caught.value.code == "log-unreadable"


@pytest.mark.parametrize("value", [1.5, np.inf, -np.inf])
def test_numbers_are_read_back_by_float(value: float) -> None:
    assert float(json.loads(json.dumps(number(value), allow_nan=False))) == value


def test_arrays_are_read_back() -> None:
    turned = np.arange(6, dtype=np.int64).reshape(2, 3).T
    np.testing.assert_array_equal(decode(json.loads(json.dumps(encode(turned)))), turned)
