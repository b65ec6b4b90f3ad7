"""The limit of a configuration that was settled beforehand holds as often as it says."""

from __future__ import annotations

import numpy as np
import pytest

from skipc.compiler.certify import Claim, bound_certificate
from skipc.compiler.loss import resolve_loss

DRAWS = 600
CONFIDENCE = 0.9
SLACK = 3.0 * (CONFIDENCE * (1 - CONFIDENCE) / DRAWS) ** 0.5
"""Three standard deviations of the share of violations over the draws."""


@pytest.mark.parametrize("samples", [60, 500])
@pytest.mark.parametrize(("name", "mean"), [("top1", 0.02), ("top1", 0.2), ("cosine", 0.05)])
def test_the_mean_exceeds_its_limit_at_most_as_often_as_promised(name: str, mean: float, samples: int) -> None:
    reference = np.zeros((1, 4), np.float32)
    loss = resolve_loss(name, reference, None)
    claim = Claim(loss, "y", 0.5, CONFIDENCE, loss.binary)
    random = np.random.default_rng(0)
    violations = 0
    for _ in range(DRAWS):
        losses = random.random(samples) < mean if loss.binary else random.beta(0.5, 0.5 / mean - 0.5, samples)
        violations += bound_certificate(claim, [np.asarray(losses, np.float64)]).limit < mean
    assert violations / DRAWS <= 1.0 - CONFIDENCE + SLACK
