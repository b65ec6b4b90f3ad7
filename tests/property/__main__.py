"""Try 2,000 random networks for each property instead of 100: python -m tests.property [FILE for the result]."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.machine import circumstances

FOLDER = Path(__file__).resolve().parent
REPOSITORY = FOLDER.parents[1]


class Outcomes:
    """What became of each test."""

    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect one outcome."""
        if report.when == "call":
            name = report.nodeid.rpartition("::")[2]
            self.found.append({"property": name, "outcome": report.outcome, "seconds": round(report.duration, 1)})


def main(words: Sequence[str]) -> int:
    """Run them; pytest's exit code."""
    os.environ["HYPOTHESIS_PROFILE"] = "nightly"
    outcomes = Outcomes()
    code = int(pytest.main([str(FOLDER), "-q"], plugins=[outcomes]))
    from hypothesis import settings

    if words:
        result = {**circumstances(REPOSITORY), "networks": settings().max_examples, "properties": outcomes.found}
        Path(words[0]).write_text(f"{json.dumps(result, indent=1)}\n", encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
