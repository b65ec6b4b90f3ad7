"""The whole program on one page: from a model and data to a verified, compiled model.

survey → judge → observe → candidates → gates and path → certificate → plan → model → verification
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
from threadpoolctl import threadpool_limits

from skipc.compiler.budget import Laid, Reached, bounded_level, parse_budget, reach, require_budget, speed_of
from skipc.compiler.build import build
from skipc.compiler.cache import Cache, measuring
from skipc.compiler.candidates import Candidates, Studied, measure_candidates, study
from skipc.compiler.certify import Claim
from skipc.compiler.console import Console
from skipc.compiler.data import Dataset
from skipc.compiler.executors import Executor, executor_for
from skipc.compiler.fit import GateFit
from skipc.compiler.gate_fit import Evidence
from skipc.compiler.gating import Gated, gate_options
from skipc.compiler.gradient import Gradients, measure_gradients
from skipc.compiler.impact import ungated
from skipc.compiler.levels import certified_levels
from skipc.compiler.loss import Loss
from skipc.compiler.padding import leave_out_padding, obstacle_in
from skipc.compiler.planner import NEVER, Step
from skipc.compiler.planning import bare_plan, full_plan
from skipc.compiler.portrait import Portrait, Subject, take_portrait
from skipc.compiler.probe import probe_feeds
from skipc.compiler.promises import Measured, exposed, measure_promises, require_promises, static_alternative
from skipc.compiler.reference import with_references
from skipc.compiler.second_look import best_second_look, faster_of
from skipc.compiler.settings import Settings
from skipc.compiler.shift import LeftOut, estimate_shift
from skipc.compiler.source import Source
from skipc.compiler.splits import Splits, padding_input, split_and_judge
from skipc.compiler.static import Static
from skipc.compiler.survey import Surveyed, survey_model
from skipc.compiler.verify import gates_shut_equality
from skipc.runtime.errors import PromiseError
from skipc.runtime.plan import Bypass, Plan
from skipc.runtime.session import Session, open_session


@dataclass(frozen=True)
class Compiled:
    """The result of a compilation.

    Attributes:
        model: the compiled model.
        plan: what it was built from.
        surveyed: the original.
        loss: judged by; None without data.
        candidates: measured regions; None without data.
        path: configurations from gentle to bold, those that were certified first.
        gate_fits: by region, of all gates that were fitted.
        static: the alternative without gates.
        measured: on *test*; None without data.
        shift: what happened to clusters of the data that were left out; empty with several data sets.
        gated: all blocks that got a gate and the path through their thresholds, whose model is closed if it ran in
            another process; None without data.
        portrait: what the report shows beside all this; None without data, or where it was not wanted.
        reached: where a budget was asked for, what reaches it.
    """

    model: onnx.ModelProto
    plan: Plan
    surveyed: Surveyed
    loss: Loss | None = None
    candidates: Candidates | None = None
    path: tuple[Step, ...] = ()
    gate_fits: Mapping[str, GateFit] = field(default_factory=dict)
    static: Static | None = None
    measured: Measured | None = None
    shift: tuple[LeftOut, ...] = ()
    gated: Gated | None = None
    portrait: Portrait | None = None
    reached: Reached | None = None


def compile_model(source: Source, data: Sequence[Dataset], settings: Settings, console: Console) -> Compiled:
    """Compile a model for data like these.

    Raises:
        InputError: model, data and settings do not fit.
        PromiseError: there is too little data for the risk, or nothing could be gained at it.
    """
    if settings.budget and not settings.cache.keeps:
        # Laying paths for several limits measures the same things again and again.
        with TemporaryDirectory() as folder:
            return compile_model(source, data, replace(settings, cache=Cache(Path(folder))), console)
    # Many small products: with threads of its own the BLAS waits more than it works, by far where cores are shared.
    with threadpool_limits(1), executor_for(settings.workers, settings.dask, settings.cache) as executor:
        return _compile_model(source, data, settings, console, executor)


@dataclass(frozen=True)
class _Ground:
    """What is known before anything is decided."""

    surveyed: Surveyed
    original: Session
    splits: Splits
    claim: Claim
    studied: Studied
    gradients: Gradients
    evidence: Evidence


def _compile_model(
    source: Source, data: Sequence[Dataset], settings: Settings, console: Console, executor: Executor
) -> Compiled:
    cache = settings.cache
    ground = _observed(source, data, settings, console, executor)
    surveyed, original, splits = ground.surveyed, ground.original, ground.splits
    reached = _reached(ground, settings, console) if settings.budget else None
    laid = reached.laid if reached else _laid(ground, settings, console)
    candidates, gated = laid.candidates, laid.gated
    with measuring(console, "certifying", cache) as progress:
        if reached is not None:
            levels = bounded_level(reached, splits, ground.claim)
        else:
            levels = certified_levels(gated, splits, ground.claim, progress)
    claim = replace(ground.claim, limit=levels.certificate.limit)
    with measuring(console, "building and verifying", cache):
        plan = full_plan(source, data, gated, levels, splits, claim, settings, surveyed)
        plan = with_references(plan, gated.model, splits.fit, splits.calibrate, claim.loss)
        obstacle = obstacle_in(surveyed, plan, splits)
        if obstacle:
            console.say(f"padding stays: {obstacle}")
            surveyed, plan = replace(surveyed, padding=None), replace(plan, padding=None)
        model = build(surveyed.original, plan, decisions=settings.decisions, level_input=settings.level_input)
        static = static_alternative(surveyed, candidates, splits, claim)
        measured = measure_promises(surveyed, original, model, plan, static, data, splits, claim)
    require_promises(measured)
    if reached is not None:
        require_budget(reached, measured.bench)
    with measuring(console, "estimating behaviour under shift", cache) as progress:
        # With several data sets each of them is certified, which says more.
        lone = candidates.chosen if len(data) == 1 else ()
        shift = estimate_shift(surveyed, original, lone, ground.evidence, claim, settings.seed, progress)
    portrait = None
    if settings.portrait:
        with measuring(console, "comparing with opponents", cache) as progress:
            subject = Subject(original, model, exposed(model, plan), plan, candidates.chosen, static)
            portrait = take_portrait(surveyed, subject, splits.fit, splits.calibrate, splits.test, claim, progress)
    return Compiled(
        model=model,
        plan=plan,
        surveyed=surveyed,
        loss=claim.loss,
        candidates=candidates,
        path=gated.path,
        gate_fits={block.region.name: fit for block, fit in zip(gated.blocks, gated.fits, strict=True)},
        static=static,
        measured=measured,
        shift=shift,
        gated=gated,
        portrait=portrait,
        reached=reached,
    )


def _observed(
    source: Source, data: Sequence[Dataset], settings: Settings, console: Console, executor: Executor
) -> _Ground:
    """Find the regions, run the original over the data, and watch it."""
    cache = settings.cache
    with console.stage("finding regions"):
        surveyed = replace(survey_model(source, data[0], settings.exclude, settings.weights), executor=executor)
    _require_regions(surveyed)
    original = open_session(surveyed.original.SerializeToString(), provider=settings.provider, threads=settings.threads)
    with console.stage("running the original on the data") as progress:
        splits, claim = split_and_judge(surveyed, original, data, settings, progress)
    mask = padding_input(surveyed, splits, settings)
    with measuring(console, "trying to leave padding out", cache):
        surveyed = replace(surveyed, padding=leave_out_padding(surveyed, splits, mask, settings))
    single = splits.single_fit
    with measuring(console, "observing activations", cache) as progress:
        parts = (surveyed.model, surveyed.survey.regions, single, settings.bypass, settings.seed)
        studied = cache.recall("studied", parts, lambda: study(surveyed, single, settings, progress))
    with measuring(console, "differentiating", cache):
        watched = tuple(region for region in surveyed.survey.blocks if region.name in studied.hidden)
        gradients = measure_gradients(surveyed, original, single, claim.output, claim.loss, settings, watched)
    evidence = Evidence(studied.activations, splits.fit, single, splits.joined_fit, mask)
    return _Ground(surveyed, original, splits, claim, studied, gradients, evidence)


def _laid(ground: _Ground, settings: Settings, console: Console) -> Laid:
    """Choose bypasses and gates for the risk, and lay the path of configurations."""
    surveyed, original, cache = ground.surveyed, ground.original, settings.cache
    claim, fit = replace(ground.claim, limit=settings.risk), ground.splits.fit
    with measuring(console, "measuring the impact and cost of every region", cache) as progress:
        candidates = measure_candidates(
            surveyed, original, ground.studied, ground.gradients, ground.splits, claim.loss, settings, progress
        )
    _require_candidates(candidates)
    with measuring(console, "fitting gates and laying the path", cache) as progress:
        evidence = ground.evidence
        look = best_second_look(surveyed, original, evidence, claim, settings)
        beat = look.speedup if look else 0.0
        blocks = gate_options(surveyed, original, candidates, evidence, claim, settings, beat, progress)
        gated = faster_of(look, blocks, surveyed, fit, claim, settings)
        assert gated is not None, "without a second look blocks have nothing to beat"
    return Laid(candidates, gated)


def _reached(ground: _Ground, settings: Settings, console: Console) -> Reached:
    """Seek the gentlest configuration that is as fast as the budget asks for."""
    budget, fit = parse_budget(settings.budget), ground.splits.fit
    speed = speed_of(ground.surveyed, fit, settings)

    def lay(limit: float) -> Laid:
        return _laid(ground, replace(settings, risk=limit), console)

    return reach(budget, budget.needed(ground.original, fit), settings.risk, lay, speed)


def compile_without_data(source: Source, settings: Settings, console: Console) -> Compiled:
    """Put every block behind a gate that never opens: the structure, and no promise.

    Raises:
        InputError: the model does not run or has no regions.
    """
    with console.stage("finding regions"):
        surveyed = survey_model(source, None, settings.exclude, settings.weights)
    _require_regions(surveyed)
    blocks = tuple(ungated(region, Bypass("identity")) for region in surveyed.survey.blocks)
    plan = bare_plan(source, (), blocks, ((NEVER,) * len(blocks),), settings, None, settings.loss)
    plan = replace(plan, regions=len(blocks), targets=surveyed.targets)
    with console.stage("building and verifying"):
        model = build(surveyed.original, plan, decisions=settings.decisions, level_input=settings.level_input)
        equality = gates_shut_equality(surveyed.original, model, probe_feeds(surveyed.model, surveyed.inputs, None))
    if not equality.ok:
        raise PromiseError("gates-shut-differ", "with every gate shut the outputs differ from the original's")
    return Compiled(model, plan, surveyed)


def _require_regions(surveyed: Surveyed) -> None:
    if surveyed.survey.blocks:
        return
    refused = len(surveyed.survey.rejected)
    hint = "`skipc inspect` lists every refusal with its reason"
    raise PromiseError("no-regions", f"the model has no region to bypass ({refused} candidates refused)", hint=hint)


def _require_candidates(candidates: Candidates) -> None:
    if candidates.chosen:
        return
    hint = "try a larger --batch-size, or a model with larger blocks"
    raise PromiseError("nothing-gained", "no block takes longer than what could stand in for it", hint=hint)
