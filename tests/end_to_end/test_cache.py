"""A decoder with a key-value cache: half of its blocks bypassed, generating with the cache is generating without it."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from skipc.compiler.build import build, normalized
from skipc.compiler.data import input_specs
from skipc.compiler.probe import probe_feeds, probe_types
from skipc.passes.regions import Survey, find_regions
from skipc.runtime.session import open_session
from tests.compiled import plan_for
from tests.gated import block

Array = NDArray[Any]

STEPS = 24

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    """A small llama, exported with its cache among inputs and outputs."""
    pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    from benchmarks.zoo.exporting import exported
    from benchmarks.zoo.tokens import llama_cached

    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return normalized(exported(llama_cached(), dynamo=False, opset=17))


def survey(model: onnx.ModelProto) -> Survey:
    return find_regions(model, probe_types(model, probe_feeds(model, input_specs(model), None)))


def bypassed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every other block, attention and feed-forward alike, on a linear bypass for every input."""
    blocks = survey(model).blocks
    return build(model, plan_for([block(region) for region in (blocks[0], blocks[3])]))


def step(session: Any, ids: Array, past: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
    """Logits [batch, length, vocabulary] and the grown cache."""
    mask = np.ones((1, ids.shape[1] + next(iter(past.values())).shape[2]), np.int64)
    found = session.run({"input_ids": ids, "attention_mask": mask, **past})
    return found["logits"], {name: found[name.replace("past_key_values", "present")] for name in past}


def empty(model: onnx.ModelProto) -> dict[str, Array]:
    named = [spec for spec in input_specs(model) if "past" in spec.name]
    return {spec.name: np.zeros((1, int(spec.shape[1] or 0), 0, int(spec.shape[3] or 0)), np.float32) for spec in named}


def test_attention_and_feed_forward_are_found_in_every_layer(model: onnx.ModelProto) -> None:
    found = survey(model)
    assert [item.kind for item in found.blocks] == ["attention", "feed-forward"] * 2
    assert len(found.layers) == 2


def test_keys_and_values_are_computed_outside(model: onnx.ModelProto) -> None:
    inside = {name for item in survey(model).blocks for name in item.nodes}
    writers = {name: node.name for node in model.graph.node for name in node.output}
    presents = [item.name for item in model.graph.output if item.name.startswith("present")]
    assert len(presents) == 4
    assert not {writers[name] for name in presents} & inside


def test_generating_with_the_cache_is_generating_without(model: onnx.ModelProto) -> None:
    """Greedy, token by token; logits differ by the order of float32 sums alone."""
    gated = bypassed(model)
    session = open_session(gated.SerializeToString())
    ids, past = np.array([[7, 3, 11]]), empty(model)
    logits, past = step(session, ids, past)
    for _ in range(STEPS):
        token = logits[:, -1:].argmax(-1)
        ids = np.concatenate([ids, token], axis=1)
        logits, past = step(session, token, past)
        whole, _ = step(session, ids, empty(model))
        np.testing.assert_allclose(logits[:, -1], whole[:, -1], rtol=1e-4, atol=1e-5)
    assert len(set(ids[0].tolist())) > 3


def test_the_bypassed_decoder_is_another_one(model: onnx.ModelProto) -> None:
    """Else the test above would prove nothing."""
    ids, past = np.array([[7, 3, 11]]), empty(model)
    original, _ = step(open_session(model.SerializeToString()), ids, past)
    gated, _ = step(open_session(bypassed(model).SerializeToString()), ids, past)
    assert np.abs(original - gated).max() > 1e-2
