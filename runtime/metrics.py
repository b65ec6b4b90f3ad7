"""A monitor's and a log's figures for Prometheus; needs the extra ``monitor``.

Everything is read when Prometheus asks, so requests pay nothing for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from skipc.runtime.errors import InputError
from skipc.runtime.log import DecisionLog
from skipc.runtime.monitor import Monitor
from skipc.runtime.watch import GateState, State

GATE_GAUGES = {
    "bypassed": ("skipc_bypassed_share", "Share of rows for which the block was bypassed."),
    "expected": ("skipc_bypassed_share_expected", "The same on the calibration data."),
    "psi": ("skipc_score_psi", "Population stability index of the live scores; above 0.25 is a large change."),
    "ks": ("skipc_score_ks", "Largest distance between the distribution functions of live and calibration scores."),
    "ks_critical": ("skipc_score_ks_critical", "Distance that is exceeded with a probability of 1 % without drift."),
    "log_evidence": ("skipc_score_log_evidence", "Natural log of the evidence for drift."),
    "log_alarm": ("skipc_score_log_alarm", "Evidence at which there is an alarm, natural log."),
}
"""Field of `GateState` to the name and meaning of its gauge."""


class Metrics:
    """A collector for `prometheus_client`: ``REGISTRY.register(Metrics(monitor, log))``.

    Args:
        monitor: attached to a session.
        log: counted too, where there is one.

    Raises:
        InputError: ``prometheus-missing``.
    """

    def __init__(self, monitor: Monitor, log: DecisionLog | None = None) -> None:
        try:
            from prometheus_client import core
        except ImportError as error:
            hint = "pip install 'skipc[monitor]'"
            raise InputError("prometheus-missing", "prometheus_client is not installed", hint=hint) from error
        self._core: Any = core
        self._monitor, self._log = monitor, log

    def describe(self) -> list[Any]:
        """Nothing: what there is depends on the model."""
        return []

    def collect(self) -> Iterator[Any]:
        """All figures as they are now."""
        state = self._monitor.state()
        yield from self._totals(state)
        for field, (name, meaning) in GATE_GAUGES.items():
            yield self._by_gate(name, meaning, field, state.gates)
        if self._log is not None:
            yield self._core.CounterMetricFamily("skipc_log_written", "Requests logged.", value=self._log.written)
            yield self._core.CounterMetricFamily("skipc_log_dropped", "Requests not logged.", value=self._log.dropped)

    def _totals(self, state: State) -> Iterator[Any]:
        counter, gauge = self._core.CounterMetricFamily, self._core.GaugeMetricFamily
        level = state.level if isinstance(state.level, int) else -1
        yield gauge("skipc_level", "Level in force; 0 never bypasses, -1 always.", value=level)
        yield counter("skipc_requests_watched", "Requests whose decisions were looked at.", value=state.watched)
        yield counter("skipc_requests_skipped", "Requests that the monitor was too busy for.", value=state.skipped)
        yield counter("skipc_audits", "Requests that also ran in full.", value=state.audits)
        evidence = "Natural log of the evidence that the mean loss exceeds the limit."
        yield gauge("skipc_audit_log_evidence", evidence, value=state.audit_log_evidence)
        if state.audit_mean is not None:
            yield gauge("skipc_audit_mean_loss", "Mean loss of the audits.", value=state.audit_mean)
        if state.audit_limit is not None:
            yield gauge("skipc_audit_limit", "Certified limit of the mean loss.", value=state.audit_limit)
        alarms = counter("skipc_alarms", "Alarms raised.", labels=["kind"])
        for kind in ("scores", "loss"):
            alarms.add_metric([kind], sum(alarm.kind == kind for alarm in state.alarms))
        yield alarms

    def _by_gate(self, name: str, meaning: str, field: str, gates: tuple[GateState, ...]) -> Any:
        family = self._core.GaugeMetricFamily(name, meaning, labels=["block"])
        for gate in gates:
            value = getattr(gate, field)
            if value is not None:
                family.add_metric([gate.name], value)
        return family
