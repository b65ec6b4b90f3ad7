"""Bound runs give what plain ones give; on the CPU they go through the same code as on a GPU."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

from skipc.compiler.bench import compare
from skipc.compiler.data import Batch
from skipc.runtime.binding import bind, through_binding, timed
from skipc.runtime.session import Session, is_equal, open_session
from tests.compiled import compiled
from tests.graphs import Network, conv_net, mlp, transformer


def opened(network: Network) -> Session:
    return open_session(network.model.SerializeToString())


@pytest.mark.parametrize("network", [transformer(), conv_net(), mlp()], ids=["transformer", "conv", "mlp"])
def test_a_bound_run_gives_what_a_plain_one_gives(network: Network) -> None:
    session, feeds = opened(network), network.feeds(batch=3)
    expected = session.run(feeds)
    bound = bind(session, feeds)
    for _ in range(2):
        bound.run()
        found = bound.outputs()
        assert all(is_equal(found[name], expected[name]) for name in expected)
    assert all(is_equal(through_binding(session).run(feeds)[name], expected[name]) for name in expected)


def test_outputs_asked_for_in_their_order() -> None:
    network = mlp()
    gated = compiled(network, exposed=True)
    session = open_session(gated.SerializeToString())
    feeds = network.feeds(batch=2)
    wanted = ["skipc.decisions", "y"]
    found = through_binding(session).run(feeds, wanted)
    assert list(found) == wanted
    assert is_equal(found["y"], session.run(feeds)["y"])


def test_outputs_can_stay_where_they_are() -> None:
    """A CUDA graph replays with the addresses that it was captured with."""
    network = mlp()
    session, feeds = opened(network), network.feeds(batch=3)
    expected = session.run(feeds)
    bound = bind(session, feeds, like=expected)
    bound.run()
    first = [value.data_ptr() for value in bound.binding.get_outputs()]
    bound.run()
    assert [value.data_ptr() for value in bound.binding.get_outputs()] == first
    assert is_equal(bound.outputs()["y"], expected["y"])


def test_arrays_need_not_be_contiguous() -> None:
    network = mlp()
    session, feeds = opened(network), network.feeds(batch=4)
    strided = {name: np.asfortranarray(array) for name, array in feeds.items()}
    bound = bind(session, strided)
    bound.run()
    assert is_equal(bound.outputs()["y"], session.run(feeds)["y"])


@pytest.mark.parametrize("bound", [True, False, None])
def test_models_are_compared_either_way(bound: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    network = mlp()
    runs: list[bool] = []
    real = ort.InferenceSession.run_with_iobinding

    def counted(self: ort.InferenceSession, *words: object) -> None:
        runs.append(True)
        real(self, *words)

    monkeypatch.setattr(ort.InferenceSession, "run_with_iobinding", counted)
    pair = [opened(network), open_session(compiled(network).SerializeToString())]
    items = [Batch(network.feeds(batch=2, seed=seed), (2 * seed, 2 * seed + 1), None) for seed in range(3)]
    found = compare(pair[0], pair[1], items, rounds=2, bound=bound)
    assert found.speedup.median > 0
    assert bool(runs) == bool(bound)


def test_on_the_cpu_a_timed_run_is_a_plain_one() -> None:
    network = mlp()
    session, feeds = opened(network), network.feeds()
    found = timed(session, feeds)()
    assert isinstance(found, dict)
    assert is_equal(found["y"], session.run(feeds)["y"])
    assert timed(session, feeds, bound=True)() is None
