"""One request's outputs with what led to them, and who may look at it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from skipc.runtime.decisions import Decisions
from skipc.runtime.plan import Array
from skipc.runtime.variants import Level

if TYPE_CHECKING:
    from skipc.runtime.deployed import Session

Feeds = Mapping[str, Array]


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
        decisions: None for an original.
        reference: what the caller knows the request by.
    """

    request: str
    time_s: float
    latency_ms: float
    model: str
    level: Level
    feeds: Feeds
    outputs: Mapping[str, Array]
    decisions: Decisions | None
    reference: str = ""


class Observer(Protocol):
    """Sees every answer, in the thread of the request, so it has to be quick: a decision log, a monitor."""

    def attach(self, session: Session) -> None:
        """Called once, when a session with this observer opens."""
        ...

    def observe(self, answer: Answer) -> None:
        """Called after each request; several threads may be in here at once."""
        ...
