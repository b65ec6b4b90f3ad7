"""Run a model on inputs that lie on its device, and leave the outputs there: what is timed is then the model alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from skipc.runtime.session import Array, Session


@dataclass(frozen=True)
class Bound:
    """A session with the inputs of one run, bound by ONNX Runtime's `IOBinding`.

    Attributes:
        session: that runs.
        names: of the outputs.
        binding: the `onnxruntime.IOBinding`; it holds the inputs.
        options: `onnxruntime.RunOptions`, or None.
    """

    session: Session
    names: tuple[str, ...]
    binding: Any
    options: Any = None

    def run(self) -> None:
        """Run the model once; returns when the device has finished."""
        self.session.inference.run_with_iobinding(self.binding, self.options)
        self.binding.synchronize_outputs()

    def outputs(self) -> dict[str, Array]:
        """The outputs of the last run, copied to the host."""
        return dict(zip(self.names, self.binding.copy_outputs_to_cpu(), strict=True))


def bind(
    session: Session,
    feeds: Mapping[str, Array],
    outputs: Sequence[str] | None = None,
    *,
    like: Mapping[str, Array] | None = None,
    options: Any = None,
) -> Bound:
    """Copy inputs to a session's device once, for many runs.

    Args:
        session: to run.
        feeds: inputs by name.
        outputs: names; None for all.
        like: outputs of an earlier run. Memory for outputs of the same types and shapes is then taken once, as a CUDA
            graph needs it.
        options: `onnxruntime.RunOptions` of every run.
    """
    import onnxruntime

    device = "cuda" if session.provider == "cuda" else "cpu"
    names = tuple(outputs or session.outputs)
    binding = session.inference.io_binding()
    for name, array in feeds.items():
        value = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), device, 0)
        binding.bind_ortvalue_input(name, value)
    for name in names:
        if like is None:
            binding.bind_output(name, device, 0)
            continue
        shape, dtype = like[name].shape, like[name].dtype
        binding.bind_ortvalue_output(name, onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, dtype, device, 0))
    return Bound(session, names, binding, options)
