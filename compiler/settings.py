"""What the user asked for."""

from __future__ import annotations

from dataclasses import dataclass, field

from skipc.compiler.cache import Cache
from skipc.passes.placement import PLACEMENTS
from skipc.passes.surrogate import KINDS

BYPASSES = ("auto", *KINDS)
IMPACTS = ("ablation", "gradient", "activation")
GRANULARITIES = ("auto", "batch", "sample", "token")
PADDING = ("auto", "skip", "keep")
GROUPINGS = ("none", "labels")
WEIGHTS = PLACEMENTS


@dataclass(frozen=True)
class Settings:
    """Options of a compilation, as the command line names them.

    Attributes:
        loss: name of the loss, or ``module:function``.
        output: name of the judged output; None for the first.
        risk: limit of the mean loss.
        budget: latency or speed-up to reach at the least risk; empty to go by the risk. The search begins at `risk`.
        confidence: with which the limit is promised.
        granularity: what decides for itself: a batch, a sample or a token; ``auto`` to choose for each block.
        gate_policy: what gates read and how many blocks each decides for, one of `passes.policy.POLICIES`; ``auto`` to
            choose by measuring all of them; None for ``block``, or for ``auto`` where the provider is ``cuda``.
        mask: graph input that says which tokens are padding, ``auto`` to find it, ``none`` to pool over all.
        padding: whether it is left out of what treats tokens by themselves: ``auto`` where that is proved to change
            nothing and costs next to nothing on data without any, ``skip`` where it is proved, or ``keep``.
        bypass: kind of bypass, or ``auto`` to choose for each block.
        impact: measure that shortlists blocks.
        group_by: what is certified one by one beside the data sets themselves: nothing, or each class.
        provider: ``cpu`` or ``cuda``.
        batch_size: rows that the deployed model gets at a time.
        threads: intra-op threads of the deployed model.
        decisions: append decisions and scores to the outputs.
        level_input: let callers override the level.
        weights: which weights go into branches: those that ONNX Runtime needs there, all, or none.
        max_growth: share of the model's size that bypasses may add to the file.
        exclude: patterns of region names that stay as they are.
        seed: of every random choice.
        workers: processes that measure losses; 0 for threads of this one.
        portrait: measure what only the report shows: opponents, the quality of gates, prices.
        dask: address of a Dask scheduler whose workers measure losses; empty for none.
        cache: measurements that are kept.
    """

    loss: str = "auto"
    output: str | None = None
    risk: float = 0.01
    confidence: float = 0.95
    budget: str = ""
    granularity: str = "auto"
    gate_policy: str | None = None
    mask: str = "auto"
    padding: str = "auto"
    bypass: str = "auto"
    impact: str = "ablation"
    group_by: str = "none"
    provider: str = "cpu"
    batch_size: int = 1
    threads: int = 1
    decisions: bool = False
    level_input: bool = False
    weights: str = "auto"
    max_growth: float = 0.2
    exclude: tuple[str, ...] = ()
    seed: int = 0
    workers: int = 0
    portrait: bool = True
    dask: str = ""
    cache: Cache = field(default_factory=Cache)
