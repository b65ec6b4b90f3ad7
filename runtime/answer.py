"""One request's outputs with what led to them, and who may look at it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from skipc.runtime.decisions import Decisions, Limits
from skipc.runtime.plan import Array
from skipc.runtime.shown import Shown
from skipc.runtime.variants import Level

if TYPE_CHECKING:
    from skipc.runtime.deployed import Session

Feeds = Mapping[str, Array]


class Source(NamedTuple):
    """What the answers of a session at one level have in common.

    Attributes:
        model: SHA-256 of the file.
        level: in force, or ``bypass``.
        shown: how decisions are read; None for an original.
        limits: in force.
        prefix: of identifiers.
    """

    model: str
    level: Level
    shown: Shown | None
    limits: tuple[Limits, ...]
    prefix: str


class Facts(NamedTuple):
    """What is known of a request, as it came, without the caller's arrays: whoever outlives the request keeps this.

    Attributes:
        source: what answered.
        number: of the request in its session.
        time_s: when it was answered, in seconds since 1970.
        latency_ms: that ONNX Runtime took.
        values: arrays that tell the decisions, as `Shown.decisions` takes them.
        rows: samples in the batch, where there are no such arrays.
        name: that the caller gave the request; empty for none.
        reference: what the caller knows the request by.
    """

    source: Source
    number: int
    time_s: float
    latency_ms: float
    values: Sequence[Array]
    rows: int
    name: str = ""
    reference: str = ""

    @property
    def request(self) -> str:
        """Its identifier."""
        return self.name or f"{self.source.prefix}{self.number:012x}"

    @property
    def decisions(self) -> Decisions | None:
        """What the gates did, worked out whenever it is asked for; None for an original."""
        shown, values = self.source.shown, self.values
        return shown.decisions(self.source.limits, values, len(values[0]) if values else self.rows) if shown else None


class Answer(NamedTuple):
    """One request's outputs, with what led to them. Nothing is worked out before it is asked for: requests wait for it.

    Attributes:
        facts: all but the caller's arrays.
        feeds: the inputs.
        names: of the outputs asked for.
        arrays: the outputs, in that order.
    """

    facts: Facts
    feeds: Feeds
    names: Sequence[str]
    arrays: Sequence[Array]

    @property
    def request(self) -> str:
        """Its identifier."""
        return self.facts.request

    @property
    def reference(self) -> str:
        """What the caller knows the request by."""
        return self.facts.reference

    @property
    def time_s(self) -> float:
        """When it was answered, in seconds since 1970."""
        return self.facts.time_s

    @property
    def latency_ms(self) -> float:
        """Milliseconds that ONNX Runtime took."""
        return self.facts.latency_ms

    @property
    def model(self) -> str:
        """SHA-256 of the file."""
        return self.facts.source.model

    @property
    def level(self) -> Level:
        """The level in force, or ``bypass``."""
        return self.facts.source.level

    @property
    def outputs(self) -> Mapping[str, Array]:
        """By name."""
        return dict(zip(self.names, self.arrays, strict=True))

    @property
    def decisions(self) -> Decisions | None:
        """What the gates did, worked out whenever it is asked for; None for an original."""
        return self.facts.decisions


class Observer(Protocol):
    """Sees every answer, in the thread of the request, so it has to be quick: a decision log, a monitor.

    Between two runs of a model the processor's caches hold its weights, and not our code, which makes that
    several times slower than a loop that times it alone says: put off what can be done in another thread.
    """

    def attach(self, session: Session) -> None:
        """Called once, when a session with this observer opens."""
        ...

    def observe(self, answer: Answer) -> None:
        """Called after each request; several threads may be in here at once."""
        ...
