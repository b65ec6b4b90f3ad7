"""Runs cases, one for each line of stdin: a process of its own, which may crash or hang without harm."""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from click.testing import CliRunner

from skipc.compiler.cli import cli
from tests.compiled import compiled
from tests.fuzz.mutations import mutated
from tests.graphs import conv_net, mbconv, mlp, transformer


def bases() -> Mapping[str, tuple[bytes, tuple[str, ...]]]:
    """Valid models, and the verbs that are tried on what becomes of them."""
    networks = {"mlp": mlp(), "conv": conv_net(), "mbconv": mbconv(), "tokens": transformer(layers=1, opset=17)}
    found = {name: (bytes(item.model.SerializeToString()), ("compile", "inspect")) for name, item in networks.items()}
    gated = bytes(compiled(conv_net()).SerializeToString())
    return {**found, "compiled": (gated, ("restore", "diff", "inspect", "compile"))}


def case(number: int, seed: int, models: Mapping[str, tuple[bytes, tuple[str, ...]]]) -> tuple[bytes, str]:
    """The file and the verb of a case; the same for the same number and seed."""
    chance = random.Random(f"{seed}/{number}")
    name = chance.choice(sorted(models))
    data, verbs = models[name]
    return mutated(data, chance), chance.choice(verbs)


def judged(data: bytes, verb: str) -> str:
    """What skipc did wrong with a file; empty if nothing."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(data)
        ran = CliRunner().invoke(cli, [verb, str(path)])
    text = ran.stdout + ran.stderr
    if ran.exit_code not in (0, 1, 2) or "Traceback" in text:
        lines = [line for line in text.splitlines() if line.startswith("error")] or [repr(ran.exception)]
        return f"exit code {ran.exit_code}: {lines[0]}"
    if ran.exit_code == 2 and "error[" not in text:
        return "exit code 2 without an error"
    return ""


def main() -> None:
    """Answer each number with one line."""
    seed, models = int(sys.argv[1]), bases()
    answers = sys.stdout
    for line in sys.stdin:
        data, verb = case(int(line), seed, models)
        what = judged(data, verb)
        answers.write(f"{verb}: {what}".replace("\n", " ") + "\n" if what else "\n")
        answers.flush()


if __name__ == "__main__":
    main()
