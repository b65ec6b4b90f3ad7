"""What skipc makes of one graph, and which runtimes take the result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.failure import BenchmarkError
from benchmarks.web import on_web
from skipc.compiler.build import build, serialized, versions
from skipc.compiler.data import input_specs
from skipc.compiler.probe import probe_feeds
from skipc.compiler.source import Source, check_source
from skipc.compiler.survey import Surveyed, survey_model
from skipc.compiler.tolerance import shut_tolerance
from skipc.passes.restore import Restore
from skipc.passes.stamp import SetLevel
from skipc.passes.stand_in import runnable
from skipc.runtime.errors import SkipcError
from skipc.runtime.plan import Block, Bypass, Gate, Plan, Region, Target
from skipc.runtime.session import open_session

Array = NDArray[Any]
Feeds = Mapping[str, Array]

OK = "yes"


@dataclass(frozen=True)
class Found:
    """A row of the table.

    Attributes:
        regions: number of blocks by kind.
        refused: number of refusals by rule.
        reasons: one sentence for each rule but ``no-weights``, which every activation like swish breaks.
        problem: why the graph was refused as a whole, if it was.
        shut: largest difference of an output with every gate shut, under ONNX Runtime's optimisations, relative to the
            output's largest value.
        opened: whether it runs with every block bypassed.
        by_sample: `OK` or the reason why gates for samples cannot be used with these regions.
        restored: whether the original comes back, byte for byte.
        runtimes: `OK` or the reason why not, by runtime.
    """

    regions: Mapping[str, int]
    refused: Mapping[str, int]
    reasons: tuple[str, ...]
    problem: str = ""
    shut: float = 0.0
    opened: str = ""
    by_sample: str = ""
    restored: str = ""
    runtimes: Mapping[str, str] = ()  # type: ignore[assignment]


def examined(model: onnx.ModelProto) -> Found:
    """Survey a graph, compile it with every gate shut, and try the result."""
    try:
        check_source(model, Path("model.onnx"))
        surveyed = survey_model(Source(Path("model.onnx"), model, "digest", 0), None)
    except SkipcError as error:
        return Found({}, {}, (), problem=f"{error.what} [{error.code}]")
    survey = surveyed.survey
    regions = dict(Counter(item.kind for item in survey.blocks))
    refused = dict(Counter(item.rule for item in survey.rejected))
    spoken = {item.rule: f"{item.reason} [{item.rule}]" for item in survey.rejected if item.rule != "no-weights"}
    reasons = tuple(spoken.values())
    if not survey.blocks:
        return Found(regions, refused, reasons, problem="no region")
    try:
        return _compiled(model, surveyed, Found(regions, refused, reasons))
    except SkipcError as error:
        return Found(regions, refused, reasons, problem=f"{error.what} [{error.code}]")


def _compiled(model: onnx.ModelProto, surveyed: Surveyed, found: Found) -> Found:
    base = surveyed.original
    gated = gated_model(surveyed)
    feeds = probe_feeds(base, input_specs(base), None)[0]
    expected = open_session(_running(base)).run(feeds)
    shut = SetLevel(0).apply(gated)
    return Found(
        regions=found.regions,
        refused=found.refused,
        reasons=found.reasons,
        shut=difference(open_session(_running(shut)).run(feeds), expected),
        opened=attempt(lambda: _run(gated, feeds)),
        by_sample=_by_sample(surveyed),
        restored=OK if serialized(Restore().apply(gated)) == serialized(model) else "DIFFERENT",
        runtimes={
            "OpenVINO": _compared(_openvino, base, shut, feeds),
            "ONNX Runtime Web": _compared(_web, base, shut, feeds),
            "onnx.reference": _compared(_reference, base, shut, feeds),
        },
    )


def gated_model(surveyed: Surveyed, granularity: str = "batch") -> onnx.ModelProto:
    """A model with every block bypassed by the identity at level 1."""
    blocks = tuple(_block(region, granularity) for region in surveyed.survey.blocks)
    return build(surveyed.original, _plan(blocks, surveyed.targets))


def _block(region: Region, granularity: str) -> Block:
    """A region on the identity, with a gate that reads its entry."""
    weight = np.linspace(-1, 1, region.channels, dtype=np.float32)
    return Block(region, Bypass("identity"), Gate("mean", weight, 0.5, -np.inf, granularity))


def _by_sample(surveyed: Surveyed) -> str:
    """Whether gates for samples, shut for all samples of a batch of two, leave the original's outputs."""
    base = surveyed.original
    feeds = probe_feeds(base, input_specs(base), None)[-1]
    if any(not isinstance(region.dims[0], str) for region in surveyed.survey.blocks):
        return "n/a: the batch is fixed"
    try:
        shut = SetLevel(0).apply(gated_model(surveyed, "sample"))
        off = difference(open_session(_running(shut)).run(feeds), open_session(_running(base)).run(feeds))
    except Exception as error:
        return f"NO: {first_line(error)}"
    return OK if off <= shut_tolerance(base) else f"NO: off by {off:.1e}"


def _plan(blocks: tuple[Block, ...], targets: tuple[Target, ...]) -> Plan:
    thresholds = ((-np.inf,) * len(blocks), (np.inf,) * len(blocks))
    return Plan("digest", {}, blocks, thresholds, 1, None, "top1", 1, 1, "cpu", 0, versions(), 0, targets)


def _running(model: onnx.ModelProto) -> bytes:
    """As ONNX Runtime can run it on the CPU: with float32 for bfloat16."""
    return serialized(runnable(model))


def _run(model: onnx.ModelProto, feeds: Feeds) -> None:
    open_session(_running(model)).run(feeds)


def difference(found: Feeds, expected: Feeds) -> float:
    """Largest absolute difference over all outputs, relative to the output's largest value."""
    return max(_relative(found[name], expected[name]) for name in expected)


def _relative(one: Array, two: Array) -> float:
    if one.shape != two.shape:
        return float("inf")
    first, second = one.astype(np.float64), two.astype(np.float64)
    return float(np.abs(first - second).max(initial=0.0) / max(float(np.abs(second).max(initial=0.0)), SMALLEST_SCALE))


SMALLEST_SCALE = 0.1
"""An output that is smaller all over is taken for this large: a sigmoid is exact to 6e-8, not to digits."""


WEB_BYTES = 2**28

RUNTIME_TOLERANCE = 2e-3
"""Another runtime computes in its own order, with its own exponentials; a branch taken wrongly is off by far more."""


def _compared(runtime: Any, original: onnx.ModelProto, gated: onnx.ModelProto, feeds: Feeds) -> str:
    """Whether a runtime gives for the gated model what it gives for the original."""
    try:
        expected = runtime(original, feeds)
    except Exception as error:
        return f"does not run the original: {first_line(error)}"
    try:
        off = _relative_all(runtime(gated, feeds), expected)
    except Exception as error:
        return f"NO: {first_line(error)}"
    return OK if off <= max(RUNTIME_TOLERANCE, shut_tolerance(original)) else f"NO: off by {off:.1e}"


def _relative_all(found: list[Array], expected: list[Array]) -> float:
    return max(_relative(one, two) for one, two in zip(found, expected, strict=True))


def _openvino(model: onnx.ModelProto, feeds: Feeds) -> list[Array]:
    import io

    import openvino

    compiled = openvino.Core().compile_model(
        openvino.Core().read_model(io.BytesIO(serialized(model))), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    # A value that passes through has the names of all that it is equal to.
    found = compiled({item: next(feeds[name] for name in feeds if name in item.names) for item in compiled.inputs})
    return [np.asarray(found[output]) for output in compiled.outputs]


def _web(model: onnx.ModelProto, feeds: Feeds) -> list[Array]:
    if model.ByteSize() > WEB_BYTES:
        raise BenchmarkError("not tried: the file is larger than 256 MiB, and WebAssembly has 4 GiB in all")
    found = on_web(model, feeds)
    return [found[item.name] for item in model.graph.output]


def _reference(model: onnx.ModelProto, feeds: Feeds) -> list[Array]:
    from onnx.reference import ReferenceEvaluator

    with np.errstate(all="ignore"):
        return [np.asarray(item) for item in ReferenceEvaluator(model).run(None, dict(feeds))]


def attempt(action: Any) -> str:
    """`OK`, or the first line of what went wrong."""
    try:
        action()
    except Exception as error:
        return first_line(error)
    return OK


def first_line(error: Exception) -> str:
    """What went wrong, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    found = f"{type(error).__name__}: {lines[0] if lines else ''}"
    return found if len(found) <= 200 else f"{found[:200]} ..."
