"""Adam against its definition, and on a problem whose solution is known."""

from __future__ import annotations

import numpy as np

from skipc.compiler.adam import Adam


def test_the_first_step_is_as_long_as_the_rate() -> None:
    moved = Adam.at(np.zeros(3, np.float32)).moved(np.array([5.0, -1e-3, 0.0], np.float32), 0.1)
    np.testing.assert_allclose(moved.value, [-0.1, 0.1, 0.0], rtol=1e-5)


def test_steps_follow_the_paper() -> None:
    gradients = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    state, value, m, v = Adam.at(np.ones(4, np.float32)), np.ones(4), np.zeros(4), np.zeros(4)
    for t, g in enumerate(gradients.astype(np.float64), start=1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        value = value - 0.01 * (m / (1 - 0.9**t)) / np.sqrt(v / (1 - 0.999**t))
        state = state.moved(gradients[t - 1], 0.01)
    np.testing.assert_allclose(state.value, value, rtol=1e-4)
    assert state.value.dtype == np.float32


def test_a_parabola_is_descended() -> None:
    lowest = np.array([3.0, -2.0], np.float32)
    state = Adam.at(np.zeros(2, np.float32))
    for step in range(400):
        state = state.moved(2.0 * (state.value - lowest) * np.array([1.0, 100.0], np.float32), 0.1 * (1 - step / 400))
    np.testing.assert_allclose(state.value, lowest, atol=1e-2)
