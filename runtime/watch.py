"""What a monitor knows and concludes, one request after the other; `skipc.runtime.monitor` is the thread around it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from skipc.runtime.decisions import Rows
from skipc.runtime.drift import ScoreDrift
from skipc.runtime.martingales import LossGame, Table
from skipc.runtime.plan import Block, Certificate, Plan
from skipc.runtime.variants import BYPASS, Level


@dataclass(frozen=True)
class Alarm:
    """What was found out.

    Attributes:
        kind: ``scores`` or ``loss``.
        subject: the region, or the output.
        message: one sentence.
        request: the one that made the evidence suffice.
        requests: watched until then.
    """

    kind: str
    subject: str
    message: str
    request: str
    requests: int


@dataclass(frozen=True)
class GateState:
    """One gate, live; figures on scores are None where the plan holds no reference.

    Attributes:
        name: of the region.
        bypassed: share of rows bypassed, over all requests at the level in force when the monitor started.
        expected: the same on *calibrate*.
        psi, ks, ks_critical: see `skipc.runtime.drift`.
        log_evidence: natural log of the evidence for drift; at `log_alarm` there is an alarm.
        log_alarm: natural log of one over the gate's share of the false-alarm probability.
    """

    name: str
    bypassed: float
    expected: float | None
    psi: float | None
    ks: float | None
    ks_critical: float | None
    log_evidence: float | None
    log_alarm: float


@dataclass(frozen=True)
class State:
    """The monitor at one moment.

    Attributes:
        level: in force.
        watched: requests whose decisions were looked at.
        skipped: requests that the monitor was too busy for.
        gates: in graph order.
        audits: requests that also ran in full.
        audit_mean: mean loss of them; None without any.
        audit_limit: the certificate's; None where there is none.
        audit_log_evidence: natural log of the evidence that the mean exceeds the limit.
        alarms: so far.
    """

    level: Level
    watched: int
    skipped: int
    gates: tuple[GateState, ...]
    audits: int
    audit_mean: float | None
    audit_limit: float | None
    audit_log_evidence: float
    alarms: tuple[Alarm, ...]


class GateWatch:
    """One gate's part of the watch."""

    def __init__(self, block: Block, level: Level, log_alarm: float, *, window: int, seed: int) -> None:
        self.name = block.region.name
        self.expected: float | None = None
        self.drift: ScoreDrift | None = None
        if block.reference is not None and level != BYPASS:
            self.expected = block.reference.bypassed[level]
            self.drift = ScoreDrift(block.reference, level, window=window, seed=seed)
        self._log_alarm = log_alarm
        self._rows, self._bypassed = 0, 0.0

    def observe(self, scores: Rows, bypassed: Rows) -> bool:
        """Take in one request's [batch] of each; whether the evidence suffices for an alarm."""
        self._rows += len(bypassed)
        self._bypassed += float(bypassed.sum())
        if self.drift is None:
            return False
        for score in scores.tolist():
            self.drift.observe(score)
        return self.drift.log_wealth >= self._log_alarm

    def state(self) -> GateState:
        """As it is now."""
        drift = self.drift
        return GateState(
            name=self.name,
            bypassed=self._bypassed / max(self._rows, 1),
            expected=self.expected,
            psi=drift.psi if drift else None,
            ks=drift.ks if drift else None,
            ks_critical=drift.ks_critical if drift else None,
            log_evidence=drift.log_wealth if drift else None,
            log_alarm=self._log_alarm,
        )


class Audits:
    """Losses of requests that also ran in full, against the certificate's limit."""

    def __init__(self, certificate: Certificate | None, log_alarm: float) -> None:
        self.limit = certificate.limit if certificate else None
        self._table = Table(LossGame(self.limit)) if self.limit else None
        self._log_alarm = log_alarm
        self.count, self._sum = 0, 0.0

    @property
    def mean(self) -> float | None:
        """Mean loss; None before the first."""
        return self._sum / self.count if self.count else None

    @property
    def log_evidence(self) -> float:
        """Natural log of the evidence that the mean exceeds the limit."""
        return self._table.log_wealth if self._table else 0.0

    def observe(self, loss: float) -> bool:
        """Take in one request's mean loss; whether the evidence suffices for an alarm."""
        self.count += 1
        self._sum += loss if math.isfinite(loss) else 1.0
        if self._table is None:
            return False
        self._table.observe(loss)
        return self.log_evidence >= self._log_alarm


class Watch:
    """All gates and the audits. Not safe to use from several threads.

    Args:
        plan: of the file that is watched.
        level: in force. Requests at another one are counted only: their scores have another distribution.
        false_alarms: probability that any alarm is ever false.
        window: live scores that PSI and KS look at.
        seed: of every random choice.
    """

    def __init__(self, plan: Plan, level: Level, *, false_alarms: float, window: int, seed: int) -> None:
        share = math.log(2.0 / false_alarms)
        referenced = sum(block.reference is not None for block in plan.blocks)
        each = share + math.log(max(referenced, 1))
        self.gates = [
            GateWatch(block, level, each, window=window, seed=seed + gate) for gate, block in enumerate(plan.blocks)
        ]
        self.audits = Audits(plan.certificate, share)
        self._output = plan.certificate.output if plan.certificate else ""
        self._level = level
        self.watched = 0
        self.alarms: list[Alarm] = []

    def observe(self, request: str, level: Level, scores: Rows, bypassed: Rows) -> list[Alarm]:
        """Take in the decisions of one request, [batch, gates] each; alarms that are new."""
        if level != self._level:
            return []
        self.watched += 1
        shifted = [gate.name for k, gate in enumerate(self.gates) if gate.observe(scores[:, k], bypassed[:, k])]
        message = "the scores are not distributed as in calibration: the certificate's assumption does not hold"
        return [alarm for name in shifted for alarm in self._raise("scores", name, message, request)]

    def audit(self, request: str, loss: float) -> list[Alarm]:
        """Take in the loss of one request; alarms that are new."""
        if not self.audits.observe(loss):
            return []
        message = f"the mean loss of live requests is above the certified {self.audits.limit:g}"
        return self._raise("loss", self._output, message, request)

    def _raise(self, kind: str, subject: str, message: str, request: str) -> list[Alarm]:
        if any((alarm.kind, alarm.subject) == (kind, subject) for alarm in self.alarms):
            return []
        self.alarms.append(Alarm(kind, subject, message, request, self.watched))
        return self.alarms[-1:]

    def state(self, level: Level, skipped: int) -> State:
        """As it is now."""
        return State(
            level=level,
            watched=self.watched,
            skipped=skipped,
            gates=tuple(gate.state() for gate in self.gates),
            audits=self.audits.count,
            audit_mean=self.audits.mean,
            audit_limit=self.audits.limit,
            audit_log_evidence=self.audits.log_evidence,
            alarms=tuple(self.alarms),
        )
