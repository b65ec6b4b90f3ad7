"""Read a model file, or say exactly why it cannot be read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, Message

from skipc.passes.base import CHECKABLE_BYTES, check, copied
from skipc.passes.flow import subgraphs
from skipc.passes.normalize import is_sorted, sort
from skipc.runtime.errors import InputError


@dataclass(frozen=True)
class Source:
    """A valid model as it was read.

    Attributes:
        path: where it was read from.
        model: with external data loaded.
        digest: SHA-256 of the file, and of the external data it refers to.
        size_bytes: of the same.
    """

    path: Path
    model: onnx.ModelProto
    digest: str
    size_bytes: int


def load_model(path: Path) -> Source:
    """Read and check a model.

    Raises:
        InputError: the file is missing, no ONNX model, truncated, invalid, or lacks its external data.
    """
    data = _read(path)
    model = _parse(data, path)
    hasher, size = hashlib.sha256(data), len(data)
    files = tuple(path.parent / name for name in _external_files(model))
    _require_present(files, path)
    _require_small_enough(len(data) + sum(external.stat().st_size for external in files), path)
    for external in files:
        content = external.read_bytes()
        hasher.update(content)
        size += len(content)
    _load_external(model, path)
    check_source(model, path)
    return Source(path, model, hasher.hexdigest(), size)


def _read(path: Path) -> bytes:
    if not path.exists():
        raise InputError("model-missing", "there is no such file", where=str(path), hint="check the path")
    try:
        return path.read_bytes()
    except OSError as error:
        hint = "give the .onnx file itself, and check that you may read it"
        raise InputError("model-unreadable", f"cannot read it: {error.strerror}", where=str(path), hint=hint) from error


def _parse(data: bytes, path: Path) -> onnx.ModelProto:
    hint = "give a model exported to ONNX; if it was downloaded or copied, check that the file is whole"
    try:
        model = onnx.ModelProto()
        model.ParseFromString(data)
    except DecodeError as error:
        what = "the file is not an ONNX model, or it is cut off"
        raise InputError("not-onnx", what, where=str(path), hint=hint) from error
    if not _texts_are_valid(model):
        raise InputError("not-onnx", "a name in it is not UTF-8", where=str(path), hint=hint)
    if not model.graph.node or not model.ir_version:
        raise InputError("not-onnx", "the file holds no ONNX graph", where=str(path), hint=hint)
    return model


def _texts_are_valid(message: Message) -> bool:
    """Whether every text in a message is one; protobuf leaves what is not UTF-8 as bytes."""
    for field, value in message.ListFields():
        values = (value,) if isinstance(value, (str, bytes, Message)) else value
        if field.type == field.TYPE_STRING and not all(isinstance(item, str) for item in values):
            return False
        if field.type == field.TYPE_MESSAGE and not all(_texts_are_valid(item) for item in values):
            return False
    return True


def _external_files(model: onnx.ModelProto) -> tuple[str, ...]:
    external = (item for item in _tensors(model.graph) if item.data_location == onnx.TensorProto.EXTERNAL)
    found = (entry.value for item in external for entry in item.external_data if entry.key == "location")
    return tuple(dict.fromkeys(found))


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """All tensors in a graph: initializers, those in attributes, and those in subgraphs."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield attribute.t
            yield from attribute.tensors
        for inner in subgraphs(node):
            yield from _tensors(inner)


def _require_present(files: Sequence[Path], path: Path) -> None:
    missing = [external.name for external in files if not external.is_file()]
    if missing:
        hint = f"put {missing[0]} beside {path.name}, or export the model again"
        what = f"the model keeps weights in {missing[0]}, which is not there"
        raise InputError("external-data-missing", what, where=str(path), hint=hint)


def _require_small_enough(size_bytes: int, path: Path) -> None:
    if size_bytes > CHECKABLE_BYTES:
        what = f"the model has {size_bytes / 1e9:.1f} GB; more than 2 GB cannot be handled in one piece yet"
        hint = "convert its weights to float16 or 8 bits first"
        raise InputError("model-too-large", what, where=str(path), hint=hint)


def _load_external(model: onnx.ModelProto, path: Path) -> None:
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except Exception as error:
        what = f"its external data cannot be read: {error}"
        raise InputError("external-data-invalid", what, where=str(path), hint="export the model again") from error


def _sorted(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model as the checker wants it: converters leave it to runtimes to sort the nodes."""
    if is_sorted(model.graph):
        return model
    model = copied(model)
    sort(model.graph)
    return model


def check_source(model: onnx.ModelProto, path: Path) -> None:
    """Run ONNX's checker over a model, its nodes sorted.

    Raises:
        InputError: ``model-invalid``, in the checker's words.
    """
    try:
        check(_sorted(model))
    except Exception as error:
        words = " ".join(str(error).split())
        hint = "fix the export; `python -m onnx.checker` prints the same complaint"
        raise InputError("model-invalid", f"ONNX's checker refuses it: {words}", where=str(path), hint=hint) from error
