"""The verbs that look at a compiled file in use: ``explain``, ``run``, ``report`` and ``verify --log``."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from skipc.compiler.console import Console
from skipc.compiler.data import Batch, batches, input_specs, load_dataset
from skipc.compiler.emit import check_writable, write_all
from skipc.compiler.explain import largest_difference, story_json, story_text, summary, summary_text
from skipc.compiler.pipeline import Compiled
from skipc.compiler.replay import replay
from skipc.compiler.report import Json, details_json, table
from skipc.compiler.report_measures import rounded
from skipc.compiler.report_page import page
from skipc.compiler.serving import triton_repository
from skipc.compiler.source import load_model
from skipc.compiler.survey import Surveyed
from skipc.passes.regions import Survey
from skipc.passes.stamp import plan_of
from skipc.runtime.answer import Answer
from skipc.runtime.deployed import Session
from skipc.runtime.errors import InputError
from skipc.runtime.lines import read_log
from skipc.runtime.log import DecisionLog
from skipc.runtime.plan import Array, Plan, plan_from_json

Result = tuple[Json, str]


def explain_verb(console: Console, *, subject: Path, data: str | None, sample: int, level: int | None) -> Result:
    """``skipc explain``: a log without data, one input of a model with it."""
    if data is None:
        found = summary(read_log(_not_a_model(subject)))
        return found, summary_text(found)
    with console.stage("running the sample"):
        found = _story(subject, data, sample, level)
    return found, story_text(found)


def _not_a_model(subject: Path) -> Path:
    if subject.suffix == ".onnx":
        what, hint = "a model is explained by one of its inputs", "skipc explain MODEL --data PATH --sample 0"
        raise InputError("data-missing", what, where=str(subject), hint=hint)
    return subject


def _story(subject: Path, data: str, sample: int, level: int | None) -> Json:
    item = _batches(subject, data, 1, sample, 1)[0]
    session = Session(subject, level=level)
    answer = session.answer(item.feeds)
    if answer.decisions is None or session.plan is None:
        hint = "compile it with `skipc compile`"
        raise InputError("not-compiled", "there is no skipc plan inside this model", where=str(subject), hint=hint)
    full = session.answer(item.feeds, level=0)
    gates = story_json(answer.decisions.of(0), [block.time_share for block in session.plan.blocks])
    return {
        "sample": sample,
        "level": answer.level,
        "difference": largest_difference(dict(answer.outputs), dict(full.outputs)),
        "time_share_saved": sum(gate["time_share_saved"] for gate in gates),
        "gates": gates,
    }


def _batches(model: Path, data: str, batch_size: int, first: int = 0, count: int | None = None) -> tuple[Batch, ...]:
    """Batches of some samples of a data set.

    Raises:
        InputError: there is no such sample.
    """
    inputs = input_specs(load_model(model).model)
    dataset = load_dataset(data, inputs)
    if not first < len(dataset):
        what = f"there is no sample {first}: the data has {len(dataset)}"
        raise InputError("sample-unknown", what, where=data, hint="samples are counted from 0")
    last = len(dataset) if count is None else min(len(dataset), first + count)
    return batches(dataset.subset(range(first, last)), batch_size, inputs)


def replay_verb(console: Console, *, compiled: Path, log: Path, provider: str, limit: int) -> Result:
    """``skipc verify --log``."""
    session = Session(compiled, provider=provider)
    with console.stage("replaying the log"):
        found = replay(session, read_log(log), limit=limit, where=str(log))
    text = [
        f"{'ok' if found.ok else 'BROKEN'}: {found.requests} requests replayed, {found.skipped} without inputs skipped",
        f"decisions differ for {len(found.changed)} requests{_listed(found.changed)}; "
        f"scores by {found.score_difference:.1e} at most",
        f"outputs are not bit for bit the same for {found.outputs_changed} requests",
    ]
    return found.as_json(), "\n".join(text)


def _listed(names: Sequence[str]) -> str:
    return f" ({', '.join(islice(names, 5))}{', ...' if len(names) > 5 else ''})" if names else ""


def run_verb(
    console: Console,
    *,
    model: Path,
    data: str,
    out: Path | None,
    log: Path | None,
    keep_inputs: bool,
    batch_size: int,
    **options: Any,
) -> Result:
    """``skipc run``; the other options are the session's."""
    target = out or model.with_name(f"{model.stem}.outputs.npz")
    check_writable(target)
    items = _batches(model, data, batch_size)
    with ExitStack() as stack:
        observers = [stack.enter_context(DecisionLog(log, keep_inputs=keep_inputs))] if log else []
        session = Session(model, observers=observers, **options)
        with console.stage(f"running {len(items)} batches"):
            answers = [session.answer(item.feeds, reference=f"{data}#{item.indices[0]}") for item in items]
    write_all({target: _packed([answer.outputs for answer in answers])})
    found = _run_json(session, answers, items, str(target))
    lines = [
        f"wrote {target}: {found['samples']} samples at level {found['level']} on {found['provider']}",
        f"{found['latency_ms']:g} ms a batch of {batch_size} (median, decisions included)",
    ]
    rows = [(item["name"], f"{item['run_share']:.1%}") for item in found["blocks"]]
    return found, "\n".join([*lines, *(table(("block", "runs in full"), rows) if rows else [])])


def _run_json(session: Session, answers: Sequence[Answer], items: Sequence[Batch], output: str) -> Json:
    shares = [answer.decisions.bypassed for answer in answers if answer.decisions is not None]
    mean = np.concatenate(shares).mean(axis=0) if shares else np.zeros(0)
    blocks = session.plan.blocks if session.plan and shares else ()
    return {
        "output": output,
        "samples": sum(len(item.indices) for item in items),
        "level": session.level,
        "provider": session.provider,
        "latency_ms": rounded(float(np.median([answer.latency_ms for answer in answers]))),
        "blocks": [
            {"name": block.region.name, "run_share": rounded(1.0 - float(share))}
            for block, share in zip(blocks, mean, strict=True)
        ],
    }


def _packed(outputs: Sequence[Mapping[str, Array]]) -> bytes:
    """Outputs by name as .npz: joined along axis 0 where shapes allow, else an array a batch, ``NAME.0`` and so on."""
    arrays: dict[str, Array] = {}
    for name in outputs[0]:
        parts = [item[name] for item in outputs]
        if parts[0].ndim and len({part.shape[1:] for part in parts}) == 1:
            arrays[name] = np.concatenate(parts)
        else:
            arrays |= {f"{name}.{position}": part for position, part in enumerate(parts)}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # numpy's stubs take the names for its own options
    return buffer.getvalue()


def report_verb(console: Console, *, subject: Path, out: Path | None) -> Result:
    """``skipc report``: the page of a compiled file or a plan, with what these know."""
    plan = _plan_of(subject)
    target = out or _beside(subject)
    check_writable(target)
    with console.stage("writing the page"):
        nothing = Surveyed(onnx.ModelProto(), onnx.ModelProto(), (), Survey((), (), ()), {})
        details = details_json(Compiled(onnx.ModelProto(), plan, nothing), str(subject), 0.0)
        write_all({target: page({**details, "regions": plan.regions})})
    return {"output": str(target)}, f"wrote {target}: what the plan knows; speed and impact are not in it"


def _beside(subject: Path) -> Path:
    """The name that `skipc compile` would give, unless that page is there: it knows more than a plan does."""
    stem = subject.name.removesuffix(".onnx").removesuffix(".plan.json")
    usual = subject.with_name(f"{stem}.report.html")
    return usual.with_name(f"{stem}.plan.html") if usual.exists() else usual


def _plan_of(subject: Path) -> Plan:
    if subject.suffix != ".json":
        return plan_of(load_model(subject).model, where=str(subject))
    try:
        text = subject.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        hint = "give a compiled file or its .plan.json"
        raise InputError("plan-unreadable", f"cannot read the plan: {reason}", where=str(subject), hint=hint) from error
    return plan_from_json(text, where=str(subject))


def triton_verb(console: Console, *, model: Path, out: Path, name: str | None, provider: str) -> Result:
    """``skipc triton``."""
    source = load_model(model)
    name = name or model.name.removesuffix(".onnx").replace(".", "_")
    files = triton_repository(source.model, model.read_bytes(), name, gpu=provider == "cuda")
    targets = {out / path: content for path, content in files.items()}
    with console.stage("writing the repository"):
        for target in targets:
            _make_folder(target.parent)
        write_all(targets)
    text = f"wrote {out}: tritonserver --model-repository={out}"
    return {"output": str(out), "name": name, "files": [str(target) for target in targets]}, text


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"cannot create the folder: {error.strerror or error}"
        raise InputError("output-unwritable", what, where=str(path), hint="name another place with -o") from error
