"""Padding is left out only where running the model proves that nothing depends on it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from skipc.compiler.cache import Cache
from skipc.compiler.data import batches
from skipc.compiler.data_types import Dataset
from skipc.compiler.padding import _costs, leave_out_padding, obstacle_in
from skipc.compiler.running import Judged
from skipc.compiler.settings import Settings
from skipc.compiler.source import Source
from skipc.compiler.splits import Splits
from skipc.compiler.survey import Surveyed, survey_model
from skipc.passes.padding import padding_of
from skipc.runtime.errors import InputError
from skipc.runtime.plan import Bypass, Padding
from tests.compiled import plan_for
from tests.gated import block
from tests.graphs import Network, transformer
from tests.unit.passes.test_padding import pooled

MASK = "attention_mask"
SKIP = Settings(padding="skip")


def observed(network: Network, *, padded: bool) -> tuple[Surveyed, Splits]:
    """A network, and samples of several lengths or of one."""
    source = Source(Path("net.onnx"), network.model, "digest", 0)
    feeds = network.feeds(batch=8, length=9)
    if not padded:
        feeds[MASK][:] = 1
    samples = tuple({name: array[[i]] for name, array in feeds.items()} for i in range(8))
    data = Dataset("data", "digest", samples, None)
    surveyed = survey_model(source, data)
    single, joined = (batches(data, size, surveyed.inputs) for size in (1, 4))
    fit = Judged(single, (), (), "", False)
    return surveyed, Splits(fit, single, joined, (), ())


def test_it_is_left_out_where_nothing_depends_on_it() -> None:
    surveyed, splits = observed(transformer(), padded=True)
    found = leave_out_padding(surveyed, splits, MASK, SKIP)
    assert found is not None
    assert found.mask == MASK
    assert len(found.values) == 3, "the embeddings, and what attention gives in two layers"


def test_padding_is_made_where_samples_have_none() -> None:
    surveyed, splits = observed(transformer(), padded=False)
    assert all(item.feeds[MASK].all() for item in splits.joined_fit)
    assert leave_out_padding(surveyed, splits, MASK, SKIP) is not None


@pytest.mark.parametrize("padded", [True, False])
def test_it_stays_where_an_output_depends_on_it(padded: bool) -> None:
    surveyed, splits = observed(pooled(masked=False), padded=padded)
    assert leave_out_padding(surveyed, splits, MASK, Settings()) is None
    with pytest.raises(InputError, match="the output y depends on it"):
        leave_out_padding(surveyed, splits, MASK, SKIP)


def test_it_stays_where_it_is_to_stay() -> None:
    surveyed, splits = observed(transformer(), padded=True)
    assert leave_out_padding(surveyed, splits, MASK, Settings(padding="keep")) is None
    assert leave_out_padding(surveyed, splits, MASK, Settings(provider="cuda")) is None
    assert leave_out_padding(surveyed, splits, "", Settings()) is None
    with pytest.raises(InputError, match="no input tells padding"):
        leave_out_padding(surveyed, splits, "", SKIP)


@pytest.mark.parametrize("masked", [True, False])
def test_it_stays_where_the_compiled_file_does_not_bear_it(masked: bool) -> None:
    surveyed, splits = observed(pooled(masked=masked), padded=True)
    padding = padding_of(surveyed.model, surveyed.types, MASK)
    assert padding is not None
    plan = replace(plan_for([block(region) for region in surveyed.survey.blocks], surveyed.targets), padding=padding)
    never = replace(plan, thresholds=((-np.inf,) * len(plan.blocks),) * 2)
    assert obstacle_in(surveyed, never, splits) == ("" if masked else "the output y depends on it")


def test_it_stays_where_the_compiled_file_cannot_be_built() -> None:
    surveyed, splits = observed(transformer(), padded=True)
    padding = Padding(MASK, ("hidden",))
    blocks = [replace(item, bypass=Bypass("linear")) for item in map(block, surveyed.survey.blocks)]
    plan = replace(plan_for(blocks, surveyed.targets), padding=padding)
    assert "the model does not run without it" in obstacle_in(surveyed, plan, splits)


def test_it_stays_where_leaving_it_out_costs_time(monkeypatch: pytest.MonkeyPatch) -> None:
    surveyed, splits = observed(transformer(), padded=True)
    for ratio, left_out in ((1.0, True), (1.5, False)):
        monkeypatch.setattr("skipc.compiler.padding._costs", lambda *_, ratio=ratio: ratio)
        assert (leave_out_padding(surveyed, splits, MASK, Settings()) is not None) == left_out


def test_what_it_costs_is_measured_once(tmp_path: Path) -> None:
    surveyed, splits = observed(transformer(), padded=True)
    padding = padding_of(surveyed.model, surveyed.types, MASK)
    assert padding is not None
    settings = Settings(cache=Cache(tmp_path))
    first, second = (_costs(surveyed, padding, splits.fit.items, settings) for _ in range(2))
    assert first == second > 0
    assert (settings.cache.made, settings.cache.taken) == (1, 1)
