"""What is said of the losses that were measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from skipc.compiler.loss import resolve_loss
from skipc.compiler.verify import Equality, verification
from tests.unit.runtime.test_plan import plan


def test_the_order_of_the_file_does_not_flatter_the_bound() -> None:
    sorted_losses = np.repeat([0.0, 0.3], [2000, 2000])
    loss = resolve_loss("cosine", np.zeros((1, 4), np.float32), None)
    found = verification(Equality(True, 0.0, 0.0, 0.0), loss, sorted_losses, replace(plan(), seed=0), per_sample=True)
    assert found.mean == pytest.approx(0.15)
    assert found.bound > found.mean
