"""What Prometheus is told, in its own format, and what the dashboard asks for."""

from __future__ import annotations

import builtins
import json
import re
from pathlib import Path
from typing import Any

import pytest

from skipc.runtime import DecisionLog, Monitor, Session
from skipc.runtime.errors import InputError
from skipc.runtime.metrics import Metrics
from tests.deployment import compiled, feeds, plan
from tests.unit.runtime.test_monitor import referenced

prometheus = pytest.importorskip("prometheus_client")

DASHBOARD = Path(__file__).parents[3] / "examples" / "serving" / "grafana" / "skipc.json"


def exposition(tmp_path: Path) -> str:
    log = DecisionLog(tmp_path / "d.log")
    monitor = Monitor(audit_share=1.0)
    session = Session(compiled(referenced()), observers=[log, monitor])
    registry = prometheus.CollectorRegistry()
    registry.register(Metrics(monitor, log))
    for seed in range(10):
        session.run(None, feeds(seed))
    monitor.close()
    log.close()
    text: str = prometheus.generate_latest(registry).decode()
    return text


def test_all_figures_are_told(tmp_path: Path) -> None:
    text = exposition(tmp_path)
    assert "skipc_requests_watched_total 10.0" in text
    assert "skipc_log_written_total 10.0" in text
    assert "skipc_level 1.0" in text
    assert "skipc_audits_total 10.0" in text
    assert "skipc_audit_limit 0.05" in text
    names = [block.region.name for block in plan().blocks]
    assert f'skipc_bypassed_share{{block="{names[1]}"}} 1.0' in text
    assert f'skipc_score_psi{{block="{names[0]}"}}' in text
    assert f'skipc_score_psi{{block="{names[1]}"}}' not in text
    assert 'skipc_alarms_total{kind="scores"} 0.0' in text


def test_the_dashboard_asks_for_what_there_is(tmp_path: Path) -> None:
    text = exposition(tmp_path)
    told = set(re.findall(r"^(skipc_\w+)", text, re.MULTILINE))
    panels = json.loads(DASHBOARD.read_text())["panels"]
    asked = {name for panel in panels for item in panel["targets"] for name in re.findall(r"skipc_\w+", item["expr"])}
    assert asked <= told
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **options: Any) -> Any:
        if name.startswith("prometheus_client"):
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(InputError, match="prometheus") as caught:
        Metrics(Monitor())
    assert "skipc[monitor]" in caught.value.hint
