"""Behind other bypasses a bypass is fitted to what these write, and towards what the original writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import pytest

from skipc.compiler.build import build_static
from skipc.compiler.data import Batch
from skipc.compiler.fit import fit_bypass
from skipc.compiler.hidden import observe_hidden
from skipc.compiler.impact import ungated
from skipc.compiler.moments import observe
from skipc.compiler.narrow_fit import fit_narrow, without_linear
from skipc.compiler.refit import refitted
from skipc.passes.expose import up_to
from skipc.runtime.plan import Block
from tests.gated import Surveyed, run, surveyed
from tests.graphs import Network, conv_net, mbconv, mlp, transformer

NETWORKS: dict[str, Callable[[], Network]] = {
    "transformer": lambda: transformer(layers=3),
    "conv": lambda: conv_net(blocks=3),
    "mbconv": mbconv,
    "mlp": mlp,
}


def items_of(network: Network, count: int, first: int = 0) -> tuple[Batch, ...]:
    seeds = range(first, first + count)
    return tuple(Batch(network.feeds(batch=8, length=6, seed=seed), (seed,), None) for seed in seeds)


def linear(found: Surveyed, items: Sequence[Batch]) -> list[Block]:
    seen = observe(found.model, found.survey.blocks, items, 0)
    return [ungated(region, fit_bypass("linear", seen[region.name].halves)) for region in found.survey.blocks]


def narrow(found: Surveyed, items: Sequence[Batch], *, path: bool = True) -> list[Block]:
    """Half of the hidden units, with a linear path beside them or without."""
    seen = observe_hidden(found.model, found.survey.blocks, items, 0)
    regions = [region for region in found.survey.blocks if region.name in seen]
    moments = [seen[region.name] if path else without_linear(seen[region.name]) for region in regions]
    return [ungated(region, fit_narrow(part, (0.5,))[0]) for region, part in zip(regions, moments, strict=True)]


def error(model: onnx.ModelProto, blocks: Sequence[Block], items: Sequence[Batch]) -> float:
    """Mean squared error of the last block's exit where all of them are bypassed."""
    leaving = blocks[-1].region.exit
    models = up_to(build_static(model, blocks), [leaving]), up_to(model, [leaving])
    found = [[run(each, item.feeds)[leaving].astype(np.float64) for item in items] for each in models]
    return float(np.mean([((one - two) ** 2).mean() for one, two in zip(*found, strict=True)]))


@pytest.mark.parametrize(
    ("name", "fit"),
    [(name, linear) for name in ("transformer", "conv", "mbconv")]
    + [(name, narrow) for name in ("transformer", "conv", "mlp")],
)
def test_errors_of_earlier_bypasses_are_made_good(name: str, fit: Callable[..., list[Block]]) -> None:
    network = NETWORKS[name]()
    found, items, fresh = surveyed(network), items_of(network, 400), items_of(network, 50, first=1000)
    blocks = fit(found, items)
    assert len(blocks) >= 2
    again = refitted(found.model, blocks, items, 0)
    assert [block.region for block in again] == [block.region for block in blocks]
    assert again[0].bypass is blocks[0].bypass
    before, after = (error(found.model, each, fresh) for each in (blocks, again))
    assert after < before


def test_the_units_stay_and_so_does_the_kind_of_bypass() -> None:
    network = transformer(layers=2)
    found, items = surveyed(network), items_of(network, 100)
    for path in (True, False):
        blocks = [block for block in narrow(found, items, path=path) if block.region.kind == "feed-forward"]
        for before, after in zip(blocks, refitted(found.model, blocks, items, 0), strict=True):
            assert after.bypass.arrays["units"].tolist() == before.bypass.arrays["units"].tolist()
            straight = np.array_equal(after.bypass.arrays["weight"], np.eye(before.region.channels))
            assert straight != path


def test_behind_nothing_that_changes_it_a_fit_is_found_again() -> None:
    """An earlier block on its own nodes in full: a narrow bypass that keeps every unit and weight."""
    network = mlp()
    found, items = surveyed(network), items_of(network, 400)
    seen = observe_hidden(found.model, found.survey.blocks, items, 0)
    regions = found.survey.blocks[:2]
    shares = (1.0, 0.5)
    blocks = [
        ungated(region, fit_narrow(without_linear(seen[region.name]), (share,))[0])
        for region, share in zip(regions, shares, strict=True)
    ]
    again = refitted(found.model, blocks, items, 0)
    np.testing.assert_allclose(
        again[1].bypass.arrays["down"],
        blocks[1].bypass.arrays["down"],
        atol=2e-3 * np.abs(blocks[1].bypass.arrays["down"]).max(),
    )


def test_the_part_of_a_model_up_to_a_value() -> None:
    network = transformer(layers=2)
    found = surveyed(network)
    middle = found.survey.blocks[1].exit
    part, feeds = up_to(found.model, [middle]), network.feeds(batch=2, length=3)
    assert len(part.graph.node) < len(found.model.graph.node) / 1.5
    assert {item.name for item in part.graph.initializer} < {item.name for item in found.model.graph.initializer}
    read = {name for node in part.graph.node for name in node.input}
    assert {item.name for item in part.graph.initializer} <= read
    expected = run(found.model, feeds)
    whole = run(up_to(found.model, [middle, *expected]), feeds)
    assert list(run(part, feeds)) == [middle]
    np.testing.assert_array_equal(run(part, feeds)[middle], whole[middle])
    for name, value in expected.items():
        np.testing.assert_array_equal(whole[name], value)
