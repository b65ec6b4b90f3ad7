"""Losses are the same wherever they are measured, also when workers die on the way."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from skipc.compiler.data import Batch
from skipc.compiler.executors import KEPT, Cluster, Executor, Local, Processes, executor_for, run_here
from skipc.compiler.impact import ablate, instrument, ungated
from skipc.compiler.loss import Loss
from skipc.compiler.running import Judged, in_parallel
from skipc.runtime.errors import InputError
from skipc.runtime.losses import relative_l2
from skipc.runtime.plan import Array, Bypass
from skipc.runtime.session import open_session
from tests.gated import surveyed
from tests.graphs import Network, mlp, transformer

LOSS = Loss("relative-l2", relative_l2)
NETWORK = transformer()


def judged(network: Network, output: str, count: int) -> Judged:
    session = open_session(network.model.SerializeToString())
    items = tuple(Batch(network.feeds(batch=1, seed=seed), (seed,), None) for seed in range(count))
    references = tuple(session.run(item.feeds)[output] for item in items)
    return Judged(items, references, (None,) * count, output)


def matrix(executor: Executor, count: int = 12) -> Array:
    """Losses of every block of a transformer alone, [blocks, samples]."""
    found = surveyed(NETWORK)
    blocks = [ungated(region, Bypass("identity")) for region in found.survey.blocks]
    return ablate(instrument(found.model, blocks, executor), judged(NETWORK, "hidden", count), LOSS)[0]


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    executor = Processes(2)
    yield executor
    executor.close()


def test_processes_measure_the_same_bit_for_bit(processes: Processes) -> None:
    expected = matrix(Local())
    assert expected.min() > 0
    np.testing.assert_array_equal(matrix(processes), expected)


def test_a_session_elsewhere_looks_like_one_here(processes: Processes) -> None:
    here, there = (executor.open(NETWORK.model.SerializeToString()) for executor in (Local(), processes))
    assert (there.provider, there.inputs, there.outputs) == (here.provider, here.inputs, here.outputs)
    assert (here.parallel, there.parallel) == (0, 2)
    feeds = NETWORK.feeds()
    np.testing.assert_array_equal(there.run(feeds)["hidden"], here.run(feeds)["hidden"])
    assert there.run(feeds, ["hidden"]).keys() == {"hidden"}


def test_workers_leave_interrupts_to_their_parent(processes: Processes) -> None:
    assert processes._pool.submit(signal.getsignal, signal.SIGINT).result() == signal.SIG_IGN


def test_an_error_of_the_model_is_not_a_death(processes: Processes) -> None:
    session = processes.open(NETWORK.model.SerializeToString())
    with pytest.raises(Exception, match="attention_mask"):
        session.run({"ids": NETWORK.feeds()["ids"]})
    assert session.run(NETWORK.feeds())["hidden"].any()


def test_more_models_than_a_worker_keeps_are_opened_again(processes: Processes) -> None:
    networks = [mlp(blocks=count) for count in range(1, KEPT + 3)]
    sessions = [processes.open(network.model.SerializeToString()) for network in networks]
    for _ in range(2):
        for network, session in zip(networks, sessions, strict=True):
            expected = open_session(network.model.SerializeToString()).run(network.feeds())["y"]
            np.testing.assert_array_equal(session.run(network.feeds())["y"], expected)


def test_a_worker_says_when_it_lacks_a_model() -> None:
    model = mlp(blocks=1).model.SerializeToString()
    feeds = mlp(blocks=1).feeds()
    assert run_here("never seen", None, ["y"], feeds) is None
    first = run_here("seen", model, ["y"], feeds)
    second = run_here("seen", None, ["y"], feeds)
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first[0], second[0])


def test_a_killed_worker_is_replaced_and_its_runs_are_done_again() -> None:
    with executor_for(2, "") as executor:
        assert isinstance(executor, Processes)
        session = executor.open(NETWORK.model.SerializeToString())
        feeds = NETWORK.feeds()
        expected = session.run(feeds)["hidden"]
        kept = executor._pool
        batches = [Batch(feeds, (i,), None) for i in range(60)]

        def run(item: Batch) -> Array:
            if item.indices == (20,):
                os.kill(next(iter(kept._processes)), signal.SIGKILL)
            return session.run(item.feeds)["hidden"]

        found = in_parallel(run, batches, session.parallel)
        assert executor._pool is not kept
        assert len(found) == len(batches)
        assert all(np.array_equal(item, expected) for item in found)


def test_a_run_that_kills_every_worker_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with executor_for(1, "") as executor:
        assert isinstance(executor, Processes)
        session = executor.open(NETWORK.model.SerializeToString())
        submit = type(executor._pool).submit

        def deadly(pool: Any, function: Any, *args: Any) -> Any:
            return submit(
                pool, os._exit if function is run_here else function, *((1,) if function is run_here else args)
            )

        monkeypatch.setattr(type(executor._pool), "submit", deadly)
        with pytest.raises(InputError) as caught:
            session.run(NETWORK.feeds())
        assert caught.value.code == "workers-died"


def test_only_one_kind_of_help_at_a_time() -> None:
    with executor_for(0, "") as executor:
        assert isinstance(executor, Local)
    with pytest.raises(InputError) as caught, executor_for(2, "tcp://127.0.0.1:1"):
        pass
    assert caught.value.code == "usage"


def test_without_distributed_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError) as caught:
        Cluster("tcp://127.0.0.1:1")
    assert (caught.value.code, caught.value.hint) == ("dask-missing", "pip install 'skipc[dask]'")
