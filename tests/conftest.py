"""For all tests: what one of them measured is nothing to another, and which run in one process."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest

os.environ["SKIPC_NO_CACHE"] = "1"

COMPILED_ONCE = "demo"
"""The fixture that takes longest and that tests of several files look at."""


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Side by side (`--dist=loadgroup`) a file's tests stay together, as do all that look at the same compiled demo."""
    for item in items:
        together = COMPILED_ONCE in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group(COMPILED_ONCE if together else str(item.path)))
