"""Where data comes from: `.npz` files, folders of them, functions of the user, text and images."""

from __future__ import annotations

import difflib
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipc.compiler.data_check import Block, Chunk, check_chunk, check_names
from skipc.compiler.data_types import Arrays, Dataset, InputSpec, content_digest
from skipc.runtime.errors import InputError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")

_NAMED = re.compile(r"([A-Za-z][A-Za-z0-9_-]*)=(.+)", re.DOTALL)
_FUNCTION = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def load_dataset(spec: str, inputs: Sequence[InputSpec]) -> Dataset:
    """The data that ``[NAME=]PATH`` or ``[NAME=]module:function`` stands for, checked against the model's inputs."""
    name, source = parse_spec(spec)
    blocks = [check_chunk(chunk, inputs) for chunk in _chunks(source, inputs)]
    samples = tuple(sample for block in blocks for sample in _samples(block, inputs))
    if not samples:
        raise _no_samples(source, blocks, inputs)
    labels = _joined_labels(blocks)
    return Dataset(name=name, digest=content_digest(samples, labels), samples=samples, labels=labels)


def parse_spec(spec: str) -> tuple[str, str]:
    """The name and the source in ``[NAME=]SOURCE``; a path that exists is taken whole, whatever it contains."""
    named = _NAMED.fullmatch(spec)
    if named and not Path(spec).exists():
        return named[1], named[2]
    if _is_function(spec):
        return spec.rpartition(":")[2], spec
    return Path(spec).resolve().name.partition(".")[0] or "data", spec


def _is_function(source: str) -> bool:
    return bool(_FUNCTION.fullmatch(source)) and not Path(source).exists()


def _chunks(source: str, inputs: Sequence[InputSpec]) -> Iterable[Chunk]:
    if _is_function(source):
        from skipc.compiler.data_function import read_function

        return read_function(source, inputs)
    path = Path(source).expanduser()
    if path.is_dir():
        return _read_folder(path, inputs)
    if not path.exists():
        raise _missing_file(path)
    if path.suffix.lower() == ".npz":
        return [Chunk(str(path), _read_npz(path, inputs))]
    if path.suffix.lower() == ".txt":
        from skipc.compiler.data_text import read_text

        return read_text(path, inputs)
    raise InputError(
        "data-unknown-format",
        f"unknown kind of file {path.suffix!r}" if path.suffix else "a file without a suffix",
        where=str(path),
        hint="give an .npz file, a .txt file, a folder of .npz files or images, or module:function",
    )


def _missing_file(path: Path) -> InputError:
    beside = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, beside, n=1)
    hint = f"did you mean {str(path.with_name(close[0]))!r}?" if close else "relative paths start at the current folder"
    return InputError("data-missing-file", "no such file or folder", where=str(path), hint=hint)


def _read_folder(folder: Path, inputs: Sequence[InputSpec]) -> Iterator[Chunk]:
    files = sorted(item for item in folder.iterdir() if item.is_file() and not item.name.startswith("."))
    archives = [item for item in files if item.suffix.lower() == ".npz"]
    if archives:
        return (Chunk(str(item), _read_npz(item, inputs), may_be_single=True) for item in archives)
    images = [item for item in files if item.suffix.lower() in IMAGE_SUFFIXES]
    if images:
        from skipc.compiler.data_images import read_images

        return read_images(folder, images, inputs)
    raise InputError(
        "data-empty-folder",
        "no .npz file and no image in this folder",
        where=str(folder),
        hint=f"images end in {', '.join(IMAGE_SUFFIXES)}; folders inside it are not searched",
    )


def _read_npz(path: Path, inputs: Sequence[InputSpec]) -> Arrays:
    if not zipfile.is_zipfile(path):
        raise _not_an_npz(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            check_names(archive.files, inputs, str(path))
            return {name: _member(archive, name, path) for name in archive.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise _damaged(path, str(error)) from error


def _member(archive: Any, name: str, path: Path) -> NDArray[Any]:
    try:
        array = archive[name]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise _damaged(path, f"array {name!r}: {error}") from error
        raise InputError(
            "data-pickled",
            f"array {name!r} is a pickled object array; pickles can run code and are never loaded",
            where=str(path),
            hint="save arrays of one numeric type and one shape; samples of differing shapes go into a folder of .npz",
        ) from error
    if not isinstance(array, np.ndarray):
        raise _damaged(path, f"member {name!r} is not a numpy array")
    return array


def _damaged(path: Path, detail: str) -> InputError:
    return InputError(
        "data-damaged-npz", f"cannot be read: {detail}", where=str(path), hint="copy or save the file again"
    )


def _not_an_npz(path: Path) -> InputError:
    try:
        with path.open("rb") as file:
            start = file.read(6)
    except OSError as error:
        return _damaged(path, str(error))
    what, hint = "not an .npz archive", "write it with numpy.savez(path, input_name=array)"
    if start.startswith(b"PK"):
        what, hint = "an incomplete .npz archive: its end is missing", "copy or save the file again"
    elif start == b"\x93NUMPY":
        what = "a single .npy array, not an .npz archive"
    elif start.startswith(b"\x80"):
        what = "a pickle, not an .npz archive; pickles can run code and are never loaded"
        return InputError("data-pickled", what, where=str(path), hint=hint)
    return InputError("data-not-npz", what, where=str(path), hint=hint)


def _samples(block: Block, inputs: Sequence[InputSpec]) -> Iterator[Arrays]:
    """One view of the block's arrays for each sample."""
    parts = [(spec.name, block.arrays[spec.name], spec.rows if spec.batched else 0) for spec in inputs]
    for unit in range(block.count):
        yield {name: array[unit * rows : (unit + 1) * rows] if rows else array for name, array, rows in parts}


def _joined_labels(blocks: Sequence[Block]) -> NDArray[np.int64] | None:
    labels = [block.labels for block in blocks if block.labels is not None]
    if not labels:
        return None
    if len(labels) == len(blocks):
        return np.concatenate(labels)
    bare = next(block for block in blocks if block.labels is None)
    raise InputError(
        "data-labels-partial",
        f"no array 'labels' here, though {len(labels)} of {len(blocks)} parts have one",
        where=bare.where,
        hint="give labels everywhere or nowhere",
    )


def _no_samples(source: str, blocks: Sequence[Block], inputs: Sequence[InputSpec]) -> InputError:
    rows = max((spec.rows for spec in inputs), default=1)
    if not blocks or rows == 1:
        return InputError("data-empty", "no samples", where=source, hint="give at least one sample")
    what = f"no samples: the model fixes the batch at {rows}, and no part of the data has that many rows"
    return InputError("data-empty", what, where=source, hint=f"give at least {rows} rows together")
