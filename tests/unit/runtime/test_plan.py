"""The plan as JSON: what goes in comes out, the same plan gives the same text, and nonsense is refused with words."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from skipc.runtime.errors import InputError
from skipc.runtime.plan import SCHEMA, Block, Bypass, Certificate, Gate, Plan, Reading, Region, plan_from_json

INF = np.inf
REGION = Region("feed-forward.0", "feed-forward", "x", "m", "y", ("a", "b"), ("b",), 1, ("batch", None, 4), 2)
CERTIFICATE = Certificate("top1", "logits", 0.01, 0.95, 0.002, 0.009, 0.03, "binomial", 628, 4, 3)


def plan() -> Plan:
    random = np.random.default_rng(0)
    arrays = {name: random.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    weight = random.standard_normal(4).astype(np.float32)
    first = Block(REGION, Bypass("low-rank", arrays), Gate("mean", weight, 0.1, floor=-3.5), 1.5, 0.1, 0.02, 0.4)
    second = replace(first, bypass=Bypass("identity"), gate=replace(first.gate, floor=-INF))
    thresholds = ((-INF, -INF), (0.1, -INF), (INF, 2.5))
    digests = {"fit": "f", "calibrate": "c"}
    return Plan("digest", digests, (first, second), thresholds, 1, CERTIFICATE, "top1", 2, 1, "cpu", 7, {"skipc": "0"})


SHAPES = {"down": (4, 2), "up": (2, 4), "shift": (4,)}


def test_a_plan_with_arrays_comes_back_whole() -> None:
    text = plan().to_json(arrays=True)
    again = plan_from_json(text, where="p.json")
    assert again.to_json(arrays=True) == text
    for before, after in zip(plan().blocks, again.blocks, strict=True):
        assert (after.region, after.bypass.kind) == (before.region, before.bypass.kind)
        assert (after.saved_ms, after.time_share, after.impact, after.open_share) == (1.5, 0.1, 0.02, 0.4)
        assert (after.gate.bias, after.gate.floor) == (before.gate.bias, before.gate.floor)
        np.testing.assert_array_equal(after.gate.weight, before.gate.weight)
        assert after.bypass.arrays.keys() == before.bypass.arrays.keys()
        for name, array in before.bypass.arrays.items():
            assert after.bypass.arrays[name].dtype == array.dtype
            np.testing.assert_array_equal(after.bypass.arrays[name], array)
    assert again.certificate == CERTIFICATE
    assert (again.level, again.batch_size, again.threads, again.provider, again.seed) == (1, 2, 1, "cpu", 7)


def test_what_a_gate_reads_survives() -> None:
    given = plan()
    block = given.blocks[0]
    reading = Reading("earlier", 1, ("batch", None, 4), 2)
    changed = replace(given, blocks=(replace(block, gate=replace(block.gate, reading=reading)), *given.blocks[1:]))
    back = plan_from_json(changed.to_json(arrays=True), where="")
    assert [item.gate.reading for item in back.blocks] == [reading, None]


def test_a_gate_that_reads_its_own_entry_is_written_as_before_there_were_readings() -> None:
    text = plan().to_json(arrays=True)
    assert all("reading" not in block["gate"] for block in json.loads(text)["blocks"])
    assert [item.gate.reading for item in plan_from_json(text, where="").blocks] == [None, None]


def test_a_plan_that_says_that_nothing_else_is_read_is_read() -> None:
    raw = json.loads(plan().to_json(arrays=True))
    for block in raw["blocks"]:
        block["gate"]["reading"] = None
    assert plan_from_json(json.dumps(raw), where="").to_json(arrays=True) == plan().to_json(arrays=True)


def test_infinite_thresholds_survive() -> None:
    again = plan_from_json(plan().to_json(arrays=False), where="")
    assert again.thresholds == ((-INF, -INF), (0.1, -INF), (INF, 2.5))
    assert again.blocks[1].gate.floor == -INF


def test_without_arrays_nothing_but_them_is_lost() -> None:
    text = plan().to_json(arrays=False)
    assert "base64" not in text
    again = plan_from_json(text, where="")
    assert [item.region for item in again.blocks] == [REGION, REGION]
    assert again.blocks[0].bypass.arrays.keys() == SHAPES.keys()
    assert json.loads(text)["blocks"][0]["bypass"]["arrays"]["down"] == {"dtype": "float32", "shape": [4, 2]}


def test_without_arrays_it_is_one_short_line() -> None:
    assert "\n" not in plan().to_json(arrays=False)


def test_the_same_plan_gives_the_same_text_whatever_the_order_of_its_maps() -> None:
    turned = replace(plan(), data_digests={"calibrate": "c", "fit": "f"})
    assert turned.to_json(arrays=True) == plan().to_json(arrays=True)


def test_keys_are_sorted() -> None:
    raw = json.loads(plan().to_json(arrays=True))
    assert list(raw) == sorted(raw)


def test_the_text_is_json_for_strict_readers() -> None:
    def refuse(word: str) -> None:
        raise AssertionError(word)

    json.loads(plan().to_json(arrays=True), parse_constant=refuse)


def test_a_transposed_array_comes_back_in_place() -> None:
    turned = np.arange(6, dtype=np.float32).reshape(2, 3).T
    first = replace(plan().blocks[0], bypass=Bypass("linear", {"weight": turned}))
    again = plan_from_json(replace(plan(), blocks=(first,)).to_json(arrays=True), where="")
    np.testing.assert_array_equal(again.blocks[0].bypass.arrays["weight"], turned)


def test_a_plan_without_certificate() -> None:
    assert plan_from_json(replace(plan(), certificate=None).to_json(arrays=False), where="").certificate is None


@pytest.mark.parametrize("raw", [{**json.loads(plan().to_json(arrays=False)), "schema": SCHEMA + 1}, {}, [], 3, None])
def test_another_schema_is_refused(raw: Any) -> None:
    with pytest.raises(InputError, match=rf"expected plan schema {SCHEMA}") as caught:
        plan_from_json(json.dumps(raw), where="p.json")
    assert caught.value.code == "plan-schema"
    assert caught.value.where == "p.json"


def broken(**changes: Any) -> str:
    return json.dumps({**json.loads(plan().to_json(arrays=True)), **changes})


FIRST = json.loads(plan().to_json(arrays=True))["blocks"][0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        broken(blocks=None),
        broken(blocks=[{}]),
        broken(blocks=["x"]),
        broken(
            blocks=[{**json.loads(plan().to_json(arrays=True))["blocks"][0], "bypass": {"kind": "x", "arrays": []}}]
        ),
        broken(blocks=[{**json.loads(plan().to_json(arrays=True))["blocks"][0], "region": {"name": "x"}}]),
        broken(thresholds=3),
        broken(thresholds=[["x"]]),
        broken(level="x"),
        broken(level=1e999),
        broken(certificate={"loss": "top1"}),
        broken(certificate=["x"]),
        broken(data_digests=3),
        json.dumps({"schema": SCHEMA}),
    ],
)
def test_nonsense_is_refused_with_words(text: str) -> None:
    with pytest.raises(InputError) as caught:
        plan_from_json(text, where="p.json")
    assert caught.value.code == "plan-invalid"
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("base64", ["!", "AAAA", 3])
def test_a_damaged_array_is_refused(base64: Any) -> None:
    raw = json.loads(plan().to_json(arrays=True))
    raw["blocks"][0]["bypass"]["arrays"]["down"]["base64"] = base64
    with pytest.raises(InputError) as caught:
        plan_from_json(json.dumps(raw), where="p.json")
    assert caught.value.code == "plan-invalid"


def test_channels_are_the_extent_of_the_feature_axis() -> None:
    assert REGION.channels == 4
    with pytest.raises(TypeError, match=r"feed-forward\.0"):
        _ = replace(REGION, channel_axis=1).channels


def test_a_plan_from_before_references_is_read() -> None:
    raw = json.loads(plan().to_json(arrays=True))
    for item in raw["blocks"]:
        del item["reference"]
    assert plan_from_json(json.dumps(raw), where="").to_json(arrays=True) == plan().to_json(arrays=True)
