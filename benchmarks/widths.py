"""MiniLM by hand: what narrow bypasses lose and save at each width, and what gates for one block or for several keep.

Bypasses and gates are fitted on film reviews as a compilation would; nothing is certified.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnx

from benchmarks.measures import interval, opened
from benchmarks.minilm import domains, job
from benchmarks.workbench import Json, Workbench
from skipc.compiler import running
from skipc.compiler.bench import compare
from skipc.compiler.data import batches, input_specs, load_dataset
from skipc.compiler.executors import Local
from skipc.compiler.gate_fit import Evidence, fit_gates
from skipc.compiler.gradient import measure_gradients
from skipc.compiler.hidden import HiddenMoments, observe_hidden
from skipc.compiler.impact import instrument, ungated
from skipc.compiler.ladder import GUARD
from skipc.compiler.learn import learnt
from skipc.compiler.loss import Loss, resolve_loss
from skipc.compiler.moments import Matrix, Observed, observe
from skipc.compiler.narrow_fit import HEAD_SHARES, SHARES, fit_narrow, without_linear
from skipc.compiler.planner import threshold_at, window_of
from skipc.compiler.progress import SILENT
from skipc.compiler.refit import refitted
from skipc.compiler.report import speedup_json
from skipc.compiler.running import Judged, judge, run_gated
from skipc.compiler.settings import Settings
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

MASK = "attention_mask"

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
    metrics: Mapping[str, Matrix]

    def block(self, name: str, share: float, *, path: bool = False, felt: bool = True) -> Block:
        """A block on a narrow bypass that keeps so many of its units, with or without a linear path.

        Args:
            name: of its region.
            share: of the units.
            path: whether there is a linear one.
            felt: whether units are chosen by what the output feels, as a compilation does, or by the block's own error.
        """
        moments = self.hidden[name]
        moments = moments if path else without_linear(moments)
        region = next(region for region in self.surveyed.survey.blocks if region.name == name)
        bypass = fit_narrow(moments, (share,), metric=self.metrics[name] if felt else None)[0]
        return ungated(region, bypass, "sample", MASK)

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
    kept = _kept(ground, felt=True)
    bench.say("gating MiniLM")
    fresh = _fresh(bench, ground)
    steady = frozenset(block.region.name for block in kept)
    evidence = Evidence(ground.observed, ground.fit, ground.fit.items, (), MASK, steady)
    ways = {
        "block": ("block", evidence),
        "merged": ("merged", evidence),
        "merged, without samples made of two": ("merged", replace(evidence, single=())),
        "merged, each by its own loss": ("merged", replace(evidence, steady=frozenset())),
    }
    gates = {name: _gated(ground, kept, *way, fresh, rounds) for name, way in ways.items()}
    every = running.opened(len(kept), range(len(kept)))
    static = {**_static(ground, kept, rounds), "domains": _losses(ground, kept, every, fresh)}
    by_error = {"domains": _losses(ground, _kept(ground, felt=False), every, fresh)}
    behind = refitted(ground.surveyed.model, kept, ground.fit.items, 0)
    in_sequence = {"domains": _losses(ground, behind, every, fresh)}
    bench.say("learning")
    moved = learnt(ground.surveyed.model, kept, ground.fit.items, ground.fit.output, 0)
    if isinstance(moved, str):
        raise RuntimeError(moved)
    end_to_end = {"domains": _losses(ground, moved, every, fresh)}
    own = {
        "none, always bypassed, units by the block's own error": by_error,
        "none, always bypassed, fitted in sequence": in_sequence,
        "none, always bypassed, learnt": end_to_end,
    }
    return {"widths": widths, "gates": {"none, always bypassed": static, **own, **gates}}


def _kept(ground: _Ground, *, felt: bool) -> list[Block]:
    """The blocks that gates are compared before, in graph order."""
    chosen = [(name, share) for kind, share in GATED.items() for name in ground.names(kind) if name != UNGATED]
    place = {node.name: i for i, node in enumerate(ground.surveyed.model.graph.node)}
    kept = [ground.block(name, share, felt=felt) for name, share in chosen]
    return sorted(kept, key=lambda block: place[block.region.nodes[0]])


def _ground(bench: Workbench) -> _Ground:
    source = load_model(job().model)
    data = load_dataset(job().data[0].partition("=")[2], input_specs(source.model))
    surveyed = replace(survey_model(source, data), executor=Local())
    part = data.subset(range(bench.pick(FIT, 60)))
    original = opened(surveyed.model)
    fit = judge(original, part, surveyed.inputs, 1, surveyed.model.graph.output[0].name)
    single = batches(part, 1, surveyed.inputs)
    bench.say("observing MiniLM")
    loss = resolve_loss("cosine", fit.references[0], None)
    blocks = surveyed.survey.blocks
    return _Ground(
        surveyed=surveyed,
        loss=loss,
        fit=fit,
        observed=dict(observe(surveyed.model, blocks, single, seed=0)),
        hidden=observe_hidden(surveyed.model, blocks, single, seed=0),
        metrics=measure_gradients(surveyed, original, single, fit.output, loss, Settings(), blocks).metrics,
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


def _gated(
    ground: _Ground, plain: Sequence[Block], policy: str, evidence: Evidence, fresh: dict[str, Judged], rounds: int
) -> Json:
    """The same blocks behind guards: gates that open for nearly all of *fit*.

    Args:
        ground: the model.
        plain: the blocks.
        policy: of the gates.
        evidence: what they are fitted on.
        fresh: sentences of all domains.
        rounds: of timing.
    """
    model = ground.surveyed.model
    steady = {block.region.name for block in plain}
    blocks = with_policy(plain, policy, Flow.of(model.graph), steady)
    fitted = fit_gates(ground.surveyed, blocks, evidence, ground.loss, Settings(), SILENT)
    limits = tuple(threshold_at(row, GUARD) for row in fitted.scores)
    floors = tuple(block.gate.floor for block in fitted.blocks)
    built = run_passes(model, [InjectGates(fitted.blocks, LevelWindow((limits,), floors, 0))])
    window = window_of(limits, floors)
    domains = _losses(ground, fitted.blocks, window, fresh)
    return {"gates": len(fitted.blocks), "domains": domains, **_speed(ground, built, rounds)}


def _losses(ground: _Ground, blocks: Sequence[Block], window: running.Window, fresh: dict[str, Judged]) -> Json:
    model = instrument(ground.surveyed.model, blocks, ground.surveyed.executor)
    found = {name: run_gated(model, window, judged, ground.loss) for name, judged in fresh.items()}
    return {
        name: {"loss": interval(outcome.losses, "mean"), "bypassed": round(float(outcome.shares.mean()), 3)}
        for name, outcome in found.items()
    }


def _speed(ground: _Ground, model: onnx.ModelProto, rounds: int) -> Json:
    bench = compare(opened(ground.surveyed.original), opened(model), ground.fit.items, rounds=rounds)
    return {"speedup": speedup_json(bench.speedup), "rounds": rounds}
