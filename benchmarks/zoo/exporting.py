"""Export a torch network to ONNX by either exporter."""

from __future__ import annotations

import io
import warnings
from inspect import signature
from typing import Any

import onnx
import torch

from benchmarks.zoo.tokens import Exportable


def images(module: torch.nn.Module) -> Exportable:
    """A network over images [batch, 3, 32, 32]."""
    with torch.no_grad():
        found = module(torch.randn(2, 3, 32, 32))
    outputs = tuple(f"y{i}" for i in range(len(found))) if isinstance(found, tuple) else ("y",)
    axes = {name: {0: "batch"} for name in ("image", *outputs)}
    return Exportable(module, {"image": torch.randn(2, 3, 32, 32)}, outputs, axes)


def exported(network: Exportable, *, dynamo: bool, opset: int) -> onnx.ModelProto:
    """The network as a model.

    Args:
        network: to export.
        dynamo: whether by torch's newer exporter.
        opset: to write for.
    """
    names = {"input_names": list(network.inputs), "output_names": list(network.outputs), "opset_version": opset}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        if dynamo:
            return _by_dynamo(network, names)
        buffer = io.BytesIO()
        values = tuple(network.inputs.values())
        torch.onnx.export(network.module, values, buffer, dynamic_axes=network.open_axes, dynamo=False, **names)
    return onnx.load_from_string(buffer.getvalue())


def _by_dynamo(network: Exportable, names: dict[str, Any]) -> onnx.ModelProto:
    values = tuple(network.inputs.values())
    shapes = [dict.fromkeys(network.open_axes[name], torch.export.Dim.AUTO) for name in network.inputs]
    program = torch.onnx.export(
        network.module, values, dynamic_shapes=_grouped(network, shapes), dynamo=True, verbose=False, **names
    )
    return program.model_proto


def _grouped(network: Exportable, shapes: list[dict[int, Any]]) -> tuple[Any, ...]:
    """The shapes as the parameters of the network take them: those of a starred one together."""
    plain = [item for item in signature(network.module.forward).parameters.values() if item.kind != item.VAR_POSITIONAL]
    if len(plain) == len(shapes):
        return tuple(shapes)
    return (*shapes[: len(plain)], tuple(shapes[len(plain) :]))
