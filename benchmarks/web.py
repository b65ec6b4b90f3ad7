"""Run a model in ONNX Runtime Web under Node."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.failure import BenchmarkError

Array = NDArray[Any]

TIMEOUT_S = 150
TYPES: Mapping[str, type[np.generic]] = {
    "bool": np.bool_,
    "float16": np.float16,
    "float32": np.float32,
    "float64": np.float64,
    "int32": np.int32,
    "int64": np.int64,
    "int8": np.int8,
    "uint8": np.uint8,
}


def on_web(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """All outputs by name; the variable `NODE_MODULES` names the folder that npm installed onnxruntime-web into.

    Raises:
        BenchmarkError: it is not there, or it does not run the model; in its own words.
    """
    modules = os.environ.get("NODE_MODULES")
    if not modules:
        raise BenchmarkError("NODE_MODULES names no folder with onnxruntime-web")
    with TemporaryDirectory() as folder:
        Path(folder, "model.onnx").write_bytes(model.SerializeToString())
        given = {name: _described(value) for name, value in feeds.items()}
        Path(folder, "feeds.json").write_text(json.dumps(given), encoding="utf-8")
        script = Path(__file__).with_name("web.mjs")
        done = subprocess.run(
            ["node", script, folder, modules], check=False, capture_output=True, text=True, timeout=TIMEOUT_S
        )
        if done.returncode:
            raise BenchmarkError(_complaint(done.stderr))
        found = json.loads(Path(folder, "found.json").read_text(encoding="utf-8"))
    return {name: _array(item) for name, item in found.items()}


def _complaint(printed: str) -> str:
    """The line of what Node printed that says what went wrong."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    return next((line for line in lines if "rror" in line and "node:" not in line), lines[-1] if lines else "no words")


def _described(value: Array) -> dict[str, Any]:
    """Half precision travels as its bits."""
    flat = value.reshape(-1)
    data = flat.view(np.uint16) if value.dtype == np.float16 else flat
    return {"type": str(value.dtype), "dims": value.shape, "data": data.tolist()}


def _array(item: Mapping[str, Any]) -> Array:
    dtype = np.dtype(TYPES[item["type"]])
    data = np.array(item["data"], np.uint16).view(dtype) if dtype == np.float16 else np.array(item["data"], dtype)
    return data.reshape(item["dims"])
