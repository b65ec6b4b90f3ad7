"""A model repository for NVIDIA Triton's ONNX Runtime backend, made from a model file.

Triton's documents call the layout ``<repository>/<name>/<version>/model.onnx`` beside ``<name>/config.pbtxt``, a text
message of type ``inference.ModelConfig``. The model itself is copied as it is: nothing of skipc is needed to serve it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
from onnx import TensorProto

from skipc.passes.stamp import is_compiled, plan_of
from skipc.runtime.errors import InputError
from skipc.runtime.plan import Plan

TYPES: Mapping[int, str] = {
    TensorProto.BOOL: "TYPE_BOOL",
    TensorProto.UINT8: "TYPE_UINT8",
    TensorProto.UINT16: "TYPE_UINT16",
    TensorProto.UINT32: "TYPE_UINT32",
    TensorProto.UINT64: "TYPE_UINT64",
    TensorProto.INT8: "TYPE_INT8",
    TensorProto.INT16: "TYPE_INT16",
    TensorProto.INT32: "TYPE_INT32",
    TensorProto.INT64: "TYPE_INT64",
    TensorProto.FLOAT16: "TYPE_FP16",
    TensorProto.FLOAT: "TYPE_FP32",
    TensorProto.DOUBLE: "TYPE_FP64",
    TensorProto.STRING: "TYPE_STRING",
    TensorProto.BFLOAT16: "TYPE_BF16",
}
"""Element types by the names that Triton has for them."""

Dims = tuple[int, ...]


def triton_repository(model: onnx.ModelProto, data: bytes, name: str, *, gpu: bool) -> dict[Path, bytes]:
    """The files of a repository with this one model, by path within the repository.

    A compiled file is served at the batch size that it was certified for, and Triton is not asked to gather requests
    into batches: gates decide for a batch together, so that other batches would bypass other blocks.

    Args:
        model: parsed, for its signature and plan.
        data: the file.
        name: of the model in the repository.
        gpu: whether instances run on a GPU.

    Raises:
        InputError: ``triton-name`` or ``triton-type``.
    """
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
        what = f"{name!r} cannot name a folder of a model repository"
        raise InputError("triton-name", what, where="--name", hint="use letters, digits, dots, dashes and underscores")
    config = triton_config(model, name, gpu=gpu)
    return {Path(name) / "config.pbtxt": config.encode(), Path(name) / "1" / "model.onnx": data}


def triton_config(model: onnx.ModelProto, name: str, *, gpu: bool) -> str:
    """The text of ``config.pbtxt``.

    Raises:
        InputError: ``triton-type``: a value is of a type that Triton does not have.
    """
    plan = plan_of(model, where=name) if is_compiled(model) else None
    filled = {item.name for item in model.graph.initializer}
    inputs = [item for item in model.graph.input if item.name not in filled]
    outputs = list(model.graph.output)
    together = _batch_size(plan, [_dims(item) for item in (*inputs, *outputs)])
    threads = plan.threads if plan else 1
    lines = [
        *_comments(plan),
        f'name: "{name}"',
        'backend: "onnxruntime"',
        f"max_batch_size: {together}",
        *(_tensor("input", item, together) for item in inputs),
        *(_tensor("output", item, together) for item in outputs),
        f"instance_group [ {{ kind: {'KIND_GPU' if gpu else 'KIND_CPU'} count: 1 }} ]",
        f'parameters {{ key: "intra_op_thread_count" value {{ string_value: "{threads}" }} }}',
    ]
    return "\n".join(lines) + "\n"


def _comments(plan: Plan | None) -> list[str]:
    if plan is None:
        return []
    certificate = plan.certificate
    promise = (
        f"# Certified: mean {certificate.loss} of {certificate.output} at most {certificate.limit:g} "
        f"with confidence {certificate.confidence:g}, for batches of {plan.batch_size}."
        if certificate
        else "# Nothing is certified: every gate is shut."
    )
    return [f"# Compiled by skipc {plan.versions.get('skipc', '?')}, level {plan.level}.", promise]


def _batch_size(plan: Plan | None, shapes: Sequence[Dims]) -> int:
    """Rows that Triton may send at a time; 0 where not every value has an open batch axis, so that it takes no part."""
    open_batch = all(dims and dims[0] == -1 for dims in shapes)
    return (plan.batch_size if plan else 1) if open_batch else 0


def _dims(item: onnx.ValueInfoProto) -> Dims:
    """Extents, -1 where open."""
    return tuple(int(dim.dim_value) if dim.HasField("dim_value") else -1 for dim in item.type.tensor_type.shape.dim)


def _tensor(role: str, item: onnx.ValueInfoProto, together: int) -> str:
    elem_type = item.type.tensor_type.elem_type
    if elem_type not in TYPES:
        what = f"{role} {item.name!r} has an element type that Triton does not know"
        raise InputError("triton-type", what, where=item.name, hint="cast it in the model")
    dims = _dims(item)[1:] if together else _dims(item)
    # Triton wants at least one extent of each tensor and drops it again on request.
    shape = f"dims: [ {', '.join(map(str, dims))} ]" if dims else "dims: [ 1 ] reshape { shape: [ ] }"
    return f'{role} [ {{ name: "{item.name}" data_type: {TYPES[elem_type]} {shape} }} ]'
