"""Examine every graph of the zoo and write `docs/families.md`.

python -m benchmarks.zoo [PATTERN]     with a pattern only those whose name matches, to stdout

The variable `NODE_MODULES` names the folder into which npm has installed onnxruntime-web.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

import torch

from benchmarks.zoo.afterwards import afterwards
from benchmarks.zoo.checks import Found, examined
from benchmarks.zoo.specimens import Specimen, specimens
from benchmarks.zoo.table import page, row_json

ROOT = Path(__file__).resolve().parents[2]


def main(pattern: str = "") -> None:
    """Examine, then write."""
    logging.disable(logging.WARNING)
    rows = []
    for specimen in specimens():
        name = f"{specimen.family} / {specimen.exporter} / {specimen.form}"
        if pattern and not fnmatch(name, f"*{pattern}*"):
            continue
        found = _found(specimen)
        rows.append((specimen, found))
        print(f"{name}: {json.dumps(row_json(specimen, found))}", flush=True)
    if not pattern:
        with _silenced():
            after = afterwards()
        (ROOT / "docs" / "families.md").write_text(page(rows, after), encoding="utf-8")


def _found(specimen: Specimen) -> Found:
    torch.manual_seed(0)
    with _silenced():
        try:
            model = specimen.make()
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            return Found({}, {}, (), problem=f"cannot be made: {type(error).__name__}: {lines[0][:120]}")
        return examined(model)


@contextmanager
def _silenced() -> Iterator[None]:
    """Without what exporters, quantizers and runtimes print, also from C++."""
    saved, saved_out = os.dup(2), os.dup(1)
    sys.stdout.flush()
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        os.dup2(nowhere.fileno(), 1)
        try:
            yield
        finally:
            sys.stdout.flush()
            os.dup2(saved, 2)
            os.dup2(saved_out, 1)


if __name__ == "__main__":
    main(*sys.argv[1:2])
