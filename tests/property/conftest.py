"""How many random networks are tried: 100, or 2,000 with HYPOTHESIS_PROFILE=nightly."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# Examples build, check and run whole networks: their time says nothing about the code under test.
SLOW_IS_FINE = (HealthCheck.too_slow,)

settings.register_profile("ci", max_examples=100, deadline=None, suppress_health_check=SLOW_IS_FINE, derandomize=True)
settings.register_profile("nightly", max_examples=2000, deadline=None, suppress_health_check=SLOW_IS_FINE)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
