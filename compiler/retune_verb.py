"""``skipc retune``: another level for a compiled file, or another certificate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx

from skipc.compiler.build import require_same_model, serialized
from skipc.compiler.console import Console
from skipc.compiler.data import input_specs, load_dataset
from skipc.compiler.emit import check_writable, write_all
from skipc.compiler.external_data import data_beside
from skipc.compiler.groups import grouped
from skipc.compiler.report import Json, certificate_json
from skipc.compiler.retune import Terms, recertify
from skipc.compiler.source import load_model
from skipc.passes.base import run_passes
from skipc.passes.stamp import Recertify, SetLevel, plan_of
from skipc.runtime.errors import InputError, SkipcError
from skipc.runtime.plan import Plan, plan_from_json

HINT = "`skipc retune COMPILED --level N`, or `skipc retune COMPILED --original MODEL --data PATH`"


def retune_verb(
    console: Console,
    *,
    compiled: Path,
    level: int | None,
    out: Path | None,
    original: Path | None,
    data: Sequence[str],
    group_by: str,
    **terms: Any,
) -> tuple[Json, str]:
    """Write the file with another level in force, or with the levels that pass on new data, under their certificate."""
    out = out or compiled
    _require_other_file(out, original)
    check_writable(out)
    source = load_model(compiled)
    model = source.model
    before = plan_of(model, where=str(compiled))
    change: SetLevel | Recertify
    if level is not None:
        _require_nothing_else(original, data, terms["risk"], terms["confidence"], group_by)
        change = SetLevel(level)
    elif original is None or not data:
        raise InputError(
            "usage", "missing option '--level', or '--original' and '--data'", where="skipc retune", hint=HINT
        )
    else:
        change = _recertified(console, model, original, (tuple(data), group_by), Terms(**terms))
    changed = run_passes(model, [change])
    after = plan_of(changed, where=str(out))
    plans = _plan_beside(compiled, out, before, after)
    weights = data_beside(source.path, source.files, out)
    write_all({**weights, **plans, out: serialized(changed)})
    return _result(before, after, out, [str(path) for path in plans])


def _require_other_file(out: Path, original: Path | None) -> None:
    if original is not None and out.resolve() == original.resolve():
        raise InputError("output-is-input", "the output would overwrite the original", where=str(out), hint="choose -o")


def _require_nothing_else(
    original: Path | None, data: Sequence[str], risk: float | None, confidence: float | None, group_by: str
) -> None:
    """Refuse a level beside what certifying takes: certifying settles the level itself."""
    if original or data or risk or confidence or group_by != "none":
        what = "--level moves between levels that are certified; every other option is for certifying them anew"
        raise InputError("usage", what, where="skipc retune", hint=HINT)


def _recertified(
    console: Console, model: onnx.ModelProto, original: Path, data: tuple[Sequence[str], str], terms: Terms
) -> Recertify:
    source = load_model(original)
    source.require_whole()
    require_same_model(plan_of(model, where=""), source.digest, where=str(original))
    specs, group_by = data
    datasets = grouped([load_dataset(spec, input_specs(source.model)) for spec in specs], group_by)
    with console.stage(f"certifying on {sum(map(len, datasets))} samples"):
        return recertify(source.model, model, datasets, terms)


def _plan_beside(compiled: Path, out: Path, before: Plan, after: Plan) -> dict[Path, bytes]:
    """The plan file of the output, changed like the model; none where none of this very plan lies beside the input."""
    try:
        path = _plan_path(compiled)
        whole = plan_from_json(path.read_text(encoding="utf-8"), where=str(path))
    except (OSError, UnicodeDecodeError, SkipcError):
        return {}
    same = (whole.model_digest, whole.thresholds, whole.level) == (before.model_digest, before.thresholds, before.level)
    if not same or whole.certificate != before.certificate:
        return {}
    changed = replace(
        whole,
        thresholds=after.thresholds,
        level=after.level,
        certificate=after.certificate,
        data_digests=after.data_digests,
    )
    return {_plan_path(out): changed.to_json(arrays=True).encode()}


def _plan_path(model: Path) -> Path:
    stem = model.with_suffix("") if model.suffix == ".onnx" else model
    return stem.with_name(f"{stem.name}.plan.json")


def _result(before: Plan, after: Plan, out: Path, plans: Sequence[str]) -> tuple[Json, str]:
    levels, removed = len(after.thresholds), len(before.thresholds) - len(after.thresholds)
    found = {
        "ok": True,
        "output": str(out),
        "plan": plans[0] if plans else None,
        "level": after.level,
        "levels": levels,
        "levels_removed": removed,
        "certificate": certificate_json(after.certificate),
    }
    lines = [f"wrote {out}: level {after.level} of {levels - 1} is in force"]
    if removed:
        lines.append(f"{removed} bolder level(s) did not pass and were removed")
    certificate = after.certificate
    if certificate:
        lines.append(
            f"certified for levels up to {levels - 1}: mean {certificate.loss} of {certificate.output} at most "
            f"{certificate.limit:g} with confidence {certificate.confidence:g} "
            f"({certificate.samples} samples, {certificate.test} test)"
        )
    return found, "\n".join(lines)
