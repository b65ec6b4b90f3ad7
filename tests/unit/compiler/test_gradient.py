"""Derivatives with respect to the masks: both ways agree, estimate the true loss, and say when one is not to be had."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest

from skipc.compiler import gradient
from skipc.compiler.data import Batch, input_specs
from skipc.compiler.directions import directions, is_squared
from skipc.compiler.gradient import CENTRAL, REVERSE, SAMPLES, Gradients, measure_gradients
from skipc.compiler.loss import Loss, resolve_loss
from skipc.compiler.settings import Settings
from skipc.compiler.survey import Surveyed
from skipc.passes.base import run_passes
from skipc.passes.mask import MaskRegions
from skipc.passes.pads import SplitPads
from skipc.runtime import names
from skipc.runtime.session import open_session
from tests.gated import Array, run, surveyed
from tests.graphs import Net, Network, conv_net, mbconv, mlp, transformer

BUILDS = [transformer, lambda: transformer(norm="pre", fused=True), conv_net, mbconv, lambda: mlp(tail="Tanh")]
ASKED = Settings(impact="gradient")


def items_of(network: Network, count: int = 6) -> tuple[Batch, ...]:
    return tuple(Batch(network.feeds(batch=1, length=5, seed=seed), (seed,), None) for seed in range(count))


def survey_of(network: Network) -> Surveyed:
    found = surveyed(network)
    return Surveyed(found.original, found.model, input_specs(found.model), found.survey, {})


def measured(network: Network, loss: str = "relative-l2", settings: Settings = ASKED, count: int = 6) -> Gradients:
    found = survey_of(network)
    original = open_session(found.model.SerializeToString())
    output = original.outputs[0]
    items = items_of(network, count)
    resolved = resolve_loss(loss, original.run(items[0].feeds)[output], None)
    return measure_gradients(found, original, items, output, resolved, settings, found.survey.blocks[:1])


@pytest.mark.parametrize("build", BUILDS, ids=["transformer", "pre-norm", "conv", "mbconv", "mlp"])
def test_both_ways_agree(build: Callable[[], Network], monkeypatch: pytest.MonkeyPatch) -> None:
    swept = measured(build())
    assert (swept.method, swept.reason) == (REVERSE, "")
    assert swept.deviation is not None
    assert swept.deviation <= gradient.TOLERANCE
    (metric,) = swept.metrics.values()
    assert np.linalg.eigvalsh(metric).max() > 0
    monkeypatch.setattr(gradient, "TOLERANCE", -1.0)
    differences = measured(build())
    assert differences.method == CENTRAL
    assert differences.reason.startswith("reverse mode is off by")
    assert differences.metrics == {}
    assert differences.impact.keys() == swept.impact.keys()
    # Kinks of ReLU on the way of a long step; the largest impact gives the scale.
    scale = 0.05 * max(swept.impact.values())
    for name, value in differences.impact.items():
        assert swept.impact[name] == pytest.approx(value, rel=0.05, abs=scale)


def test_inputs_of_differing_shapes_are_swept_together() -> None:
    network = transformer()
    found = survey_of(network)
    original = open_session(found.model.SerializeToString())
    items = tuple(Batch(network.feeds(batch=1, length=3 + seed, seed=seed), (seed,), None) for seed in range(4))
    loss = Loss("relative-l2", resolve_loss("relative-l2", np.ones((1, 2, 4)), None).compare)
    assert measure_gradients(found, original, items, "hidden", loss, ASKED).method == REVERSE


@pytest.mark.parametrize(("loss", "power"), [("kl", 2), ("cosine", 2), ("relative-l2", 1)])
def test_the_estimate_is_the_loss_of_a_small_change(loss: str, power: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a mask of 1 - e the true loss is e or e² times the estimate, up to higher orders: 2 % at e = 0.01.

    The noise of 256 directions a sample is 9 % of each sample's loss, and 1 to 2 % of the mean over 64 of them.
    """
    monkeypatch.setattr(gradient, "DIRECTIONS", 256)
    network = mlp(tail="Tanh")
    found = survey_of(network)
    original = open_session(found.model.SerializeToString())
    items = items_of(network, SAMPLES[True])
    resolved = resolve_loss(loss, original.run(items[0].feeds)["y"], None)
    estimated = measure_gradients(found, original, items, "y", resolved, ASKED).impact
    regions = found.survey.regions
    model = run_passes(found.model, [MaskRegions(regions)])
    step = 0.01
    for position, region in enumerate(regions):
        factors = np.ones(len(regions), np.float32)
        factors[position] -= step
        pairs = [
            (run(found.model, item.feeds)["y"], run(model, {**item.feeds, names.REGION_MASK: factors})["y"])
            for item in items
        ]
        losses = [
            resolved.compare(before.astype(np.float64), after.astype(np.float64), None) for before, after in pairs
        ]
        true = float(np.mean(losses))
        assert estimated[region.name] == pytest.approx(true / step**power, rel=0.08)


def test_an_operator_without_a_rule_is_measured_by_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnx_ad._passes

    swept = measured(mlp(tail="Tanh"))
    without = {name: rule for name, rule in onnx_ad._passes.REVERSE.items() if name != "Tanh"}
    monkeypatch.setattr(onnx_ad._passes, "REVERSE", without)
    found = measured(mlp(tail="Tanh"))
    assert (found.method, found.deviation) == (CENTRAL, None)
    assert "Tanh" in found.reason
    assert found.impact == pytest.approx(swept.impact, rel=0.01)


def test_a_wrong_rule_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnx_ad._passes

    right = measured(mlp(tail="Tanh"))
    wrong = {**onnx_ad._passes.REVERSE, "Tanh": onnx_ad._passes.REVERSE["Identity"]}
    monkeypatch.setattr(onnx_ad._passes, "REVERSE", wrong)
    found = measured(mlp(tail="Tanh"))
    assert found.method == CENTRAL
    assert found.reason.endswith("from central differences")
    assert found.impact == pytest.approx(right.impact, rel=0.01)


def unequally_padded() -> Network:
    """Residual blocks before a convolution of stride 2 that pads one side only, as exporters write "same" padding."""
    net = Net()
    value = net.conv("image", 3, 8, 3)
    for _ in range(2):
        value = net.node("Add", value, net.conv(net.node("Tanh", net.conv(value, 8, 8, 3)), 8, 8, 3))
    kernel = net.weight(8, 8, 3, 3, scale=0.3)
    value = net.node("Conv", value, kernel, kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1])
    value = net.node("Tanh", value)
    net.node("Gemm", net.node("Flatten", value), net.weight(72, 5), net.weight(5), output="logits")
    return net.network([net.tensor("image", "batch", 3, 6, 6)], [net.tensor("logits", "batch", 5)])


def test_unequal_padding_is_differentiated_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `SplitPads` onnx-ad 0.3.0 is off by more than what it computes, and is found out."""
    found = measured(unequally_padded())
    assert found.method == REVERSE
    monkeypatch.setattr(SplitPads, "apply", lambda _self, model: model)
    unsplit = measured(unequally_padded())
    assert unsplit.impact == pytest.approx(found.impact, rel=0.01)


def test_without_the_package_differences_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx_ad", None)
    found = measured(mlp())
    assert found.method == CENTRAL
    assert "onnx_ad" in found.reason


def test_few_samples_do_where_it_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert measured(mlp(), count=100).samples == SAMPLES[True]
    assert measured(mlp(), settings=Settings(), count=100).samples == SAMPLES[False]
    monkeypatch.setattr(gradient, "LARGE_BYTES", 100)
    none = measured(mlp(), settings=Settings())
    assert (none.impact, none.method, none.samples) == ({}, "none", 0)
    assert "--impact gradient" in none.reason
    assert measured(mlp()).method == REVERSE


def test_differences_are_taken_of_as_many_samples_as_can_be_afforded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx_ad", None)
    monkeypatch.setattr(gradient, "MOST_RUNS", 2 * 3 * 5 + 1)
    assert measured(mlp(blocks=3), count=20).samples == 5
    monkeypatch.setattr(gradient, "MOST_RUNS", 1)
    assert measured(mlp(blocks=3), count=20).samples == 1


def rotated() -> Network:
    """Halves swapped, as in rotary embeddings, of a value whose extent is counted: inference does not know it."""
    net = Net()
    value = net.linear("x", 6, 8)
    for _ in range(2):
        ones = net.node("Cast", net.node("Equal", value, value), to=onnx.TensorProto.INT64)
        counted = net.node("Mul", net.node("ReduceSum", ones, net.constant([0, 1]), keepdims=0), net.constant([1]))
        shape = net.node("Concat", net.constant([1]), counted, axis=0)
        reshaped = net.node("Reshape", value, shape)
        first = net.node("Slice", reshaped, net.constant([0]), net.constant([4]), net.constant([1]))
        second = net.node("Slice", reshaped, net.constant([4]), net.constant([9]), net.constant([1]))
        inner = net.linear(net.node("Concat", net.node("Neg", second), first, axis=1), 8, 8)
        value = net.node("Add", value, net.node("Tanh", inner))
    net.node("Gemm", value, net.weight(8, 3), net.weight(3), output="y")
    return net.network([net.tensor("x", 1, 6)], [net.tensor("y", 1, 3)])


def test_extents_that_only_a_run_tells_are_learned_from_one() -> None:
    found = measured(rotated())
    assert (found.method, found.reason) == (REVERSE, "")


def test_the_same_seed_gives_the_same_impact() -> None:
    assert measured(mlp()).impact == measured(mlp()).impact
    assert measured(mlp()).impact != measured(mlp(), settings=replace(ASKED, seed=1)).impact


def hessian(loss: str, output: Array) -> Array:
    """Second derivatives of a loss in a row of outputs, [C, C], by central differences in float64."""
    compare = resolve_loss(loss, output[None], None).compare

    def at(change: Array) -> float:
        value = float(compare(output[None], (output + change)[None], None)[0])
        return value if is_squared(Loss(loss, compare)) else value**2

    size = len(output)
    step = 1e-3 * np.eye(size)
    corners = ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1))
    return np.array(
        [
            [sum(sign * at(a * step[i] + b * step[j]) for a, b, sign in corners) / (4 * 1e-6) for j in range(size)]
            for i in range(size)
        ]
    )


@pytest.mark.parametrize(
    ("loss", "output"),
    [
        ("kl", [0.3, -1.2, 0.8, 2.0]),
        ("cosine", [0.3, -1.2, 0.8, 2.0]),
        ("relative-l2", [0.3, -1.2, 0.8, 2.0]),
        ("kl", [0.1, 0.2, 0.3, 0.4]),
    ],
    ids=["logits", "cosine", "distance", "probabilities"],
)
def test_directions_have_the_loss_as_their_covariance(loss: str, output: list[float]) -> None:
    """Of 40,000 directions the covariance is within 3 % of its largest element, six of its standard deviations.

    KL between probabilities is clipped at 0, and changes that do not keep the sum have a linear term: only what a
    change of sum zero sees is compared.
    """
    row = np.array(output)
    reference = np.tile(row, (1, 1)).astype(np.float64)
    found = directions(resolve_loss(loss, reference, None), reference, None, 40_000, np.random.default_rng(0))[0]
    covariance = found @ found.T / found.shape[1]
    centre = np.eye(4) - 1 / 4
    expected = np.diag(1 / row) if loss == "kl" and abs(row.sum() - 1) < 1e-9 else hessian(loss, row)
    found_inside, expected_inside = centre @ covariance @ centre, centre @ expected @ centre
    np.testing.assert_allclose(found_inside, expected_inside, rtol=0, atol=0.03 * np.abs(expected).max())


def test_padding_has_no_direction_and_samples_weigh_the_same() -> None:
    reference = np.random.default_rng(0).standard_normal((2, 3, 4))
    valid = np.array([[True, True, True], [True, False, False]])
    loss = resolve_loss("cosine", reference, None)
    found = directions(loss, reference, valid, 2000, np.random.default_rng(0)).astype(np.float64)
    assert not found[1, 1:].any()
    norms = np.linalg.norm(reference, axis=-1)
    # The mean square of a direction is 3 / norm² times the row's weight: one in six, and one in two.
    weights = (found**2).sum(axis=2).mean(axis=-1) * norms**2 / 3
    np.testing.assert_allclose(weights, [[1 / 6] * 3, [1 / 2, 0, 0]], rtol=0.02)


def test_outputs_without_features_have_directions() -> None:
    reference = np.array([2.0, -4.0])
    loss = resolve_loss("relative-l2", reference, None)
    found = directions(loss, reference, None, 3, np.random.default_rng(0))
    np.testing.assert_allclose(np.abs(found), [[np.sqrt(2 / 2) / 2] * 3, [np.sqrt(2 / 2) / 4] * 3], rtol=1e-6)


def test_a_float16_network_is_measured_either_way() -> None:
    """Its differences are of 1e-3 and less, so that reverse mode may fail the check; both give a finite figure."""
    found = measured(mlp(elem_type=onnx.TensorProto.FLOAT16))
    assert all(np.isfinite(value) and value >= 0 for value in found.impact.values())
