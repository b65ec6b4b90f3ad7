"""The files beside a model that hold its weights: checked, hashed and, where the model is small enough, read."""

from __future__ import annotations

import filecmp
import hashlib
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path, PurePath

import onnx
from onnx import TensorProto, helper

from skipc.passes.base import CHECKABLE_BYTES
from skipc.passes.external import entries, is_external, locations, put_inline, tensors
from skipc.passes.flow import subgraphs
from skipc.runtime.errors import InputError

CHUNK_BYTES = 2**24
INLINE_BYTES = 4096
"""Tensors up to this size are read in any case: they may hold shapes, and scales of quantization."""

SUB_BYTE = 0.5
"""Bytes of an element of four bits, of which two share one."""


def external_files(model: onnx.ModelProto, path: Path) -> tuple[Path, ...]:
    """The files that hold a model's weights, all of which are there.

    Raises:
        InputError: ``external-data-missing``, or ``external-data-invalid`` for one outside the model's folder.
    """
    names = locations(model)
    outside = [name for name in names if PurePath(name).is_absolute() or ".." in PurePath(name).parts or not name]
    if outside:
        what = f"its external data lie outside its own folder: {outside[0]!r}"
        raise InputError("external-data-invalid", what, where=str(path), hint="export the model again")
    files = tuple(path.parent / name for name in names)
    missing = [external.name for external in files if not external.is_file()]
    if missing:
        hint = f"put {missing[0]} beside {path.name}, or export the model again"
        what = f"the model keeps weights in {missing[0]}, which is not there"
        raise InputError("external-data-missing", what, where=str(path), hint=hint)
    return files


def digest_of(content: bytes, files: Sequence[Path]) -> str:
    """SHA-256 of a model's bytes and of the files that it refers to, piece by piece."""
    hasher = hashlib.sha256(content)
    for external in files:
        with external.open("rb") as file:
            while piece := file.read(CHUNK_BYTES):
                hasher.update(piece)
    return hasher.hexdigest()


def data_beside(path: Path, files: Sequence[Path], out: Path) -> dict[Path, Path]:
    """What must be written beside an output that refers to the same data as a model: its source by its target.

    Nothing where both lie in one folder, or where the data is there already.

    Raises:
        InputError: ``output-unwritable``: a file of that name holds something else.
    """
    targets = {out.parent / external.relative_to(path.parent): external for external in files}
    missing = {target: external for target, external in targets.items() if not target.exists()}
    for target, external in targets.items():
        if target not in missing and not (target.samefile(external) or filecmp.cmp(target, external, shallow=False)):
            what = "the weights would overwrite a file that holds something else"
            hint = "name an output in another folder with -o"
            raise InputError("output-unwritable", what, where=str(target), hint=hint)
    return missing


def read_external(model: onnx.ModelProto, path: Path, files: Sequence[Path]) -> None:
    """Put the data into the model, or only those of small tensors where it would become larger than 2 GB.

    Raises:
        InputError: ``external-data-invalid``.
    """
    try:
        if model.ByteSize() + sum(external.stat().st_size for external in files) <= CHECKABLE_BYTES:
            onnx.load_external_data_for_model(model, str(path.parent))
            return
        _require_initializers(model)
        for tensor in filter(is_external, tensors(model.graph)):
            _read_small(tensor, path.parent)
    except Exception as error:
        what = f"its external data cannot be read: {error}"
        raise InputError("external-data-invalid", what, where=str(path), hint="export the model again") from error


def _require_initializers(model: onnx.ModelProto) -> None:
    initializers = sum(is_external(tensor) for tensor in _initializers(model.graph))
    if initializers < sum(map(is_external, tensors(model.graph))):
        raise ValueError("beyond 2 GB, weights must be initializers, and some are held by Constant nodes")


def _initializers(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for inner in subgraphs(node):
            yield from _initializers(inner)


def _read_small(tensor: onnx.TensorProto, folder: Path) -> None:
    place = entries(tensor)
    size, offset = _size_bytes(tensor), int(place.get("offset", 0))
    if int(place.get("length", size)) != size:
        raise ValueError(f"{tensor.name} has {size} bytes, of which {place['length']} are there")
    with (folder / place["location"]).open("rb") as file:
        file.seek(0, 2)
        if file.tell() < offset + size:
            raise ValueError(f"{place['location']} ends before {tensor.name} does")
        if size <= INLINE_BYTES:
            file.seek(offset)
            put_inline(tensor, file.read(size))


def _size_bytes(tensor: onnx.TensorProto) -> int:
    packed = tensor.data_type in (TensorProto.INT4, TensorProto.UINT4)
    each = SUB_BYTE if packed else helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return -int(-prod(tensor.dims) * each // 1)
