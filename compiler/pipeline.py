"""The whole program on one page: from a model and data to a verified, compiled model.

survey → judge → observe → candidates → gates and path → certificate → plan → model → verification
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import onnx
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from skipc.compiler.bench import Bench, compare, run_shares, time_share_skipped
from skipc.compiler.build import build, versions
from skipc.compiler.candidates import Candidates, measure_candidates, study
from skipc.compiler.certify import Claim, certify, require_enough
from skipc.compiler.console import Console
from skipc.compiler.data import Batch, Dataset, batches, padding_mask, split
from skipc.compiler.executors import Executor, executor_for
from skipc.compiler.fit import GateFit
from skipc.compiler.gating import Evidence, Gated, gate_options, without_gate
from skipc.compiler.gradient import measure_gradients
from skipc.compiler.impact import instrument, ungated
from skipc.compiler.loss import Loss, Losses, resolve_loss
from skipc.compiler.planner import ALWAYS, NEVER, Step, levels_of, window_of
from skipc.compiler.portrait import Portrait, Subject, take_portrait
from skipc.compiler.probe import probe_feeds
from skipc.compiler.reference import with_references
from skipc.compiler.running import Judged, judge, run_gated, run_plain
from skipc.compiler.second_look import with_second_look
from skipc.compiler.settings import Settings
from skipc.compiler.shift import LeftOut, estimate_shift
from skipc.compiler.source import Source
from skipc.compiler.static import Static, best_static
from skipc.compiler.survey import Surveyed, survey_model
from skipc.compiler.verify import Verification, gates_shut_equality, verification
from skipc.passes.expose import ExposeDecisions
from skipc.runtime import names
from skipc.runtime.errors import InputError, PromiseError
from skipc.runtime.plan import Array, Block, Bypass, Certificate, Plan
from skipc.runtime.session import Session, open_session

SHARES = (0.4, 0.4, 0.2)
"""Of every data set: fit, calibrate, test."""

JOINED = 4
"""Samples in a batch on which the independence of rows is proved."""

LEVELS = 4
"""Certified configurations that the file keeps, beside level 0."""


@dataclass(frozen=True)
class Splits:
    """The data, split once: one judged part of each data set; *fit* also sample by sample, and some of it joined."""

    fit: Judged
    single_fit: tuple[Batch, ...]
    joined_fit: tuple[Batch, ...]
    calibrate: tuple[Judged, ...]
    test: tuple[Judged, ...]


@dataclass(frozen=True)
class Levels:
    """What the file will hold.

    Attributes:
        steps: certified configurations from gentle to bold; level k of the file is the k-th of them, counted from 1.
        certificate: of the last one, which is in force.
    """

    steps: tuple[Step, ...]
    certificate: Certificate


@dataclass(frozen=True)
class Measured:
    """What the compiled model does on *test*.

    Attributes:
        verification: for each data set by name.
        bench: against the original.
        static_bench: of the static alternative, None where there is none.
        run_share: share of samples for which each block runs in full.
        time_share_skipped: share of the original's latency that is bypassed.
    """

    verification: dict[str, Verification]
    bench: Bench
    static_bench: Bench | None
    run_share: tuple[float, ...]
    time_share_skipped: float


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


def compile_model(source: Source, data: Sequence[Dataset], settings: Settings, console: Console) -> Compiled:
    """Compile a model for data like these.

    Raises:
        InputError: model, data and settings do not fit.
        PromiseError: there is too little data for the risk, or nothing could be gained at it.
    """
    # Many small products: with threads of its own the BLAS waits more than it works, by far where cores are shared.
    with threadpool_limits(1), executor_for(settings.workers, settings.dask) as executor:
        return _compile_model(source, data, settings, console, executor)


def _compile_model(
    source: Source, data: Sequence[Dataset], settings: Settings, console: Console, executor: Executor
) -> Compiled:
    with console.stage("finding regions"):
        surveyed = replace(survey_model(source, data[0], settings.exclude, settings.weights), executor=executor)
    _require_regions(surveyed)
    original = open_session(_bytes(surveyed.model), provider=settings.provider, threads=settings.threads)
    with console.stage("running the original on the data"):
        splits, claim = _split_and_judge(surveyed, original, data, settings)
    with console.stage("observing activations"):
        studied = study(surveyed, splits.single_fit, settings)
    with console.stage("differentiating"):
        gradients = measure_gradients(surveyed, original, splits.single_fit, claim.output, claim.loss, settings)
    with console.stage("measuring the impact and cost of every region"):
        candidates = measure_candidates(surveyed, original, studied, gradients, splits.fit, claim.loss, settings)
    _require_candidates(candidates)
    with console.stage("fitting gates and laying the path"):
        mask = _mask(surveyed, splits, settings)
        evidence = Evidence(studied.activations, splits.fit, splits.single_fit, splits.joined_fit, mask)
        gated = gate_options(surveyed, original, candidates.chosen, evidence, claim, settings)
        gated = with_second_look(surveyed, original, evidence, gated, claim, settings)
    with console.stage("certifying"):
        levels = _certified_levels(gated, splits, claim)
    with console.stage("building and verifying"):
        found = len(surveyed.survey.blocks)
        plan = _plan(source, data, gated, levels, splits, claim, settings, found)
        plan = with_references(plan, surveyed, splits.fit, splits.calibrate)
        model = build(surveyed.model, plan, decisions=settings.decisions, level_input=settings.level_input)
        static = _static(surveyed, candidates, splits, claim)
        measured = _measure(surveyed, original, model, plan, static, data, splits, claim)
    _require_promises(measured)
    with console.stage("estimating behaviour under shift"):
        # With several data sets each of them is certified, which says more.
        lone = candidates.chosen if len(data) == 1 else ()
        shift = estimate_shift(surveyed, original, lone, evidence, claim, settings.seed)
    portrait = None
    if settings.portrait:
        with console.stage("comparing with opponents"):
            subject = Subject(original, model, exposed(model, plan), plan, candidates.chosen, static)
            portrait = take_portrait(surveyed, subject, splits.fit, splits.calibrate, splits.test, claim)
    fits = {block.region.name: fit for block, fit in zip(gated.blocks, gated.fits, strict=True)}
    return Compiled(
        model, plan, surveyed, claim.loss, candidates, gated.path, fits, static, measured, shift, gated, portrait
    )


def compile_without_data(source: Source, settings: Settings, console: Console) -> Compiled:
    """Put every block behind a gate that never opens: the structure, and no promise.

    Raises:
        InputError: the model does not run or has no regions.
    """
    with console.stage("finding regions"):
        surveyed = survey_model(source, None, settings.exclude, settings.weights)
    _require_regions(surveyed)
    blocks = tuple(ungated(region, Bypass("identity")) for region in surveyed.survey.blocks)
    plan = _bare_plan(source, (), blocks, ((NEVER,) * len(blocks),), settings, None, settings.loss)
    plan = replace(plan, regions=len(blocks))
    with console.stage("building and verifying"):
        model = build(surveyed.model, plan, decisions=settings.decisions, level_input=settings.level_input)
        equality = gates_shut_equality(surveyed.model, model, probe_feeds(surveyed.model, surveyed.inputs, None))
    if not equality.ok:
        raise PromiseError("gates-shut-differ", "with every gate shut the outputs differ from the original's")
    return Compiled(model, plan, surveyed)


def _bytes(model: onnx.ModelProto) -> bytes:
    data: bytes = model.SerializeToString()
    return data


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


def _split_and_judge(
    surveyed: Surveyed, original: Session, data: Sequence[Dataset], settings: Settings
) -> tuple[Splits, Claim]:
    output = _output(original, settings)
    parts = [_parts(dataset, settings.seed) for dataset in data]
    size, by_batch = settings.batch_size, settings.granularity == "batch"
    judged = [
        [judge(original, part, surveyed.inputs, size, output, by_batch=by_batch) for part in row] for row in parts
    ]
    labels = data[0].labels
    loss = resolve_loss(settings.loss, judged[0][0].references[0], labels)
    fits, calibrations, tests = zip(*judged, strict=True)
    per_sample = calibrations[0].units == calibrations[0].samples == sum(map(len, calibrations[0].references))
    claim = Claim(loss, output, settings.risk, settings.confidence, loss.binary and per_sample)
    units = {dataset.name: part.units for dataset, part in zip(data, calibrations, strict=True)}
    require_enough(claim, units, SHARES[1], size if by_batch else 1)
    fit, single = joined(fits, [batches(row[0], 1, surveyed.inputs) for row in parts])
    return Splits(fit, single, _several(parts[0][0], surveyed), calibrations, tests), claim


def _several(part: Dataset, surveyed: Surveyed) -> tuple[Batch, ...]:
    """A few batches of several samples; none where the samples or the model stand alone."""
    if any(spec.fixed_batch for spec in surveyed.inputs):
        return ()
    found = batches(part.subset(range(min(len(part), 4 * JOINED))), JOINED, surveyed.inputs)
    return tuple(item for item in found if len(item.indices) > 1)[:2]


def _mask(surveyed: Surveyed, splits: Splits, settings: Settings) -> str:
    """The input that tells padding; empty where there is none."""
    if settings.mask == "none":
        return ""
    if settings.mask == "auto":
        found = padding_mask([item.feeds for item in splits.fit.items], surveyed.inputs)
        return found.name if found else ""
    fitting = [spec.name for spec in surveyed.inputs if len(spec.shape) == 2]
    if settings.mask not in fitting:
        hint = f"inputs [batch, sequence] are: {', '.join(fitting) or 'none'}"
        raise InputError("mask-unknown", f"{settings.mask!r} can be no mask", where="--mask", hint=hint)
    return settings.mask


def _output(original: Session, settings: Settings) -> str:
    if settings.output is None:
        return original.outputs[0]
    if settings.output not in original.outputs:
        hint = f"one of {', '.join(original.outputs)}"
        raise InputError("output-unknown", f"the model has no output {settings.output!r}", where="--output", hint=hint)
    return settings.output


def _parts(dataset: Dataset, seed: int) -> list[Dataset]:
    return [dataset.subset(chosen) for chosen in split(len(dataset), SHARES, seed)]


def joined(parts: Sequence[Judged], single: Sequence[Sequence[Batch]]) -> tuple[Judged, tuple[Batch, ...]]:
    """Several judged data sets as one, shuffled into one another so that its beginning stands for all of it.

    Args:
        parts: one for each data set.
        single: the samples of each of them one by one, which stay in the order of the batches that they are in.
    """
    units: list[tuple[Batch, Array, NDArray[np.int64] | None, Sequence[Batch]]] = []
    for part, samples in zip(parts, single, strict=True):
        ends = np.cumsum([len(item.indices) for item in part.items])
        own = [samples[end - len(item.indices) : end] for item, end in zip(part.items, ends, strict=True)]
        units += zip(part.items, part.references, part.labels, own, strict=True)
    order = np.random.default_rng(0).permutation(len(units)) if len(parts) > 1 else np.arange(len(units))
    items, references, labels, singles = zip(*(units[i] for i in order), strict=True)
    return Judged(items, references, labels, parts[0].output, parts[0].by_batch), tuple(
        item for unit in singles for item in unit
    )


def _certified_levels(gated: Gated, splits: Splits, claim: Claim) -> Levels:
    """Walk the path on *calibrate* and settle which configurations the file keeps and which one is in force.

    All that passed are certified together. In force is the boldest whose mean loss on *test* keeps to the limit too,
    since nobody wants a file that its own test speaks against. The mean on *test* is flattered by that choice, if only
    where the boldest was passed over.
    """

    def losses(step: Step, data: Sequence[Judged]) -> list[Losses]:
        window = window_of(step.thresholds, [block.gate.floor for block in gated.blocks])
        return [run_gated(gated.model, window, judged, claim.loss).losses for judged in data]

    certificates = certify([partial(losses, step, splits.calibrate) for step in gated.path], claim)
    if not certificates:
        hint = "allow more with --risk, or give more data"
        what = f"not even the gentlest configuration holds a mean loss of {claim.limit:g}"
        raise PromiseError("nothing-gained", what, hint=hint)
    means = []
    for position in reversed(range(len(certificates))):
        means.append(max(float(part.mean()) for part in losses(gated.path[position], splits.test)))
        if means[-1] <= claim.limit:
            kept = levels_of(gated.path[: position + 1], LEVELS)
            return Levels(tuple(gated.path[i] for i in kept), certificates[position])
    what = f"every certified configuration exceeds {claim.limit:g} on the test split (mean {min(means):.4g} at least)"
    raise PromiseError("risk-exceeded", what, hint="give more data, or allow more with --risk")


def _plan(
    source: Source,
    data: Sequence[Dataset],
    gated: Gated,
    levels: Levels,
    splits: Splits,
    claim: Claim,
    settings: Settings,
    regions: int,
) -> Plan:
    in_force = levels.steps[-1].thresholds
    window = window_of(in_force, [block.gate.floor for block in gated.blocks])
    opened = run_gated(gated.model, window, splits.fit, claim.loss).shares.mean(axis=0)
    used = [i for i in range(len(in_force)) if any(step.thresholds[i] > NEVER for step in levels.steps)]
    planned = [
        replace(without_gate(block) if limit == ALWAYS else block, open_share=float(share))
        for block, limit, share in zip(gated.blocks, in_force, opened, strict=True)
    ]
    blocks = tuple(planned[i] for i in used)
    thresholds = ((NEVER,) * len(used), *(tuple(step.thresholds[i] for i in used) for step in levels.steps))
    plan = _bare_plan(source, data, blocks, thresholds, settings, levels.certificate, claim.loss.name)
    return replace(plan, regions=regions)


def _bare_plan(
    source: Source,
    data: Sequence[Dataset],
    blocks: tuple[Block, ...],
    thresholds: tuple[tuple[float, ...], ...],
    settings: Settings,
    certificate: Certificate | None,
    loss: str,
) -> Plan:
    return Plan(
        model_digest=source.digest,
        data_digests={dataset.name: dataset.digest for dataset in data},
        blocks=blocks,
        thresholds=thresholds,
        level=len(thresholds) - 1,
        certificate=certificate,
        loss=loss,
        batch_size=settings.batch_size,
        threads=settings.threads,
        provider=settings.provider,
        seed=settings.seed,
        versions=versions(),
    )


def _static(surveyed: Surveyed, candidates: Candidates, splits: Splits, claim: Claim) -> Static | None:
    blocks = [ungated(option.region, option.bypass) for option in candidates.chosen]
    session = instrument(surveyed.model, blocks, surveyed.executor)
    return best_static(session, blocks, candidates.chosen, splits.fit, splits.calibrate, claim)


def _measure(
    surveyed: Surveyed,
    original: Session,
    model: onnx.ModelProto,
    plan: Plan,
    static: Static | None,
    data: Sequence[Dataset],
    splits: Splits,
    claim: Claim,
) -> Measured:
    session = open_session(_bytes(model), provider=plan.provider, threads=plan.threads)
    equality = gates_shut_equality(surveyed.model, model, [item.feeds for item in splits.test[0].items])
    found = {
        dataset.name: verification(
            equality, claim.loss, run_plain(session, judged, claim.loss), plan, per_sample=claim.binary
        )
        for dataset, judged in zip(data, splits.test, strict=True)
    }
    items = [item for judged in splits.test for item in judged.items]
    static_bench = None
    if static is not None:
        static_model = _bytes(static.model(surveyed.model))
        replaced = open_session(static_model, provider=plan.provider, threads=plan.threads)
        static_bench = compare(original, replaced, items)
    shares = run_shares(exposed(model, plan), plan, items)
    return Measured(found, compare(original, session, items), static_bench, shares, time_share_skipped(plan, shares))


def exposed(model: onnx.ModelProto, plan: Plan) -> Session:
    """The compiled model with its decisions among the outputs."""
    session = open_session(_bytes(model))
    if names.DECISIONS in session.outputs:
        return session
    return open_session(_bytes(ExposeDecisions(plan.blocks).apply(model)))


def _require_promises(measured: Measured) -> None:
    """Refuse a model that breaks a promise or gains nothing.

    Raises:
        PromiseError: which promise, and by how much.
    """
    for name, found in measured.verification.items():
        if not found.equality.bit_for_bit:
            raise PromiseError("gates-shut-differ", "with every gate shut the outputs differ from the original's")
        if found.equality.relative > 0 and not found.equality.ok:
            what = f"with every gate shut the outputs are off by {found.equality.relative:.1e} of their scale"
            raise PromiseError("gates-shut-differ", what)
        if found.limit is not None and found.mean > found.limit:
            what = f"the mean loss on the test split is {found.mean:.4g}, above the limit {found.limit:g}"
            raise PromiseError("risk-exceeded", what, where=name, hint="give more data, or allow more with --risk")
    if measured.bench.speedup.median <= 1.0:
        what = f"the compiled model is no faster ({measured.bench.speedup.median:.3f}x) at this risk"
        raise PromiseError("nothing-gained", what, hint="allow more with --risk, or try another --batch-size")
