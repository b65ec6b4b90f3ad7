"""MiniLM by hand: what narrow bypasses lose and save at each width, and what gates for one block or for four keep.

Bypasses and gates are fitted on film reviews as a compilation would; nothing is certified.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx

from benchmarks.measures import interval, opened
from benchmarks.minilm import domains, job
from benchmarks.workbench import Json, Workbench
from skipc.compiler import running
from skipc.compiler.bench import compare
from skipc.compiler.data import batches, input_specs, load_dataset
from skipc.compiler.executors import Local
from skipc.compiler.fit import fit_gate
from skipc.compiler.impact import ablate, instrument, ungated
from skipc.compiler.loss import Loss, resolve_loss
from skipc.compiler.moments import Observed, observe
from skipc.compiler.narrow_fit import HEAD_SHARES, SHARES, HiddenMoments, fit_narrow, observe_hidden, without_linear
from skipc.compiler.planner import GUARD, threshold_at, window_of
from skipc.compiler.report import speedup_json
from skipc.compiler.running import Judged, judge, run_gated, shut
from skipc.compiler.source import load_model
from skipc.compiler.survey import Surveyed, survey_model
from skipc.passes.base import run_passes
from skipc.passes.flow import Flow
from skipc.passes.inject import InjectGates, ReplaceRegions
from skipc.passes.policy import with_policy
from skipc.passes.window import LevelWindow
from skipc.runtime.plan import Block

PATH_SHARES = (0.5, 0.375, 0.25)
FIT = 800
FRESH = 500
GATED = {"feed-forward": 0.625, "attention": 2 / 3}
"""Shares of the units and heads of the blocks that gates are compared before."""

UNGATED = "attention.5"
"""Stays as it is: it takes more loss than any other to narrow."""


@dataclass(frozen=True)
class _Ground:
    """MiniLM with what was observed of it on *fit*."""

    surveyed: Surveyed
    loss: Loss
    fit: Judged
    observed: dict[str, Observed]
    hidden: dict[str, HiddenMoments]

    def block(self, name: str, share: float, *, path: bool = False) -> Block:
        """A block on a narrow bypass that keeps so many of its units, with or without a linear path."""
        moments = self.hidden[name]
        moments = moments if path else without_linear(moments)
        region = next(region for region in self.surveyed.survey.blocks if region.name == name)
        return ungated(region, fit_narrow(moments, (share,))[0], "sample", "attention_mask")

    def names(self, kind: str) -> list[str]:
        """Blocks of a kind, in graph order."""
        return [region.name for region in self.surveyed.survey.blocks if region.kind == kind]


def run(bench: Workbench) -> Json:
    """Each width by itself for all six blocks of a kind, then gates before the same blocks."""
    ground = _ground(bench)
    rounds = bench.pick(40, 1)
    bench.say("narrowing MiniLM")
    widths = {}
    for kind, shares, path in (
        ("feed-forward", SHARES, False),
        ("feed-forward", PATH_SHARES, True),
        ("attention", HEAD_SHARES, False),
    ):
        for share in shares:
            blocks = [ground.block(name, share, path=path) for name in ground.names(kind)]
            label = f"{kind}, {share:.3g} of the units{' and a linear path' if path else ''}"
            widths[label] = _static(ground, blocks, rounds)
    kept = [
        ground.block(name, share) for kind, share in GATED.items() for name in ground.names(kind) if name != UNGATED
    ]
    place = {node.name: i for i, node in enumerate(ground.surveyed.model.graph.node)}
    kept.sort(key=lambda block: place[block.region.nodes[0]])
    bench.say("gating MiniLM")
    fresh = _fresh(bench, ground)
    gates = {policy: _gated(ground, kept, policy, fresh, rounds) for policy in ("block", "merged")}
    every = running.opened(len(kept), range(len(kept)))
    static = {**_static(ground, kept, rounds), "domains": _losses(ground, kept, every, fresh)}
    return {"widths": widths, "gates": {"none, always bypassed": static, **gates}}


def _ground(bench: Workbench) -> _Ground:
    source = load_model(job().model)
    data = load_dataset(job().data[0].partition("=")[2], input_specs(source.model))
    surveyed = replace(survey_model(source, data), executor=Local())
    part = data.subset(range(bench.pick(FIT, 60)))
    fit = judge(opened(surveyed.model), part, surveyed.inputs, 1, surveyed.model.graph.output[0].name)
    single = batches(part, 1, surveyed.inputs)
    bench.say("observing MiniLM")
    return _Ground(
        surveyed=surveyed,
        loss=resolve_loss("cosine", fit.references[0], None),
        fit=fit,
        observed=dict(observe(surveyed.model, surveyed.survey.blocks, single, seed=0)),
        hidden=observe_hidden(surveyed.model, surveyed.survey.blocks, single, seed=0),
    )


def _fresh(bench: Workbench, ground: _Ground) -> dict[str, Judged]:
    """Sentences of all domains that nothing was fitted on."""
    inputs, original = ground.surveyed.inputs, opened(ground.surveyed.model)
    found = domains(lambda spec: load_dataset(str(spec), inputs), bench.pick(FRESH, 30))
    return {name: judge(original, data, inputs, 1, ground.fit.output) for name, data in found.items()}


def _static(ground: _Ground, blocks: Sequence[Block], rounds: int) -> Json:
    """Joint loss on *fit* and speed of blocks that are always bypassed."""
    model = instrument(ground.surveyed.model, blocks, ground.surveyed.executor)
    outcome = run_gated(model, running.opened(len(blocks), range(len(blocks))), ground.fit, ground.loss)
    replaced = run_passes(ground.surveyed.model, [ReplaceRegions(tuple(blocks))])
    return {"loss": interval(outcome.losses, "mean"), **_speed(ground, replaced, rounds)}


def _gated(ground: _Ground, plain: Sequence[Block], policy: str, fresh: dict[str, Judged], rounds: int) -> Json:
    """The same blocks behind guards: gates that open for nearly all of *fit*."""
    model = ground.surveyed.model
    blocks = with_policy(plain, policy, Flow.of(model.graph))
    smooth = ablate(instrument(model, blocks, ground.surveyed.executor), ground.fit, ground.loss)[1]
    pooled = {region.entry: ground.observed[region.name].pooled for region in ground.surveyed.survey.blocks}
    fits = [fit_gate(pooled[block.region.entry], impact) for block, impact in zip(blocks, smooth, strict=True)]
    fitted = tuple(
        replace(block, gate=replace(block.gate, weight=fit.gate.weight, bias=fit.gate.bias, floor=fit.gate.floor))
        for block, fit in zip(blocks, fits, strict=True)
    )
    gated = instrument(model, fitted, ground.surveyed.executor)
    scores = run_gated(gated, shut(len(fitted)), ground.fit, ground.loss).scores
    limits, floors = tuple(threshold_at(row, GUARD) for row in scores), tuple(block.gate.floor for block in fitted)
    built = run_passes(model, [InjectGates(fitted, LevelWindow((limits,), floors, 0))])
    window = window_of(limits, floors)
    return {"gates": len(fitted), "domains": _losses(ground, fitted, window, fresh), **_speed(ground, built, rounds)}


def _losses(ground: _Ground, blocks: Sequence[Block], window: running.Window, fresh: dict[str, Judged]) -> Json:
    model = instrument(ground.surveyed.model, blocks, ground.surveyed.executor)
    found = {name: run_gated(model, window, judged, ground.loss) for name, judged in fresh.items()}
    return {
        name: {"loss": interval(outcome.losses, "mean"), "bypassed": round(float(outcome.shares.mean()), 3)}
        for name, outcome in found.items()
    }


def _speed(ground: _Ground, model: onnx.ModelProto, rounds: int) -> Json:
    bench = compare(opened(ground.surveyed.model), opened(model), ground.fit.items, rounds=rounds)
    return {"speedup": speedup_json(bench.speedup), "rounds": rounds}
