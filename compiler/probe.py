"""Learn the type of every value in a model: by running it, and by inference for the names of its dimensions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx.helper import np_dtype_to_tensor_dtype

from skipc.compiler.data import batches
from skipc.compiler.data_types import Dataset, InputSpec
from skipc.compiler.extents import guesses
from skipc.passes.candidate import ValueType
from skipc.passes.expose import with_outputs
from skipc.passes.external import refers
from skipc.passes.flow import Flow, members
from skipc.passes.stand_in import runnable
from skipc.passes.widen import is_narrow
from skipc.runtime.errors import InputError
from skipc.runtime.plan import Array, Dim
from skipc.runtime.session import Session, open_session

Feeds = Mapping[str, Array]
Extents = tuple[int, ...]
"""Of one dimension, run by run."""


def probe_types(model: onnx.ModelProto, feeds: Sequence[Feeds]) -> dict[str, ValueType]:
    """Types of the model's inputs, of all values that depend on them, and of values computed from constants.

    A dimension is fixed if inference says so, or if it is the same in every run. It has the name of a dimension of the
    inputs if it ran with the same extents: inference alone loses names behind a Reshape, or makes up its own.

    Args:
        model: normalised.
        feeds: one run each; the more their shapes differ, the better.
    """
    inferred, narrow = _inferred(model), narrow_values(model)
    flow = Flow.of(model.graph)
    # What is computed from weights alone is as large as they are.
    shown = members(flow.live) if refers(model) else range(len(flow.nodes))
    written = [name for i in shown for name in flow.nodes[i].output if name]
    session = open_session(with_outputs(runnable(model), written).SerializeToString(), optimize=False)
    wanted = [name for name in session.outputs if name in flow.producer]
    runs = [{**item, **session.run(item, wanted)} for item in feeds]
    named = _named_extents(model, feeds)
    found = {}
    for name in (*wanted, *sorted(flow.graph_inputs.intersection(*feeds))):
        arrays = [run[name] for run in runs]
        ranks = {getattr(array, "ndim", None) for array in arrays}
        if len(ranks) == 1 and None not in ranks:
            found[name] = _merged(arrays, inferred.get(name, ()), named)
            if name in narrow:
                found[name] = replace(found[name], elem_type=onnx.TensorProto.BFLOAT16)
    return found


def _named_extents(model: onnx.ModelProto, feeds: Sequence[Feeds]) -> dict[Extents, str]:
    """The named dimensions of the inputs by the extents that they have in the runs; the first of those that agree."""
    found: dict[Extents, str] = {}
    for item in model.graph.input:
        for axis, dim in enumerate(item.type.tensor_type.shape.dim):
            if dim.dim_param and all(item.name in run for run in feeds):
                found.setdefault(tuple(run[item.name].shape[axis] for run in feeds), dim.dim_param)
    return found


def _merged(arrays: Sequence[Array], inferred: tuple[Dim, ...], named: Mapping[Extents, str]) -> ValueType:
    rank = arrays[0].ndim
    known = inferred if len(inferred) == rank else (None,) * rank
    dims = (_dim(tuple(array.shape[axis] for array in arrays), known[axis], axis, named) for axis in range(rank))
    return ValueType(int(np_dtype_to_tensor_dtype(arrays[0].dtype)), tuple(dims))


def _dim(extents: Extents, inferred: Dim, axis: int, named: Mapping[Extents, str]) -> Dim:
    """One dimension; where all runs agree, only axis 0 is taken for a named one: a batch that data did not vary."""
    if isinstance(inferred, int):
        return inferred
    if len(set(extents)) > 1:
        return named.get(extents)
    if inferred in named.values() or axis == 0:
        return named.get(extents, extents[0])
    return extents[0]


def narrow_values(model: onnx.ModelProto) -> frozenset[str]:
    """The bfloat16 values by ONNX's own inference; `runnable` computes them in float32."""
    if not is_narrow(model):
        return frozenset()
    graph = onnx.shape_inference.infer_shapes(model).graph
    typed = ((item.name, item.type.tensor_type.elem_type) for item in (*graph.value_info, *graph.output, *graph.input))
    return frozenset(name for name, elem_type in typed if elem_type == onnx.TensorProto.BFLOAT16)


def _inferred(model: onnx.ModelProto) -> dict[str, tuple[Dim, ...]]:
    """Shapes by ONNX's own inference, and those that the model declares."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    found = {}
    for item in (*graph.value_info, *graph.output, *graph.input):
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
    session = open_session(runnable(model).SerializeToString(), optimize=False)
    if data is None:
        return _synthetic_feeds(session, inputs)
    sizes = (1, 2) if _free_batch(inputs) and len(data) > 1 else (1, 1)
    first = batches(data, sizes[0], inputs)[0].feeds
    second = max(reversed(batches(data, sizes[1], inputs)), key=lambda item: len(item.indices)).feeds
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
    for guess in guesses(inputs):
        first = guess.feeds(inputs, batch=1, seed=0)
        if _runs(session, first):
            others = (other.feeds(inputs, batch=2, seed=1) for other in guess.others())
            return (first, next((feeds for feeds in others if _runs(session, feeds)), first))
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
