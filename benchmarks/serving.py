"""The FastAPI example under load: 30 s of good requests, malformed JSON, wrong shapes and bodies that are too large."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks import minilm
from benchmarks.failure import BenchmarkError
from benchmarks.workbench import Built, Json, Workbench
from examples.serving.app import MAX_BYTES
from skipc.compiler.build import serialized
from skipc.compiler.data import Dataset, batches
from skipc.runtime import Session
from skipc.runtime.lines import read_log
from skipc.runtime.plan import Array

SECONDS = 30
CLIENTS = 8
SENTENCES = 1000
START_S = 60

Good = tuple[Json, Mapping[int, Array], str]
"""(request, the right answer at each level, its name)"""

BAD: dict[str, tuple[dict[str, Any], int]] = {
    "malformed JSON": ({"content": b'{"inputs": {'}, 400),
    "no JSON object": ({"json": [1, 2, 3]}, 422),
    "wrong shape": (
        {"json": {"inputs": {"input_ids": [1, 2], "attention_mask": [[1, 1]], "token_type_ids": [[0, 0]]}}},
        422,
    ),
    "shapes that do not fit": (
        {"json": {"inputs": {"input_ids": [[1, 2]], "attention_mask": [[1]], "token_type_ids": [[0, 0]]}}},
        422,
    ),
    "missing inputs": ({"json": {"inputs": {"input_ids": [[1, 2]]}}}, 422),
    "no numbers": (
        {"json": {"inputs": {"input_ids": "a film", "attention_mask": [[1]], "token_type_ids": [[0]]}}},
        422,
    ),
    "oversized": ({"content": b" " * (MAX_BYTES + 1)}, 413),
}
"""What clients do wrong, and the status that tells them."""


def run(bench: Workbench) -> Json:
    """The compiled MiniLM behind uvicorn in a process of its own, asked by eight clients at a time."""
    built = bench.compiled(minilm.job())
    path = bench.folder / "served.onnx"
    path.write_bytes(serialized(built.compiled))
    log = bench.folder / "served.log"
    log.unlink(missing_ok=True)
    good = _good(built, minilm.domains(built.data, bench.pick(SENTENCES, 20))["films"])
    with _served(path, log, bench.repository) as url:
        bench.say(f"asking {url}")
        until = time.monotonic() + bench.pick(SECONDS, 2)
        with ThreadPoolExecutor(CLIENTS) as pool:
            found = list(pool.map(lambda number: _client(url, good, number, until), range(CLIENTS)))
        health = httpx.get(f"{url}/health").json()
    return _summary(found, health, len(list(read_log(log))))


def _good(built: Built, data: Dataset) -> list[Good]:
    """Requests with the answers that are right at each level: an alarm puts level 0 in force."""
    session = Session(serialized(built.compiled))
    output = session.get_outputs()[0].name
    levels = {0, built.plan.level}
    items = [item.feeds for item in batches(data, 1, built.inputs)]
    return [
        (
            {"inputs": {name: array.tolist() for name, array in feeds.items()}},
            {level: session.answer(feeds, level=level).outputs[output] for level in levels},
            output,
        )
        for feeds in items
    ]


@contextmanager
def _served(model: Path, log: Path, repository: Path) -> Iterator[str]:
    """The address of the service while it runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["uvicorn", "--factory", "examples.serving.app:from_environment", "--port", str(port)]
    environment = {**os.environ, "SKIPC_MODEL": str(model), "SKIPC_LOG": str(log)}
    command = [sys.executable, "-m", *words, "--log-level", "warning"]
    server = subprocess.Popen(command, cwd=repository, env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(url, server)
        yield url
    finally:
        server.terminate()
        server.wait()


def _wait(url: str, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and server.poll() is None:
        try:
            httpx.get(f"{url}/health")
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return
    raise BenchmarkError("the service did not start")


def _client(url: str, good: list[Good], number: int, until: float) -> Json:
    """One client's requests until the time is up: every second one is good, the others go through the mistakes."""
    asked: list[tuple[str, str]] = []
    latencies: list[float] = []
    with httpx.Client(timeout=60, base_url=url) as connection:
        for k in count():
            if time.monotonic() > until:
                return {"asked": asked, "latencies": latencies}
            start = time.perf_counter()
            asked.append(("good", _wrong_in_good(connection, *good[(CLIENTS * k + number) % len(good)])))
            latencies.append(time.perf_counter() - start)
            name = list(BAD)[(k + number) % len(BAD)]
            asked.append((name, _wrong_in_bad(connection, *BAD[name])))
    raise AssertionError("the loop has no end but the time's")


def _wrong_in_good(connection: httpx.Client, request: Json, expected: Mapping[int, Array], output: str) -> str:
    """What is wrong with the answer to a good request; empty for nothing. Its level is the one that it says.

    To 1e-5: what shows decisions may add float32 numbers in another order.
    """
    answer = connection.post("/infer", json=request)
    if answer.status_code != 200:
        return str(answer.status_code)
    found = answer.json()
    return "" if np.allclose(found["outputs"][output], expected[found["level"]], rtol=0, atol=1e-5) else "value"


def _wrong_in_bad(connection: httpx.Client, options: Json, status: int) -> str:
    """What is wrong with the answer to a mistake: another status, or no words."""
    answer = connection.post("/infer", **options)
    return "" if answer.status_code == status and answer.json().get("detail") else str(answer.status_code)


def _summary(found: list[Json], health: Json, lines: int) -> Json:
    asked = [pair for item in found for pair in item["asked"]]
    latencies = 1e3 * np.concatenate([item["latencies"] for item in found])
    return {
        "clients": CLIENTS,
        "requests": dict(Counter(name for name, _ in asked)),
        "wrong": dict(Counter(f"{name}: {word}" for name, word in asked if word)),
        "lines_in_log": lines,
        "health_afterwards": health,
        "good_ms": {name: round(float(np.quantile(latencies, q)), 2) for name, q in (("median", 0.5), ("p99", 0.99))},
    }
