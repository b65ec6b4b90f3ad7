"""Read a model file, or say exactly why it cannot be read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, Message

from skipc.compiler.external_data import digest_of, external_files, read_external
from skipc.passes.base import check, copied
from skipc.passes.external import refers
from skipc.passes.normalize import is_sorted, sort
from skipc.runtime.errors import InputError


@dataclass(frozen=True)
class Source:
    """A valid model as it was read.

    Attributes:
        path: where it was read from.
        model: with external data loaded, or with references to them where they are too large.
        digest: SHA-256 of the file, and of the external data it refers to.
        size_bytes: of the same.
        files: the external data that `model` refers to.
    """

    path: Path
    model: onnx.ModelProto
    digest: str
    size_bytes: int
    files: tuple[Path, ...] = ()

    @property
    def loadable(self) -> bytes | Path:
        """What a session can be opened from: the model's bytes, or its path where weights lie elsewhere."""
        return self.path if self.files else self.model.SerializeToString()

    def require_whole(self) -> None:
        """Refuse a model whose weights are not in memory.

        Raises:
            InputError: ``model-too-large``.
        """
        if self.files:
            what = f"the model has {self.size_bytes / 1e9:.1f} GB; beyond 2 GB it can be compiled without data only"
            hint = "convert its weights to float16 or 8 bits first; without --data its structure is compiled"
            raise InputError("model-too-large", what, where=str(self.path), hint=hint)


def load_model(path: Path) -> Source:
    """Read and check a model.

    Raises:
        InputError: the file is missing, no ONNX model, truncated, invalid, or lacks its external data.
    """
    data = _read(path)
    model = _parse(data, path)
    files = external_files(model, path)
    digest, size = digest_of(data, files), len(data) + sum(external.stat().st_size for external in files)
    read_external(model, path, files)
    check_source(model, path)
    return Source(path, model, digest, size, files if refers(model) else ())


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
