"""What each verb does: from parsed options to a JSON object and a text."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from skipc.compiler.bench import compare, run_shares, time_share_skipped
from skipc.compiler.budget import parse_budget
from skipc.compiler.build import build, placing, require_same_model, serialized
from skipc.compiler.cache import Cache, default_folder
from skipc.compiler.console import Console
from skipc.compiler.data import Dataset, batches, input_specs, load_dataset
from skipc.compiler.emit import check_writable, write_all
from skipc.compiler.external_data import data_beside
from skipc.compiler.groups import grouped
from skipc.compiler.impact import time_shares
from skipc.compiler.pipeline import Compiled, compile_model, compile_without_data
from skipc.compiler.probe import probe_feeds
from skipc.compiler.promises import exposed
from skipc.compiler.report import (
    Json,
    bench_json,
    compile_text,
    details_json,
    plan_json,
    survey_json,
    table,
    verification_json,
)
from skipc.compiler.report_page import page
from skipc.compiler.settings import Settings
from skipc.compiler.source import Source, load_model
from skipc.compiler.survey import survey_model
from skipc.compiler.verify import gates_shut_equality, require_same_signature, verify_compiled
from skipc.passes.stamp import is_compiled, plan_of
from skipc.passes.widen import is_narrow
from skipc.runtime.errors import InputError, PromiseError
from skipc.runtime.plan import plan_from_json
from skipc.runtime.session import open_session
from skipc.runtime.targets import HINT, WARNINGS

Result = tuple[Json, str]


def compile_verb(
    console: Console,
    *,
    model: Path,
    out: Path | None,
    data: Sequence[str],
    plan: Path | None,
    cache: Path | None,
    no_cache: bool,
    target: str | None = None,
    **options: Any,
) -> Result:
    """``skipc compile``."""
    if options["budget"]:
        parse_budget(options["budget"])
    warnings = [text for name, text in WARNINGS.items() if name == target]
    for warning in warnings:
        console.say(f"warning: {warning}")
        console.say(f"hint: {HINT}")
    kept = None if no_cache and cache is None else cache or default_folder(os.environ, Path.home())
    settings = Settings(**{**options, "exclude": tuple(options["exclude"]), "cache": Cache(kept)})
    found, text = _compile(console, model, out, data, plan, settings)
    return {**found, "warnings": warnings}, text


def _compile(
    console: Console, model: Path, out: Path | None, data: Sequence[str], plan: Path | None, settings: Settings
) -> Result:
    start = time.perf_counter()
    files = _output_files(model, out)
    source = load_model(model)
    if plan is not None:
        return _compile_from_plan(source, plan, files, settings, console, start)
    weights = data_beside(source.path, source.files, files[-1])
    datasets = grouped(_datasets(source, data), settings.group_by)
    if datasets:
        source.require_whole()
        compiled = compile_model(source, datasets, settings, console)
        if compiled.gated and compiled.gated.note:
            console.say(compiled.gated.note)
    else:
        console.say("no data: every gate stays shut and nothing is certified")
        compiled = compile_without_data(source, settings, console)
    details = details_json(compiled, str(files[-1]), time.perf_counter() - start)
    write_all({**weights, **dict(zip(files, _contents(compiled, details), strict=True))})
    return _without_details(details), compile_text(details)


def _contents(compiled: Compiled, details: Json) -> tuple[bytes, bytes, bytes]:
    return compiled.plan.to_json(arrays=True).encode(), page(details), serialized(compiled.model)


def _without_details(details: Json) -> Json:
    hidden = (
        "impacts",
        "impact_measures",
        "path",
        "rejected",
        "model_digest",
        "data_digests",
        "versions",
        "static_blocks",
        "shift",
        "portrait",
        "original_ms",
        "latency_ms",
        "granularity",
        "padding",
        "batch_size",
        "environment",
    )
    return {name: value for name, value in details.items() if name not in hidden}


def _output_files(model: Path, out: Path | None) -> tuple[Path, Path, Path]:
    """Plan, report and model, in the order in which they are written."""
    out = out or model.with_name(f"{model.stem}.skip.onnx")
    if out.resolve() == model.resolve():
        raise InputError("output-is-input", "the output would overwrite the model", where=str(out), hint="choose -o")
    stem = out.with_suffix("") if out.suffix == ".onnx" else out
    files = (stem.with_name(f"{stem.name}.plan.json"), stem.with_name(f"{stem.name}.report.html"), out)
    for path in files:
        check_writable(path)
    return files


def _datasets(source: Source, specs: Sequence[str]) -> tuple[Dataset, ...]:
    """The data sets asked for, or the model's sidecar."""
    sidecar = source.path.with_name(f"{source.path.stem}.calib.npz")
    if not specs and sidecar.exists():
        specs = (f"{source.path.stem}={sidecar}",)
    inputs = input_specs(source.model)
    return tuple(load_dataset(spec, inputs) for spec in specs)


def _compile_from_plan(
    source: Source, path: Path, files: tuple[Path, Path, Path], settings: Settings, console: Console, start: float
) -> Result:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        hint = "give the .plan.json that `skipc compile` wrote beside a compiled model"
        raise InputError("plan-unreadable", f"cannot read the plan: {reason}", where=str(path), hint=hint) from error
    plan = placing(plan_from_json(text, where=str(path)), settings.weights)
    require_same_model(plan, source.digest, where=str(path))
    weights = data_beside(source.path, source.files, files[-1])
    with console.stage("finding regions"):
        surveyed = survey_model(source, None)
    with console.stage("building from the plan"):
        model = build(surveyed.original, plan, decisions=settings.decisions, level_input=settings.level_input)
    with console.stage("verifying"):
        equality = gates_shut_equality(surveyed.original, model, probe_feeds(surveyed.model, surveyed.inputs, None))
    if not equality.ok:
        raise PromiseError("gates-shut-differ", "with every gate shut the outputs differ from the original's")
    compiled = Compiled(model, plan, surveyed)
    details = details_json(compiled, str(files[-1]), time.perf_counter() - start)
    write_all({**weights, **dict(zip(files, _contents(compiled, details), strict=True))})
    return _without_details(details), compile_text(details)


def inspect_verb(console: Console, *, model: Path, data: str | None) -> Result:
    """``skipc inspect``."""
    source = load_model(model)
    if is_compiled(source.model):
        found = plan_json(plan_of(source.model, where=str(model)))
        return found, _plan_text(found)
    dataset = load_dataset(data, input_specs(source.model)) if data else None
    with console.stage("finding regions"):
        surveyed = survey_model(source, dataset)
    if source.files or is_narrow(source.model):
        why = "too large to be timed here" if source.files else "in bfloat16, which the CPU cannot time"
        console.say(f"the model is {why}")
        found = survey_json(surveyed.survey, {})
        return found, _survey_text(found)
    with console.stage("timing them"):
        feeds = probe_feeds(surveyed.model, surveyed.inputs, dataset)[0]
        shares = time_shares(surveyed.model, surveyed.survey.blocks, feeds)
        shares |= time_shares(surveyed.model, surveyed.survey.layers, feeds)
    found = survey_json(surveyed.survey, shares)
    return found, _survey_text(found)


def _survey_text(found: Json) -> str:
    rows = [
        (
            item["name"],
            f"{item['nodes']} ({item['node_share']:.0%})",
            f"{item['parameters']:,} ({item['parameter_share']:.0%})",
            "not timed" if item["time_share"] is None else f"{item['time_share']:.1%}",
            item["entry"],
            item["exit"],
        )
        for item in found["regions"]
    ]
    lines = table(("region", "nodes", "weights", "time share", "entry", "exit"), rows)
    refused = [f"refused {item['node']}: {item['reason']} [{item['rule']}]" for item in found["rejected"]]
    return "\n".join([*lines, *refused])


def _plan_text(found: Json) -> str:
    rows = [(item["name"], f"{item['time_share']:.1%}", item["reason"]) for item in found["regions"]]
    lines = [
        f"compiled by skipc {found['versions'].get('skipc', '?')}, level {found['level']} of {found['levels'] - 1}"
    ]
    certificate = found["certificate"]
    if certificate:
        lines.append(
            f"certified: mean {certificate['loss']} of {certificate['output']} at most {certificate['limit']:g} "
            f"with confidence {certificate['confidence']:g} ({certificate['samples']} samples)"
        )
    else:
        lines.append("nothing is certified: every gate is shut")
    if found["padding"]:
        lines.append(f"padding, by {found['padding']}, is left out of products")
    return "\n".join([*lines, *table(("region", "time share", "what was planned"), rows)])


def verify_verb(console: Console, *, compiled: Path, original: Path, data: str, provider: str) -> Result:
    """``skipc verify``."""
    source, candidate = load_model(original), load_model(compiled)
    source.require_whole()
    plan = plan_of(candidate.model, where=str(compiled))
    require_same_model(plan, source.digest, where=str(original))
    dataset = load_dataset(data, input_specs(source.model))
    with console.stage(f"verifying on {len(dataset)} samples"):
        found = verify_compiled(source.model, candidate.model, plan, dataset, provider=provider)
    text = [
        f"{'ok' if found.ok else 'BROKEN'}: mean {found.loss} {found.mean:.4g}"
        + (f", limit {found.limit:g}" if found.limit is not None else ", nothing was certified"),
        f"upper bound {found.bound:.4g} with confidence {found.confidence:g} from {found.samples} samples",
        f"gates shut: {'equal bit for bit' if found.equality.bit_for_bit else 'DIFFERENT'}, "
        f"{found.equality.max_abs_difference:.1e} off under ONNX Runtime's optimisations",
    ]
    return verification_json(found), "\n".join(text)


def bench_verb(
    console: Console, *, model: Path, compiled: Path, data: str, batch_size: int, threads: int, provider: str
) -> Result:
    """``skipc bench``."""
    source, candidate = load_model(model), load_model(compiled)
    if is_compiled(source.model) and not is_compiled(candidate.model):
        what, hint = "the first model was compiled by skipc, the second was not", "skipc bench MODEL COMPILED"
        raise InputError("already-compiled", what, where=str(model), hint=hint)
    require_same_signature(source.model, candidate.model)
    inputs = input_specs(source.model)
    items = batches(load_dataset(data, inputs), batch_size, inputs)
    first = open_session(source.loadable, provider=provider, threads=threads, where=str(model))
    second = open_session(candidate.loadable, provider=provider, threads=threads, where=str(compiled))
    with console.stage("timing"):
        bench = compare(first, second, items)
    known = is_compiled(candidate.model) and not candidate.files
    plan = plan_of(candidate.model, where=str(compiled)) if known else None
    shares = run_shares(exposed(candidate.model, plan), plan, items) if plan else ()
    skipped = time_share_skipped(plan, shares) if plan else 0.0
    found = bench_json(bench, second.provider, plan, shares, skipped)
    speedup, latency = found["speedup"], found["latency_ms"]
    lines = [
        f"{speedup['median']:.3f}x faster ({speedup['low']:.3f} to {speedup['high']:.3f}) on {second.provider}",
        f"{latency['original']:.3f} ms -> {latency['compiled']:.3f} ms a batch of {batch_size}, {threads} thread(s)",
        f"time bypassed {skipped:.1%}, layers bypassed {found['layer_share_skipped']:.1%}",
    ]
    rows = [(item["name"], f"{item['run_share']:.1%}") for item in found["blocks"]]
    return found, "\n".join([*lines, *(table(("block", "runs in full"), rows) if rows else [])])
