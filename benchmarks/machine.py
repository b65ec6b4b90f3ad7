"""Where and when a figure was measured."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from skipc.compiler.build import versions
from skipc.compiler.running import workers

CPU_INFO = Path("/proc/cpuinfo")
PROCESS_STATUS = Path("/proc/self/status")


def circumstances(repository: Path) -> dict[str, Any]:
    """Machine, versions, commit and date, as every result file carries them."""
    return {
        "machine": machine(),
        "versions": {"python": platform.python_version(), **versions()},
        "commit": _commit(repository),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def machine() -> Mapping[str, Any]:
    """Processor, cores that this process may use, and system."""
    return {"cpu": _cpu_model(), "cores": workers(), "system": f"{platform.system()} {platform.machine()}"}


def _cpu_model() -> str:
    if not CPU_INFO.exists():
        return platform.processor() or "unknown"
    lines = CPU_INFO.read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _commit(repository: Path) -> str:
    """The commit, with a plus sign where the compiler's own files differ from it."""
    try:
        commit = _git(repository, "rev-parse", "--short=12", "HEAD")
        changed = _git(repository, "status", "--porcelain", "--", "compiler", "passes", "runtime", "models")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+" if changed else "")


def _git(repository: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=repository, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def peak_memory_mib() -> float:
    """The most memory that this process has held so far, MiB.

    Linux counts it for each program afresh in VmHWM; what `getrusage` says there includes the parent before the exec.
    """
    if PROCESS_STATUS.exists():
        lines = PROCESS_STATUS.read_text(encoding="utf-8").splitlines()
        return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
    import resource

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / (2**20 if os.uname().sysname == "Darwin" else 2**10)
