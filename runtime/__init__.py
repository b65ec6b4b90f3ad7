"""What a deployment needs: a session, its decision log and monitor, and the plan's types. numpy and onnxruntime only.

What the public names need is imported when they are first used, so that the command line's help stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skipc.runtime.answer import Answer, Observer
    from skipc.runtime.decisions import Decisions, GateDecision
    from skipc.runtime.deployed import Session
    from skipc.runtime.log import DecisionLog
    from skipc.runtime.monitor import Monitor


__all__ = ["Answer", "DecisionLog", "Decisions", "GateDecision", "Monitor", "Observer", "Session"]

_HOMES = {
    "Answer": "answer",
    "DecisionLog": "log",
    "Decisions": "decisions",
    "GateDecision": "decisions",
    "Monitor": "monitor",
    "Observer": "answer",
    "Session": "deployed",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"skipc.runtime.{_HOMES[name]}"), name)
