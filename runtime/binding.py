"""Run a model on inputs that lie on its device, and leave the outputs there: what is timed is then the model alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
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


def timed(session: Session, feeds: Mapping[str, Array], *, bound: bool | None = None) -> Callable[[], object]:
    """A run to be timed: bound on a GPU, so that copies of inputs and outputs are not timed with it.

    Args:
        session: to run.
        feeds: inputs by name.
        bound: whether to bind; None for on a GPU only.
    """
    if session.provider == "cuda" if bound is None else bound:
        return bind(session, feeds).run
    return partial(session.run, feeds)


def through_binding(session: Session) -> Session:
    """The same session, each run of which places its inputs on the device itself and copies back what is asked for."""
    return replace(session, inference=_Binding(session))


class _Binding:
    """What stands in the place of ONNX Runtime's session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def run(self, wanted: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """As of `onnxruntime.InferenceSession`."""
        bound = bind(self._session, feeds, wanted)
        bound.run()
        return list(bound.outputs().values())
