"""Sentences from a text file, tokenized as the model wants them (extra ``skipc[text]``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipc.compiler.data_check import Chunk
from skipc.compiler.data_types import InputSpec
from skipc.runtime.errors import InputError

TOKENIZER = "tokenizer.json"
FIELDS: Mapping[str, str] = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
LONGEST = 512
"""Tokens kept of a sentence where neither the model nor the tokenizer sets a limit."""


def read_text(path: Path, inputs: Sequence[InputSpec]) -> Iterator[Chunk]:
    """One sentence a line, blank lines left out, tokenized by the ``tokenizer.json`` in the same folder.

    With an attention mask, or a fixed length, all sentences are padded to one array; without, each has its own length.
    """
    _check_inputs(path, inputs)
    length = next((dim for spec in inputs if isinstance(dim := spec.shape[1], int)), None)
    tokenizer = _tokenizer(path.with_name(TOKENIZER), length)
    encoded = tokenizer.encode_batch(_sentences(path))
    if any(spec.name == "attention_mask" for spec in inputs) or length is not None:
        longest = max(len(item.ids) for item in encoded)
        yield _chunk(encoded, inputs, length or longest, tokenizer, str(path))
        return
    for line, item in enumerate(encoded, start=1):
        yield _chunk([item], inputs, len(item.ids), tokenizer, f"{path}, sentence {line}")


def _check_inputs(path: Path, inputs: Sequence[InputSpec]) -> None:
    for spec in inputs:
        if spec.name in FIELDS and len(spec.shape) == 2:
            continue
        raise InputError(
            "data-text-inputs",
            f"text gives {', '.join(FIELDS)} of rank 2, but the model also wants {spec.name!r} {spec.shape_text()}",
            where=str(path),
            hint="tokenize the text yourself and give an .npz file or module:function",
        )


def _sentences(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        hint = "save it as UTF-8, one sentence a line"
        raise InputError("data-text-unreadable", f"cannot be read: {error}", where=str(path), hint=hint) from error
    sentences = [line.strip() for line in lines if line.strip()]
    if not sentences:
        raise InputError("data-empty", "no sentences", where=str(path), hint="write one sentence a line")
    return sentences


def _tokenizer(path: Path, length: int | None) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        what = "text needs the package tokenizers"
        raise InputError("data-missing-extra", what, where=str(path), hint='pip install "skipc[text]"') from error
    if not path.is_file():
        hint = f"copy the model's {TOKENIZER} beside the text"
        raise InputError("data-missing-tokenizer", "no such file", where=str(path), hint=hint)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        hint = f"it must be a {TOKENIZER} that the package tokenizers can load"
        raise InputError("data-bad-tokenizer", f"cannot be loaded: {error}", where=str(path), hint=hint) from error
    if length is not None or tokenizer.truncation is None:
        tokenizer.enable_truncation(length or LONGEST)
    return tokenizer


def _chunk(encoded: Sequence[Any], inputs: Sequence[InputSpec], length: int, tokenizer: Any, where: str) -> Chunk:
    padding = tokenizer.padding or {}
    left = padding.get("direction") == "left"
    fill = {"input_ids": _padding_id(tokenizer), "token_type_ids": padding.get("pad_type_id", 0)}
    arrays = {}
    for spec in inputs:
        rows = [getattr(item, FIELDS[spec.name])[:] for item in encoded]
        arrays[spec.name] = _padded(rows, length, fill.get(spec.name, 0), left, spec)
    return Chunk(where, arrays)


def _padding_id(tokenizer: Any) -> int:
    if tokenizer.padding:
        return int(tokenizer.padding["pad_id"])
    known = (tokenizer.token_to_id(token) for token in ("[PAD]", "<pad>"))
    return next((int(number) for number in known if number is not None), 0)


def _padded(rows: Sequence[list[int]], length: int, fill: int, left: bool, spec: InputSpec) -> NDArray[Any]:
    array = np.full((len(rows), length), fill, dtype=spec.dtype)
    for target, row in zip(array, rows, strict=True):
        target[length - len(row) if left else 0 : length if left else len(row)] = row
    return array
