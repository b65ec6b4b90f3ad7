from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from models.ctranslate2 import read_arrays
from models.errors import ConversionError


def text(value: str) -> bytes:
    return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"


def array(name: str, kind: int, value: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> bytes:
    dims = struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
    return text(name) + dims + struct.pack("<BI", kind, value.nbytes) + value.tobytes()


def test_arrays_by_name(tmp_path: Path) -> None:
    matrix, scalar = np.arange(6, dtype=np.float16).reshape(2, 3), np.array(7, np.int8)
    head = struct.pack("<I", 6) + text("Spec") + struct.pack("<II", 3, 2)
    path = tmp_path / "model.bin"
    path.write_bytes(head + array("a/weight", 4, matrix) + array("b", 1, scalar) + struct.pack("<I", 0))
    found = read_arrays(path)
    assert list(found) == ["a/weight", "b"]
    np.testing.assert_array_equal(found["a/weight"], matrix)
    assert found["b"] == 7


def test_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(struct.pack("<I", 5))
    with pytest.raises(ConversionError, match="format 5"):
        read_arrays(path)
