"""A short run of the fuzzer; `python -m tests.fuzz` makes a long one."""

from __future__ import annotations

import onnx

from tests.fuzz.__main__ import findings
from tests.fuzz.worker import bases, case, judged

CASES = 150


def test_broken_models_end_with_a_word_and_nothing_worse() -> None:
    assert findings(range(CASES), seed=0) == {}


def test_cases_are_different_and_most_are_broken() -> None:
    """Else the test above would prove little."""
    models = bases()
    files = [case(number, 0, models)[0] for number in range(CASES)]
    assert len(set(files)) > 0.95 * CASES
    assert sum(_is_valid(data) for data in files) < 0.5 * CASES


def _is_valid(data: bytes) -> bool:
    try:
        onnx.checker.check_model(data, full_check=True)
    except Exception:
        return False
    return True


def test_what_is_valid_is_not_found() -> None:
    for data, verbs in bases().values():
        assert [judged(data, verb) for verb in verbs] == [""] * len(verbs)
