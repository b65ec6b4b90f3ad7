"""Data from functions, text and images."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skipc.compiler.data import InputSpec, batches, load_dataset
from skipc.runtime.errors import InputError

F32 = np.dtype(np.float32)
I64 = np.dtype(np.int64)
VECTOR = (InputSpec("x", F32, ("N", 2)),)

MODULE = """
import numpy as np

def mixed():
    buffer = np.zeros(2, np.float32)
    for i in range(3):
        buffer[:] = i
        yield {"x": buffer, "labels": i}
    yield {"x": np.full((2, 2), 3, np.float32), "labels": np.array([3, 4])}

def one():
    return {"x": np.zeros((2, 2), np.float32)}

def listed():
    return [{"x": np.zeros(2, np.float32)}]

def fails():
    yield {"x": np.zeros(2, np.float32)}
    raise KeyError("no such film")

def wants(path):
    return []

def wrong():
    yield {"x": np.zeros(2)}

def lists():
    yield {"x": [0.0, 1.0]}

def tuples():
    yield (1, 2)

def nothing():
    return []

def none():
    return None

constant = 3
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_films.py").write_text(MODULE)
    (tmp_path / "my_broken.py").write_text("import no_such_package_at_all")
    (tmp_path / "my_syntax.py").write_text("def f(:")
    path = list(sys.path)
    yield tmp_path
    assert sys.path == path
    for name in ("my_films", "my_broken", "my_syntax"):
        sys.modules.pop(name, None)


def refusal(spec: str, inputs: tuple[InputSpec, ...]) -> InputError:
    with pytest.raises(InputError) as caught:
        load_dataset(spec, inputs)
    assert caught.value.hint
    return caught.value


@pytest.mark.usefixtures("here")
def test_function_yields_samples_and_batches() -> None:
    data = load_dataset("my_films:mixed", VECTOR)
    assert data.name == "mixed"
    assert [float(sample["x"][0, 0]) for sample in data.samples] == [0, 1, 2, 3, 3]
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1, 2, 3, 4]
    assert load_dataset("a=my_films:one", VECTOR).name == "a"
    assert len(load_dataset("my_films:one", VECTOR)) == 2
    assert len(load_dataset("my_films:listed", VECTOR)) == 1


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("source", "code", "words"),
    [
        ("my_films:fails", "data-function", "KeyError: 'no such film'"),
        ("my_films:wants", "data-function", "path"),
        ("my_films:none", "data-function", "not iterable"),
        ("my_films:absent", "data-import", "no function 'absent'"),
        ("my_films:constant", "data-import", "no function 'constant'"),
        ("my_broken:f", "data-import", "no_such_package_at_all"),
        ("my_syntax:f", "data-import", "SyntaxError"),
        ("no.such.module:f", "data-import", "ModuleNotFoundError"),
        ("my_films:lists", "data-item", "'x' is a list"),
        ("my_films:tuples", "data-item", "a tuple instead of a dictionary"),
        ("my_films:wrong", "data-wrong-type", "'x' is float64"),
        ("my_films:nothing", "data-empty", "no samples"),
    ],
)
def test_function_that_fails(source: str, code: str, words: str) -> None:
    error = refusal(source, VECTOR)
    assert error.code == code
    assert words in error.what
    assert error.where.startswith(source)


def test_place_of_the_exception_is_named(here: Path) -> None:
    assert f"{here / 'my_films.py'}, line " in refusal("my_films:fails", VECTOR).hint


def text_specs(length: int | str, *names: str) -> tuple[InputSpec, ...]:
    return tuple(InputSpec(name, I64, ("batch", length)) for name in names)


def write_text(folder: Path, **padding: Any) -> str:
    tokenizers = pytest.importorskip("tokenizers")
    words = {"[PAD]": 5, "[UNK]": 0, "a": 1, "good": 2, "film": 3, "bad": 4}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    if padding:
        tokenizer.enable_padding(**padding)
    tokenizer.save(str(folder / "tokenizer.json"))
    path = folder / "films.txt"
    path.write_text("a good film\n\n  bad  \r\na film\n", encoding="utf-8")
    return str(path)


def test_text_is_tokenized_and_padded(tmp_path: Path) -> None:
    inputs = text_specs("s", "input_ids", "attention_mask", "token_type_ids")
    data = load_dataset(write_text(tmp_path), inputs)
    assert data.name == "films"
    rows = np.concatenate([sample["input_ids"] for sample in data.samples])
    assert rows.tolist() == [[1, 2, 3], [4, 5, 5], [1, 3, 5]]
    assert data.samples[1]["attention_mask"].tolist() == [[1, 0, 0]]
    assert data.samples[1]["token_type_ids"].tolist() == [[0, 0, 0]]
    assert batches(data.subset([1]), 1, inputs)[0].feeds["input_ids"].tolist() == [[4]]


def test_text_without_mask_is_not_padded(tmp_path: Path) -> None:
    data = load_dataset(write_text(tmp_path), text_specs("s", "input_ids"))
    assert [sample["input_ids"].tolist() for sample in data.samples] == [[[1, 2, 3]], [[4]], [[1, 3]]]


def test_text_of_fixed_length_and_left_padding(tmp_path: Path) -> None:
    path = write_text(tmp_path, direction="left", pad_id=9)
    data = load_dataset(path, text_specs(2, "input_ids", "attention_mask"))
    assert [sample["input_ids"].tolist() for sample in data.samples] == [[[1, 2]], [[9, 4]], [[1, 3]]]
    assert data.samples[1]["attention_mask"].tolist() == [[0, 1]]


def test_text_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_text(tmp_path)
    inputs = text_specs("s", "input_ids")
    assert refusal(path, text_specs("s", "input_ids", "position_ids")).code == "data-text-inputs"
    Path(path).write_bytes(b"caf\xe9")
    assert refusal(path, inputs).code == "data-text-unreadable"
    Path(path).write_text("\n \n")
    assert refusal(path, inputs).code == "data-empty"
    (tmp_path / "tokenizer.json").write_text("{}")
    assert refusal(path, inputs).code == "data-bad-tokenizer"
    (tmp_path / "tokenizer.json").unlink()
    assert refusal(path, inputs).where == str(tmp_path / "tokenizer.json")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert refusal(path, inputs).hint == 'pip install "skipc[text]"'


def write_image(path: Path, pixels: Any) -> None:
    image = pytest.importorskip("PIL.Image")
    image.fromarray(np.asarray(pixels, np.uint8)).save(path)


def image_spec(*shape: int | str | None, kind: Any = np.float32) -> tuple[InputSpec, ...]:
    return (InputSpec("pixels", np.dtype(kind), shape),)


def test_images_are_cropped_to_the_centre(tmp_path: Path) -> None:
    pixels = np.zeros((4, 8, 3), np.uint8)
    pixels[:, 2:6] = [255, 51, 0]
    write_image(tmp_path / "b.png", pixels)
    write_image(tmp_path / "a.png", np.full((4, 4), 255))
    data = load_dataset(str(tmp_path), image_spec("N", 3, 4, 4))
    assert len(data) == 2
    assert (data.samples[0]["pixels"] == 1).all()
    np.testing.assert_array_equal(data.samples[1]["pixels"][0, :, 1, 1], np.array([1, 0.2, 0], np.float32))
    assert np.ptp(data.samples[1]["pixels"][0, 0]) == 0
    last = load_dataset(str(tmp_path), image_spec("N", 4, 4, 3, kind=np.uint8))
    np.testing.assert_array_equal(last.samples[1]["pixels"][0], pixels[:, 2:6])
    gray = load_dataset(str(tmp_path), image_spec(1, 1, "H", "W", kind=np.float16))
    assert gray.samples[0]["pixels"].shape == (1, 1, 224, 224)


def test_preprocess_file_is_applied(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", np.full((2, 2, 3), [10, 20, 30]))
    spec = {"mean": [1, 2, 3], "std": [1, 2, 4], "scale": 10}
    (tmp_path / "preprocess.json").write_text(json.dumps(spec))
    data = load_dataset(str(tmp_path), image_spec("N", 3, 2, 2))
    np.testing.assert_array_equal(data.samples[0]["pixels"], np.zeros((1, 3, 2, 2)))


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        '{"mena": 1}',
        '{"mean": [1, 2]}',
        '{"std": [1, 0, 1]}',
        '{"scale": 0}',
        '{"mean": "x"}',
        '{"scale": true}',
    ],
)
def test_preprocess_file_that_makes_no_sense(text: str, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", np.zeros((2, 2, 3)))
    (tmp_path / "preprocess.json").write_text(text)
    assert refusal(str(tmp_path), image_spec("N", 3, 2, 2)).code == "data-bad-preprocess"


def test_images_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "a.png", np.zeros((2, 2, 3)))
    for inputs in (
        VECTOR,
        image_spec("N", 4, 2, 2),
        image_spec("N", 3, 2, 2, kind=np.int8),
        image_spec("N", 3, 2, 2) * 2,
    ):
        assert refusal(str(tmp_path), inputs).code == "data-image-inputs"
    (tmp_path / "b.jpg").write_bytes(b"no image")
    error = refusal(str(tmp_path), image_spec("N", 3, 2, 2))
    assert (error.code, error.where) == ("data-bad-image", str(tmp_path / "b.jpg"))
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert refusal(str(tmp_path), image_spec("N", 3, 2, 2)).hint == 'pip install "skipc[images]"'
