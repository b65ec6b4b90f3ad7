"""What a compiled file must remember of its original: all that its graph no longer tells.

Kept as JSON under `skipc.original` in the model's metadata, Orders are
written as runs ``[first, count]`` of places in the list that undoing the rewriting gives.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import onnx

from skipc.runtime import names
from skipc.runtime.errors import InputError

Order = tuple[tuple[int, int], ...]
"""A permutation as runs of neighbouring places."""


@dataclass(frozen=True)
class Original:
    """What is remembered.

    Attributes:
        ir_version: of the original; 0 where it was not changed.
        node_names: the original name of every node that was renamed, by its present name; None where it had none.
        nodes: order of the nodes; where nothing was compiled yet, empty unless they were sorted.
        initializers: order of the initializers.
        value_info: order of the values' types.
        lost_value_info: types of values that the compiled graph cannot hold; they come last before ordering.
        lost_nodes: nodes that the compiled graph does not need; they come last before ordering.
        lost_initializers: constants that only those read; they come last before ordering.
        changed_nodes: nodes of which the compiled graph holds another version, under their present names.
    """

    ir_version: int = 0
    node_names: Mapping[str, str | None] = field(default_factory=dict)
    nodes: Order = ()
    initializers: Order = ()
    value_info: Order = ()
    lost_value_info: tuple[onnx.ValueInfoProto, ...] = ()
    lost_nodes: tuple[onnx.NodeProto, ...] = ()
    lost_initializers: tuple[onnx.TensorProto, ...] = ()
    changed_nodes: tuple[onnx.NodeProto, ...] = ()

    def with_orders(self, nodes: Order, initializers: Order, value_info: Order) -> Original:
        """The same with these orders."""
        return replace(self, nodes=nodes, initializers=initializers, value_info=value_info)


def remember(model: onnx.ModelProto, original: Original) -> None:
    """Write into a model's metadata what is to be remembered, in place of what was there."""
    forget(model)
    raw = {name: value for name, value in _encoded(original).items() if value}
    model.metadata_props.add(key=names.ORIGINAL_KEY, value=json.dumps(raw, sort_keys=True, separators=(",", ":")))


def forget(model: onnx.ModelProto) -> None:
    """Remove from a model's metadata what was remembered."""
    kept = [item for item in model.metadata_props if item.key != names.ORIGINAL_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)


def remembered(model: onnx.ModelProto) -> Original:
    """Read what a model remembers of its original.

    Raises:
        InputError: ``original-invalid``: somebody changed it to what skipc would not write.
    """
    raw = next((item.value for item in model.metadata_props if item.key == names.ORIGINAL_KEY), "{}")
    try:
        return _decoded(json.loads(raw))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        hint = "restore from the file as `skipc compile` wrote it"
        what = f"the metadata {names.ORIGINAL_KEY} cannot be read: {error}"
        raise InputError("original-invalid", what, where=names.ORIGINAL_KEY, hint=hint) from error


def _encoded(original: Original) -> dict[str, Any]:
    return {
        "ir_version": original.ir_version,
        "node_names": dict(original.node_names),
        "nodes": original.nodes,
        "initializers": original.initializers,
        "value_info": original.value_info,
        "lost_value_info": [_as_text(item) for item in original.lost_value_info],
        "lost_nodes": [_as_text(item) for item in original.lost_nodes],
        "lost_initializers": [_as_text(item) for item in original.lost_initializers],
        "changed_nodes": [_as_text(item) for item in original.changed_nodes],
    }


def _decoded(raw: Mapping[str, Any]) -> Original:
    return Original(
        ir_version=int(raw.get("ir_version", 0)),
        node_names=dict(raw.get("node_names", {})),
        nodes=_order(raw, "nodes"),
        initializers=_order(raw, "initializers"),
        value_info=_order(raw, "value_info"),
        lost_value_info=tuple(map(onnx.ValueInfoProto.FromString, _from_text(raw, "lost_value_info"))),
        lost_nodes=tuple(map(onnx.NodeProto.FromString, _from_text(raw, "lost_nodes"))),
        lost_initializers=tuple(map(onnx.TensorProto.FromString, _from_text(raw, "lost_initializers"))),
        changed_nodes=tuple(map(onnx.NodeProto.FromString, _from_text(raw, "changed_nodes"))),
    )


def _as_text(item: onnx.ValueInfoProto | onnx.NodeProto | onnx.TensorProto) -> str:
    return b64encode(item.SerializeToString(deterministic=True)).decode()


def _from_text(raw: Mapping[str, Any], name: str) -> Iterator[bytes]:
    return (b64decode(item, validate=True) for item in raw.get(name, ()))


def _order(raw: Mapping[str, Any], name: str) -> Order:
    return tuple((int(first), int(count)) for first, count in raw.get(name, ()))


def order_of(wanted: Sequence[str], found: Sequence[str]) -> Order:
    """How to reorder `found` to get `wanted`; names that stand several times keep their order.

    Raises:
        ValueError: the two do not hold the same names.
    """
    if sorted(wanted) != sorted(found):
        differing = sorted(set(wanted) ^ set(found))[:3]
        raise ValueError(f"the original cannot be restored: {', '.join(differing) or 'a name'} differs")
    places: dict[str, list[int]] = {}
    for place in reversed(range(len(found))):
        places.setdefault(found[place], []).append(place)
    picked = [places[name].pop() for name in wanted]
    starts = [0, *(i for i, (one, two) in enumerate(pairwise(picked), 1) if two != one + 1), len(picked)]
    return tuple((picked[start], end - start) for start, end in pairwise(starts) if end > start)


def places_of(order: Order, count: int, *, where: str) -> list[int]:
    """The order of a list of so many entries, place by place.

    Raises:
        InputError: ``original-changed``: the order does not fit the list.
    """
    places = [place for first, size in order for place in range(first, first + min(size, count + 1))]
    if sorted(places) != list(range(count)):
        hint = "restore from the file as `skipc compile` wrote it"
        what = "the graph was changed after it was compiled, so that its original cannot be put together"
        raise InputError("original-changed", what, where=where, hint=hint)
    return places
