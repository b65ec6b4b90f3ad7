"""What a failure tells a person, and what it tells a program."""

from __future__ import annotations

import pytest

from skipc.runtime.errors import InputError, InternalError, PromiseError, SkipcError


@pytest.mark.parametrize(("error", "exit_code"), [(InputError, 2), (PromiseError, 1), (InternalError, 3)])
def test_the_class_decides_the_exit_code(error: type[SkipcError], exit_code: int) -> None:
    assert error("code", "what").exit_code == exit_code
    assert issubclass(error, SkipcError)


def test_the_place_stands_before_the_sentence() -> None:
    assert str(InputError("code", "it is broken", where="m.onnx")) == "m.onnx: it is broken"
    assert str(InputError("code", "it is broken")) == "it is broken"


def test_as_json_has_every_part() -> None:
    error = InputError("code", "it is broken", where="m.onnx", hint="mend it")
    expected = {"code": "code", "message": "it is broken", "where": "m.onnx", "hint": "mend it"}
    assert error.as_json() == expected
