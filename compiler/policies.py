"""Choose a gate policy by what it gains: measured on the provider asked for, at the risk asked for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from skipc.compiler.planner import ALWAYS, Step, asked_of_gates, boldest
from skipc.compiler.settings import Settings
from skipc.passes.policy import POLICIES

AUTO = "auto"
"""In place of a policy: the one that gains most."""


ON_CPU = "merged"
"""The policy on the CPU, where reading an earlier value gains nothing, and fewer gates do. It gives regions that cannot
always be bypassed a gate each, as `block` does."""


def policies_of(settings: Settings) -> tuple[str, ...]:
    """The policies to measure; a single one is taken unmeasured. On a GPU, where a gate costs a wait, all of them."""
    asked = settings.gate_policy or (AUTO if settings.provider == "cuda" else ON_CPU)
    return POLICIES if asked == AUTO else (asked,)


def may_share(steady: Collection[str], settings: Settings) -> Collection[str] | None:
    """Names of the regions that may share a gate; None for all of them, where merging is measured or asked for."""
    return steady if settings.gate_policy is None and settings.provider == "cpu" else None


def fastest(
    paths: Mapping[str, Sequence[Step]], limit: float, delta: float, speed: Callable[[str, Step], float]
) -> tuple[str, str]:
    """The policy whose boldest configuration within the risk runs fastest, and a sentence that says so.

    A configuration without gates has to be faster by as much as the planner asks for (`asked_of_gates`).

    Args:
        paths: by policy; the first of equals is taken.
        limit: of the mean loss.
        delta: what a configuration's p-value may be at most.
        speed: over the original, of a policy's configuration as it would be shipped.
    """
    steps = {policy: boldest(path, limit, delta) for policy, path in paths.items()}
    speeds = {policy: speed(policy, step) if step else 1.0 for policy, step in steps.items()}
    best = max(speeds, key=lambda name: asked_of_gates(speeds[name]) if _is_static(steps[name]) else speeds[name])
    found = ", ".join(f"{policy} {value:.3f}x" for policy, value in speeds.items())
    return best, f"gate policy {best}: {found} on *fit*"


def _is_static(step: Step | None) -> bool:
    return step is not None and all(abs(limit) == ALWAYS for limit in step.thresholds)
