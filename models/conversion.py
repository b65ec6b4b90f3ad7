"""Torch to ONNX, through either exporter, and the proof that the result still is the same network."""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import ConversionError, MissingExtraError

OPSET = 17
DYNAMO_OPSET = 18
"""The lowest that the newer exporter writes without converting the graph back."""


@dataclass(frozen=True)
class Export:
    """A network and what its graph's inputs and outputs are called.

    Attributes:
        module: a torch module in evaluation mode.
        examples: one tensor per input, by name, in the order of the arguments.
        output: the name of the only output.
        axes: per input or output the names of its dynamic axes.
    """

    module: Any
    examples: Mapping[str, Any]
    output: str
    axes: Mapping[str, Mapping[int, str]]


def require(module: str, recipe: str) -> Any:
    """Import a package of the extra `models`, or say that the extra is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError((error.name or module).split(".")[0], where=recipe) from error


def export_traced(job: Export, path: Path) -> None:
    """Write the graph of the tracing exporter (`dynamo=False`), batch normalisation folded."""
    import torch

    with quiet(), torch.no_grad():
        torch.onnx.export(
            job.module,
            tuple(job.examples.values()),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=list(job.examples),
            output_names=[job.output],
            dynamic_axes={name: dict(axes) for name, axes in job.axes.items()},
        )
    _write_output_shape(job, path)


def export_dynamo(job: Export, path: Path) -> None:
    """Write the graph of the newer exporter (`dynamo=True`), weights inside the file."""
    import torch

    dimensions = {name: torch.export.Dim(name) for axes in job.axes.values() for name in axes.values()}
    shapes = tuple({axis: dimensions[name] for axis, name in job.axes[key].items()} for key in job.examples)
    with quiet(), torch.no_grad():
        torch.onnx.export(
            job.module,
            tuple(job.examples.values()),
            str(path),
            dynamo=True,
            external_data=False,
            opset_version=DYNAMO_OPSET,
            input_names=list(job.examples),
            output_names=[job.output],
            dynamic_shapes=shapes,
        )


def check_against_torch(
    path: Path, job: Export, feeds: Sequence[Mapping[str, NDArray[Any]]], tolerance: float
) -> float:
    """The largest absolute difference between ONNX Runtime and torch over the feeds; raises above `tolerance`."""
    import torch

    ort = require("onnxruntime", path.name)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for feed in feeds:
        with torch.no_grad():
            expected = job.module(*(torch.from_numpy(feed[name]) for name in job.examples)).numpy()
        worst = max(worst, float(np.abs(session.run(None, dict(feed))[0] - expected).max()))
    if worst <= tolerance:
        return worst
    raise ConversionError(
        f"ONNX Runtime differs from torch by {worst:.2e}, above {tolerance:.0e}",
        where=path.name,
        hint="install the pinned versions: `pip install skipc[models]`",
    )


def _write_output_shape(job: Export, path: Path) -> None:
    """Fill in the output's fixed sizes: the tracing exporter loses them behind a broadcast."""
    import torch

    onnx = require("onnx", path.name)
    with torch.no_grad():
        sizes = job.module(*job.examples.values()).shape
    model = onnx.load(path)
    for axis, size in enumerate(sizes):
        if axis not in job.axes[job.output]:
            model.graph.output[0].type.tensor_type.shape.dim[axis].dim_value = size
    onnx.save(model, path)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep others' warnings and their words on stdout from the user; errors still come through."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
