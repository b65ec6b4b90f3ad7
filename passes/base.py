"""The contract of a pass, and the one place that runs passes.

A pass is a frozen dataclass whose fields are its options. It takes a valid model and gives a new valid model; it never
changes the one it was given. After each pass the result is checked, and the pass that broke it is named.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import onnx

from skipc.passes.external import refers, without_references
from skipc.runtime.errors import InternalError, SkipcError

CHECKABLE_BYTES = 2**31 - 1
"""Protobuf's limit: a larger model can only be checked as a file, which passes do not touch."""


class GraphPass(Protocol):
    """A rewriting of a model."""

    def apply(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return the rewritten model; leave the given one as it is."""
        ...


def run_passes(model: onnx.ModelProto, passes: Sequence[GraphPass]) -> onnx.ModelProto:
    """Apply passes in order and check the model after each.

    Raises:
        InternalError: a pass failed or left an invalid graph; names the pass and those that ran before it.
    """
    done: list[str] = []
    for step in passes:
        name = type(step).__name__
        try:
            model = step.apply(model)
            check(model)
        except SkipcError:
            raise
        except Exception as error:
            before = ", ".join(done) or "none"
            what = f"pass {name} failed (passes before it: {before}): {error}"
            raise InternalError("pass-failed", what, where=name, hint="please report this with the model") from error
        done.append(name)
    return model


def check(model: onnx.ModelProto) -> None:
    """Run ONNX's own checker with full type and shape inference; of weights in other files it sees the types.

    Raises:
        onnx.checker.ValidationError, onnx.shape_inference.InferenceError: the model is invalid.
    """
    seen = without_references(model) if refers(model) else model
    if seen.ByteSize() <= CHECKABLE_BYTES:
        onnx.checker.check_model(seen, full_check=True)


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    """A deep copy of a model."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def opset_of(model: onnx.ModelProto) -> int:
    """Version of the default operator set that a model imports."""
    return max((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), default=1)
