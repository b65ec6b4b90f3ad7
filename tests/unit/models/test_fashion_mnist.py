from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from models.errors import ConversionError
from models.recipe import Workshop
from models.recipes import fashion_mnist
from models.recipes.fashion_mnist import parse_idx

IMAGES = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 3, *range(12)])
LABELS = bytes([0, 0, 8, 1, 0, 0, 0, 2, 9, 4])


def test_parse_images() -> None:
    np.testing.assert_array_equal(parse_idx(IMAGES, "x"), np.arange(12, dtype=np.uint8).reshape(2, 2, 3))


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "does not start as an idx file"),
        (b"\x1f\x8b\x08\x03", "does not start as an idx file"),
        (bytes([0, 0, 0x0D, 1, 0, 0, 0, 0]), "does not start as an idx file"),
        (IMAGES[:-1], r"is cut off: 11 elements for sizes \[2, 2, 3\]"),
        (IMAGES[:10], r"is cut off: 0 elements for sizes \[2\]"),
        (LABELS + b"\x00", "is cut off: 3 elements"),
    ],
)
def test_malformed_file_is_refused(data: bytes, what: str) -> None:
    with pytest.raises(ConversionError, match=what):
        parse_idx(data, "x")


def test_build_writes_both_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "in" / fashion_mnist.FOLDER
    folder.mkdir(parents=True)
    for prefix in ("train", "t10k"):
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(IMAGES))
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(LABELS))
    monkeypatch.setattr(Workshop, "unpacked", lambda *_: tmp_path / "in")
    workshop = Workshop(tmp_path, tmp_path, lambda _: tmp_path, lambda _: pytest.fail("no need"), lambda _: None)
    fashion_mnist.build(workshop)
    for split in ("train", "test"):
        with np.load(tmp_path / f"{split}.npz") as arrays:
            assert arrays["image"].shape == (2, 1, 2, 3)
            assert arrays["image"].dtype == np.uint8
            assert arrays["labels"].dtype == np.int64
            assert arrays["labels"].tolist() == [9, 4]
