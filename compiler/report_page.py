"""One self-contained page for everyone: no script, no file beside it, readable without colour and on a phone."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from skipc.compiler.report_measures import measures_text
from skipc.compiler.report_pictures import decisions_html, frontier_html, gates_html, prices_html, time_html
from skipc.compiler.report_style import STYLE
from skipc.compiler.report_svg import PATTERNS, measure_bar
from skipc.compiler.report_tables import Cell, number, paragraph, percent, table_html

Details = Mapping[str, Any]

ASSUMPTIONS = (
    "It is about the mean: nothing is said of a single input, class or user. A rare group may bear all the damage.",
    "It assumes that live data is like the calibration data. On other data nothing is promised; the monitor of "
    "skipc.runtime tells when that happens.",
    "It compares with the original, which may be wrong itself, unless the loss reads labels.",
    "It is about outputs. Speed was measured on the machine below and may differ on yours.",
)


def page(details: Details) -> bytes:
    """The page; its JSON is inside, under the id ``skipc-report``."""
    sections = [
        ("What is promised", _promise_html(details)),
        ("Speed against risk", frontier_html(details)),
        ("Where the time goes", time_html(details)),
        ("Which blocks ran", decisions_html(details)),
        ("Blocks", _blocks_html(details)),
        ("How well the gates choose", gates_html(details)),
        ("Impact of every region, by three measures", _impacts_html(details)),
        ("What it costs", prices_html(details)),
        ("Unfamiliar data, estimated", _shift_html(details["shift"])),
        ("Refused regions", _refused_html(details["rejected"])),
        ("Environment and digests", _origin_html(details)),
    ]
    # "</" would end the script element early.
    data = json.dumps(details, sort_keys=True).replace("</", "<\\/")
    body = "".join(_section(title, content) for title, content in sections)
    title = html.escape(f"skipc: {details['output']}")
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width, initial-scale=1"><title>{title}</title><style>{STYLE}</style>'
        f"<body>{PATTERNS}<h1>{title}</h1>{_cards(details)}{body}"
        f'<script type="application/json" id="skipc-report">{data}</script></body></html>\n'
    ).encode()


def _section(title: str, body: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>{body or paragraph('none')}</section>"


def _cards(details: Details) -> str:
    """The four figures that matter most."""
    speedup, certificate = details["speedup"], details["certificate"]
    cards = [(f"{details['gates']} of {details['regions']}", "regions have a gate or a bypass")]
    if certificate:
        cards.insert(0, (f"≤ {certificate['limit']:g}", f"mean {certificate['loss']}, {_sure(certificate)}"))
    if speedup:
        interval = f"{speedup['low']:.2f} to {speedup['high']:.2f}"
        cards.insert(0, (f"{speedup['median']:.2f}x faster", f"95 % interval {interval}, {_larger(details)}"))
        cards.append((percent(details["time_share_skipped"]), "of the original's time is bypassed"))
    return '<div class="cards">' + "".join(map(_card, cards)) + "</div>"


def _larger(details: Details) -> str:
    return f"file {100 * (details['growth'] or 0.0):+.1f} %"


def _sure(certificate: Details) -> str:
    return f"with confidence {certificate['confidence']:g}"


def _card(item: tuple[str, str]) -> str:
    return f'<div class="card"><b>{html.escape(item[0])}</b><span>{html.escape(item[1])}</span></div>'


def _promise_html(details: Details) -> str:
    certificate = details["certificate"]
    if certificate is None:
        return paragraph("Nothing is certified: every gate is shut.")
    promise = (
        f"On data like the calibration data, the mean {certificate['loss']} of {certificate['output']} stays at or "
        f"below {certificate['limit']:g}, {_sure(certificate)}. This was tested on "
        f"{certificate['samples']} samples that nothing was fitted on; their mean was {certificate['mean']:.4g}."
    )
    rows = [
        (name, item["samples"], number(item["mean"]), number(item["bound"]), "yes" if item["ok"] else "NO")
        for name, item in (details["verification"] or {}).items()
    ]
    header = ("test data", "samples", "mean loss", "upper bound", "kept")
    checked = "With every gate shut the file computes what the original does; that was checked before it was written."
    assumptions = "".join(f"<li>{html.escape(words)}</li>" for words in ASSUMPTIONS)
    return (
        paragraph(promise)
        + table_html(header, rows)
        + f"<h3>What it does not say</h3><ul>{assumptions}</ul>"
        + (paragraph(checked) if rows else "")
    )


def _blocks_html(details: Details) -> str:
    header = ("block", "bypass", "gate", "runs in full", "time share", "saves, ms", "impact alone")
    rows = [
        (
            item["name"],
            item["bypass"],
            "none: always" if item["gate"] == "constant" else item["gate"],
            percent(item["run_share"]),
            percent(item["time_share"]),
            number(item["saved_ms"]),
            number(item["impact"]),
        )
        for item in details["blocks"]
    ]
    return table_html(header, rows)


def _impacts_html(details: Details) -> str:
    impacts = details["impacts"]
    if not impacts:
        return ""
    measures = ("influence", "gradient", "ablation")
    most = {name: max((item[name] or 0.0) for item in impacts) for name in measures}
    rows = [
        (
            item["region"],
            *(_measured(item[name], most[name]) for name in measures),
            item["bypass"],
            percent(item["time_share"]),
        )
        for item in impacts
    ]
    words = (
        "Activation: Block Influence, how much the region turns what passes through it. Gradient: estimated loss of "
        "leaving it out. Ablation: measured loss with the best bypass in its place. Ablation decides; bars compare "
        "with the largest of the column."
    )
    header = ("region", "activation", "gradient", "ablation", "bypass", "time share")
    lines = "".join(paragraph(line) for line in measures_text(details["impact_measures"]))
    return paragraph(words, "note") + table_html(header, rows) + lines


def _measured(value: float | None, most: float) -> Cell | str:
    return "-" if value is None else Cell(f"{measure_bar(value, most)}{number(value)}")


def _shift_html(found: Details | None) -> str:
    if not found:
        return ""
    header = ("left out", "samples", "loss, gated", "loss, static", "saved ms, gated", "saved ms, static")
    names = ("gated_left_out_loss", "static_left_out_loss", "gated_left_out_saved_ms", "static_left_out_saved_ms")
    rows = [
        (f"cluster {position}", item["units"], *(number(item[name]) for name in names))
        for position, item in enumerate(found["clusters"], start=1)
    ]
    return table_html(header, rows) + paragraph(found["note"], "note")


def _refused_html(rejected: Sequence[Details]) -> str:
    rows = [(item["node"], item["rule"], item["reason"]) for item in rejected]
    return table_html(("node", "rule", "reason"), rows, words=(2,))


def _origin_html(details: Details) -> str:
    environment, names = details["environment"], ("processor", "system", "python", "provider", "threads")
    pairs: list[tuple[str, Any]] = [(name, environment[name]) for name in names]
    pairs += [("batch size", details["batch_size"]), ("compiled in", f"{details['seconds']:g} s")]
    pairs += [("versions", ", ".join(f"{name} {value}" for name, value in details["versions"].items()))]
    pairs += [("SHA-256 of the original", details["model_digest"])]
    pairs += [(f"SHA-256 of data {name}", digest) for name, digest in details["data_digests"].items()]
    return _listed(pairs)


def _listed(pairs: Iterable[tuple[str, Any]]) -> str:
    items = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(str(value))}</dd>" for name, value in pairs)
    return f"<dl>{items}</dl>"
