"""Learn the type of every value in a model: by running it, and by inference for the names of its dimensions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx.helper import np_dtype_to_tensor_dtype

from skipc.compiler.data import batches, synthetic
from skipc.compiler.data_types import Dataset, InputSpec
from skipc.passes.expose import with_outputs
from skipc.passes.flow import Flow
from skipc.passes.regions import ValueType
from skipc.runtime.errors import InputError
from skipc.runtime.plan import Array, Dim
from skipc.runtime.session import Session, open_session

EXTENTS = (8, 32, 64, 224)
"""Extents tried for the free axes of a model that comes without data."""

Feeds = Mapping[str, Array]


def probe_types(model: onnx.ModelProto, feeds: Sequence[Feeds]) -> dict[str, ValueType]:
    """Types of all values that depend on the model's inputs, and of its constants.

    A dimension is fixed if inference says so, or if it is the same in every run; it is named if inference names it.

    Args:
        model: normalised.
        feeds: one run each; the more their shapes differ, the better.
    """
    inferred = _inferred(model)
    flow = Flow.of(model.graph)
    written = [name for i in range(len(flow.nodes)) for name in flow.nodes[i].output if name]
    session = open_session(with_outputs(model, written).SerializeToString(), optimize=False)
    wanted = [name for name in session.outputs if name in flow.producer]
    runs = [session.run(item, wanted) for item in feeds]
    found = {}
    for name in wanted:
        arrays = [run[name] for run in runs]
        if all(isinstance(array, np.ndarray) and array.ndim == arrays[0].ndim for array in arrays):
            found[name] = _merged(arrays, inferred.get(name, ()))
    return found


def _merged(arrays: Sequence[Array], inferred: tuple[Dim, ...]) -> ValueType:
    shapes = [array.shape for array in arrays]
    known = inferred if len(inferred) == len(shapes[0]) else (None,) * len(shapes[0])
    dims = tuple(_dim([shape[axis] for shape in shapes], known[axis]) for axis in range(len(shapes[0])))
    return ValueType(int(np_dtype_to_tensor_dtype(arrays[0].dtype)), dims)


def _dim(extents: Sequence[int], inferred: Dim) -> Dim:
    if inferred is not None:
        return inferred
    return extents[0] if len(set(extents)) == 1 else None


def _inferred(model: onnx.ModelProto) -> dict[str, tuple[Dim, ...]]:
    """Shapes by ONNX's own inference, and those that the model declares."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    found = {}
    for item in (*graph.value_info, *graph.output):
        if item.type.tensor_type.HasField("shape"):
            found[item.name] = tuple(_declared(dim) for dim in item.type.tensor_type.shape.dim)
    return found


def _declared(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    return str(dim.dim_param) or None


def probe_feeds(model: onnx.ModelProto, inputs: Sequence[InputSpec], data: Dataset | None) -> tuple[Feeds, ...]:
    """Two feeds that differ in as many free axes as the model stands.

    Raises:
        InputError: the model runs on none of them.
    """
    session = open_session(model.SerializeToString(), optimize=False)
    if data is None:
        return _synthetic_feeds(session, inputs)
    sizes = (1, 2) if _free_batch(inputs) and len(data) > 1 else (1, 1)
    first = batches(data, sizes[0], inputs)[0].feeds
    second = batches(data, sizes[1], inputs)[-1].feeds
    shorter = _cropped(second, inputs)
    _run(session, first)
    return (first, shorter if _runs(session, shorter) else second)


def _free_batch(inputs: Sequence[InputSpec]) -> bool:
    return all(spec.shape and not isinstance(spec.shape[0], int) for spec in inputs)


def _cropped(feeds: Feeds, inputs: Sequence[InputSpec]) -> Feeds:
    """Feeds with the last element cut off along every free axis but the first."""
    cut = {}
    for spec in inputs:
        array = feeds[spec.name]
        free = [
            axis for axis, dim in enumerate(spec.shape) if axis and not isinstance(dim, int) and array.shape[axis] > 1
        ]
        cut[spec.name] = np.ascontiguousarray(
            array[tuple(slice(0, -1) if axis in free else slice(None) for axis in range(array.ndim))]
        )
    return cut


def _synthetic_feeds(session: Session, inputs: Sequence[InputSpec]) -> tuple[Feeds, ...]:
    for extent in EXTENTS:
        first = synthetic(inputs, batch=1, extent=extent, seed=0)
        second = synthetic(inputs, batch=2, extent=extent + 1, seed=1)
        if _runs(session, first):
            return (first, second if _runs(session, second) else first)
    hint = "give real inputs with --data"
    raise InputError("model-unrunnable", "the model does not run on made-up inputs", hint=hint)


def _runs(session: Session, feeds: Feeds) -> bool:
    try:
        session.run(feeds)
    except Exception:
        return False
    return True


def _run(session: Session, feeds: Feeds) -> None:
    try:
        session.run(feeds)
    except Exception as error:
        hint = "check that the data fits the model"
        raise InputError("model-unrunnable", f"the model does not run on the data: {error}", hint=hint) from error
