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
from skipc.runtime.session import Session, open_session
from tests.compiled import plan_for
from tests.end_to_end.conftest import fetched
from tests.gated import block

Array = NDArray[Any]

STEPS = 64

pytestmark = pytest.mark.slow


def small() -> onnx.ModelProto:
    """Two layers with random weights."""
    pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    from benchmarks.zoo.exporting import exported
    from benchmarks.zoo.tokens import llama_cached

    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return exported(llama_cached(), dynamo=False, opset=17)


def smollm2() -> onnx.ModelProto:
    """SmolLM2-135M: thirty layers, trained."""
    return onnx.load(fetched("smollm2-cached")["smollm2.cached.onnx"])


@pytest.fixture(scope="module", params=["small", pytest.param("smollm2", marks=pytest.mark.network)])
def model(request: pytest.FixtureRequest) -> onnx.ModelProto:
    """A llama exported with its cache among inputs and outputs."""
    return normalized(small() if request.param == "small" else smollm2())


@pytest.fixture(scope="module")
def survey(model: onnx.ModelProto) -> Survey:
    return find_regions(model, probe_types(model, probe_feeds(model, input_specs(model), None)))


@pytest.fixture(scope="module")
def original(model: onnx.ModelProto) -> Session:
    return open_session(model.SerializeToString())


@pytest.fixture(scope="module")
def gated(model: onnx.ModelProto, survey: Survey) -> Session:
    """Every other block, attention and feed-forward alike, on an affine bypass for every input."""
    half = [region for place, region in enumerate(survey.blocks) if place % 4 in (0, 3)]
    return open_session(build(model, plan_for([block(region, "affine") for region in half])).SerializeToString())


def layers(model: onnx.ModelProto) -> int:
    presents = [item.name for item in model.graph.output if item.name.startswith("present")]
    return len(presents) // 2


def step(session: Session, ids: Array, past: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
    """Logits [batch, length, vocabulary] and the grown cache."""
    mask = np.ones((1, ids.shape[1] + next(iter(past.values())).shape[2]), np.int64)
    found = session.run({"input_ids": ids, "attention_mask": mask, **past})
    return found["logits"], {name: found[name.replace("past_key_values", "present")] for name in past}


def empty(model: onnx.ModelProto) -> dict[str, Array]:
    named = [spec for spec in input_specs(model) if "past" in spec.name]
    return {spec.name: np.zeros((1, int(spec.shape[1] or 0), 0, int(spec.shape[3] or 0)), np.float32) for spec in named}


def test_attention_and_feed_forward_are_found_in_every_layer(model: onnx.ModelProto, survey: Survey) -> None:
    assert [item.kind for item in survey.blocks] == ["attention", "feed-forward"] * layers(model)
    assert len(survey.layers) == layers(model)


def test_keys_and_values_are_computed_outside(model: onnx.ModelProto, survey: Survey) -> None:
    inside = {name for item in survey.blocks for name in item.nodes}
    writers = {name: node.name for node in model.graph.node for name in node.output}
    presents = [item.name for item in model.graph.output if item.name.startswith("present")]
    assert len(presents) == 2 * layers(model)
    assert not {writers[name] for name in presents} & inside


def test_generating_with_the_cache_is_generating_without(model: onnx.ModelProto, gated: Session) -> None:
    """Greedy, token by token; logits differ by the order of float32 sums alone."""
    ids, past = np.array([[7, 3, 11]]), empty(model)
    logits, past = step(gated, ids, past)
    for taken in range(STEPS):
        token = logits[:, -1:].argmax(-1)
        ids = np.concatenate([ids, token], axis=1)
        logits, past = step(gated, token, past)
        if taken % 8 == 0 or taken == STEPS - 1:
            whole = step(gated, ids, empty(model))[0][:, -1]
            assert np.abs(logits[:, -1] - whole).max() <= 1e-5 * np.abs(whole).max()
    assert next(iter(past.values())).shape[2] == 3 + STEPS


def test_the_bypassed_decoder_is_another_one(model: onnx.ModelProto, original: Session, gated: Session) -> None:
    """Else the test above would prove nothing."""
    ids, past = np.array([[7, 3, 11]]), empty(model)
    expected, found = (step(session, ids, past)[0] for session in (original, gated))
    assert np.abs(expected - found).max() > 1e-2 * np.abs(expected).max()
