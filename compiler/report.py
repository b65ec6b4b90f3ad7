"""Say what was found: as JSON for programs, as text for a terminal; `report_page` makes a page of it."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from typing import Any

from skipc.compiler.bench import Bench
from skipc.compiler.footprint import footprint
from skipc.compiler.latency import Speedup, processor
from skipc.compiler.pipeline import Compiled
from skipc.compiler.promises import Measured
from skipc.compiler.report_measures import measures_json, measures_text, rounded, shift_json, shift_text
from skipc.compiler.report_portrait import portrait_json
from skipc.compiler.verify import Verification
from skipc.passes.external import refers
from skipc.passes.regions import Survey
from skipc.runtime.plan import Certificate, Plan

SCHEMA = 1

Json = dict[str, Any]


def speedup_json(speedup: Speedup) -> Json:
    """Median and 95 % interval."""
    return {"median": rounded(speedup.median), "low": rounded(speedup.low), "high": rounded(speedup.high)}


def certificate_json(certificate: Certificate | None) -> Json | None:
    """The certificate by field; None where nothing was certified."""
    if certificate is None:
        return None
    return {name: getattr(certificate, name) for name in certificate.__dataclass_fields__}


def verification_json(found: Verification) -> Json:
    """What `skipc verify` prints."""
    return {
        "ok": found.ok,
        "loss": found.loss,
        "mean": rounded(found.mean),
        "limit": found.limit,
        "bound": rounded(found.bound),
        "confidence": found.confidence,
        "samples": found.samples,
        "gates_shut_max_abs_difference": found.equality.max_abs_difference,
        "gates_shut_bit_for_bit": found.equality.bit_for_bit,
    }


def bench_json(bench: Bench, provider: str, plan: Plan | None, run_share: Sequence[float], skipped: float) -> Json:
    """What `skipc bench` prints."""
    blocks = plan.blocks if plan else ()
    return {
        "speedup": speedup_json(bench.speedup),
        "latency_ms": {"original": rounded(bench.original_ms), "compiled": rounded(bench.compiled_ms)},
        "time_share_skipped": rounded(skipped),
        "layer_share_skipped": rounded(_layer_share(plan, run_share)),
        "blocks": [
            {"name": block.region.name, "run_share": rounded(share)}
            for block, share in zip(blocks, run_share, strict=True)
        ],
        "provider": provider,
    }


def _layer_share(plan: Plan | None, run_share: Sequence[float]) -> float:
    """Share of all blocks found, those without a gate included, that is bypassed; several may share a gate."""
    if plan is None or not run_share:
        return 0.0
    counts = [len(block.bypassed) for block in plan.blocks]
    skipped = sum(count * (1.0 - share) for count, share in zip(counts, run_share, strict=True))
    return skipped / max(plan.regions, sum(counts))


def survey_json(survey: Survey, time_shares: Mapping[str, float]) -> Json:
    """What `skipc inspect` prints of an original."""
    regions = [
        {
            "name": region.name,
            "kind": region.kind,
            "entry": region.entry,
            "exit": region.exit,
            "nodes": len(region.nodes),
            "node_share": rounded(len(region.nodes) / max(1, survey.nodes)),
            "parameters": survey.parameters.get(region.name, 0),
            "parameter_share": rounded(survey.parameters.get(region.name, 0) / max(1, survey.parameters.get("", 0))),
            "time_share": rounded(time_shares[region.name]) if region.name in time_shares else None,
            "reason": "",
        }
        for region in survey.regions
    ]
    rejected = [{"node": item.node, "rule": item.rule, "reason": item.reason} for item in survey.rejected]
    return {"regions": regions, "rejected": rejected}


def plan_json(plan: Plan) -> Json:
    """What `skipc inspect` prints of a compiled file."""
    return {
        "regions": [
            {
                "name": block.region.name,
                "kind": block.region.kind,
                "entry": block.region.entry,
                "exit": block.region.exit,
                "nodes": len(block.region.nodes),
                "time_share": rounded(block.time_share),
                "reason": f"{block.bypass.kind} bypass for {block.open_share:.0%} of the fit data",
            }
            for block in plan.blocks
        ],
        "padding": plan.padding.mask if plan.padding else None,
        "level": plan.level,
        "levels": len(plan.thresholds),
        "certificate": certificate_json(plan.certificate),
        "model_digest": plan.model_digest,
        "data_digests": dict(plan.data_digests),
        "versions": dict(plan.versions),
    }


def compile_json(compiled: Compiled, output: str, seconds: float) -> Json:
    """What `skipc compile` prints."""
    measured, survey = compiled.measured, compiled.surveyed.survey
    return {
        "ok": True,
        "output": output,
        "regions": len(survey.regions),
        "gates": len(compiled.plan.blocks),
        "level": compiled.plan.level,
        "certificate": certificate_json(compiled.plan.certificate),
        "speedup": speedup_json(measured.bench.speedup) if measured else None,
        "static_speedup": _static_speedup(measured),
        "growth": _growth(compiled),
        "budget": {"asked": compiled.reached.budget.text, "speedup": rounded(compiled.reached.needed)}
        if compiled.reached
        else None,
        "time_share_skipped": rounded(measured.time_share_skipped) if measured else None,
        "verification": {name: verification_json(item) for name, item in measured.verification.items()}
        if measured
        else None,
        "growth_bytes": _growth_json(compiled),
        "seconds": rounded(seconds),
    }


def _growth_json(compiled: Compiled) -> Json | None:
    """What the file adds to the original, as `footprint` foretells it, and where weights are; None of a bare plan."""
    if not compiled.model.graph.node:
        return None
    found = footprint(compiled.surveyed.original, compiled.model)
    places = {block.region.weights for block in compiled.plan.blocks}
    return {"file": found.file, "load": found.load, "in_branches": found.branches, "weights": ", ".join(sorted(places))}


def _growth(compiled: Compiled) -> float | None:
    """By how much the file grows, as a share of the original's size; None where its weights are elsewhere."""
    original = compiled.surveyed.original
    if refers(original) or not original.ByteSize():
        return None
    return rounded(compiled.model.ByteSize() / original.ByteSize() - 1.0)


def _static_speedup(measured: Measured | None) -> Json | None:
    if measured is None or measured.static_bench is None:
        return None
    return speedup_json(measured.static_bench.speedup)


def details_json(compiled: Compiled, output: str, seconds: float) -> Json:
    """Everything: what the page shows, and what it carries inside."""
    measured, candidates = compiled.measured, compiled.candidates
    fits, padding = compiled.gate_fits, compiled.plan.padding
    # What is built from a plan is not run: its share is that of the data which the gates were fitted on.
    shares = measured.run_share if measured else tuple(1.0 - block.open_share for block in compiled.plan.blocks)
    return {
        "schema": SCHEMA,
        **compile_json(compiled, output, seconds),
        "loss": compiled.plan.loss,
        "impacts": [
            {name: _plain(getattr(item, name)) for name in item.__dataclass_fields__}
            for item in (candidates.impacts if candidates else ())
        ],
        "impact_measures": measures_json(candidates) if candidates else None,
        "blocks": [
            {
                "name": block.region.name,
                "bypass": block.bypass.kind,
                "gate": block.gate.pooling,
                "impact": rounded(block.impact),
                "saved_ms": rounded(block.saved_ms),
                "time_share": rounded(block.time_share),
                "run_share": rounded(share),
                "gate_rank_correlation": rounded(fits[block.region.name].rank_correlation)
                if block.region.name in fits and block.gate.pooling != "constant"
                else None,
            }
            for block, share in zip(compiled.plan.blocks, shares, strict=True)
        ],
        "static_blocks": [block.region.name for block in compiled.static.blocks] if compiled.static else [],
        "shift": shift_json(compiled.shift),
        "portrait": portrait_json(compiled.portrait),
        "original_ms": rounded(compiled.candidates.original_ms) if compiled.candidates else None,
        "latency_ms": {"original": rounded(measured.bench.original_ms), "compiled": rounded(measured.bench.compiled_ms)}
        if measured
        else None,
        "padding": {"mask": padding.mask, "values": len(padding.values)} if padding else None,
        "granularity": sorted({block.gate.granularity for block in compiled.plan.blocks}),
        "batch_size": compiled.plan.batch_size,
        "environment": environment_json(compiled.plan),
        "path": [{"loss": rounded(step.loss), "saved_ms": rounded(step.saved_ms)} for step in compiled.path],
        "rejected": survey_json(compiled.surveyed.survey, {})["rejected"],
        "model_digest": compiled.plan.model_digest,
        "data_digests": dict(compiled.plan.data_digests),
        "versions": dict(compiled.plan.versions),
    }


def environment_json(plan: Plan) -> Json:
    """Where figures were measured."""
    return {
        "processor": processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "provider": plan.provider,
        "threads": plan.threads,
    }


def _plain(value: Any) -> Any:
    return rounded(value) if isinstance(value, float) else value


def compile_text(details: Mapping[str, Any]) -> str:
    """The summary of a compilation for a terminal."""
    lines = [f"wrote {details['output']}: {details['gates']} gates over {details['regions']} regions"]
    growth, certificate = details["growth_bytes"], details["certificate"]
    grown = (
        f"the file grows by {growth['file'] / 2**20:.2f} MiB, memory at load by about {growth['load'] / 2**20:.2f} MiB"
    )
    if certificate is None:
        return "\n".join(
            [*lines, grown, "every gate is shut and nothing is certified", "next: skipc compile MODEL --data DATA"]
        )
    lines += _speed_text(details)
    if details["budget"]:
        lines.append(f"budget {details['budget']['asked']}: what is certified is the least limit that the data support")
    lines.append(
        f"certified: mean {certificate['loss']} at most {certificate['limit']:g} with confidence "
        f"{certificate['confidence']:g} ({certificate['samples']} samples, {certificate['test']} test)"
    )
    for name, item in (details["verification"] or {}).items():
        lines.append(f"on the test split of {name}: mean {item['mean']:.4g}, {item['samples']} samples")
    if details["padding"]:
        lines.append(f"padding ({details['padding']['mask']}) is left out of products: unequal lengths cost little")
    lines.append(grown)
    lines += table(
        ("block", "bypass", "runs in full", "time share", "impact alone"),
        [
            (b["name"], b["bypass"], f"{b['run_share']:.0%}", f"{b['time_share']:.1%}", f"{b['impact']:.4f}")
            for b in details["blocks"]
        ],
    )
    return "\n".join([*lines, *measures_text(details["impact_measures"]), *shift_text(details["shift"])])


def _speed_text(details: Mapping[str, Any]) -> list[str]:
    """How fast the model is; building from a plan measures nothing."""
    speedup, static = details["speedup"], details["static_speedup"]
    if speedup is None:
        return ["built from the plan, not measured again; next: skipc verify, skipc bench"]
    line = (
        f"{speedup['median']:.2f}x faster ({speedup['low']:.2f} to {speedup['high']:.2f}), "
        f"{details['time_share_skipped']:.0%} of the time bypassed, file {details['growth']:+.1%}"
    )
    return [line + (f"; the same bypasses without gates: {static['median']:.2f}x" if static else "")]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of aligned columns; the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        first = row[0].ljust(widths[0])
        return "  ".join([first, *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))])

    return [line(header), *(line(row) for row in rows)]
