"""The benchmarks by name, in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from benchmarks import (
    batches,
    coverage,
    demo,
    deployment,
    efficientnet,
    help_time,
    int8,
    large,
    minilm,
    overhead,
    placement,
    rows,
    serving,
    shifted,
    smollm2,
    smollm2_blocks,
    widths,
)
from benchmarks.workbench import Json, Workbench

BENCHMARKS: Mapping[str, Callable[[Workbench], Json]] = {
    "help": help_time.run,
    "coverage": coverage.run,
    "demo": demo.run,
    "efficientnet": efficientnet.run,
    "minilm": minilm.run,
    "minilm-gentle": minilm.run_gentle,
    "int8": int8.run,
    "smollm2": smollm2_blocks.run,
    "smollm2-compiled": smollm2.run,
    "overhead": overhead.run,
    "batches": batches.run,
    "rows": rows.run,
    "widths": widths.run,
    "shifted": shifted.run,
    "deployment": deployment.run,
    "log": deployment.run_log,
    "log-sessions": deployment.run_log_sessions,
    "serving": serving.run,
    "large": large.run,
    "placement": placement.run,
}
