"""Whatever is wrong with what a user gives: exit code 2, one clear message with a hint, and no file left behind."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from tests.end_to_end.command import Ran, contents, invoke, run
from tests.graphs import Network, mlp, transformer

Words = Sequence[object]
NETWORK = mlp()
ROWS = 40


class Workshop:
    """A folder with a small model, data that fits it, and ways to spoil both."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = self.save("model.onnx", NETWORK)
        self.data = self.arrays("data.npz", x=rows())

    def save(self, name: str, network: Network) -> Path:
        path = self.folder / name
        onnx.save(network.model, path)
        return path

    def write(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content)
        return path

    def arrays(self, name: str, **arrays: NDArray[Any]) -> Path:
        path = self.folder / name
        np.savez(path, allow_pickle=False, **arrays)
        return path

    def structure(self, name: str) -> Path:
        """A compiled file, every gate shut, with its plan and report."""
        out = self.folder / name
        assert invoke("compile", self.model, "-o", out, "-q").code == 0
        return out

    def with_data(self, **arrays: NDArray[Any]) -> Words:
        return ("compile", self.model, "--data", self.arrays("bad.npz", **arrays))


def rows(count: int = ROWS) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((count, 6)).astype(np.float32)


def with_nan() -> NDArray[np.float32]:
    values = rows()
    values[7, 3] = np.nan
    return values


def with_external_data(shop: Workshop) -> Path:
    path = shop.folder / "split.onnx"
    model = onnx.ModelProto()
    model.CopyFrom(NETWORK.model)
    onnx.save(model, path, save_as_external_data=True, location="split.weights", size_threshold=0)
    (shop.folder / "split.weights").unlink()
    return path


def invalid_graph(shop: Workshop) -> Path:
    model = onnx.ModelProto()
    model.CopyFrom(NETWORK.model)
    model.graph.node[0].input[0] = "from nowhere"
    return shop.write("invalid.onnx", model.SerializeToString())


def object_arrays(shop: Workshop) -> Path:
    path = shop.folder / "pickled.npz"
    np.savez(path, x=np.array([{"a": 1}, None], dtype=object), allow_pickle=True)
    return path


def text_as_output_folder(shop: Workshop) -> Path:
    return shop.write("notes.txt", b"no folder") / "out.onnx"


Spoil = Callable[[Workshop], Words]

MODELS: dict[str, tuple[str, Spoil]] = {
    "missing": ("model-missing", lambda shop: ("compile", shop.folder / "none.onnx")),
    "folder": ("model-unreadable", lambda shop: ("compile", shop.folder, "-o", shop.folder / "out.onnx")),
    "text": ("not-onnx", lambda shop: ("compile", shop.write("bad.onnx", b"this is no model at all\n" * 9))),
    "picture": ("not-onnx", lambda shop: ("compile", shop.write("bad.onnx", b"\x89PNG\r\n\x1a\n" + bytes(64)))),
    "empty": ("not-onnx", lambda shop: ("compile", shop.write("bad.onnx", b""))),
    "truncated": ("not-onnx", lambda shop: ("compile", shop.write("bad.onnx", shop.model.read_bytes()[:-200]))),
    "external data": ("external-data-missing", lambda shop: ("compile", with_external_data(shop))),
    "invalid graph": ("model-invalid", lambda shop: ("compile", invalid_graph(shop))),
    "compiled already": ("already-compiled", lambda shop: ("compile", shop.structure("done.onnx"))),
    "inspect text": ("not-onnx", lambda shop: ("inspect", shop.write("bad.onnx", b"this is no model at all"))),
}

DATA: dict[str, tuple[str, Spoil]] = {
    "no such file": ("data-missing-file", lambda shop: ("compile", shop.model, "--data", shop.folder / "none.npz")),
    "missing input": ("data-missing-input", lambda shop: shop.with_data(y=rows())),
    "extra array": ("data-extra-array", lambda shop: shop.with_data(x=rows(), y=rows())),
    "wrong type": ("data-wrong-type", lambda shop: shop.with_data(x=rows().astype(np.float64))),
    "wrong rank": ("data-wrong-rank", lambda shop: shop.with_data(x=rows()[0])),
    "wrong shape": ("data-wrong-shape", lambda shop: shop.with_data(x=rows()[:, :5])),
    "not a number": ("data-not-finite", lambda shop: shop.with_data(x=with_nan())),
    "empty": ("data-empty", lambda shop: shop.with_data(x=rows()[:0])),
    "labels that do not fit": ("data-labels-length", lambda shop: shop.with_data(x=rows(), labels=np.arange(3))),
    "pickled": ("data-pickled", lambda shop: ("compile", shop.model, "--data", object_arrays(shop))),
    "truncated": (
        "data-not-npz",
        lambda shop: ("compile", shop.model, "--data", shop.write("cut.npz", shop.data.read_bytes()[:-30])),
    ),
    "no archive": (
        "data-not-npz",
        lambda shop: ("compile", shop.model, "--data", shop.write("bad.npz", b"x,y\n1,2\n")),
    ),
    "unknown kind": (
        "data-unknown-format",
        lambda shop: ("compile", shop.model, "--data", shop.write("data.csv", b"x\n1\n")),
    ),
    "one name twice": (
        "data-name-twice",
        lambda shop: ("compile", shop.model, "--data", f"a={shop.data}", "--data", f"a={shop.data}"),
    ),
    "verify": (
        "data-missing-input",
        lambda shop: ("verify", shop.structure("done.onnx"), "--original", shop.model, *shop.with_data(z=rows())[2:]),
    ),
    "bench": (
        "data-wrong-shape",
        lambda shop: ("bench", shop.model, shop.structure("done.onnx"), *shop.with_data(x=rows()[:, :2])[2:]),
    ),
}

OUTPUTS: dict[str, tuple[str, Spoil]] = {
    "no such folder": (
        "output-unwritable",
        lambda shop: ("compile", shop.model, "-o", shop.folder / "none" / "out.onnx"),
    ),
    "file as folder": ("output-unwritable", lambda shop: ("compile", shop.model, "-o", text_as_output_folder(shop))),
    "folder as file": ("output-unwritable", lambda shop: ("compile", shop.model, "-o", shop.folder)),
    "device": ("output-unwritable", lambda shop: ("compile", shop.model, "-o", os.devnull)),
    "the model": ("output-is-input", lambda shop: ("compile", shop.model, "-o", shop.model)),
    "the model by another path": (
        "output-is-input",
        lambda shop: ("compile", shop.model, "-o", shop.folder / ".." / shop.folder.name / shop.model.name),
    ),
}


def swapped(shop: Workshop) -> Words:
    return ("verify", shop.model, "--original", shop.structure("done.onnx"), "--data", shop.data)


def of_another_model(shop: Workshop) -> Words:
    other = shop.save("other.onnx", mlp(blocks=2))
    return ("verify", shop.structure("done.onnx"), "--original", other, "--data", shop.data)


def plan_of_another_model(shop: Workshop) -> Words:
    other = shop.save("other.onnx", mlp(blocks=2))
    return ("compile", other, "--plan", shop.structure("done.onnx").with_suffix(".plan.json"))


def bench_of_strangers(shop: Workshop) -> Words:
    return ("bench", shop.model, shop.save("other.onnx", transformer()), "--data", shop.data)


PAIRS: dict[str, tuple[str, Spoil]] = {
    "verify swapped": ("not-compiled", swapped),
    "verify another original": ("plan-of-another-model", of_another_model),
    "plan of another model": ("plan-of-another-model", plan_of_another_model),
    "no plan": ("plan-unreadable", lambda shop: ("compile", shop.model, "--plan", shop.folder / "none.json")),
    "bench of strangers": ("not-its-original", bench_of_strangers),
    "bench swapped": (
        "already-compiled",
        lambda shop: ("bench", shop.structure("done.onnx"), shop.model, "--data", shop.data),
    ),
    "cuda": (
        "provider-missing",
        lambda shop: ("bench", shop.model, shop.structure("done.onnx"), "--data", shop.data, "--provider", "cuda"),
    ),
}

USAGE: dict[str, Words] = {
    "no model": (),
    "unknown option": ("model.onnx", "--fast"),
    "risk 0": ("model.onnx", "--risk", 0),
    "risk 1": ("model.onnx", "--risk", 1),
    "risk in words": ("model.onnx", "--risk", "low"),
    "confidence": ("model.onnx", "--confidence", 95),
    "granularity": ("model.onnx", "--granularity", "layer"),
    "bypass": ("model.onnx", "--bypass", "magic"),
    "impact": ("model.onnx", "--impact", "guess"),
    "provider": ("model.onnx", "--provider", "tpu"),
    "batch size": ("model.onnx", "--batch-size", 0),
    "threads": ("model.onnx", "--threads", -1),
    "seed": ("model.onnx", "--seed", -1),
    "two models": ("model.onnx", "other.onnx"),
    "value missing": ("model.onnx", "--data"),
}


def assert_refused(ran: Ran, code: str) -> None:
    """Exit code 2 and one message, error and hint, on stderr, with nothing but finished stages around it."""
    assert ran.code == 2, ran.stderr
    lines = [line for line in ran.stderr.splitlines() if not line.startswith("- ")]
    said = [line for line in lines if not line.startswith("no data:")]
    assert len(said) >= 2, ran.stderr
    assert said[0].startswith(f"error[{code}]: ")
    assert said[-1].startswith("hint: ")
    assert len(said[-1]) > len("hint: ")
    assert ran.stderr.count("error[") == 1
    assert "Traceback" not in ran.stderr


def assert_refused_both_ways(words: Words, code: str, folder: Path) -> None:
    before = contents(folder)
    ran = invoke(*words)
    assert_refused(ran, code)
    assert ran.stdout == ""
    ran = invoke(*words, "--output-format", "json")
    assert_refused(ran, code)
    assert (ran.json["schema"], ran.json["ok"]) == (1, False)
    error = ran.json["error"]
    assert error["code"] == code
    assert error["message"]
    assert error["hint"]
    assert contents(folder) == before


def cases(table: dict[str, tuple[str, Spoil]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("code", "spoil"), table.values(), ids=table.keys())


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


@cases(MODELS)
def test_models(shop: Workshop, code: str, spoil: Spoil) -> None:
    assert_refused_both_ways(spoil(shop), code, shop.folder)


@cases(DATA)
def test_data(shop: Workshop, code: str, spoil: Spoil) -> None:
    assert_refused_both_ways(spoil(shop), code, shop.folder)


@cases(OUTPUTS)
def test_outputs(shop: Workshop, code: str, spoil: Spoil) -> None:
    assert_refused_both_ways(spoil(shop), code, shop.folder)


@cases(PAIRS)
def test_pairs_that_do_not_belong_together(shop: Workshop, code: str, spoil: Spoil) -> None:
    assert_refused_both_ways(spoil(shop), code, shop.folder)


@pytest.mark.parametrize("content", [b"{", b'{"schema": 2}'], ids=["no JSON", "no plan"])
def test_plans(shop: Workshop, content: bytes) -> None:
    words = ("compile", shop.model, "--plan", shop.write("bad.plan.json", content))
    assert_refused_both_ways(words, "plan-invalid", shop.folder)


@pytest.mark.parametrize("words", USAGE.values(), ids=USAGE.keys())
def test_usage(shop: Workshop, monkeypatch: pytest.MonkeyPatch, words: Words) -> None:
    monkeypatch.chdir(shop.folder)
    before = contents(shop.folder)
    ran = invoke("compile", *words)
    assert_refused(ran, "usage")
    # In front, so that it is not taken for the value of an option without one.
    ran = invoke("compile", "--output-format", "json", *words)
    assert_refused(ran, "usage")
    assert ran.json["error"]["code"] == "usage"
    assert contents(shop.folder) == before


def test_the_message_names_file_and_value(shop: Workshop) -> None:
    ran = invoke(*shop.with_data(x=with_nan()))
    assert "bad.npz: array 'x' holds nan first at index [7, 3], sample 7" in ran.stderr


def test_in_a_process_of_its_own(shop: Workshop) -> None:
    """Once as users run it: ONNX Runtime and protobuf print past Python's streams."""
    before = contents(shop.folder)
    ran = run(*shop.with_data(x=rows()[:, :5]), "--output-format", "json")
    (shop.folder / "bad.npz").unlink()
    assert_refused(ran, "data-wrong-shape")
    assert ran.json["error"]["code"] == "data-wrong-shape"
    assert contents(shop.folder) == before


def test_earlier_results_survive_a_failure(shop: Workshop) -> None:
    shop.structure("model.skip.onnx")
    before = contents(shop.folder)
    assert_refused(invoke("compile", shop.model, "--data", shop.folder / "none.npz"), "data-missing-file")
    assert contents(shop.folder) == before
