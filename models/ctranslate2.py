"""Read the weights of a CTranslate2 model, version 6 of the format: a list of named arrays behind a short header.

The format is that of `ctranslate2.converters`: little-endian; texts as their length with the closing zero in 16 bits;
of each array the name, the rank in 8 bits, extents in 32 bits each, the type in 8 bits, the bytes in 32 bits, the data.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import ConversionError

VERSION = 6
TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
"""Element types by their number in the file."""


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data, self._place = data, 0

    def numbers(self, layout: str) -> tuple[Any, ...]:
        found = struct.unpack_from(f"<{layout}", self._data, self._place)
        self._place += struct.calcsize(f"<{layout}")
        return found

    def number(self, layout: str) -> int:
        return int(self.numbers(layout)[0])

    def text(self) -> str:
        return self.content(self.number("H"))[:-1].decode()

    def content(self, size: int) -> bytes:
        self._place += size
        return self._data[self._place - size : self._place]

    def array(self) -> NDArray[Any]:
        dims = self.numbers(f"{self.number('B')}I")
        elem_type, size = TYPES[self.number("B")], self.number("I")
        return np.frombuffer(self.content(size), elem_type).reshape(dims)


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of a ``model.bin`` by name, such as ``encoder/conv1/weight``.

    Raises:
        ConversionError: the file is of another version.
    """
    reader = _Reader(path.read_bytes())
    version = reader.number("I")
    if version != VERSION:
        what, hint = f"is of format {version} where {VERSION} is expected", "fetch the pinned archive again"
        raise ConversionError(what, where=path.name, hint=hint)
    reader.text(), reader.number("I")
    return {reader.text(): reader.array() for _ in range(reader.number("I"))}
