"""Each loss by values worked out by hand; what auto chooses; what no loss can judge is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skipc.compiler.loss import NAMES, margin_erosion, resolve_loss
from skipc.runtime.errors import InputError

NAN = np.nan


def rows(*values: list[float]) -> Any:
    return np.array(values, np.float32)


LOGITS = rows([3, 1, 2], [0, 5, 1], [2, 2, 9])


def losses(name: str, reference: Any, candidate: Any, labels: Any = None, valid: Any = None) -> list[float]:
    """Losses, rounded to what float32 outputs carry."""
    found = resolve_loss(name, reference, labels).of(reference, candidate, labels, valid)
    assert found.dtype == np.float64
    return [round(float(value), 6) for value in found]


def test_top1_is_whether_the_first_class_changed() -> None:
    assert losses("top1", LOGITS, rows([3, 1, 2], [6, 5, 1], [2, 2, 9])) == [0.0, 1.0, 0.0]


def test_accuracy_counts_only_what_was_right_before() -> None:
    candidate = rows([0, 1, 0], [6, 5, 1], [2, 2, 9])
    assert losses("accuracy", LOGITS, candidate, np.array([0, 0, 2])) == [1.0, 0.0, 0.0]


def test_cosine_is_the_distance_of_directions() -> None:
    reference, candidate = rows([1, 0], [1, 0], [1, 0], [1, 1]), rows([5, 0], [0, 2], [-1, 0], [1, 0])
    assert losses("cosine", reference, candidate) == [0.0, 1.0, 1.0, round(1 - 0.5**0.5, 6)]


def test_relative_l2_is_the_change_over_the_size_of_the_original() -> None:
    reference, candidate = rows([3, 4], [3, 4], [3, 4]), rows([3, 4], [3, 6.5], [30, 4])
    assert losses("relative-l2", reference, candidate) == [0.0, 0.5, 1.0]


def test_kl_between_probabilities() -> None:
    expected = 0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)
    assert losses("kl", rows([0.5, 0.5]), rows([0.25, 0.75])) == [round(float(expected), 6)]


def test_kl_between_logits_does_not_change_with_their_mean() -> None:
    expected = losses("kl", rows([0.5, 0.5]), rows([0.25, 0.75]))
    assert losses("kl", rows([7, 7]), rows([0, np.log(3)])) == expected


def test_kl_takes_both_outputs_for_what_the_original_is() -> None:
    """A changed model's broken row must not make its batch mates look like logits."""
    reference, candidate = rows([0.5, 0.5], [0.5, 0.5]), rows([0.25, 0.75], [NAN, 0.5])
    alone = losses("kl", reference[:1], candidate[:1])
    assert losses("kl", reference, candidate) == [*alone, 1.0]


@pytest.mark.parametrize("name", ["top1", "accuracy", "cosine", "relative-l2", "kl"])
def test_an_output_that_is_no_number_is_a_whole_loss(name: str) -> None:
    """Also where the largest element of NaNs, the first by convention, happens to be the right class."""
    reference = rows([3, 1, 2], [3, 1, 2])
    assert losses(name, reference, rows([NAN] * 3, [3, 1, 2]), np.array([0, 0])) == [1.0, 0.0]


@pytest.mark.parametrize("name", ["top1", "cosine", "relative-l2", "kl"])
def test_a_model_loses_nothing_to_itself(name: str) -> None:
    assert losses(name, LOGITS, LOGITS) == [0.0] * 3


def test_per_token_losses_are_averaged_without_padding() -> None:
    reference = np.zeros((2, 3, 2), np.float32)
    reference[..., 0] = 1
    candidate = reference.copy()
    candidate[0, 0] = candidate[0, 2] = candidate[1, 1] = [0, 1]
    valid = np.array([[True, True, False], [True, True, True]])
    assert losses("top1", reference, candidate, valid=valid) == [0.5, round(1 / 3, 6)]
    assert losses("top1", reference, candidate) == [round(2 / 3, 6), round(1 / 3, 6)]


def test_padding_of_another_shape_is_not_applied() -> None:
    """The output has been pooled over the sequence: nothing in it is padding."""
    assert losses("top1", LOGITS, LOGITS[::-1], valid=np.zeros((3, 7), bool)) == [1.0, 0.0, 1.0]


def test_further_axes_are_averaged() -> None:
    reference = np.zeros((1, 2, 2, 2), np.float32)
    reference[..., 0] = 1
    candidate = reference.copy()
    candidate[0, 0, 1] = [0, 1]
    assert losses("top1", reference, candidate) == [0.25]


def test_one_number_a_sample_has_a_relative_loss() -> None:
    reference, candidate = np.array([2.0, -4.0], np.float32), np.array([3.0, -4.0], np.float32)
    assert losses("relative-l2", reference, candidate) == [0.5, 0.0]
    assert resolve_loss("auto", reference, None).name == "relative-l2"


UNIT = rows([0.6, 0.8], [1, 0])
PROBABILITIES = rows([0.2, 0.8], [1, 0])


@pytest.mark.parametrize(
    ("reference", "labels", "chosen"),
    [
        (LOGITS, None, "relative-l2"),
        (LOGITS, [0, 2], "top1"),
        (LOGITS, [0, 3], "relative-l2"),
        (PROBABILITIES, None, "top1"),
        (rows([0, 1], [1, 0]), None, "top1"),
        (UNIT, None, "cosine"),
        (UNIT, [0, 1], "cosine"),
        (rows([1], [1]), None, "relative-l2"),
        (rows([1], [2]), [0, 0], "relative-l2"),
        (PROBABILITIES.astype(np.float16), None, "top1"),
    ],
    ids=["logits", "labelled", "labels of other classes", "probabilities", "one-hot", "unit", "labelled unit", "one",
         "one labelled", "float16"],
)  # fmt: skip
def test_auto_chooses_by_the_output_and_the_labels(reference: Any, labels: Any, chosen: str) -> None:
    assert resolve_loss("auto", reference, None if labels is None else np.array(labels)).name == chosen


@pytest.mark.parametrize(("name", "binary"), [("top1", True), ("accuracy", True), ("cosine", False), ("kl", False)])
def test_steps_are_known_to_be_binary(name: str, binary: bool) -> None:
    assert resolve_loss(name, LOGITS, np.array([0, 1, 2])).binary == binary


def test_a_mean_of_steps_over_tokens_is_not_binary() -> None:
    assert not resolve_loss("top1", np.zeros((2, 3, 4), np.float32), None).binary


def test_a_step_has_a_smooth_stand_in() -> None:
    loss = resolve_loss("top1", LOGITS, None)
    near = LOGITS + np.float32(0.1) * LOGITS[::-1]
    smooth = loss.smooth(LOGITS, near, None, None)
    assert (loss.of(LOGITS, near, None, None) == 0).all()
    assert smooth.max() > 0
    assert (smooth <= 1).all()


@pytest.mark.parametrize("name", ["top1", "accuracy", "cosine", "kl"])
@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_an_output_of_one_feature_cannot_differ_by_class_or_direction(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError) as caught:
        resolve_loss(name, np.ones(shape, np.float32), np.zeros(4, np.int64))
    assert caught.value.code == "loss-unfit"


@pytest.mark.parametrize("name", [item for item in NAMES if item != "accuracy"])
def test_an_output_without_batch_axis_cannot_be_judged(name: str) -> None:
    with pytest.raises(InputError) as caught:
        resolve_loss(name, np.float32(1.0) * np.ones(()), None)
    assert caught.value.code == "loss-unfit"


def test_accuracy_needs_one_label_for_each_answer() -> None:
    with pytest.raises(InputError) as caught:
        resolve_loss("accuracy", np.zeros((4, 3, 2), np.float32), np.zeros(4, np.int64))
    assert caught.value.code == "loss-unfit"


def test_accuracy_needs_labels() -> None:
    with pytest.raises(InputError) as caught:
        resolve_loss("accuracy", LOGITS, None)
    assert caught.value.code == "labels-missing"
    assert "--loss top1" in caught.value.hint


def test_an_unknown_name_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(InputError) as caught:
        resolve_loss("mse", LOGITS, None)
    assert caught.value.code == "loss-unknown"
    assert all(name in caught.value.hint for name in NAMES)


USER = """
import numpy as np
def half(reference, candidate, labels):
    return np.full(len(reference), 0.5)
def labelled(reference, candidate, labels):
    return labels / 10
def large(reference, candidate, labels):
    return np.full(len(reference), 2.0)
def negative(reference, candidate, labels):
    return np.full(len(reference), -0.1)
def nan(reference, candidate, labels):
    return np.full(len(reference), np.nan)
def one(reference, candidate, labels):
    return 0.5
def fails(reference, candidate, labels):
    raise RuntimeError("no idea")
number = 3
"""


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "user_losses.py").write_text(USER, encoding="utf-8")
    (tmp_path / "broken_losses.py").write_text("1 / 0", encoding="utf-8")
    (tmp_path / "misspelt_losses.py").write_text("def (", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("user_module")
def test_a_function_of_the_user() -> None:
    assert losses("user_losses:half", LOGITS, LOGITS) == [0.5] * 3
    assert losses("user_losses:labelled", LOGITS, LOGITS, np.array([1, 2, 3])) == [0.1, 0.2, 0.3]
    assert not resolve_loss("user_losses:half", LOGITS, None).binary


@pytest.mark.usefixtures("user_module")
@pytest.mark.parametrize("name", ["large", "negative", "nan", "one", "fails", "number"])
def test_what_it_returns_is_checked(name: str) -> None:
    loss = resolve_loss(f"user_losses:{name}", LOGITS, None)
    with pytest.raises(InputError) as caught:
        loss.of(LOGITS, LOGITS, None, None)
    assert caught.value.code == "loss-invalid"
    assert caught.value.where == f"--loss user_losses:{name}"


@pytest.mark.usefixtures("user_module")
@pytest.mark.parametrize(
    "name", ["no_such_module:f", "user_losses:absent", "broken_losses:f", "misspelt_losses:f", ":f", "user_losses:"]
)
def test_what_cannot_be_imported_is_refused(name: str) -> None:
    with pytest.raises(InputError) as caught:
        resolve_loss(name, LOGITS, None)
    assert caught.value.code == "loss-unknown"


def test_margin_erosion_follows_the_margin_of_the_originals_class() -> None:
    reference = np.array([[4.0, 0.0, 1.0]] * 5)
    candidate = np.array([[4.0, 0.0, 1.0], [9.0, 0.0, 1.0], [2.5, 0.0, 1.0], [1.0, 1.0, 1.0], [0.0, 3.0, 1.0]])
    found = margin_erosion(reference, candidate, None)
    np.testing.assert_allclose(found, [0.0, 0.0, 0.5**4, 1.0, 1.0])


def test_perplexity_is_the_rise_of_the_log_perplexity_of_what_follows() -> None:
    chances = np.array([[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]]])
    worse = np.array([[[0.5, 0.125, 0.375], [0.1, 0.4, 0.5], [0.9, 0.05, 0.05]]])
    loss = resolve_loss("perplexity", np.log(chances), None)
    kept = loss.kept(np.log(chances) + 7, {"input_ids": np.array([[0, 1, 1]])}, None)
    assert loss.of(kept, np.log(worse) - 3, None, None) == pytest.approx([np.log(2)], abs=1e-6)
    assert loss.of(kept, np.log(chances), None, None) == pytest.approx([0.0], abs=1e-6)


def test_perplexity_leaves_padding_out_and_counts_what_is_no_number_as_lost() -> None:
    logits, changed = np.zeros((2, 4, 5), np.float32), np.zeros((2, 4, 5), np.float32)
    changed[0, 0, 3], changed[0, 2, 1], changed[1, 1, 0] = 1.0, 50.0, NAN
    feeds = {"attention_mask": np.ones((2, 4), np.int64), "tokens": np.array([[0, 3, 2, 0], [1, 1, 1, 1]])}
    valid = np.array([[True, True, True, False], [True, True, True, True]])
    loss = resolve_loss("perplexity", logits, None)
    found = loss.of(loss.kept(logits, feeds, valid), changed, None, valid)
    assert found == pytest.approx([0.0, 1.0]), "a gain counts as no loss"
    changed[0, 0, 3] = -1.0
    lost = np.log(4 + np.exp(-1)) + 1 - np.log(5)
    found = loss.of(loss.kept(logits, feeds, valid), changed, None, valid)
    assert found == pytest.approx([lost / 2, 1.0], abs=1e-6)


def test_perplexitys_proxy_is_the_divergence_with_the_unlikely_taken_as_one() -> None:
    random = np.random.default_rng(0)
    logits, changed = (random.normal(size=(1, 20, 40)).astype(np.float32) for _ in range(2))
    loss, plain = resolve_loss("perplexity", logits, None), resolve_loss("kl", logits, None)
    kept = loss.kept(logits, {"input_ids": random.integers(0, 40, (1, 20))}, None)
    nearer = logits + 0.2 * changed
    whole = plain.of(logits[:, :-1], nearer[:, :-1], None, None)
    assert loss.smooth(kept, nearer, None, None) == pytest.approx(whole, abs=1e-6)
    peaked = np.concatenate([logits * 9, logits], axis=2)
    many = np.concatenate([peaked, peaked], axis=2)
    kept = loss.kept(many, {"input_ids": random.integers(0, 160, (1, 20))}, None)
    assert kept.shape == (1, 20, 2 + 2 * 64)
    far = many + 0.1 * random.normal(size=many.shape)
    assert loss.smooth(kept, far, None, None) <= plain.of(many[:, :-1], far[:, :-1], None, None) + 1e-6
    assert loss.smooth(kept, far, None, None) > 0


def test_perplexity_needs_the_tokens() -> None:
    logits = np.zeros((1, 4, 5), np.float32)
    loss = resolve_loss("perplexity", logits, None)
    for feeds in ({"attention_mask": np.ones((1, 4), np.int64)}, {"input_ids": np.full((1, 4), 5)}):
        with pytest.raises(InputError, match="tokens"):
            loss.kept(logits, feeds, None)
    with pytest.raises(InputError):
        resolve_loss("perplexity", np.zeros((2, 5), np.float32), None)
