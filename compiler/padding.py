"""Whether padding can be left out of a model: by structure, then by proof, then by measured time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import onnx

from skipc.compiler.build import build, build_static
from skipc.compiler.data import Batch, InputSpec
from skipc.compiler.impact import typical
from skipc.compiler.independence import TOLERANCES
from skipc.compiler.settings import Settings
from skipc.compiler.shipped import as_deployed, latencies
from skipc.compiler.splits import Splits
from skipc.compiler.survey import Surveyed
from skipc.passes.base import run_passes
from skipc.passes.expose import with_outputs
from skipc.passes.freeze import FreezeScales, scales_of
from skipc.passes.padding import padding_of
from skipc.runtime.errors import InputError
from skipc.runtime.plan import Array, Padding, Plan
from skipc.runtime.session import open_session

PROOFS = 4
"""Batches with padding on which the outputs must be the same."""

BEARABLE = 1.05
"""Time that a batch may take without its padding, over the time with it: data of one length has none to leave out, and
where weights happen to lie in memory moves times by as much."""

TRIED = 3
"""Padding tokens that are put behind samples which have none."""

Feeds = Mapping[str, Array]


def leave_out_padding(surveyed: Surveyed, splits: Splits, mask: str, settings: Settings) -> Padding | None:
    """Where padding is to be left out; None where it stays.

    Args:
        surveyed: the original.
        splits: its *fit* part proves and times.
        mask: input that tells padding; empty where there is none.
        settings: of the compilation.

    Raises:
        InputError: ``padding-stays``: it was asked for and cannot be.
    """
    wanted = settings.padding == "skip"
    if settings.padding == "keep" or (settings.provider != "cpu" and not wanted):
        return None
    padding = padding_of(surveyed.model, surveyed.types, mask) if mask else None
    if padding is None:
        obstacle = "no product treats tokens by themselves" if mask else "no input tells padding"
    else:
        obstacle = _obstacle(surveyed, padding, _padded(surveyed.inputs, splits, mask))
    if obstacle and wanted:
        hint = "compile without --padding skip; --mask names the input that tells padding"
        raise InputError("padding-stays", f"padding cannot be left out: {obstacle}", where="--padding", hint=hint)
    if obstacle or padding is None:
        return None
    return padding if wanted or _costs(surveyed, padding, splits.fit.items, settings) <= BEARABLE else None


def obstacle_in(surveyed: Surveyed, plan: Plan, splits: Splits) -> str:
    """Why the compiled file needs its padding, although the original does not; empty where it gives the same without.

    Its branches are rewritten too. Where scales follow the range of all tokens the two differ by rounding, and the file
    is only built and loaded.
    """
    if plan.padding is None:
        return ""
    feeds = [] if scales_of(surveyed.model) else _padded(surveyed.inputs, splits, plan.padding.mask)
    models = partial(_built, surveyed, (replace(plan, padding=None), plan))
    return _difference(surveyed, plan.padding, models, feeds)


def _built(surveyed: Surveyed, plans: Sequence[Plan]) -> list[onnx.ModelProto]:
    return [build(surveyed.original, plan) for plan in plans]


def _padded(inputs: Sequence[InputSpec], splits: Splits, mask: str) -> list[Feeds]:
    """A few batches with padding: of the data, or made where those have none."""
    feeds = [item.feeds for item in (*splits.joined_fit, *splits.fit.items[:PROOFS])]
    natural = [item for item in feeds if not item[mask].all()]
    return (natural or [_lengthened(item, inputs, mask) for item in feeds])[:PROOFS]


def _lengthened(feeds: Feeds, inputs: Sequence[InputSpec], mask: str) -> Feeds:
    """The same samples with padding at their end, where the model leaves their length open."""
    length = next(spec.shape[1] for spec in inputs if spec.name == mask)
    longer = {}
    for spec in inputs:
        grown = isinstance(length, str) and spec.shape[1:2] == (length,)
        width = [(0, TRIED if grown and axis == 1 else 0) for axis in range(feeds[spec.name].ndim)]
        longer[spec.name] = np.pad(feeds[spec.name], width)
    return longer


def _obstacle(surveyed: Surveyed, padding: Padding, feeds: Sequence[Feeds]) -> str:
    """What speaks against leaving padding out; empty where every output is the same at every real token.

    Scales that follow the range of all tokens are held at what the original computes.
    """
    scales = scales_of(surveyed.model)
    if not scales:
        return _difference(surveyed, padding, partial(_models, surveyed, padding), feeds)
    whole = open_session(with_outputs(surveyed.model, scales).SerializeToString(), optimize=False)
    held = [{**item, **whole.run(item, scales)} for item in feeds]
    return _difference(surveyed, padding, partial(_frozen, surveyed, padding), held, optimize=False)


def _frozen(surveyed: Surveyed, padding: Padding) -> list[onnx.ModelProto]:
    return [run_passes(model, [FreezeScales()]) for model in _models(surveyed, padding)]


def _difference(
    surveyed: Surveyed,
    padding: Padding,
    models: Callable[[], Sequence[onnx.ModelProto]],
    feeds: Sequence[Feeds],
    *,
    optimize: bool = True,
) -> str:
    """How a model with padding and one without differ, at real tokens or else at all; empty where they do not.

    Args:
        surveyed: the original.
        padding: that is left out.
        models: gives both.
        feeds: with padding; without any the models are only built.
        optimize: not where values are quantized as they come: other sums would round some of them the other way, and
            such a difference grows.
    """
    place = surveyed.types[padding.mask].dims
    try:
        sessions = [open_session(model.SerializeToString(), optimize=optimize) for model in models()]
        for item in feeds:
            real = item[padding.mask] != 0
            if real.all():
                return "there is no batch with padding to prove on that it is never looked at"
            expected, found = (session.run(item, sessions[0].outputs) for session in sessions)
            for name, array in expected.items():
                known = surveyed.types[name]
                by_token = known.dims[:2] == place
                one, other = (value[real] if by_token else value for value in (array, found[name]))
                if one.shape != other.shape or not _agree(one, other, known.elem_type):
                    return f"the output {name} depends on it"
    except Exception as error:  # of whatever class ONNX Runtime makes its complaint
        return f"the model does not run without it: {str(error).splitlines()[0][:200]}"
    return ""


def _agree(expected: Array, found: Array, elem_type: int) -> bool:
    """Whether two outputs are the same."""
    if expected.dtype.kind != "f" and elem_type not in TOLERANCES:
        return bool(np.array_equal(expected, found))
    one, other = expected.astype(np.float64), found.astype(np.float64)
    tolerance = TOLERANCES.get(elem_type, min(TOLERANCES.values())) * float(np.abs(one).max(initial=0.0))
    return bool(np.allclose(other, one, rtol=0.0, atol=tolerance, equal_nan=True))


def _costs(surveyed: Surveyed, padding: Padding, items: Sequence[Batch], settings: Settings) -> float:
    """Time of the model without padding over that with it, on batches like those that it will get."""
    models, chosen = [model.SerializeToString() for model in _models(surveyed, padding)], typical(items)
    parts = (models, chosen, *as_deployed(settings))
    kept, left_out = settings.cache.recall("padding", parts, lambda: latencies(models, chosen, settings))
    return float(left_out / kept)


def _models(surveyed: Surveyed, padding: Padding) -> list[onnx.ModelProto]:
    """The original as it is compiled, with padding and without."""
    return [surveyed.model, build_static(surveyed.model, (), padding)]
