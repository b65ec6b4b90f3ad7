"""The plan: what was decided about a model, small enough to ship inside it and complete enough to build it again.

`Region → Block (region, bypass, gate) → Plan`. The copy inside a compiled model leaves the arrays out, since they are
initializers there; the copy in ``.plan.json`` carries them, so that the same model, plan and version of skipc give the
same bytes without any data.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipc.runtime.errors import InputError

SCHEMA = 2

PLAN_HINT = "give a .plan.json as `skipc compile` wrote it, or compile again"

NEVER, ALWAYS = "never", "always"
"""How the infinite thresholds are written in JSON, which has no word for them."""

Array = NDArray[Any]
Dim = int | str | None


@dataclass(frozen=True)
class Target:
    """The target shape of a Reshape node that the compiled file writes as a constant.

    Attributes:
        node: name of the node.
        shape: the constant; 0 copies an extent of the node's input, -1 is inferred.
    """

    node: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Padding:
    """Where the compiled file leaves padding out.

    Attributes:
        mask: graph input [batch, sequence] that is zero at padding.
        values: names of the original's values [batch, sequence, features] from which padding is taken.
    """

    mask: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Region:
    """A closed part of a graph with one entry value and one exit value of the same type.

    Attributes:
        name: unique and readable, such as ``feed-forward.3``.
        kind: ``attention``, ``feed-forward``, ``convolution``, ``residual`` (none of these), ``layer`` (several), or
            ``second-look``: everything from the entry to the class scores, whose type is that of the exit alone.
        entry: value that comes in.
        merge: value at which the skip path and the block's own path meet, before `tail`.
        exit: value that goes out.
        nodes: names of the nodes inside, in graph order.
        tail: names of those of them that lie behind `merge` (a normalisation or an activation).
        elem_type: ONNX element type of entry and exit.
        dims: shape of entry and exit; a name or None where the extent varies.
        channel_axis: the axis of `dims` along which features lie.
        sides: values other than the entry that it reads and that have a row for each sample along axis 0.
        weights: which weights go into the branches: ``auto`` for those that ONNX Runtime needs there, ``branch`` for
            all that nothing else reads, ``outer`` for none.
    """

    name: str
    kind: str
    entry: str
    merge: str
    exit: str
    nodes: tuple[str, ...]
    tail: tuple[str, ...]
    elem_type: int
    dims: tuple[Dim, ...]
    channel_axis: int
    sides: tuple[str, ...] = ()
    weights: str = "auto"

    @property
    def channels(self) -> int:
        """Number of features; regions whose feature axis has no fixed extent are rejected when found."""
        extent = self.dims[self.channel_axis]
        if not isinstance(extent, int):
            raise TypeError(f"the feature axis of region {self.name} has no fixed extent")
        return extent


ORIGINAL = "original"
"""The kind of bypass that is the region itself."""


@dataclass(frozen=True)
class Bypass:
    """What runs in place of a region: an approximation of its value at `merge`, followed by a copy of its tail.

    Attributes:
        kind: ``identity``, ``affine``, ``low-rank``, ``linear`` or ``narrow``; ``int8`` for the region itself in 8
            bits, without parameters; ``read-out`` for a second look; ``chain`` for the bypasses of several regions one
            behind the other; ``original`` for a region as it is, between others of a chain.
        arrays: float32 parameters by name; C channels, rank r:
            affine ``scale`` [C], ``shift`` [C]; linear ``weight`` [C, C], ``shift`` [C];
            low-rank ``down`` [C, r], ``up`` [r, C], ``shift`` [C]; narrow, for u hidden units kept with t taps each,
            ``units`` int64 [u], ``weight`` [C, C], ``down`` [u * t, C], ``shift`` [C]; identity none, and no tail
            either: the entry itself; read-out, for F pooled features, ``weight`` [F, classes], ``shift`` [classes],
            and what is averaged over: ``axes`` int64, or windows along the last axes, ``kernel`` and ``stride`` int64.
        parts: of a chain, in graph order; the exit of one is the entry of the next.
    """

    kind: str
    arrays: Mapping[str, Array] = field(default_factory=lambda: MappingProxyType({}))
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True)
class Part:
    """One of several neighbouring regions that a single gate decides for, with its own bypass."""

    region: Region
    bypass: Bypass

    @property
    def is_bypassed(self) -> bool:
        """Whether something else runs in the region's place."""
        return self.bypass.kind != ORIGINAL


@dataclass(frozen=True)
class Reading:
    """The value that a gate reads where it is not the entry of its own region, so that its answer is there in time.

    Attributes:
        value: entry value of a region at or before the gate's own, in graph order.
        elem_type: its ONNX element type.
        dims: its shape.
        channel_axis: the axis of `dims` along which features lie.
    """

    value: str
    elem_type: int
    dims: tuple[Dim, ...]
    channel_axis: int


@dataclass(frozen=True)
class Gate:
    """A linear read-out that predicts the natural log of what a bypass would cost.

    Attributes:
        pooling: ``mean`` over all axes but batch and features, without padding where there is a `mask`; ``none`` for a
            score of each token; ``constant`` for a block that is bypassed for every input at the levels that bypass it
            at all, which costs nothing at run time; ``top`` for the highest class scores that the bypass itself gives,
            in falling order, and not the entry value.
        weight: float32 [C], or one for each of the highest scores; empty where the gate is constant.
        bias: added to the read-out.
        floor: scores at or below it were never seen in calibration, so the full block runs.
        granularity: what decides for itself: ``batch`` (bypassed only if every sample agrees), ``sample`` or ``token``.
        mask: graph input [batch, sequence] of 0 (padding) and 1; empty where there is none.
        reading: what it reads; None for the entry value of its own region.
    """

    pooling: str
    weight: Array
    bias: float
    floor: float
    granularity: str = "batch"
    mask: str = ""
    reading: Reading | None = None


@dataclass(frozen=True)
class Reference:
    """What a gate's scores were on *calibrate*: what live scores are compared with.

    Attributes:
        edges: between the bins, rising; a score on an edge belongs to the bin above. They come from *fit*, so that
            calibration's and live scores meet them alike.
        counts: [levels][bins]: samples; early bypasses move the scores of later gates, so each level has its own.
        bypassed: [levels]: share of rows bypassed.
    """

    edges: tuple[float, ...]
    counts: tuple[tuple[int, ...], ...]
    bypassed: tuple[float, ...]


@dataclass(frozen=True)
class Block:
    """A region that may be bypassed, with what was learned about it.

    Attributes:
        saved_ms: measured latency that one bypass saves, milliseconds, at the plan's batch size.
        time_share: share of the original's measured latency that `saved_ms` amounts to.
        impact: mean loss on *fit* when this block alone is always bypassed.
        open_share: share of *fit* for which it is bypassed at the plan's level.
        granularity_reason: why its gate decides on what it decides on.
        reference: None where nothing was calibrated.
    """

    region: Region
    bypass: Bypass
    gate: Gate
    saved_ms: float = 0.0
    time_share: float = 0.0
    impact: float = 0.0
    open_share: float = 0.0
    granularity_reason: str = ""
    reference: Reference | None = None

    @property
    def bypassed(self) -> tuple[Region, ...]:
        """The regions in whose place something else runs, several where they share its gate."""
        return tuple(part.region for part in self.bypass.parts if part.is_bypassed) or (self.region,)


@dataclass(frozen=True)
class Certificate:
    """What was promised and how it was tested (fixed-sequence Learn-then-Test, arXiv 2110.01052).

    Attributes:
        loss: name of the loss; it lies in [0, 1].
        output: name of the judged output.
        limit: the mean loss that must not be exceeded.
        confidence: probability, over the draw of calibration data, that the promise holds.
        mean: mean loss on *calibrate* at the certified level.
        bound: upper confidence bound on the mean loss.
        p_value: of the hypothesis that the mean loss exceeds the limit.
        test: ``binomial`` or ``betting``.
        samples: number of independent units on *calibrate*.
        tested: configurations tested, the one that failed included.
        certified: configurations that passed.
    """

    loss: str
    output: str
    limit: float
    confidence: float
    mean: float
    bound: float
    p_value: float
    test: str
    samples: int
    tested: int
    certified: int


@dataclass(frozen=True)
class Plan:
    """Everything that the compiled file is built from.

    Attributes:
        model_digest: SHA-256 of the original model file.
        data_digests: SHA-256 of each data set by name.
        blocks: in graph order; gate k of the file belongs to block k.
        thresholds: [levels][gates]; negative infinity never bypasses, infinity always. Level 0 never bypasses.
        level: the row in force.
        certificate: None where nothing was certified.
        batch_size: rows that are decided on together.
        versions: of skipc and of the packages whose behaviour matters.
        regions: blocks that were found in the model, those without a gate included.
        targets: of Reshape nodes whose shapes need not be computed.
        padding: None where it is treated like everything else.
    """

    model_digest: str
    data_digests: Mapping[str, str]
    blocks: tuple[Block, ...]
    thresholds: tuple[tuple[float, ...], ...]
    level: int
    certificate: Certificate | None
    loss: str
    batch_size: int
    threads: int
    provider: str
    seed: int
    versions: Mapping[str, str]
    regions: int = 0
    targets: tuple[Target, ...] = ()
    padding: Padding | None = None
    schema: int = SCHEMA

    @property
    def mask(self) -> str:
        """Graph input that tells padding, [batch, sequence]; empty where none does."""
        masks = (gate.mask for gate in self._gates if gate.mask)
        return self.padding.mask if self.padding else next(masks, "")

    @property
    def by_batch(self) -> bool:
        """Whether samples of a batch are decided on together, so that they are no independent units."""
        together = any(gate.granularity == "batch" and gate.pooling != "constant" for gate in self._gates)
        return self.batch_size > 1 and together

    @property
    def _gates(self) -> tuple[Gate, ...]:
        return tuple(block.gate for block in self.blocks)

    def to_json(self, *, arrays: bool) -> str:
        """The plan as canonical JSON (sorted keys); without the arrays where the model already holds them."""
        return json.dumps(_encode(self, arrays), sort_keys=True, allow_nan=False, indent=1 if arrays else None)


LATER: Mapping[type, tuple[str, ...]] = {Gate: ("reading",), Plan: ("padding",)}
"""Fields that plans have not always had: left out where they are None, so that older plans keep their bytes."""


def plan_from_json(text: str, *, where: str) -> Plan:
    """Read what `Plan.to_json` wrote.

    Raises:
        InputError: the text is no plan, or one of another schema.
    """
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise InputError("plan-invalid", f"the plan is not JSON: {error}", where=where, hint=PLAN_HINT) from error
    if not isinstance(raw, dict) or raw.get("schema") != SCHEMA:
        found = raw.get("schema") if isinstance(raw, dict) else type(raw).__name__
        hint = "compile the model again with this version of skipc"
        raise InputError("plan-schema", f"expected plan schema {SCHEMA}, found {found}", where=where, hint=hint)
    try:
        return _plan(raw)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError("plan-invalid", f"the plan lacks or misspells {error}", where=where, hint=PLAN_HINT) from error


def _fields(value: Any) -> dict[str, Any]:
    """The fields of a dataclass by name, without copying what they hold."""
    return {item.name: getattr(value, item.name) for item in fields(value)}


def _encode(value: Any, arrays: bool) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        absent = [name for name in LATER.get(type(value), ()) if getattr(value, name) is None]
        return _encode({name: item for name, item in _fields(value).items() if name not in absent}, arrays)
    if isinstance(value, np.ndarray):
        return _encode_array(value) if arrays else {"dtype": str(value.dtype), "shape": list(value.shape)}
    if isinstance(value, Mapping):
        return {key: _encode(item, arrays) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_encode(item, arrays) for item in value]
    if isinstance(value, float) and math.isinf(value):
        return ALWAYS if value > 0 else NEVER
    return value


def _encode_array(array: Array) -> dict[str, Any]:
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")
    return {"dtype": str(array.dtype), "shape": list(array.shape), "base64": data}


def _decode_array(raw: Mapping[str, Any]) -> Array:
    shape = tuple(raw["shape"])
    if "base64" not in raw:
        return np.zeros((0,), raw["dtype"])
    return np.frombuffer(base64.b64decode(raw["base64"]), raw["dtype"]).reshape(shape)


def _number(value: float | str) -> float:
    return {NEVER: -math.inf, ALWAYS: math.inf}[value] if isinstance(value, str) else float(value)


def _plan(raw: Mapping[str, Any]) -> Plan:
    return Plan(
        model_digest=raw["model_digest"],
        data_digests=dict(raw["data_digests"]),
        blocks=tuple(_block(item) for item in raw["blocks"]),
        thresholds=tuple(tuple(_number(item) for item in row) for row in raw["thresholds"]),
        level=int(raw["level"]),
        certificate=Certificate(**raw["certificate"]) if raw["certificate"] else None,
        loss=raw["loss"],
        batch_size=int(raw["batch_size"]),
        threads=int(raw["threads"]),
        provider=raw["provider"],
        seed=int(raw["seed"]),
        versions=dict(raw["versions"]),
        regions=int(raw["regions"]),
        targets=tuple(Target(item["node"], tuple(map(int, item["shape"]))) for item in raw["targets"]),
        padding=_padding(raw.get("padding")),
    )


def _padding(raw: Mapping[str, Any] | None) -> Padding | None:
    return Padding(str(raw["mask"]), tuple(map(str, raw["values"]))) if raw else None


def _block(raw: Mapping[str, Any]) -> Block:
    numbers = {key: float(raw[key]) for key in ("saved_ms", "time_share", "impact", "open_share")}
    return Block(
        region=_region(raw["region"]),
        bypass=_bypass(raw["bypass"]),
        gate=_gate(raw["gate"]),
        granularity_reason=raw["granularity_reason"],
        **numbers,
        reference=_reference(raw.get("reference")),
    )


def _region(raw: Mapping[str, Any]) -> Region:
    tuples = {key: tuple(raw[key]) for key in ("nodes", "tail", "dims", "sides")}
    return Region(**{**raw, **tuples})


def _bypass(raw: Mapping[str, Any]) -> Bypass:
    arrays = {key: _decode_array(item) for key, item in raw["arrays"].items()}
    parts = tuple(Part(_region(item["region"]), _bypass(item["bypass"])) for item in raw.get("parts", ()))
    return Bypass(raw["kind"], arrays, parts)


def _gate(raw: Mapping[str, Any]) -> Gate:
    reading = raw.get("reading")
    decoded = {
        "weight": _decode_array(raw["weight"]),
        "floor": _number(raw["floor"]),
        "reading": Reading(**{**reading, "dims": tuple(reading["dims"])}) if reading else None,
    }
    return Gate(**{**raw, **decoded})


def _reference(raw: Mapping[str, Any] | None) -> Reference | None:
    if raw is None:
        return None
    edges, bypassed = (tuple(float(value) for value in raw[key]) for key in ("edges", "bypassed"))
    return Reference(edges, tuple(tuple(int(count) for count in row) for row in raw["counts"]), bypassed)
