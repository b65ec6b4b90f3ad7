"""No row speaks for all of them."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from skipc.compiler.data import Batch
from skipc.compiler.hidden import observe_hidden, row_weights
from tests.gated import surveyed
from tests.graphs import gated_mlps


def test_only_rows_far_larger_than_usual_count_less() -> None:
    merged = np.random.default_rng(0).normal(size=(200, 8))
    merged[3] *= 1000
    weights = row_weights(merged)
    assert (np.delete(weights, 3) == 1).all()
    assert 0 < weights[3] < 0.01
    assert (row_weights(np.zeros((4, 8))) <= 1).all()


def test_one_huge_token_does_not_take_the_fit_for_itself() -> None:
    found = surveyed(gated_mlps(layers=1, width=8, hidden=32, vocabulary=64))
    model = onnx.ModelProto()
    model.CopyFrom(found.model)
    table = next(item for item in model.graph.initializer if list(item.dims) == [64, 8])
    embedded = numpy_helper.to_array(table).copy()
    embedded[0] *= 1e4
    table.CopyFrom(numpy_helper.from_array(embedded, table.name))
    ids = np.random.default_rng(0).integers(1, 64, (300, 16))
    ids[:, 0] = 0
    items = [Batch({"input_ids": row[None]}, (i,), None) for i, row in enumerate(ids)]
    (moments,) = observe_hidden(model, found.survey.blocks, items, seed=0).values()
    # The entry's variance is about 1 but for the huge token, which would make it 1e8 / 16.
    assert np.diag(moments.ff)[: moments.channels].max() < 100
