"""Loading `.npz` data: what is accepted, what is refused and with which words; split and synthetic."""

from __future__ import annotations

import pickle
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from skipc.compiler.data import Dataset, InputSpec, input_specs, load_dataset, split, synthetic
from skipc.runtime.errors import InputError

F32 = np.dtype(np.float32)
I64 = np.dtype(np.int64)
IMAGE = (InputSpec("x", F32, ("N", 3, 4, 5)),)
TEXT = (
    InputSpec("input_ids", I64, ("batch", "sequence")),
    InputSpec("attention_mask", I64, ("batch", "sequence")),
)


def images(count: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal((count, 3, 4, 5)).astype(np.float32)


def saved(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return str(path)


def refusal(spec: str, inputs: tuple[InputSpec, ...]) -> InputError:
    with pytest.raises(InputError) as caught:
        load_dataset(spec, inputs)
    assert caught.value.hint
    return caught.value


def model(*inputs: onnx.ValueInfoProto, filled: tuple[str, ...] = ()) -> onnx.ModelProto:
    initializers = [helper.make_tensor(name, TensorProto.FLOAT, [1], [0.0]) for name in filled]
    return helper.make_model(helper.make_graph([], "g", list(inputs), [], initializer=initializers))


def test_input_specs_lists_what_must_be_fed() -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["N", 3, None, -1])
    w = helper.make_tensor_value_info("w", TensorProto.FLOAT, [1])
    flag = helper.make_tensor_value_info("flag", TensorProto.BOOL, [])
    assert input_specs(model(x, w, flag, filled=("w",))) == (
        InputSpec("x", np.dtype(np.float16), ("N", 3, None, None)),
        InputSpec("flag", np.dtype(np.bool_), ()),
    )


@pytest.mark.parametrize(
    "value",
    [
        helper.make_tensor_value_info("x", TensorProto.STRING, [1]),
        helper.make_tensor_value_info("x", TensorProto.BFLOAT16, [1]),
        helper.make_tensor_value_info("x", TensorProto.FLOAT, None),
        helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, [1]),
        onnx.ValueInfoProto(name="x"),
    ],
)
def test_input_that_numpy_cannot_feed_is_refused(value: onnx.ValueInfoProto) -> None:
    with pytest.raises(InputError, match="no numpy array can feed it") as caught:
        input_specs(model(value))
    assert caught.value.code == "model-unfit-input"


def test_npz_becomes_samples_that_are_views(tmp_path: Path) -> None:
    x = images(6)
    data = load_dataset(saved(tmp_path / "demo.calib.npz", x=x, labels=np.arange(6, dtype=np.int32)), IMAGE)
    assert (data.name, len(data)) == ("demo", 6)
    assert data.labels is not None
    assert data.labels.dtype == np.int64
    assert data.labels.tolist() == list(range(6))
    np.testing.assert_array_equal(np.concatenate([sample["x"] for sample in data.samples]), x)
    assert all(sample["x"].shape == (1, 3, 4, 5) for sample in data.samples)
    assert data.samples[0]["x"].base is data.samples[5]["x"].base is not None


def test_model_input_named_labels_is_an_input(tmp_path: Path) -> None:
    inputs = (*IMAGE, InputSpec("labels", F32, ("N", 2)))
    data = load_dataset(saved(tmp_path / "a.npz", x=images(2), labels=np.zeros((2, 2), np.float32)), inputs)
    assert data.labels is None
    assert data.samples[1]["labels"].shape == (1, 2)


def test_fixed_batch_makes_units_of_rows(tmp_path: Path) -> None:
    inputs = (InputSpec("x", F32, (4, 3, 4, 5)),)
    x = images(10)
    data = load_dataset(saved(tmp_path / "a.npz", x=x, labels=np.arange(10)), inputs)
    assert [sample["x"].shape[0] for sample in data.samples] == [4, 4]
    np.testing.assert_array_equal(data.samples[1]["x"], x[4:8])
    assert data.labels is not None
    assert data.labels.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    error = refusal(saved(tmp_path / "few.npz", x=images(3)), inputs)
    assert error.code == "data-empty"
    assert "fixes the batch at 4" in error.what


def test_scalar_input_is_shared_by_all_samples(tmp_path: Path) -> None:
    inputs = (*IMAGE, InputSpec("rate", I64, ()))
    data = load_dataset(saved(tmp_path / "a.npz", x=images(3), rate=np.int64(16)), inputs)
    assert [int(sample["rate"]) for sample in data.samples] == [16, 16, 16]
    assert refusal(saved(tmp_path / "b.npz", x=images(3), rate=np.array([16])), inputs).code == "data-wrong-rank"


@pytest.mark.parametrize(
    ("spec", "name"),
    [("films=a.npz", "films"), ("a.npz", "a"), ("a=b.npz", "a=b"), ("1x=a.npz", None), ("x=a=b.npz", "x")],
)
def test_name_before_the_path(spec: str, name: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("a.npz", "a=b.npz"):
        saved(tmp_path / file, x=images(1))
    if name is None:
        assert refusal(spec, IMAGE).code == "data-missing-file"
    else:
        assert load_dataset(spec, IMAGE).name == name


def test_windows_path_is_a_path() -> None:
    assert refusal(r"C:\data\films.npz", IMAGE).code == "data-missing-file"
    assert refusal("films=C:/data/films.npz", IMAGE).where == str(Path("C:/data/films.npz"))


REFUSALS: list[tuple[str, Callable[[], dict[str, Any]], tuple[InputSpec, ...], str]] = [
    ("data-missing-input", lambda: {"pixels": images(2)}, IMAGE, "no array for the model's input 'x'; found pixels"),
    ("data-missing-input", dict, IMAGE, "found no arrays"),
    ("data-extra-array", lambda: {"x": images(2), "y": images(2)}, IMAGE, "'y' is neither an input"),
    (
        "data-wrong-type",
        lambda: {"x": images(2).astype(np.float64)},
        IMAGE,
        "'x' is float64, the model expects float32",
    ),
    ("data-wrong-type", lambda: {"x": images(2).astype(">f4")}, IMAGE, "'x' is >f4, the model expects float32"),
    ("data-wrong-rank", lambda: {"x": images(2)[0]}, IMAGE, "shape [3, 4, 5], the model expects [batch, 3, 4, 5]"),
    (
        "data-wrong-shape",
        lambda: {"x": images(2).swapaxes(1, 3)},
        IMAGE,
        "[2, 5, 4, 3], the model expects [batch, 3, 4, 5]",
    ),
    (
        "data-count-mismatch",
        lambda: {"input_ids": np.ones((3, 4), np.int64), "attention_mask": np.ones((2, 4), np.int64)},
        TEXT,
        "'attention_mask' has 2 rows, array 'input_ids' has 3",
    ),
    (
        "data-axis-mismatch",
        lambda: {"input_ids": np.ones((3, 4), np.int64), "attention_mask": np.ones((3, 5), np.int64)},
        TEXT,
        "axis 1 of array 'attention_mask' is 5, axis 1 of 'input_ids' is 4",
    ),
    ("data-empty", lambda: {"x": images(0)}, IMAGE, "no samples"),
    ("data-labels-length", lambda: {"x": images(2), "labels": np.arange(3)}, IMAGE, "has shape [3], expected [2]"),
    ("data-labels-length", lambda: {"x": images(2), "labels": np.ones((2, 2), int)}, IMAGE, "has shape [2, 2]"),
    ("data-labels-type", lambda: {"x": images(2), "labels": np.ones(2)}, IMAGE, "'labels' is float64, expected int"),
    ("data-pickled", lambda: {"x": np.array([{}, {}], dtype=object)}, IMAGE, "'x' is a pickled object array"),
]


@pytest.mark.parametrize(
    ("code", "arrays", "inputs", "words"), REFUSALS, ids=lambda item: item if isinstance(item, str) else ""
)
def test_arrays_that_do_not_fit(
    code: str, arrays: Callable[[], dict[str, Any]], inputs: tuple[InputSpec, ...], words: str, tmp_path: Path
) -> None:
    path = saved(tmp_path / "bad.npz", **arrays())
    error = refusal(path, inputs)
    assert (error.code, error.where, error.exit_code) == (code, path, 2)
    assert words in error.what


def test_hints_say_what_to_type(tmp_path: Path) -> None:
    wrong = refusal(saved(tmp_path / "a.npz", x=images(2).astype(np.float64)), IMAGE)
    assert 'arrays["x"].astype("float32")' in wrong.hint
    renamed = refusal(saved(tmp_path / "b.npz", input_id=np.ones((2, 2), np.int64), attention_mask=1), TEXT)
    assert renamed.hint == "rename 'input_id' to 'input_ids'"
    saved(tmp_path / "films.npz", x=images(1))
    assert "films.npz" in refusal(str(tmp_path / "film.npz"), IMAGE).hint


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_first_sample_that_is_not_finite_is_named(value: float, tmp_path: Path) -> None:
    x = images(5)
    x[3, 1, 2, 0] = x[4, 0, 0, 0] = value
    error = refusal(saved(tmp_path / "a.npz", x=x), IMAGE)
    assert error.code == "data-not-finite"
    assert error.what == f"array 'x' holds {value} first at index [3, 1, 2, 0], sample 3"


def broken_files() -> dict[str, tuple[bytes, str]]:
    return {
        "text.npz": (b"not an archive at all", "data-not-npz"),
        "empty.npz": (b"", "data-not-npz"),
        "array.npz": (b"\x93NUMPY\x01\x00", "data-not-npz"),
        "pickle.npz": (pickle.dumps({"x": 1}), "data-pickled"),
        "array.npy": (b"\x93NUMPY\x01\x00", "data-unknown-format"),
        "suffixless": (b"", "data-unknown-format"),
    }


@pytest.mark.parametrize("name", list(broken_files()))
def test_file_that_is_no_npz(name: str, tmp_path: Path) -> None:
    content, code = broken_files()[name]
    (tmp_path / name).write_bytes(content)
    error = refusal(str(tmp_path / name), IMAGE)
    assert (error.code, error.where) == (code, str(tmp_path / name))


def test_truncated_and_damaged_archives(tmp_path: Path) -> None:
    whole = Path(saved(tmp_path / "whole.npz", x=images(40))).read_bytes()
    cut = tmp_path / "cut.npz"
    cut.write_bytes(whole[: len(whole) // 2])
    assert "incomplete" in refusal(str(cut), IMAGE).what
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    cut.write_bytes(flipped)
    assert refusal(str(cut), IMAGE).code == "data-damaged-npz"


def test_folder_of_npz_in_order_of_names(tmp_path: Path) -> None:
    lengths = {"b.npz": (2, 7), "a.npz": (1, 5), "c.npz": (3,)}
    for name, shape in lengths.items():
        ids = np.full(shape, ord(name[0]), np.int64)
        saved(tmp_path / name, input_ids=ids, attention_mask=np.ones_like(ids))
    (tmp_path / "._a.npz").write_bytes(b"left by a file manager")
    (tmp_path / "notes.md").write_text("ignored")
    data = load_dataset(f"text={tmp_path}", TEXT)
    assert data.name == "text"
    assert [sample["input_ids"].shape for sample in data.samples] == [(1, 5), (1, 7), (1, 7), (1, 3)]
    assert load_dataset(str(tmp_path), TEXT).name == tmp_path.name.partition(".")[0]


def test_labels_in_some_files_only(tmp_path: Path) -> None:
    saved(tmp_path / "a.npz", x=images(2), labels=np.arange(2))
    saved(tmp_path / "b.npz", x=images(1)[0], labels=np.int64(5))
    data = load_dataset(str(tmp_path), IMAGE)
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1, 5]
    saved(tmp_path / "c.npz", x=images(2))
    error = refusal(str(tmp_path), IMAGE)
    assert (error.code, error.where) == ("data-labels-partial", str(tmp_path / "c.npz"))


def test_folder_without_data(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("nothing here")
    assert refusal(str(tmp_path), IMAGE).code == "data-empty-folder"


def loaded(folder: Path, x: np.ndarray[Any, Any], save: Callable[..., Any] = np.savez, **more: Any) -> Dataset:
    save(folder / "d.npz", x=x, **more)
    return load_dataset(str(folder / "d.npz"), IMAGE)


def test_digest_is_of_the_content(tmp_path: Path) -> None:
    x = images(4)
    plain = loaded(tmp_path, x).digest
    assert re.fullmatch("[0-9a-f]{64}", plain)
    assert loaded(tmp_path, x, np.savez_compressed).digest == plain
    assert loaded(tmp_path, np.asfortranarray(x)).digest == plain
    for position in range(4):
        (tmp_path / "folder").mkdir(exist_ok=True)
        saved(tmp_path / "folder" / f"{position}.npz", x=x[position])
    assert load_dataset(str(tmp_path / "folder"), IMAGE).digest == plain
    changed = x.copy()
    changed[2, 0, 0, 0] += 1
    others = [loaded(tmp_path, other).digest for other in (x[::-1], x[:3], changed)]
    labelled = [loaded(tmp_path, x, labels=labels).digest for labels in (np.arange(4), np.arange(4)[::-1])]
    assert len({plain, *others, *labelled}) == 6


def test_subset_keeps_the_name_and_marks_the_digest(tmp_path: Path) -> None:
    data = loaded(tmp_path, images(5), labels=np.arange(5))
    part = data.subset([3, 0])
    assert part.name == data.name
    assert part.samples == (data.samples[3], data.samples[0])
    assert part.labels is not None
    assert part.labels.tolist() == [3, 0]
    assert part.digest.startswith(data.digest)
    assert part.digest == data.subset(np.array([3, 0])).digest != data.subset([0, 3]).digest
    assert len(data.subset(range(0))) == 0


def test_four_thousand_samples_load_at_once(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npz", x=np.zeros((4000, 3, 4, 5), np.float32), labels=np.zeros(4000, np.int64))
    start = time.perf_counter()
    assert len(load_dataset(path, IMAGE)) == 4000
    assert time.perf_counter() - start < 1.0  # about 0.03 s on an idle core; the rest is for a busy one


@given(
    count=st.integers(0, 300),
    weights=st.lists(st.integers(0, 9), min_size=1, max_size=4).filter(any),
    seed=st.integers(0, 99),
)
def test_split_covers_everything_once(count: int, weights: list[int], seed: int) -> None:
    shares = tuple(weight / sum(weights) for weight in weights)
    parts = split(count, shares, seed)
    assert len(parts) == len(shares)
    assert sorted(np.concatenate(parts).tolist()) == list(range(count))
    assert all(abs(len(part) - share * count) <= 1 for part, share in zip(parts, shares, strict=True))
    again = split(count, shares, seed)
    assert all(np.array_equal(one, other) for one, other in zip(parts, again, strict=True))


def test_split_shuffles_and_may_leave_some_out() -> None:
    first, second = split(100, (0.5, 0.2), 0)
    assert (len(first), len(second), len({*first, *second})) == (50, 20, 70)
    assert first.dtype == np.int64
    assert first.tolist() != sorted(first.tolist())
    assert first.tolist() != split(100, (0.5, 0.2), 1)[0].tolist()


@pytest.mark.parametrize("shares", [(0.7, 0.7), (-0.1, 0.5), (float("nan"),)])
def test_split_refuses_shares_that_make_no_sense(shares: tuple[float, ...]) -> None:
    with pytest.raises(InputError) as caught:
        split(10, shares, 0)
    assert caught.value.code == "data-split-shares"


def test_synthetic_fills_open_axes() -> None:
    inputs = (
        InputSpec("x", np.dtype(np.float16), ("N", 3, "H", None)),
        InputSpec("ids", np.dtype(np.int32), (None, "sequence")),
        InputSpec("pairs", np.dtype(np.bool_), ("N", "N")),
        InputSpec("fixed", np.dtype(np.uint8), (1, 2)),
        InputSpec("scalar", F32, ()),
    )
    feeds = synthetic(inputs, batch=2, extent=7, seed=0)
    assert {name: array.shape for name, array in feeds.items()} == {
        "x": (2, 3, 7, 7),
        "ids": (2, 7),
        "pairs": (2, 2),
        "fixed": (1, 2),
        "scalar": (),
    }
    assert all(feeds[spec.name].dtype == spec.dtype for spec in inputs)
    assert (feeds["ids"] == 1).all()
    assert feeds["pairs"].all()
    assert 0.5 < feeds["x"].astype(np.float32).std() < 1.5
    np.testing.assert_array_equal(feeds["x"], synthetic(inputs, batch=2, extent=7, seed=0)["x"])
