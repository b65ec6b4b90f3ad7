"""`python -m benchmarks.readme`: rewrite the table of results in the README from the files in benchmarks/results."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
NONE = "–"

Result = Mapping[str, Any]


def main() -> int:
    """Rewrite the README in place; the exit code is 1 where its markers are missing."""
    path = REPOSITORY / "README.md"
    text = path.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        print(f"error: the README needs one {BEGIN} and one {END} behind it", file=sys.stderr)
        return 1
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    lines = "\n".join(_section(REPOSITORY / "benchmarks" / "results"))
    path.write_text(f"{before}{BEGIN}\n{lines}\n{END}{after}", encoding="utf-8")
    return 0


def _section(folder: Path) -> Iterator[str]:
    results = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    speeds = [name for name in ("demo", "minilm") if name in results]
    if speeds:
        yield from _speed_table({name: results[name]["results"] for name in speeds})
        yield ""
        yield from _quality_table({name: results[name]["results"] for name in speeds})
        yield ""
    if "overhead" in results:
        yield from _overhead_table(results["overhead"]["results"])
        yield ""
    if "help" in results:
        yield f"`skipc --help` takes {results['help']['results']['seconds']['median']:.2f} s.\n"
    yield _origin(results) if results else "Nothing has been measured yet: `make benchmarks`."


def _speed_table(results: Mapping[str, Result]) -> Iterator[str]:
    yield "| speed-up over the original (95 % interval) | original | static bypasses | gated |"
    yield "|---|---|---|---|"
    for name, result in results.items():
        promise = result["compile"]["certificate"]
        for row in result["speed"]:
            what = f"{name}, {promise['loss']} at most {promise['limit']:g}, batch {row['batch_size']}"
            threads = f"{row['threads']} thread{'s' * (row['threads'] > 1)}"
            original = f"{row['gated']['latency_ms']['original']:.3g} ms"
            yield f"| {what}, {threads} | {original} | {_speedup(row['static'])} | {_speedup(row['gated'])} |"


def _speedup(found: Result | None) -> str:
    if found is None:
        return NONE
    speedup = found["speedup"]
    return f"{speedup['median']:.2f} ({speedup['low']:.2f} to {speedup['high']:.2f})"


def _quality_table(results: Mapping[str, Result]) -> Iterator[str]:
    yield "| on data that the compiler never saw | samples | damage, static | damage, gated | accuracy: original, static, gated |"
    yield "|---|---|---|---|---|"
    for result in results.values():
        for name, row in result["quality"].items():
            damage = row.get("disagreement") or row.get("cosine_distance") or {}
            accuracy = ", ".join(_percent(row["accuracy"].get(kind)) for kind in ("original", "static", "gated"))
            cells = (name, f"{row['samples']:,}", _mean(damage.get("static")), _mean(damage.get("gated")), accuracy)
            yield f"| {' | '.join(cells)} |"


def _mean(found: Result | None) -> str:
    return NONE if found is None else f"{found['mean']:.4f}"


def _percent(found: Result | None) -> str:
    return NONE if found is None else f"{100 * found['mean']:.2f} %"


def _overhead_table(result: Result) -> Iterator[str]:
    yield "| every gate shut (level 0), batch 1, one thread | gates | overhead (95 % interval) |"
    yield "|---|---|---|"
    for name, row in result.items():
        if "overhead" not in row:
            continue
        found = {key: f"{100 * value:.1f}" for key, value in row["overhead"].items()}
        yield f"| {name} | {row['gates']} | {found['median']} % ({found['low']} to {found['high']}) |"


def _origin(results: Mapping[str, Result]) -> str:
    """Machine and versions; of the result that was measured last, where they differ."""
    last = max(results.values(), key=lambda result: str(result["date"]))
    machine, versions = last["machine"], last["versions"]
    return (
        f"Measured on {machine['cores']} cores of {machine['cpu']} with ONNX Runtime {versions.get('onnxruntime', '?')} "
        f"on the CPU, {last['date'][:10]}; [benchmarks](benchmarks/README.md) says how."
    )


if __name__ == "__main__":
    sys.exit(main())
