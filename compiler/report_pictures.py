"""Sections of the report that are pictures, each with the same figures as a table or in words."""

from __future__ import annotations

from collections.abc import Mapping
from string import ascii_uppercase
from typing import Any

from skipc.compiler.report_svg import frontier, heat_map, stacks
from skipc.compiler.report_tables import number, paragraph, percent, table_html

Details = Mapping[str, Any]

REST = "rest"


def frontier_html(details: Details) -> str:
    """Speed against risk: the path, the compiled model, and what else could be done."""
    certificate, points = details["certificate"], _points(details)
    if not certificate or not points:
        return ""
    original = details["original_ms"] or 0.0
    path = [(step["loss"], original / max(original - step["saved_ms"], 1e-9)) for step in details["path"]]
    drawn = [{**point, "speedup": point["speedup"]["median"]} for point in points if point["loss"] is not None]
    drawn = [point for point in drawn if point["speedup"]]
    picture = frontier(drawn, path, certificate["limit"], certificate["loss"])
    rows = [
        (
            point["name"],
            "-" if not point["speedup"] else f"{point['speedup']['median']:.2f}x",
            "-" if point["growth"] is None else f"{100 * point['growth']:+.1f} %",
            number(point["loss"]),
            _certified(point, certificate["limit"]),
            point["note"],
        )
        for point in points
    ]
    words = (
        "Up is faster, left is safer. Filled marks passed the same test as the compiled model, hollow ones did not. "
        "Crosses are the configurations that the planner tried, with loss and speed as foreseen on the fit data."
    )
    header = ("model", "faster", "file", "mean loss on test", "certified", "what it is")
    return picture + paragraph(words, "note") + table_html(header, rows, words=(4, 5))


def _certified(point: Details, limit: float) -> str:
    if not point["certified"]:
        return "no"
    return "yes" if (point["loss"] or 0.0) <= limit else "yes, but above the limit on test"


def _points(details: Details) -> list[dict[str, Any]]:
    if not details["speedup"]:
        return []
    losses = [item["mean"] for item in details["verification"].values()]
    own = {"name": "compiled", "speedup": details["speedup"], "loss": max(losses), "certified": True}
    points = [{**own, "growth": details["growth"], "note": f"this file, level {details['level']}"}]
    for item in _opponents(details):
        # The comparison with the static alternative is made as thoroughly as the one with the compiled model.
        static = details["static_speedup"] if item["name"] == "static" else None
        points.append({**item, "speedup": static or item["speedup"]})
    return points


def _opponents(details: Details) -> list[Details]:
    """Those of the portrait; without one the static alternative, whose loss on *test* is not known."""
    if details["portrait"]:
        return list(details["portrait"]["opponents"])
    note = f"always on their bypass: {', '.join(details['static_blocks'])}"
    static = {"name": "static", "certified": True, "loss": None, "growth": None, "note": note}
    static |= {"speedup": details["static_speedup"]}
    return [static] if details["static_speedup"] else []


def time_html(details: Details) -> str:
    """A bar of the original's time and one of the compiled model's."""
    latency = details["latency_ms"]
    if not latency:
        return ""
    blocks = details["blocks"]
    letters = [_letter(position) for position in range(len(blocks))]
    before = [item["time_share"] * latency["original"] for item in blocks]
    after = [length * item["run_share"] for length, item in zip(before, blocks, strict=True)]
    bars = [
        (name, [*zip(letters, lengths, strict=True), (REST, max(latency[name] - sum(lengths), 0.0))])
        for name, lengths in (("original", before), ("compiled", after))
    ]
    rows = [
        (letter, item["name"], f"{first:.3g} ms", f"{second:.3g} ms")
        for letter, item, first, second in zip(letters, blocks, before, after, strict=True)
    ]
    words = (
        "Median of a batch. A block's part is what its bypass can save; the rest holds everything that always runs, "
        "gates and bypasses included."
    )
    return (
        stacks(bars, "ms") + paragraph(words, "note") + table_html(("", "block", "before", "after"), rows, words=(1,))
    )


def _letter(position: int) -> str:
    """A to Z, then A1 to Z1 and so on."""
    letter, round_ = ascii_uppercase[position % 26], position // 26
    return f"{letter}{round_}" if round_ else letter


def decisions_html(details: Details) -> str:
    """The heat map of decisions."""
    portrait = details["portrait"]
    if not portrait or not portrait["run"]:
        return ""
    names = [item["name"] for item in details["blocks"]]
    words = (
        f"One column for each of {len(portrait['run'])} test samples, from the one that needed least of the network to "
        "the one that needed most. A full bar: the block ran; none: it was bypassed; in between: it ran for that share "
        "of the sample's tokens. A row without bars is a block that is always bypassed."
    )
    return heat_map(names, portrait["run"]) + paragraph(words, "note")


def gates_html(details: Details) -> str:
    """Each gate's choice beside chance and an oracle."""
    portrait = details["portrait"]
    if not portrait or not portrait["gates"]:
        return paragraph("No gate reads its input: all blocks here are bypassed for every input.")
    header = ("block", "bypassed", "loss by the gate", "by chance", "by an oracle", "rank correlation")
    rows = [
        (
            item["block"],
            percent(item["share"]),
            *(number(item[name]) for name in ("loss_added", "by_chance", "oracle")),
            f"{item['rank_correlation']:.2f}",
        )
        for item in portrait["gates"]
    ]
    words = (
        "On test samples, one block at a time: what bypassing adds to the mean loss where the gate chooses samples, "
        "where as many are drawn at random, and where an oracle takes those that lose least. The rank correlation "
        "(Spearman) is between the gate's score and the true loss: 0 is chance, 1 is perfect."
    )
    return table_html(header, rows) + paragraph(words, "note")


def prices_html(details: Details) -> str:
    """Bytes, memory and latencies of the compiled model beside the original's."""
    portrait, foretold = details["portrait"], _growth_html(details["growth_bytes"])
    if not portrait:
        return foretold
    latency = portrait["latency_ms"]
    files, load = portrait["file_bytes"], portrait["load_mib"]
    rows = [_price("file, MiB", files["original"] / 2**20, files["compiled"] / 2**20)]
    for key, name in (("peak", "memory while loading, MiB"), ("kept", "memory once loaded, MiB")):
        if load:
            rows.append(_price(name, load["original"][key], load["compiled"][key]))
    for key, name in (("median", "median"), ("p95", "95th percentile"), ("p99", "99th percentile")):
        rows.append(_price(f"latency, {name}, ms", latency["original"][key], latency["compiled"][key]))
    shut = latency["every gate shut"]
    rows.append(_price("worst case: every gate shut, median, ms", latency["original"]["median"], shut["median"]))
    rows.append(_price("worst case: every gate shut, 99th percentile, ms", latency["original"]["p99"], shut["p99"]))
    words = "Latencies are of one batch of the test data; every model ran on the same batches, in turn."
    return table_html(("price", "original", "compiled", "change"), rows) + paragraph(words, "note") + foretold


def _growth_html(growth: Details | None) -> str:
    if growth is None:
        return ""
    file, load, moved = (number(growth[key] / 2**20) for key in ("file", "load", "in_branches"))
    words = (
        f"Foretold from where weights are ({growth['weights']}): the file grows by {file} MiB, memory while loading by "
        f"about {load} MiB; {moved} MiB of the original's weights moved into branches, where ONNX Runtime holds them "
        "more than once."
    )
    return paragraph(words, "note")


def _price(name: str, before: float, after: float) -> tuple[str, str, str, str]:
    change = f"{100 * (after / before - 1):+.1f} %" if before > 0 else "-"
    return name, number(before), number(after), change
