"""Read-outs find what is linear, and predict for each sample as if they had not seen it."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper, numpy_helper

from skipc.compiler.data import Batch
from skipc.compiler.read_out import CHUNK, Pooling, fit_read_out, observe_pooled, poolings
from skipc.passes.candidate import ValueType
from skipc.passes.expose import with_outputs
from tests.gated import run, surveyed
from tests.graphs import transformer

WHOLE = Pooling({"axes": np.zeros(0, np.int64)})


def test_a_linear_relation_is_found() -> None:
    random = np.random.default_rng(0)
    features = random.standard_normal((400, 6)) * 3.0 + 1.0
    weight, shift = random.standard_normal((6, 4)), random.standard_normal(4)
    found = fit_read_out(WHOLE, features, features @ weight + shift)
    # The ridge of least strength shrinks by a thousandth.
    np.testing.assert_allclose(found.bypass.arrays["weight"], weight, rtol=0, atol=1e-2)
    np.testing.assert_allclose(found.fitted, features @ weight + shift, rtol=0, atol=5e-2)


def test_predictions_are_those_of_a_fit_without_the_sample() -> None:
    random = np.random.default_rng(1)
    features = random.standard_normal((60, 40))
    noise = random.standard_normal((60, 3))
    found = fit_read_out(WHOLE, features, noise)
    # Nothing can be learned from noise: honest errors are no less than its spread, those of the fit itself are.
    assert float(((found.predicted - noise) ** 2).mean()) > 0.95 * float(noise.var())
    assert float(((found.fitted - noise) ** 2).mean()) < 0.9 * float(noise.var())


def test_a_feature_that_never_changes_gets_no_weight() -> None:
    random = np.random.default_rng(2)
    features = np.column_stack([random.standard_normal((50, 2)), np.full(50, 7.0)])
    found = fit_read_out(WHOLE, features, features[:, :2] @ random.standard_normal((2, 3)))
    np.testing.assert_array_equal(found.bypass.arrays["weight"][2], 0.0)


def test_images_are_pooled_on_grids_and_sequences_over_tokens() -> None:
    image, tokens = ValueType(1, ("batch", 16, 14, 9)), ValueType(1, ("batch", "length", 8))
    value = np.random.default_rng(3).standard_normal((2, 16, 14, 9)).astype(np.float32)
    shapes = [pooling.of(value).shape[1] for pooling in poolings(image, 1)]
    assert shapes == [16, 64, 144, 256]
    np.testing.assert_allclose(poolings(image, 1)[0].of(value), value.mean(axis=(2, 3)), rtol=1e-4, atol=1e-6)
    two = poolings(image, 1)[1].of(value).reshape(2, 16, 2, 2)
    np.testing.assert_allclose(two[:, :, 1, 0], value[:, :, 7:, :5].mean(axis=(2, 3)), rtol=1e-4, atol=1e-6)
    (only,) = poolings(tokens, 2)
    np.testing.assert_allclose(only.of(value[:, 0]), value[:, 0].mean(axis=1), rtol=1e-4, atol=1e-6)


def test_an_image_of_unknown_size_is_pooled_as_a_whole() -> None:
    (only,) = poolings(ValueType(1, ("batch", 16, None, None)), 1)
    assert only.arrays["axes"].tolist() == [2, 3]


@pytest.mark.parametrize("lengths", [(5, 5), (5, 3)])
def test_what_is_observed_is_the_pooled_value_of_each_sample(lengths: tuple[int, int]) -> None:
    network = transformer()
    found = surveyed(network)
    region, model = found.survey.blocks[-1], found.model
    model.graph.node.append(helper.make_node("ReduceSum", [region.exit, "axes"], ["classes"], keepdims=0))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "axes"))
    feeds = [network.feeds(batch=1, length=lengths[i % 2], seed=i) for i in range(CHUNK + 3)]
    wanted = {region.entry: (Pooling({"axes": np.array([1], np.int64)}),)}
    items = [Batch(each, (i,), None) for i, each in enumerate(feeds)]
    pooled, scores = observe_pooled(model, wanted, "classes", items)
    runs = [run(with_outputs(model, [region.entry, "classes"]), each) for each in feeds]
    # The session that is observed may differ by fused kernels: 1e-5 of values near 1.
    expected = np.concatenate([result[region.entry].mean(axis=1) for result in runs])
    np.testing.assert_allclose(pooled[region.entry][0], expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(scores, np.concatenate([result["classes"] for result in runs]), rtol=0, atol=1e-5)
