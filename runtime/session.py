"""Open a model in ONNX Runtime and say which provider really runs it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from skipc.runtime.errors import InputError

Array = NDArray[Any]
Provider = Literal["cpu", "cuda"]

PROVIDERS: Mapping[str, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
FATAL_ONLY = 4
"""Errors come as exceptions; ONNX Runtime need not print them beside."""


@dataclass(frozen=True)
class Session:
    """A loaded model. Safe to run from several threads at once.

    Attributes:
        provider: the provider that really runs it, ``cpu`` or ``cuda``.
        inputs: names of its inputs.
        outputs: names of its outputs.
        inference: the `onnxruntime.InferenceSession` itself.
        parallel: runs that it takes at a time; 0 for as many as there are cores.
        threads: that one run works with; with 1 all of it is done in the caller's.
    """

    provider: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    inference: Any
    parallel: int = 0
    threads: int = 0

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Run the model once; all outputs by name, or only those asked for."""
        wanted = list(outputs or self.outputs)
        return dict(zip(wanted, self.inference.run(wanted, dict(feeds)), strict=True))


def open_session(
    model: bytes | Path,
    *,
    provider: str = "cpu",
    threads: int = 1,
    optimize: bool = True,
    where: str = "",
    provider_options: Mapping[str, str] | None = None,
    extents: Mapping[str, int] | None = None,
) -> Session:
    """Load a model.

    Args:
        model: serialized model, or the path of one with external data.
        provider: ``cpu`` or ``cuda``.
        threads: intra-op threads; 0 leaves the choice to ONNX Runtime.
        optimize: whether ONNX Runtime may rewrite the graph.
        where: file to name in errors.
        provider_options: of ONNX Runtime's provider.
        extents: fixed ones of named dimensions.

    Raises:
        InputError: ONNX Runtime is missing, refuses the model, or does not run it on the provider asked for.
    """
    runtime = _onnxruntime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = FATAL_ONLY
    # Idle threads that spin disturb whatever is measured beside them.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimize:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    for dimension, extent in (extents or {}).items():
        options.add_free_dimension_override_by_name(dimension, extent)
    if provider == "cuda" and hasattr(runtime, "preload_dlls"):
        runtime.preload_dlls()
    wanted = PROVIDERS[provider]
    loadable = wanted if wanted in runtime.get_available_providers() else PROVIDERS["cpu"]
    chosen = (loadable, dict(provider_options)) if provider_options and loadable == wanted else loadable
    try:
        source = model if isinstance(model, bytes) else os.fspath(model)
        session = runtime.InferenceSession(source, options, providers=[chosen])
    except Exception as error:
        what = f"ONNX Runtime cannot load the model: {error}"
        raise InputError(
            "model-unloadable", what, where=where, hint="check that it runs before compiling it"
        ) from error
    _require(session.get_providers(), wanted, provider, runtime)
    names = tuple(tuple(item.name for item in items) for items in (session.get_inputs(), session.get_outputs()))
    return Session(provider, names[0], names[1], session, threads=threads)


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        hint = "pip install 'skipc[cpu]' (or 'skipc[gpu]', never both)"
        raise InputError("onnxruntime-missing", "ONNX Runtime is not installed", hint=hint) from error
    return onnxruntime


def _require(providers: Sequence[str], wanted: str, provider: str, runtime: Any) -> None:
    if wanted in providers:
        return
    what = f"{wanted} was asked for, but ONNX Runtime {runtime.__version__} would run on {providers[0]}"
    hint = "install skipc[gpu] with a matching CUDA, or use --provider cpu"
    raise InputError("provider-missing", what, where=f"--provider {provider}", hint=hint)


def is_equal(first: Array, second: Array) -> bool:
    """Whether two arrays hold the same values bit for bit, NaN included."""
    return first.dtype == second.dtype and first.shape == second.shape and first.tobytes() == second.tobytes()


def max_abs_difference(first: Array, second: Array) -> float:
    """Largest absolute difference; infinity where shapes differ or NaN stands on one side only."""
    if first.shape != second.shape:
        return float("inf")
    if first.size == 0:
        return 0.0
    one, two = first.astype(np.float64), second.astype(np.float64)
    both_same = (one == two) | (np.isnan(one) & np.isnan(two))
    with np.errstate(invalid="ignore"):
        difference = np.where(both_same, 0.0, np.abs(one - two))
    return float("inf") if np.isnan(difference).any() else float(difference.max())
