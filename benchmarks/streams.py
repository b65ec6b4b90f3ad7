"""What the monitor sees of MiniLM on films, other text, other languages and random tokens; stored for its tests.

`python -m benchmarks.streams` compiles MiniLM as `benchmarks.minilm` does (`--reuse` takes what is there), runs every
request at the certified level and in full, and writes the scores of the live gates and the losses to
`benchmarks/monitor/minilm.npz`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import models
from benchmarks import minilm
from benchmarks.measures import rows
from benchmarks.workbench import Built, Workbench
from skipc.compiler.build import serialized
from skipc.compiler.data import batches
from skipc.runtime import Session
from skipc.runtime.losses import LOSSES, Audited
from skipc.runtime.plan import Array

REPOSITORY = Path(__file__).resolve().parent.parent
STORED = Path(__file__).parent / "monitor" / "minilm.npz"
FILMS = 1500
CHANGED = 400

TOKENS = range(1000, 30000)
"""Of the vocabulary, without special tokens."""

Feeds = Mapping[str, Array]
Floats = NDArray[np.float32]


def requests(built: Built, count: int) -> dict[str, list[Feeds]]:
    """Requests of one sentence each: films first, then what they may turn into."""
    found = dict(minilm.domains(built.data, count))
    for name, path in models.fetch("fortunes-minilm").files.items():
        data = built.data(path)
        found[Path(name).stem] = rows(data, range(len(data)), count)
    streams = {name: [item.feeds for item in batches(data, 1, built.inputs)] for name, data in found.items()}
    return {**streams, "random tokens": [_random_tokens(item, seed) for seed, item in enumerate(streams["films"])]}


def _random_tokens(feeds: Feeds, seed: int) -> Feeds:
    """As long as a sentence about films."""
    ids = feeds["input_ids"]
    return {**feeds, "input_ids": np.random.default_rng(seed).integers(TOKENS.start, TOKENS.stop, ids.shape, ids.dtype)}


@dataclass(frozen=True)
class Seen:
    """What the monitor sees of a stream.

    Attributes:
        scores: float32 [requests, live gates].
        losses: float32 [requests].
    """

    scores: Floats
    losses: Floats


@dataclass(frozen=True)
class Stored:
    """All streams, and what they are compared with.

    Attributes:
        edges: [live gates][edges] of the plan's references.
        limit: certified mean loss.
        streams: by name.
    """

    edges: tuple[tuple[float, ...], ...]
    limit: float
    streams: Mapping[str, Seen]


def load(path: Path = STORED) -> Stored:
    """What `python -m benchmarks.streams` has written."""
    with np.load(path) as arrays:
        names = [name.removesuffix("/losses") for name in arrays if name.endswith("/losses")]
        streams = {name: Seen(arrays[f"{name}/scores"], arrays[f"{name}/losses"]) for name in names}
        return Stored(tuple(map(tuple, arrays["edges"].tolist())), float(arrays["limit"]), streams)


def main(words: Sequence[str]) -> int:
    """Measure and write."""
    bench = Workbench(REPOSITORY, REPOSITORY / "build" / "benchmarks", False, "--reuse" in words, print)
    built = bench.compiled(minilm.job())
    certificate = built.plan.certificate
    if certificate is None:
        print("nothing was certified", file=sys.stderr)
        return 1
    live = [k for k, block in enumerate(built.plan.blocks) if block.reference]
    arrays: dict[str, Array] = {
        "edges": np.array([block.reference.edges for block in built.plan.blocks if block.reference]),
        "limit": np.array(certificate.limit),
    }
    session, judged = Session(serialized(built.compiled)), LOSSES[certificate.loss]
    for name, items in requests(built, FILMS).items():
        print(name)
        kept = items if name == "films" else items[:CHANGED]
        scores, losses = zip(*(_seen(session, item, certificate.output, live, judged) for item in kept), strict=True)
        arrays[f"{name}/scores"], arrays[f"{name}/losses"] = np.array(scores), np.array(losses, np.float32)
    STORED.parent.mkdir(exist_ok=True)
    np.savez_compressed(STORED, allow_pickle=False, **arrays)
    return 0


def _seen(session: Session, feeds: Feeds, output: str, live: Sequence[int], judged: Audited) -> tuple[Floats, float]:
    answer = session.answer(feeds, [output])
    full = session.answer(feeds, [output], level=0).outputs[output]
    assert answer.decisions is not None
    return answer.decisions.scores[0, live], float(judged(full, answer.outputs[output])[0])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
