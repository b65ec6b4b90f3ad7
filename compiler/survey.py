"""Look at an original: its regions, by structure and by a real run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch

import onnx

from skipc.compiler.build import fixed, normalized
from skipc.compiler.data import Dataset, InputSpec, input_specs
from skipc.compiler.executors import Executor, Local
from skipc.compiler.probe import probe_feeds, probe_types
from skipc.compiler.source import Source
from skipc.passes.candidate import Rejection, ValueType
from skipc.passes.flow import Flow
from skipc.passes.narrow import constants_of
from skipc.passes.regions import Survey, find_regions
from skipc.passes.rows import side_values
from skipc.passes.shapes import constant_targets
from skipc.passes.stand_in import runnable
from skipc.runtime.errors import InputError
from skipc.runtime.plan import Array, Padding, Region, Target
from skipc.runtime.session import is_equal, open_session


@dataclass(frozen=True)
class Surveyed:
    """An original as the later stages need it.

    Attributes:
        original: normalised.
        model: what is compiled: the original with its target shapes fixed.
        inputs: what it must be fed.
        survey: its regions and the refusals, without what the user excluded.
        types: of its values; extents of one name are equal.
        targets: of its Reshape nodes whose shapes need not be computed.
        padding: where it is left out of what is compiled; None where it stays.
        executor: where losses of changed versions of it are measured.
    """

    original: onnx.ModelProto
    model: onnx.ModelProto
    inputs: tuple[InputSpec, ...]
    survey: Survey
    types: Mapping[str, ValueType]
    targets: tuple[Target, ...] = ()
    padding: Padding | None = None
    executor: Executor = field(default_factory=Local)


def survey_model(source: Source, data: Dataset | None, exclude: Sequence[str] = (), weights: str = "auto") -> Surveyed:
    """Find the regions of a model.

    Args:
        source: the model.
        data: to run it on; None for made-up values.
        exclude: patterns of names of regions that are left alone.
        weights: where weights go, one of `PLACEMENTS`.

    Raises:
        InputError: the model does not run, or gives another answer for the same input the second time.
    """
    original = normalized(source.model)
    inputs = input_specs(original)
    feeds = probe_feeds(original, inputs, data)
    _require_deterministic(original, feeds[0])
    targets = constant_targets(original, constants_of(original.graph))
    model = fixed(original, targets)
    if not _gives_the_same(model, original, feeds):
        targets, model = (), original
    types = probe_types(model, feeds)
    survey = with_rows(find_regions(model, types), model, types)
    survey = _placing(_without(survey, exclude), weights)
    return Surveyed(original, model, inputs, survey, types, targets)


def _placing(survey: Survey, weights: str) -> Survey:
    blocks, layers = (
        tuple(replace(region, weights=weights) for region in found) for found in (survey.blocks, survey.layers)
    )
    return replace(survey, blocks=blocks, layers=layers)


def with_rows(survey: Survey, model: onnx.ModelProto, types: Mapping[str, ValueType]) -> Survey:
    """The same regions with what it takes to run them for some rows only."""
    flow = Flow.of(model.graph)

    def completed(region: Region) -> Region:
        return replace(region, sides=side_values(flow, region, types))

    return replace(survey, blocks=tuple(map(completed, survey.blocks)), layers=tuple(map(completed, survey.layers)))


def _require_deterministic(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> None:
    session = open_session(runnable(model).SerializeToString(), optimize=False)
    first, second = session.run(feeds), session.run(feeds)
    if all(is_equal(first[name], second[name]) for name in first):
        return
    hint = "export it in evaluation mode (torch: call .eval() on the outermost module before exporting)"
    raise InputError("model-random", "the model gives different answers for the same input", hint=hint)


def _gives_the_same(model: onnx.ModelProto, original: onnx.ModelProto, feeds: Sequence[Mapping[str, Array]]) -> bool:
    """Whether fixed targets leave every output what it is, bit for bit.

    They are inferred by rules that take extents for equal which must be so for an operator to run at all.
    """
    if model is original:
        return True
    sessions = [
        open_session(runnable(each, random=True).SerializeToString(), optimize=False) for each in (original, model)
    ]
    expected = [sessions[0].run(item) for item in feeds]
    try:
        found = [sessions[1].run(item) for item in feeds]
    except Exception:  # of whatever class ONNX Runtime makes its complaint of a shape
        return False
    return all(is_equal(one[name], other[name]) for one, other in zip(expected, found, strict=True) for name in one)


def _without(survey: Survey, exclude: Sequence[str]) -> Survey:
    def kept(region: Region) -> bool:
        return not any(fnmatch(region.name, pattern) for pattern in exclude)

    refused = [Rejection(item.name, "excluded", "excluded by --exclude") for item in survey.regions if not kept(item)]
    blocks, layers = (tuple(filter(kept, found)) for found in (survey.blocks, survey.layers))
    return replace(survey, blocks=blocks, layers=layers, rejected=(*survey.rejected, *refused))
