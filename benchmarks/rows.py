"""Decisions by sample and by token: the same answer in any company, what they cost, and other runtimes.

Bypasses and gates have random weights here: what is measured is the rewriting, not what calibration makes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.utils import Extractor

import models
from benchmarks.measures import interval
from benchmarks.web import on_web
from benchmarks.workbench import Json, Workbench
from skipc.compiler.build import build_static
from skipc.compiler.data import Batch, batches, load_dataset
from skipc.compiler.granularity import obstacle
from skipc.compiler.impact import ungated
from skipc.compiler.independence import dependent
from skipc.compiler.latency import interleaved
from skipc.compiler.running import shut
from skipc.compiler.source import load_model
from skipc.compiler.survey import Surveyed, survey_model
from skipc.passes.base import run_passes
from skipc.passes.expose import ExposeDecisions
from skipc.passes.gate import is_by_token
from skipc.passes.inject import ImposeDecisions, InjectGates
from skipc.passes.padding import LeaveOutPadding, padding_of
from skipc.passes.window import InputWindow, LevelWindow, Window
from skipc.runtime import names
from skipc.runtime.plan import Array, Block, Bypass, Region
from skipc.runtime.session import Session, max_abs_difference, open_session

SIZES = (1, 3, 8, 33)
ROWS = (128, 256, 512)
PAIRS = 60
LONGEST = 48
GRANULARITIES = ("sample", "token")
FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32"}
"""OpenVINO computes in bfloat16 where the processor can, which is no comparison of decisions."""


Runtime = Callable[[onnx.ModelProto, Mapping[str, Array], Sequence[str]], dict[str, Array]]


@dataclass(frozen=True)
class Subject:
    """A network and samples of different length."""

    name: str
    surveyed: Surveyed
    samples: tuple[Mapping[str, Array], ...]


def run(bench: Workbench) -> Json:
    """Company, costs and other runtimes."""
    count = bench.pick(max(SIZES), 3)
    sizes = [size for size in SIZES if size <= count]
    minilm = _minilm(count)
    subjects = [minilm] if bench.quick else [minilm, _efficientnet(count), _smollm2(count)]
    found: Json = {"company": {}, "costs": [], "runtimes": {}}
    for subject in subjects:
        bench.say(f"the same samples alone and together: {subject.name}")
        found["company"][subject.name] = {kind: _company(subject, kind, sizes) for kind in GRANULARITIES}
    for rows in ROWS[: bench.pick(len(ROWS), 1)]:
        bench.say(f"timing a feed-forward block of MiniLM for {rows} rows")
        found["costs"] += [_costs(minilm, kind, rows, bench.pick(PAIRS, 3)) for kind in GRANULARITIES]
    bench.say("running the same file elsewhere")
    found["runtimes"] = {kind: _elsewhere(minilm, kind) for kind in GRANULARITIES}
    return found


def _minilm(count: int) -> Subject:
    surveyed = survey_model(load_model(models.fetch("minilm").files["minilm.onnx"]), None)
    data = load_dataset(str(models.fetch("vader-minilm").files["films.test.npz"]), surveyed.inputs)
    items = batches(data.subset(range(count)), 1, surveyed.inputs)
    return Subject("minilm", surveyed, tuple(item.feeds for item in items))


def _efficientnet(count: int) -> Subject:
    surveyed = survey_model(load_model(models.fetch("efficientnet-lite0").files["efficientnet_lite0.onnx"]), None)
    data = load_dataset(str(models.fetch("photos").files["photos.npz"]), surveyed.inputs)
    return Subject("efficientnet-lite0", surveyed, tuple(data.samples[:count]))


def _smollm2(count: int) -> Subject:
    surveyed = survey_model(load_model(models.fetch("smollm2").files["smollm2.onnx"]), None)
    random = np.random.default_rng(0)
    lengths = random.integers(4, LONGEST, count)
    samples = tuple(
        {"input_ids": random.integers(5, 40_000, (1, length)), "attention_mask": np.ones((1, length), np.int64)}
        for length in lengths
    )
    return Subject("smollm2", surveyed, samples)


def _blocks(surveyed: Surveyed, granularity: str) -> tuple[Block, ...]:
    """Every block that allows the granularity, with a random linear bypass near the identity and a random gate."""
    regions = [region for region in surveyed.survey.blocks if not obstacle(region, granularity)]
    return tuple(_block(surveyed, region, granularity, seed) for seed, region in enumerate(regions))


def _block(surveyed: Surveyed, region: Region, granularity: str, seed: int) -> Block:
    random = np.random.default_rng(seed)
    weight = np.eye(region.channels) + 0.01 * random.standard_normal((region.channels,) * 2)
    bypass = Bypass("linear", {"weight": weight.astype(np.float32), "shift": np.zeros(region.channels, np.float32)})
    mask = "attention_mask" if any(spec.name == "attention_mask" for spec in surveyed.inputs) else ""
    block = ungated(region, bypass, granularity, mask if len(region.dims) == 3 else "")
    weight = random.standard_normal(region.channels)
    return replace(block, gate=replace(block.gate, weight=weight.astype(np.float32)))


def _gated(surveyed: Surveyed, blocks: tuple[Block, ...], window: Window) -> onnx.ModelProto:
    """The blocks behind their gates, decisions shown, and padding left out where there is any."""
    padding = padding_of(surveyed.model, surveyed.types, "attention_mask")
    leaving_out = [LeaveOutPadding(padding)] if padding else []
    return run_passes(surveyed.model, [InjectGates(blocks, window), *leaving_out, ExposeDecisions(blocks)])


def _padded(samples: Sequence[Mapping[str, Array]], extra: int) -> dict[str, Array]:
    """Samples of one batch, padded to the longest and a little more, where they are sequences."""
    if next(iter(samples[0].values())).ndim != 2:
        return {name: np.concatenate([sample[name] for sample in samples]) for name in samples[0]}
    length = max(next(iter(sample.values())).shape[1] for sample in samples) + extra
    return {
        name: np.concatenate([np.pad(s[name], ((0, 0), (0, length - s[name].shape[1]))) for s in samples])
        for name in samples[0]
    }


def _company(subject: Subject, granularity: str, sizes: Sequence[int]) -> Json:
    """The largest difference between a sample alone and in batches, relative to the output, and differing decisions."""
    surveyed = subject.surveyed
    blocks = _blocks(surveyed, granularity)
    if not blocks:
        return {"blocks": 0}
    session = open_session(_gated(surveyed, blocks, InputWindow()).SerializeToString())
    window = _medians(session, len(blocks), subject.samples[: sizes[-1]])
    alone = [session.run({**sample, names.WINDOW: window}) for sample in subject.samples]
    worst, differing, shares = 0.0, 0, []
    for extra, size in enumerate(sizes):
        together = session.run({**_padded(subject.samples[:size], extra), names.WINDOW: window})
        shares.append(float(together[names.DECISIONS].mean()))
        for row in range(size):
            differing += int((abs(together[names.DECISIONS][row] - alone[row][names.DECISIONS][0]) > 1e-6).sum())
            worst = max(worst, _relative(alone[row], together, row))
    joined = [Batch(_padded(subject.samples[:4], 2), tuple(range(min(4, len(subject.samples)))), None)]
    return {
        "blocks": len(blocks),
        "batch_sizes": list(sizes),
        "bypassed": float(np.mean(shares)),
        "largest_relative_difference": worst,
        "differing_decisions": differing,
        "dependent_blocks": dependent(surveyed.model, blocks, joined),
    }


def _relative(alone: Mapping[str, Array], together: Mapping[str, Array], row: int) -> float:
    """Over all outputs, without padding."""
    found = 0.0
    for name, value in alone.items():
        if name in (names.DECISIONS, names.SCORES):
            continue
        same = together[name][row : row + 1]
        same = same[tuple(slice(0, extent) for extent in value.shape)]
        if not np.isfinite(value).all():
            return float("inf")
        found = max(found, max_abs_difference(value, same) / float(np.abs(value).max()))
    return found


def _medians(session: Session, gates: int, samples: Sequence[Mapping[str, Array]]) -> NDArray[np.float32]:
    """Thresholds midway between the scores of samples, of which half stay below while nothing is bypassed."""
    samples = samples[: max(2, len(samples) // 2 * 2)]
    runs = [session.run({**sample, names.WINDOW: shut(gates)}, [names.SCORES]) for sample in samples]
    scores = np.concatenate([found[names.SCORES] for found in runs])
    return np.stack([np.median(scores, axis=0), np.full(gates, np.inf)]).astype(np.float32)


def _costs(subject: Subject, granularity: str, rows: int, pairs: int) -> Json:
    """A feed-forward block by itself: rewritten for rows against plain, with all rows run, half of them, and none."""
    region = next(item for item in subject.surveyed.survey.blocks if item.kind == "feed-forward")
    block = _block(subject.surveyed, region, granularity, 0)
    plain = Extractor(onnx.shape_inference.infer_shapes(subject.surveyed.model)).extract_model(
        [region.entry], [region.exit]
    )
    rewritten = open_session(run_passes(plain, [ImposeDecisions((block,))]).SerializeToString())
    samples = 8
    x = np.random.default_rng(0).standard_normal((samples, rows // samples, region.channels)).astype(np.float32)
    shape = x.shape[:2] if is_by_token(block.gate) else x.shape[:1]
    half = (np.arange(int(np.prod(shape))) % 2).reshape(shape).astype(np.float32)
    feeds = {region.entry: x}
    agreed = names.agreed(region.name)
    runs = {
        "plain": partial(open_session(plain.SerializeToString()).run, feeds),
        "bypass": partial(open_session(build_static(plain, [block]).SerializeToString()).run, feeds),
        "all": partial(rewritten.run, {**feeds, agreed: np.zeros(shape, np.float32)}),
        "half": partial(rewritten.run, {**feeds, agreed: half}),
        "none": partial(rewritten.run, {**feeds, agreed: np.ones(shape, np.float32)}),
    }
    times = dict(zip(runs, interleaved(list(runs.values()), pairs).T, strict=True))
    ratios = {
        "all rows run, over the plain region": interval(times["all"] / times["plain"]),
        "half of the rows run, over the plain region": interval(times["half"] / times["plain"]),
        "no row runs, less the bypass, over the plain region": interval(
            (times["none"] - times["bypass"]) / times["plain"]
        ),
    }
    return {"granularity": granularity, "rows": rows, "plain_ms": interval(times["plain"]), **ratios}


def _elsewhere(subject: Subject, granularity: str) -> Json:
    """The same file on other runtimes: differing decisions, and the largest difference of the first output."""
    blocks = _blocks(subject.surveyed, granularity)
    shown = _gated(subject.surveyed, blocks, InputWindow())
    window = _medians(open_session(shown.SerializeToString()), len(blocks), subject.samples)
    never = (float("-inf"),) * len(blocks)
    model = _gated(subject.surveyed, blocks, LevelWindow((never, tuple(map(float, window[0]))), never, 1))
    feeds = _padded(subject.samples[:8], 1)
    expected = open_session(model.SerializeToString()).run(feeds)
    runtimes: Mapping[str, Runtime] = {
        "onnx.reference": _on_reference,
        "openvino": _on_openvino,
        "onnxruntime-web": _on_web,
    }
    return {name: _compared(run_model, model, feeds, expected) for name, run_model in runtimes.items()}


def _compared(
    run_model: Runtime, model: onnx.ModelProto, feeds: Mapping[str, Array], expected: Mapping[str, Array]
) -> Json:
    try:
        found = run_model(model, feeds, list(expected))
    except Exception as error:
        return {"error": str(error).splitlines()[0]}
    first = next(iter(expected))
    return {
        "differing_decisions": int((abs(found[names.DECISIONS] - expected[names.DECISIONS]) > 1e-6).sum()),
        "largest_relative_difference": max_abs_difference(found[first], expected[first])
        / float(np.abs(expected[first]).max()),
    }


def _on_reference(model: onnx.ModelProto, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
    from onnx.reference import ReferenceEvaluator

    return dict(zip(outputs, ReferenceEvaluator(model).run(list(outputs), dict(feeds)), strict=True))


def _on_openvino(model: onnx.ModelProto, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
    import io

    import openvino

    core = openvino.Core()
    compiled = core.compile_model(core.read_model(io.BytesIO(model.SerializeToString())), "CPU", FLOAT32)
    found = compiled(dict(feeds))
    return {name: np.asarray(found[name]) for name in outputs}


def _on_web(model: onnx.ModelProto, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
    found = on_web(model, feeds)
    return {name: found[name] for name in outputs}
