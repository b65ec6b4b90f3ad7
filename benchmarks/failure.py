"""What ends a benchmark without a result."""

from __future__ import annotations


class BenchmarkError(Exception):
    """A benchmark could not be measured; the message says why."""


class RefusedError(BenchmarkError):
    """skipc refused what gains nothing or breaks a promise, which is a result too; the message says so in its words."""
