"""Runtimes in which an `If` saves nothing, or less than it could: what a compiled file would gain there."""

from __future__ import annotations

from collections.abc import Mapping

BOTH_BRANCHES = "runs both branches of an `If` and selects, so that a gate saves nothing there"
ON_THE_CPU = "leaves an `If` and its branches to the CPU, so that gated blocks lose the accelerator"

WARNINGS: Mapping[str, str] = {
    "qnn": f"QNN {BOTH_BRANCHES}",
    "directml": f"DirectML {BOTH_BRANCHES}",
    "coreml": f"CoreML {ON_THE_CPU}",
    "nnapi": f"NNAPI {ON_THE_CPU}",
    "webnn": f"WebNN {ON_THE_CPU}",
    "tensorrt": "TensorRT builds an engine for each stretch between two `If` nodes; what that costs is not measured",
    "tract": "tract 0.23 does not load a model with several `If` nodes",
}
"""By the name of the runtime, or of ONNX Runtime's provider."""

TARGETS = ("cpu", "cuda", "openvino", "web", *WARNINGS)
"""What `skipc compile --target` knows."""

HINT = "blocks that are bypassed for every input gain there too; compile for the runtime that you measure on"
