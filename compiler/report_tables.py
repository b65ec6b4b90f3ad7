"""Tables, paragraphs and numbers of the report."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """A cell that is markup already."""

    markup: str


def paragraph(words: str, style: str = "") -> str:
    """A paragraph of plain text."""
    return f'<p class="{style}">{html.escape(words)}</p>' if style else f"<p>{html.escape(words)}</p>"


def number(value: float | None) -> str:
    """Three significant digits, or a dash."""
    return "-" if value is None else f"{value:.3g}"


def percent(value: float) -> str:
    """A share."""
    return f"{100 * value:.0f} %" if value >= 0.1 or value == 0 else f"{100 * value:.1f} %"


def table_html(header: Sequence[str], rows: Sequence[Sequence[object]], *, words: Sequence[int] = ()) -> str:
    """A table that scrolls by itself where the page is narrow; empty without rows.

    Args:
        header: of the columns.
        rows: cells: a `Cell` as it is, all else as text.
        words: columns that hold sentences.
    """
    if not rows:
        return ""
    head = "".join(f"<th{_style(i, words)}>{html.escape(name)}</th>" for i, name in enumerate(header))
    lines = "".join(
        "<tr>" + "".join(f"<td{_style(i, words)}>{_shown(cell)}</td>" for i, cell in enumerate(row)) + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'


def _style(column: int, words: Sequence[int]) -> str:
    return ' class="words"' if column in words else ""


def _shown(cell: object) -> str:
    return cell.markup if isinstance(cell, Cell) else html.escape(str(cell))
