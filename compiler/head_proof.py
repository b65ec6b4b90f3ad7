"""Prove that the heads of an attention region stay apart: run a part of them, and compare with the same part of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from skipc.compiler.data import Batch
from skipc.passes.expose import with_outputs
from skipc.passes.flow import Flow
from skipc.passes.heads import with_parts
from skipc.passes.narrow import Hidden, constants_of, features_of, narrowed
from skipc.runtime.plan import Array
from skipc.runtime.session import open_session

SAME = 1e-2
"""Of the values' largest magnitude: half precision rounds at 1e-3, while other heads' values differ by all of it."""


def with_proof(
    model: onnx.ModelProto, layers: Mapping[str, Hidden], items: Sequence[Batch], where: Flow
) -> dict[str, Hidden]:
    """The hidden layers without those heads whose values change when other heads are left out.

    Neurons and channels need no proof: every operator between the projections is known to treat each by itself.

    Args:
        model: normalised original.
        layers: by region name.
        items: to run on.
        where: the model's flow.
    """
    doubtful = {name: hidden for name, hidden in layers.items() if hidden.width > 1}
    proved = _proved(model, doubtful, items, where) if items else frozenset()
    return {name: hidden for name, hidden in layers.items() if name not in doubtful or name in proved}


def _proved(model: onnx.ModelProto, layers: Mapping[str, Hidden], items: Sequence[Batch], flow: Flow) -> frozenset[str]:
    """Names of the regions whose heads stay apart; where all of them do not run together, each is tried alone."""
    if not layers:
        return frozenset()
    constants = constants_of(model.graph)
    kept = {name: np.arange(0, hidden.units, 2) for name, hidden in layers.items()}
    parts = {
        name: narrowed(flow, constants, hidden, kept[name], f"skipc/{name}/part") for name, hidden in layers.items()
    }
    wanted = [value for name, part in parts.items() for value in (layers[name].value, part.value)]
    try:
        session = open_session(with_outputs(with_parts(model, list(parts.values())), wanted).SerializeToString())
        runs = [session.run(item.feeds, wanted) for item in items]
    except Exception:
        # Whatever ONNX Runtime has to say of such a graph, it is no proof.
        alone = [{name: hidden} for name, hidden in layers.items() if len(layers) > 1]
        return frozenset().union(*(_proved(model, one, items, flow) for one in alone))
    return frozenset(
        name
        for name, hidden in layers.items()
        if all(_is_part(run[parts[name].value], run[hidden.value], kept[name], hidden.width) for run in runs)
    )


def _is_part(part: Array, whole: Array, units: Array, width: int) -> bool:
    """Whether a value holds these units of another one."""
    expected = whole[..., features_of(units, width)].astype(np.float64)
    if part.shape != expected.shape:
        return False
    off = np.abs(part.astype(np.float64) - expected).max(initial=0.0)
    return bool(off <= SAME * np.abs(expected).max(initial=0.0))
