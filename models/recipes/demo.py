"""The demo classifier, committed with its data; `models/train_demo.py` makes it."""

from __future__ import annotations

from pathlib import Path

from models.recipe import Committed

DEMO = Committed(
    "demo",
    "a small residual classifier of clothes with calibration and test data; comes with the repository",
    Path(__file__).resolve().parent.parent / "demo",
)
