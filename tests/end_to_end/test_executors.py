"""Losses measured elsewhere, on a real cluster and by the command."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from skipc.compiler import executors
from skipc.compiler.data import Batch
from skipc.compiler.executors import Cluster, Local
from skipc.compiler.running import in_parallel
from skipc.runtime.session import open_session
from tests.end_to_end.command import invoke, run
from tests.end_to_end.test_variants import two_outputs
from tests.graphs import transformer
from tests.unit.compiler.test_executors import matrix

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A scheduler and two worker processes on loopback; a nanny replaces one that dies."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
    ) as found:
        yield found


def test_a_cluster_measures_the_same_bit_for_bit(cluster: Any) -> None:
    executor = Cluster(cluster.scheduler_address)
    np.testing.assert_array_equal(matrix(executor), matrix(Local()))
    executor.close()


def test_a_killed_worker_of_a_cluster_loses_nothing(cluster: Any) -> None:
    network = transformer()
    executor = Cluster(cluster.scheduler_address)
    session = executor.open(network.model.SerializeToString())
    feeds = network.feeds()
    expected = open_session(network.model.SerializeToString()).run(feeds)["hidden"]
    victim = next(iter(executor._client.run(os.getpid).values()))

    def run_or_kill(item: Batch) -> Any:
        if item.indices == (20,):
            os.kill(victim, signal.SIGKILL)
        return session.run(item.feeds)["hidden"]

    found = in_parallel(run_or_kill, [Batch(feeds, (i,), None) for i in range(60)], session.parallel)
    assert len(found) == 60
    assert all(np.array_equal(item, expected) for item in found)
    executor.close()


def test_compiling_with_workers(tmp_path: Path, cluster: Any) -> None:
    """Bypasses are fitted before anything is timed: those of the same kind are equal to the last bit."""
    onnx.save(two_outputs("batch"), tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).standard_normal((200, 6)).astype(np.float32))
    words = ("--data", tmp_path / "data.npz", "--loss", "relative-l2", "--risk", 0.2, "--output", "scores")
    plans: list[dict[str, Any]] = []
    for place in ((), ("--workers", 2), ("--dask", cluster.scheduler_address)):
        out = tmp_path / f"{len(plans)}.onnx"
        ran = run("compile", tmp_path / "model.onnx", "-o", out, *words, "--bypass", "linear", *place)
        assert ran.code == 0, ran.stderr
        plan = json.loads(out.with_suffix(".plan.json").read_text(encoding="utf-8"))
        plans.append({block["region"]["name"]: (block["bypass"], block["impact"]) for block in plan["blocks"]})
    here, *elsewhere = plans
    for there in elsewhere:
        assert here.keys() & there.keys()
        assert {name: here[name] for name in here.keys() & there.keys()}.items() <= there.items()


def test_a_cluster_that_does_not_answer_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(executors, "CONNECT_SECONDS", 1)
    onnx.save(two_outputs("batch"), tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", x=np.ones((400, 6), np.float32))
    words = ("--data", tmp_path / "data.npz", "--dask", "tcp://127.0.0.1:9", "--output-format", "json")
    ran = invoke("compile", tmp_path / "model.onnx", *words)
    assert (ran.code, ran.json["error"]["code"]) == (2, "dask-unreachable")
