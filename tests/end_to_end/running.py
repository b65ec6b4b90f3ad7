"""Run models in ONNX Runtime itself, without skipc's own session in between."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from skipc.passes.stamp import SetLevel

Array = NDArray[Any]
Feeds = Mapping[str, Array]

SHUT_TOLERANCE = 1e-5
"""Of the output's largest value. Branches keep ONNX Runtime from some fusions, so that float32 sums of a few hundred
terms, each off by 6e-8 at most, are taken in another order; what a wrong graph computes is off by far more."""

LOAD_AND_RUN = """
import sys
import numpy as np
import onnxruntime as ort
session = ort.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
types = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(int64)": np.int64}
def ones(item):
    extents = [dim if isinstance(dim, int) else 2 for dim in item.shape]
    return np.ones(extents, types[item.type])
session.run(None, {item.name: ones(item) for item in session.get_inputs()})
"""


def complaints(model: Path) -> str:
    """What ONNX Runtime prints, at its default severity, while it loads a model and runs it once."""
    command = [sys.executable, "-c", LOAD_AND_RUN, str(model)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stderr if done.returncode == 0 else f"ended with {done.returncode}: {done.stderr}"


def outputs(model: onnx.ModelProto, feeds: Feeds, *, optimize: bool = False) -> dict[str, Array]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def assert_shut_equal(original: Path, compiled: Path, feeds: Sequence[Feeds]) -> None:
    """At level 0 a compiled file is its original: bit for bit as written, nearly so where ONNX Runtime optimises."""
    expected, shut = onnx.load(original), SetLevel(0).apply(onnx.load(compiled))
    for item in feeds:
        theirs, ours = outputs(expected, item), outputs(shut, item)
        assert {name: array.tobytes() for name, array in ours.items()} == {
            name: array.tobytes() for name, array in theirs.items()
        }
        theirs, ours = outputs(expected, item, optimize=True), outputs(shut, item, optimize=True)
        for name, array in theirs.items():
            scale = float(np.abs(array).max())
            np.testing.assert_allclose(ours[name], array, rtol=0, atol=SHUT_TOLERANCE * scale)


def signature(model: onnx.ModelProto) -> list[bytes]:
    """Inputs and outputs with names, types and shapes."""
    return [item.SerializeToString() for item in (*model.graph.input, *model.graph.output)]


def ifs(model: onnx.ModelProto) -> list[str]:
    """Names of the `If` nodes of the main graph."""
    return [node.name for node in model.graph.node if node.op_type == "If"]
