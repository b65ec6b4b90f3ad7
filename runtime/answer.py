"""One request's outputs with what led to them, and who may look at it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Protocol

from skipc.runtime.decisions import Decisions, Limits
from skipc.runtime.plan import Array
from skipc.runtime.shown import Shown
from skipc.runtime.variants import Level

if TYPE_CHECKING:
    from skipc.runtime.deployed import Session

Feeds = Mapping[str, Array]


class Raw(NamedTuple):
    """What a file shows of its decisions, as it came: requests wait for nothing that may be done later.

    Attributes:
        shown: how it is read.
        limits: in force.
        found: arrays, as `Shown.decisions` takes them.
        rows: samples in the batch.
    """

    shown: Shown
    limits: tuple[Limits, ...]
    found: Sequence[Array]
    rows: int


@dataclass(frozen=True, eq=False)
class Answer:
    """One request's outputs, with what led to them.

    Attributes:
        request: its identifier.
        time_s: when it was answered, in seconds since 1970.
        latency_ms: that ONNX Runtime took.
        model: SHA-256 of the file.
        level: in force, or ``bypass``.
        feeds: the inputs.
        outputs: by name.
        raw: what `decisions` are made of; None for an original.
        reference: what the caller knows the request by.
    """

    request: str
    time_s: float
    latency_ms: float
    model: str
    level: Level
    feeds: Feeds
    outputs: Mapping[str, Array]
    raw: Raw | None
    reference: str = ""

    @cached_property
    def decisions(self) -> Decisions | None:
        """What the gates did, worked out when it is first asked for; None for an original."""
        raw = self.raw
        return raw.shown.decisions(raw.limits, raw.found, raw.rows) if raw else None


class Observer(Protocol):
    """Sees every answer, in the thread of the request, so it has to be quick: a decision log, a monitor.

    Between two runs of a model the processor's caches hold its weights, and not our code, which makes that some ten
    times slower than a loop that times it alone says: put off what can be done in another thread.
    """

    def attach(self, session: Session) -> None:
        """Called once, when a session with this observer opens."""
        ...

    def observe(self, answer: Answer) -> None:
        """Called after each request; several threads may be in here at once."""
        ...
