"""Padding is left out only where running the model proves that nothing depends on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from skipc.compiler.data import batches
from skipc.compiler.data_types import Dataset
from skipc.compiler.padding import leave_out_padding
from skipc.compiler.running import Judged
from skipc.compiler.settings import Settings
from skipc.compiler.source import Source
from skipc.compiler.splits import Splits
from skipc.compiler.survey import Surveyed, survey_model
from skipc.runtime.errors import InputError
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


def test_it_stays_where_leaving_it_out_costs_time(monkeypatch: pytest.MonkeyPatch) -> None:
    surveyed, splits = observed(transformer(), padded=True)
    for ratio, left_out in ((1.0, True), (1.5, False)):
        monkeypatch.setattr("skipc.compiler.padding._costs", lambda *_, ratio=ratio: ratio)
        assert (leave_out_padding(surveyed, splits, MASK, Settings()) is not None) == left_out
