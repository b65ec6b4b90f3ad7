"""The report's pictures as inline SVG: shapes, patterns and letters tell things apart, so that no colour is needed."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

Json = Mapping[str, Any]

WIDTH = 640
PATTERNS = """<svg width="0" height="0" aria-hidden="true" style="position:absolute"><defs>
<pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
<line x1="0" y1="0" x2="0" y2="6" class="line"/></pattern>
<pattern id="dots" width="5" height="5" patternUnits="userSpaceOnUse">
<circle cx="2.5" cy="2.5" r="1" class="dot"/></pattern>
</defs></svg>"""
"""Shared by all pictures of a page."""

MARKS: Mapping[str, str] = {
    "compiled": "disc",
    "static": "square",
    "identity": "triangle",
    "int8": "diamond",
    "int8 of the compiled": "bowl",
}

LEFT, RIGHT, TOP, BOTTOM = 56, 24, 18, 44
PLOT_HEIGHT = 300


def mark(kind: str, x: float, y: float, *, filled: bool = True) -> str:
    """A disc, square, triangle (bowl: upside down), diamond or cross about a point."""
    style = "mark" if filled else "mark open"
    if kind == "disc":
        return f'<circle class="{style}" cx="{x:.1f}" cy="{y:.1f}" r="6"/>'
    if kind == "cross":
        return f'<path class="mark open" d="M{x - 4:.1f} {y:.1f}h8M{x:.1f} {y - 4:.1f}v8"/>'
    corners = {
        "square": ((-6, -6), (6, -6), (6, 6), (-6, 6)),
        "triangle": ((0, -7), (7, 6), (-7, 6)),
        "bowl": ((0, 7), (7, -6), (-7, -6)),
        "diamond": ((0, -8), (7, 0), (0, 8), (-7, 0)),
    }[kind]
    points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    return f'<polygon class="{style}" points="{points}"/>'


def text(x: float, y: float, words: str, *, anchor: str = "start", style: str = "") -> str:
    """A line of text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{style}">{html.escape(words)}</text>'


def picture(height: float, title: str, parts: Sequence[str], *, width: float = WIDTH) -> str:
    """The element around the parts, which scales with the page and says what it is to a screen reader."""
    label = html.escape(title, quote=True)
    body = "".join(parts)
    return f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{label}">{body}</svg>'


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from low to high."""
    step = (high - low) / count
    unit = 10.0 ** int(f"{step:e}".partition("e")[2])
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= step)
    first = -(-low // step)
    return [round((first + k) * step, 10) for k in range(count + 2) if (first + k) * step <= high + 1e-12]


def frontier(points: Sequence[Json], path: Sequence[tuple[float, float]], limit: float, loss: str) -> str:
    """Speed against risk.

    Args:
        points: each with name, loss, speedup and whether it is certified.
        path: mean loss and speed-up that the planner saw on *fit*, from gentle to bold.
        limit: of the mean loss.
        loss: its name.
    """
    most = limit * 2.5
    speeds = [1.0, *(point["speedup"] for point in points), *(speed for _, speed in path)]
    low, high = min(speeds), max(speeds)
    low, high = low - 0.08 * (high - low + 0.1), high + 0.15 * (high - low + 0.1)
    plot = PLOT_HEIGHT - TOP - BOTTOM

    def place(value: float, speed: float) -> tuple[float, float]:
        x = LEFT + min(value / most, 1.0) * (WIDTH - LEFT - RIGHT - 90)
        return x, TOP + (high - speed) / (high - low) * plot

    parts = [_grid(place, low, high, most), _limit(place, limit, low, high)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in path))
    parts.append(f'<polyline class="path" points="{line}"/>')
    parts += [mark("cross", *place(*point)) for point in path]
    taken: list[float] = []
    for point in sorted(points, key=lambda item: -item["speedup"]):
        parts.append(_point(point, place(point["loss"], point["speedup"]), taken, beyond=point["loss"] > most))
    parts.append(text(LEFT + (WIDTH - LEFT - RIGHT - 90) / 2, PLOT_HEIGHT - 6, f"mean loss ({loss})", anchor="middle"))
    parts.append(text(4, 12, "times faster"))
    return picture(PLOT_HEIGHT, "Speed against risk: the table below has the same figures", parts)


def _grid(place: Any, low: float, high: float, most: float) -> str:
    parts = []
    for speed in ticks(low, high):
        x, y = place(0.0, speed)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(text(x - 6, y + 4, f"{speed:g}x", anchor="end"))
    for value in ticks(0.0, most):
        x, y = place(value, low)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{y:.1f}"/>')
        parts.append(text(x, y + 16, f"{value:g}", anchor="middle"))
    return "".join(parts)


def _limit(place: Any, limit: float, low: float, high: float) -> str:
    x, y = place(limit, low)
    _, top = place(limit, high)
    line = f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{y:.1f}"/>'
    return line + text(x + 5, y - 6, f"limit {limit:g}")


def _point(point: Json, where: tuple[float, float], taken: list[float], *, beyond: bool) -> str:
    """A mark with its name beside it, moved down where another name stands already."""
    x, y = where
    level = y + 4
    while any(abs(level - other) < 14 for other in taken):
        level += 14
    taken.append(level)
    name = point["name"] + ("" if point["certified"] else ", not certified")
    if beyond:
        name += f" \u2192 {point['loss']:.3g}"
    anchor, offset = ("end", -11) if x > WIDTH * 0.6 else ("start", 11)
    return mark(MARKS[point["name"]], x, y, filled=point["certified"]) + text(
        x + offset, level, name, anchor=anchor, style="halo"
    )


def heat_map(names: Sequence[str], run: Sequence[Sequence[float]]) -> str:
    """Blocks by samples: the height of a bar is the share of the sample's rows for which the block runs in full.

    Args:
        names: of the blocks.
        run: [samples, blocks].
    """
    rows = sorted(run, key=sum)
    side = 9.5 * max(len(name) for name in names) + 8
    cell, height = (WIDTH - side - 4) / max(len(rows), 1), 22.0
    parts = []
    for block, name in enumerate(names):
        top = block * (height + 6) + 2
        parts.append(text(side - 8, top + height - 6, name, anchor="end"))
        parts.append(
            f'<rect class="frame" x="{side:.1f}" y="{top:.1f}" width="{cell * len(rows):.2f}" height="{height}"/>'
        )
        for column, shares in enumerate(rows):
            tall = shares[block] * height
            if tall > 0:
                parts.append(
                    f'<rect class="bar" x="{side + column * cell + 0.5:.2f}" y="{top + height - tall:.2f}" '
                    f'width="{max(cell - 1, 0.5):.2f}" height="{tall:.2f}"/>'
                )
    whole = len(names) * (height + 6) + 22
    parts.append(text(side, whole - 6, "least of the network"))
    parts.append(text(WIDTH - 4, whole - 6, "most", anchor="end"))
    return picture(whole, f"Blocks that ran for each of {len(rows)} samples", parts)


def stacks(bars: Sequence[tuple[str, Sequence[tuple[str, float]]]], unit: str) -> str:
    """Horizontal stacked bars on one scale; segments carry letters and patterns, the last of each bar none.

    Args:
        bars: name and segments: letter and length.
        unit: of the lengths.
    """
    side, height = 96.0, 30.0
    longest = max(sum(length for _, length in segments) for _, segments in bars)
    scale = (WIDTH - side - 100) / longest
    parts = []
    for row, (name, segments) in enumerate(bars):
        top, x = row * (height + 12) + 4, side
        parts.append(text(side - 8, top + 20, name, anchor="end"))
        for position, (letter, length) in enumerate(segments):
            wide = length * scale
            style = "" if position == len(segments) - 1 else ("plain", "hatched", "dotted")[position % 3]
            parts.append(f'<rect class="frame {style}" x="{x:.2f}" y="{top}" width="{wide:.2f}" height="{height}"/>')
            if wide >= 14:
                parts.append(text(x + wide / 2, top + 20, letter, anchor="middle", style="halo"))
            x += wide
        parts.append(text(x + 6, top + 20, f"{sum(length for _, length in segments):.3g} {unit}"))
    return picture(len(bars) * (height + 12) + 2, "Where the time goes before and after", parts)


def measure_bar(value: float, most: float) -> str:
    """A bar for a table's cell; the number stands beside it."""
    wide = 0.0 if most <= 0 else 60 * min(max(value / most, 0.0), 1.0)
    return (
        f'<svg class="cell" viewBox="0 0 62 10" aria-hidden="true"><rect class="bar" x="0" y="1" width="{wide:.1f}" '
        f'height="8"/><rect class="frame" x="0.5" y="0.5" width="60" height="9"/></svg>'
    )
