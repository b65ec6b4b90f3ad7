"""What the command line itself does, before and after the verbs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

import skipc.compiler.verbs
from skipc.compiler.cli import cli
from skipc.compiler.policies import AUTO
from skipc.compiler.settings import BYPASSES, GRANULARITIES, GROUPINGS, IMPACTS, PADDING, WEIGHTS, Settings
from skipc.passes.policy import POLICIES
from skipc.runtime.errors import InputError, PromiseError

HEAVY = ("numpy", "onnx", "onnxruntime", "onnx_graphsurgeon")
VERBS = (
    "bench",
    "compile",
    "diff",
    "explain",
    "inspect",
    "report",
    "restore",
    "retune",
    "run",
    "triton",
    "verify",
    "view",
)


def invoke(*words: str) -> Result:
    return CliRunner().invoke(cli, words)


@pytest.mark.parametrize("words", [["--help"], ["compile", "--help"], ["--version"], []], ids=" ".join)
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    script = """
import atexit, sys
atexit.register(lambda: print(*sorted(sys.modules), file=sys.stderr))
from skipc.compiler.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=False)
    modules = done.stderr.splitlines()[-1].split()
    assert "skipc.compiler.cli" in modules
    assert set(HEAVY).isdisjoint(modules)


def test_a_verb_does_import_them() -> None:
    """Else the test above would prove nothing. ONNX Runtime comes last, with the first session."""
    script = "import sys; from skipc.compiler import verbs; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert set(HEAVY) - {"onnxruntime"} <= set(done.stdout.split())


@pytest.mark.parametrize("words", [("--help",), ("-h",), ("compile", "-h")])
def test_help_is_no_error(words: tuple[str, ...]) -> None:
    result = invoke(*words)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "Usage: " in result.stdout


def test_without_a_verb_all_are_listed() -> None:
    result = invoke()
    assert result.exit_code == 2
    assert all(re.search(rf"^  {verb} ", result.stderr, re.MULTILINE) for verb in VERBS)


def test_every_setting_is_an_option_with_the_same_default() -> None:
    command = cli.commands["compile"]
    defaults = {item.name: item.default for item in command.params if isinstance(item, click.Option)}
    for name, expected in Settings().__dict__.items():
        assert name in defaults
        if name == "cache":  # the option names a folder, the setting is what is in it
            continue
        # An option that may be repeated, or that has no value, starts out empty in click's own way.
        if expected not in ((), None, False):
            assert defaults[name] == expected


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("bypass", BYPASSES),
        ("impact", IMPACTS),
        ("granularity", GRANULARITIES),
        ("padding", PADDING),
        ("group_by", GROUPINGS),
        ("weights", WEIGHTS),
        ("gate_policy", (*POLICIES, AUTO)),
    ],
)
def test_every_choice_of_the_settings_is_on_offer(name: str, choices: tuple[str, ...]) -> None:
    option = next(item for item in cli.commands["compile"].params if item.name == name)
    assert isinstance(option.type, click.Choice)
    assert tuple(option.type.choices) == choices


@pytest.mark.parametrize(
    ("words", "what", "where"),
    [
        (("polish",), "no such command 'polish'", "skipc"),
        (("compile",), "missing argument 'MODEL'", "skipc compile"),
        (("inspect", "m", "--risk", "1"), "no such option", "skipc inspect"),
        (("bench", "m"), "missing argument 'COMPILED'", "skipc bench"),
        (("verify", "m"), "missing option '--original'", "skipc verify"),
        (("compile", "m", "--output-format", "xml"), "invalid value for '--output-format'", "skipc compile"),
    ],
)
def test_wrong_usage(words: tuple[str, ...], what: str, where: str) -> None:
    result = invoke(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    first, second = result.stderr.splitlines()
    assert first.startswith(f"error[usage]: {where}: {what}")
    assert second == f"hint: `{where} --help` lists the options"


@pytest.mark.parametrize("flag", [("--output-format", "json"), ("--output-format=json",)])
def test_wrong_usage_as_json(flag: tuple[str, ...]) -> None:
    found = json.loads(invoke("compile", "m", *flag, "--risk", "2").stdout)
    assert (found["ok"], found["error"]["code"]) == (False, "usage")


def with_verb(monkeypatch: pytest.MonkeyPatch, outcome: BaseException | dict[str, Any]) -> None:
    """Let `skipc inspect` do nothing but end in a certain way."""

    def verb(*_: object, **__: object) -> tuple[dict[str, Any], str]:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome, "as text"

    monkeypatch.setattr(skipc.compiler.verbs, "inspect_verb", verb)


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        ({}, 0),
        ({"ok": True}, 0),
        ({"ok": False}, 1),
        (PromiseError("some", "promise"), 1),
        (InputError("some", "input"), 2),
        (RuntimeError("a bug"), 3),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_codes(monkeypatch: pytest.MonkeyPatch, outcome: BaseException | dict[str, Any], code: int) -> None:
    with_verb(monkeypatch, outcome)
    for words in (("inspect", "m"), ("inspect", "m", "--output-format", "json")):
        result = invoke(*words)
        assert result.exit_code == code
        assert "Traceback" not in result.stdout + result.stderr
        if "json" in words:
            found = json.loads(result.stdout)
            assert found["schema"] == 1
            assert ("error" in found) == isinstance(outcome, BaseException)


def test_the_result_is_printed_once_and_in_one_form(monkeypatch: pytest.MonkeyPatch) -> None:
    with_verb(monkeypatch, {"value": 1})
    assert invoke("inspect", "m").stdout == "as text\n"
    assert json.loads(invoke("inspect", "m", "--output-format", "json").stdout) == {"schema": 1, "value": 1}


def test_a_bug_shows_its_traceback_to_those_who_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with_verb(monkeypatch, RuntimeError("a bug"))
    result = invoke("inspect", "m", "-v")
    assert result.exit_code == 3
    assert "Traceback (most recent call last)" in result.stderr
    assert "error[internal]: RuntimeError: a bug" in result.stderr
    assert "hint: this is a bug of skipc" in result.stderr


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_a_reader_that_stops_reading_is_no_bug() -> None:
    """As in ``skipc compile --help | head -1``; the pipe's reading end is closed before the first word."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-c", "from skipc.compiler.cli import main; main()", "compile", "--help"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize(
    ("words", "place", "expected"),
    [("skipc comp", 1, "plain,compile"), ("skipc compile --gran", 2, "plain,--granularity")],
)
def test_shells_complete_verbs_and_options(words: str, place: int, expected: str) -> None:
    """As bash asks by the line that docs/runtime.md gives."""
    environment = {**os.environ, "_SKIPC_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(place)}
    program = "from skipc.compiler.cli import cli; cli(prog_name='skipc')"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [expected]
