"""The values of the data side: what a model declares, samples that fit it, and batches to run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skipc.runtime.errors import InputError

if TYPE_CHECKING:
    import onnx

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class InputSpec:
    """What the model declares for one graph input; a dimension is fixed (int), symbolic (str) or unknown (None)."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...]

    @property
    def batched(self) -> bool:
        """Whether samples lie along axis 0; a scalar has no axis, and one value serves a whole batch."""
        return bool(self.shape)

    @property
    def fixed_batch(self) -> bool:
        """Whether the model accepts only one length of axis 0."""
        return self.batched and isinstance(self.shape[0], int)

    @property
    def rows(self) -> int:
        """Rows of axis 0 that make one sample: the fixed batch of the model, or one."""
        first = self.shape[0] if self.batched else None
        return max(1, first) if isinstance(first, int) else 1

    def shape_text(self) -> str:
        """The shape that data must have, such as ``[batch, 3, 224, 224]``."""
        inner = ("?" if dim is None else str(dim) for dim in self.shape[1:])
        return f"[{', '.join(('batch', *inner))}]" if self.batched else "[]"


def input_specs(model: onnx.ModelProto) -> tuple[InputSpec, ...]:
    """The graph inputs that a caller must feed: those that no initializer fills."""
    graph = model.graph
    filled = {item.name for item in graph.initializer} | {item.values.name for item in graph.sparse_initializer}
    return tuple(_input_spec(item) for item in graph.input if item.name not in filled)


def _input_spec(value: onnx.ValueInfoProto) -> InputSpec:
    if not value.type.HasField("tensor_type"):
        raise _unfit_input(value.name, "is no tensor")
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        raise _unfit_input(value.name, "declares no shape")
    shape = tuple(_dimension(dim) for dim in tensor.shape.dim)
    return InputSpec(value.name, _numpy_type(value.name, tensor.elem_type), shape)


def _dimension(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if dim.HasField("dim_value"):
        return dim.dim_value if dim.dim_value >= 0 else None
    return dim.dim_param or None


def _numpy_type(name: str, elem_type: int) -> np.dtype[Any]:
    from onnx import TensorProto, helper

    if elem_type == TensorProto.UNDEFINED:
        raise _unfit_input(name, "declares no element type")
    dtype = helper.tensor_dtype_to_np_dtype(elem_type)
    if dtype.kind not in "biuf" or dtype.isbuiltin != 1:
        raise _unfit_input(name, f"has the element type {TensorProto.DataType.Name(elem_type).lower()}")
    return np.dtype(dtype)


def _unfit_input(name: str, why: str) -> InputError:
    return InputError(
        "model-unfit-input",
        f"{why}, so no numpy array can feed it",
        where=f"graph input {name!r}",
        hint="export the model with inputs that are boolean, integer or floating-point tensors of known rank",
    )


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples that fit a model.

    Attributes:
        name: what reports call the data.
        digest: sha256 over names, types, shapes and bytes in sample order, labels included; how and where the files
            lie does not matter.
        samples: one mapping of input name to array each, the batch axis kept. It has length 1, or the model's own
            batch where that is fixed.
        labels: ``[samples]``, or ``[samples, rows]`` where the model's batch is fixed above one.
    """

    name: str
    digest: str
    samples: tuple[Arrays, ...]
    labels: NDArray[np.int64] | None

    def __len__(self) -> int:
        return len(self.samples)

    def subset(self, indices: Iterable[int] | NDArray[np.integer[Any]]) -> Dataset:
        """The samples at these positions, in this order."""
        chosen = np.asarray(indices if isinstance(indices, np.ndarray) else list(indices), dtype=np.int64)
        suffix = hashlib.sha256(chosen.astype("<i8").tobytes()).hexdigest()[:16]
        return Dataset(
            name=self.name,
            digest=f"{self.digest}-{suffix}",
            samples=tuple(self.samples[index] for index in chosen),
            labels=None if self.labels is None else self.labels[chosen],
        )


@dataclass(frozen=True, eq=False)
class Batch:
    """Arrays for one run of the model.

    Attributes:
        feeds: input name to array, as ``InferenceSession.run`` takes them.
        indices: positions of the samples in their data set.
        valid: ``[batch, sequence]``, true where a token is real and not padding; None without a mask input.
    """

    feeds: Arrays
    indices: tuple[int, ...]
    valid: NDArray[np.bool_] | None


def content_digest(samples: Sequence[Arrays], labels: NDArray[np.int64] | None) -> str:
    """The sha256 that `Dataset.digest` describes, in hexadecimal."""
    sha = hashlib.sha256()
    for sample in samples:
        for name in sorted(sample):
            _update(sha, name, sample[name])
    if labels is not None:
        _update(sha, "labels", labels)
    return sha.hexdigest()


def _update(sha: hashlib._Hash, name: str, array: NDArray[Any]) -> None:
    sha.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
    sha.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
