"""What docs/runtime.md quotes of its benchmarks; `benchmarks.readme` writes it there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Result = Mapping[str, Any]


def log_section(result: Result) -> Iterator[str]:
    """What a decision log costs, call by call."""
    us = result["processor_us"]
    yield "| MiniLM at batch 1, one thread: what decisions and their log add to a request | median (95 % interval) |"
    yield "|---|---|"
    yield f"| wall clock, {result['pairs']:,} pairs of calls in one session | {_share(result['share'], 'median')} |"
    cost = f"{us['median']:.0f} µs ({us['low']:.0f} to {us['high']:.0f})"
    yield f"| processor time of the request's thread | {cost} of {result['of_processor_us']:,.0f} µs |"


def sessions_section(result: Result) -> Iterator[str]:
    """The same, session by session."""
    yield f"| the log between sessions opened anew, {result['openings']} times | mean (95 % interval) |"
    yield "|---|---|"
    yield f"| with a log over without | {_share(result['logged'], 'mean')} |"
    yield f"| without over without, which tells what that is worth | {_share(result['plain_again'], 'mean')} |"


def _share(found: Result, name: str) -> str:
    return f"{100 * found[name]:.2f} % ({100 * found['low']:.2f} to {100 * found['high']:.2f})"


def alarms_section(result: Result) -> Iterator[str]:
    """After how many requests there was an alarm."""
    yield "| then | alarm `scores` after | alarm `loss` after | mean loss of all audits |"
    yield "|---|---|---|---|"
    for name, row in result["alarms"].items():
        what = f"{row['requests'][1]} more of films" if name == "films" else name
        scores, loss = (row["after"][kind] or "none" for kind in ("scores", "loss"))
        mean = "none" if row["audits_mean_loss"] is None else f"{row['audits_mean_loss']:.3f}"
        yield f"| {what} | {scores} | {loss} | {mean} |"


def serving_section(result: Result) -> Iterator[str]:
    """What the example answered under load."""
    asked = dict(result["requests"])
    good, wrong = asked.pop("good"), sum(result["wrong"].values())
    mistakes = ", ".join(f"{count} {name}" for name, count in asked.items())
    yield f"30 s of load by {result['clients']} clients: {good:,} good requests, each with its line in the log"
    yield f"({result['lines_in_log']:,} lines), and as many mistakes ({mistakes})."
    yield f"Answers that were not what they ought to be: {wrong}."
