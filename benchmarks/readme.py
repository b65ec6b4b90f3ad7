"""`python -m benchmarks.readme`: rewrite what README and docs/runtime.md quote of benchmarks/results."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.measures import NOTHING
from benchmarks.runtime_page import alarms_section, log_section, serving_section, sessions_section

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "benchmarks" / "results"
NONE = "none"
UNMEASURED = "not measured yet"
CUDA_BATCH = 32
CUDA_NETWORKS = ("bert-base", "vit-large", "resnet-50", "decoder-30")

Result = Mapping[str, Any]
Section = Callable[[Result], Iterator[str]]


def main() -> int:
    """Rewrite the pages in place; the exit code is 1 where markers are missing."""
    results = {item.stem: json.loads(item.read_text(encoding="utf-8")) for item in sorted(RESULTS.glob("*.json"))}
    sections = {
        "README.md": {
            "results": _section(_without(results, "deployment", "log", "log-sessions", "serving")),
            **_written(results, "demo", {"demo": _demo_run}),
        },
        "docs/runtime.md": {
            **_written(results, "log", {"log": log_section}),
            **_written(results, "log-sessions", {"log-sessions": sessions_section}),
            **_written(results, "deployment", {"alarms": alarms_section}),
            **_written(results, "serving", {"serving": serving_section}),
        },
    }
    for page, content in sections.items():
        path = REPOSITORY / page
        text = path.read_text(encoding="utf-8")
        try:
            for name, lines in content.items():
                text = _replaced(text, name, "\n".join(lines))
        except ValueError as error:
            print(f"error: {page}: {error}", file=sys.stderr)
            return 1
        path.write_text(text, encoding="utf-8")
    return 0


def _without(results: Mapping[str, Result], *names: str) -> Mapping[str, Result]:
    return {name: result for name, result in results.items() if name not in names}


def _written(results: Mapping[str, Result], of: str, sections: Mapping[str, Section]) -> dict[str, Iterator[str]]:
    """Sections that quote one result, and say where it comes from; none where it was not measured."""
    if of not in results:
        return {}
    origin = {} if of == "demo" else {f"{of} origin": iter([_origin({of: results[of]}, "../benchmarks")])}
    return {**{name: section(results[of]["results"]) for name, section in sections.items()}, **origin}


def _replaced(text: str, name: str, content: str) -> str:
    """The text with other content between the two markers of a name."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"needs one {begin} and one {end} behind it")
    return f"{text.split(begin, maxsplit=1)[0]}{begin}\n{content}\n{end}{text.split(end)[1]}"


def _demo_run(result: Result) -> Iterator[str]:
    """What the compilation of the demo printed."""
    yield "    $ skipc compile models/demo/demo.onnx"
    yield from (f"    {line}".rstrip() for line in result["compile"]["text"])


def _section(results: Mapping[str, Result]) -> Iterator[str]:
    speeds = [name for name in ("demo", "minilm", "minilm-gentle") if name in results]
    if speeds:
        yield from _speed_table({name: results[name]["results"] for name in speeds})
        yield ""
        yield from _quality_table({name: results[name]["results"] for name in speeds})
        yield ""
    tables: Mapping[str, Section] = {
        "smollm2": _language_table,
        "int8": _int8_table,
        "shifted": _shifted_table,
        "efficientnet": _efficientnet_table,
        "overhead": _overhead_table,
        "batches": _batches_table,
        "rows": _rows_table,
    }
    for name, table in tables.items():
        if name in results:
            yield from table(results[name]["results"])
            yield ""
    yield from _cuda_table(results.get("cuda"))
    yield ""
    if "help" in results:
        yield f"`skipc --help` takes {results['help']['results']['seconds']['median']:.2f} s.\n"
    yield _origin(results) if results else "Nothing has been measured yet: `make benchmarks`."


def _speed_table(results: Mapping[str, Result]) -> Iterator[str]:
    yield "| speed-up over the original (95 % interval) | original | nothing bypassed | static bypasses | compiled |"
    yield "|---|---|---|---|---|"
    for name, result in results.items():
        promise = result["compile"]["certificate"]
        for row in result["speed"]:
            what = f"{name}, {promise['loss']} at most {promise['limit']:g}, batch {row['batch_size']}"
            threads = f"{row['threads']} thread{'s' * (row['threads'] > 1)}"
            original = f"{row['gated']['latency_ms']['original']:.3g} ms"
            cells = (_speedup(row.get(kind)) for kind in (NOTHING, "static", "gated"))
            yield f"| {what}, {threads} | {original} | {' | '.join(cells)} |"


def _speedup(found: Result | None) -> str:
    if found is None:
        return NONE
    speedup = found["speedup"]
    return f"{speedup['median']:.2f} ({speedup['low']:.2f} to {speedup['high']:.2f})"


def _quality_table(results: Mapping[str, Result]) -> Iterator[str]:
    yield "| on data never seen | samples | damage, static | damage, compiled | accuracy: original, static, compiled |"
    yield "|---|---|---|---|---|"
    for result in results.values():
        limit = result["compile"]["certificate"]["limit"]
        for name, row in result["quality"].items():
            damage = row.get("disagreement") or row.get("cosine_distance") or {}
            accuracy = ", ".join(_percent(row["accuracy"].get(kind)) for kind in ("original", "static", "gated"))
            cells = (
                f"{name}, at most {limit:g}",
                f"{row['samples']:,}",
                _mean(damage.get("static")),
                _mean(damage.get("gated")),
                accuracy,
            )
            yield f"| {' | '.join(cells)} |"


def _mean(found: Result | None) -> str:
    return NONE if found is None else f"{found['mean']:.4f}"


def _percent(found: Result | None) -> str:
    return NONE if found is None else f"{100 * found['mean']:.2f} %"


def _language_table(result: Result) -> Iterator[str]:
    """SmolLM2 with its blocks in 8 bits for good."""
    speeds, quality = result["speed"], result["quality"]
    kinds = [name for name, found in speeds[0].items() if isinstance(found, dict)]
    yield "SmolLM2-135M, prefill of 128 tokens; these blocks in 8 bits (`--bypass int8`) for good, and ONNX Runtime's"
    yield "own dynamic int8:"
    yield ""
    yield f"| | {' | '.join(kinds)} |"
    yield f"|---|{'---|' * len(kinds)}"
    for row in speeds:
        threads = f"{row['threads']} thread{'s' * (row['threads'] > 1)}"
        yield f"| speed-up, {threads} | {' | '.join(_speedup(row[kind]) for kind in kinds)} |"
    bounds = [result["bounds"].get(kind) for kind in kinds]
    cells = [f"{found['bound']:.3g} nats" if found else NONE for found in bounds]
    yield f"| rise of the log-perplexity on news, at most, with confidence 0.95 | {' | '.join(cells)} |"
    for name, row in quality.items():
        for what, key in (("perplexity over the original's", "perplexity_ratio"), ("same next token", "agreement")):
            yield f"| {what}, {name} | {' | '.join(_interval(row[key].get(kind)) for kind in kinds)} |"


def _interval(found: Result | None) -> str:
    return NONE if found is None else f"{found['mean']:.3g} ({found['low']:.3g} to {found['high']:.3g})"


def _int8_table(result: Result) -> Iterator[str]:
    limit = result["compile"]["certificate"]["limit"]
    damage = result["quality"]["films"]["cosine_distance"]
    yield f"MiniLM in dynamic int8, compiled from there (cosine at most {limit:g} from the int8 model; on fresh films"
    yield f"{_mean(damage.get('static'))} static, {_mean(damage.get('gated'))} compiled):"
    yield ""
    yield "| speed-up over the int8 model (95 % interval) | int8 | float | quantized after skipc | static | compiled |"
    yield "|---|---|---|---|---|---|"
    for row in result["speed"]:
        threads = f"{row['threads']} thread{'s' * (row['threads'] > 1)}"
        others = (_speedup(row["others"][name]) for name in ("float", "quantized after"))
        cells = (*others, _speedup(row["static"]), _speedup(row["gated"]))
        latency = f"{row['gated']['latency_ms']['original']:.3g} ms"
        yield f"| batch {row['batch_size']}, {threads} | {latency} | {' | '.join(cells)} |"


def _shifted_table(result: Result) -> Iterator[str]:
    """Gated against the fastest static model that loses no more on the worst kind of data never calibrated on."""
    yield "| on kinds of data never calibrated on | mean loss on the worst | speed-up on familiar data, batch 1 |"
    yield "|---|---|---|"
    for name, row in result.items():
        best = row["static at the same loss"]
        for what, found in (("compiled", row["gated"]), ("fastest static that loses no more", best)):
            cells = (f"{found['worst']:.4f}", _speedup({"speedup": found["speedup"]})) if found else (NONE, NONE)
            yield f"| {name}, {what} | {' | '.join(cells)} |"


def _efficientnet_table(result: Result) -> Iterator[str]:
    """What skipc chooses, and its choice without a second look; a refusal is told as it was worded."""
    yield "| EfficientNet-Lite0 on photographs | batch | static bypasses | compiled | disagreement: static, compiled |"
    yield "|---|---|---|---|---|"
    for name, found in result.items():
        if "refused" in found:
            yield f"| {name} | | | refused: {found['refused']} | |"
            continue
        damage = ", ".join(_mean(found["disagreement"].get(kind)) for kind in ("static", "gated"))
        limit = found["compile"]["certificate"]["limit"]
        for row in found["speed"]:
            speeds = f"{_speedup(row['static'])} | {_speedup(row['gated'])}"
            yield f"| {name}, top1 at most {limit:g} | {row['batch_size']} | {speeds} | {damage} |"


def _overhead_table(result: Result) -> Iterator[str]:
    yield "| every gate shut (level 0), batch 1, one thread | gates | overhead (95 % interval) |"
    yield "|---|---|---|"
    for name, row in result.items():
        # A compiled file has the gates that its planner chose; what every gate costs does not depend on that.
        if "overhead" not in row or not name.endswith("every block gated"):
            continue
        found = {key: f"{100 * value:.1f}" for key, value in row["overhead"].items()}
        yield f"| {name} | {row['gates']} | {found['median']} % ({found['low']} to {found['high']}) |"


def _batches_table(result: Result) -> Iterator[str]:
    yield "| MiniLM compiled for mixed lengths | time bypassed | static bypasses | gated | predicted | damage |"
    yield "|---|---|---|---|---|---|"
    for size, row in result.items():
        speed, skipped = row["speed"][0], f"{row['bypassed']['time_share']:.0%}"
        measured = (_speedup(speed["static"]), _speedup(speed["gated"]), f"{row['predicted_speedup']:.2f}")
        yield f"| batch {size} | {skipped} | {' | '.join(measured)} | {_mean(row['damage']['gated'])} |"


def _rows_table(result: Result) -> Iterator[str]:
    yield "| a feed-forward block of MiniLM, over the plain block | all rows run | half | none, less the bypass |"
    yield "|---|---|---|---|"
    for row in result["costs"]:
        parts = [f"{cell['median']:.2f}" for name, cell in row.items() if name.endswith("over the plain region")]
        yield f"| {row['rows']} rows, by {row['granularity']} | {' | '.join(parts)} |"


def _cuda_table(result: Result | None) -> Iterator[str]:
    """Speed on a GPU at one batch size, by the policy that is fastest there."""
    what = f"CUDA, batch {CUDA_BATCH}, a quarter of the blocks' time bypassed"
    yield f"| {what} | original | in a CUDA graph | gates shut |"
    yield "|---|---|---|---|"
    if result is None:
        yield f"| {', '.join(CUDA_NETWORKS)} | {' | '.join([UNMEASURED] * 3)} |"
        return
    for network, dtype in product(CUDA_NETWORKS, ("float16", "float32")):
        case = result["cases"].get(f"{network}, {dtype}, batch {CUDA_BATCH}")
        if case is None:
            yield f"| {network}, {dtype} | {' | '.join([UNMEASURED] * 3)} |"
            continue
        name, best = max(case["gated"].items(), key=lambda item: item[1]["speedup"]["original"]["median"])
        graph = best["speedup"].get("original, CUDA graph")
        cells = [_speedup({"speedup": found}) if found else NONE for found in (best["speedup"]["original"], graph)]
        shut = f"{100 * best['shut_overhead']['median']:.1f} %"
        yield f"| {network}, {dtype}, policy {name} | {' | '.join(cells)} | {shut} |"


def _origin(results: Mapping[str, Result], folder: str = "benchmarks") -> str:
    """Machines and versions, each with what was measured on its CPU."""
    found: dict[str, list[str]] = {}
    for name, result in results.items():
        if name.startswith("cuda"):
            continue
        machine, version = result["machine"], result["versions"].get("onnxruntime", "?")
        what = f"{machine['cores']} cores of {machine['cpu']} with ONNX Runtime {version} on the CPU"
        found.setdefault(what, []).append(name)
    dates = {what: max(str(results[name]["date"])[:10] for name in names) for what, names in found.items()}
    several = len(found) > 1
    named = {what: f" ({', '.join(names)})" if several else "" for what, names in found.items()}
    parts = [f"{what}, {dates[what]}{named[what]}" for what in found]
    return f"Measured on {'; on '.join(parts)}; [benchmarks]({folder}/README.md) says how."


if __name__ == "__main__":
    sys.exit(main())
