"""What ends a benchmark without a result."""

from __future__ import annotations


class BenchmarkError(Exception):
    """A benchmark could not be measured; the message says why."""
