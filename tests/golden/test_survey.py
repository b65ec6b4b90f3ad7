"""What the survey finds in a few networks, as it was when a person last looked at it.

A difference is a change of behaviour: names of regions go into plans, reports and `--exclude`. If it is meant, write
the files again and read the difference before committing it:

    SKIPC_REGENERATE=1 python -m pytest tests/golden
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skipc.passes.regions import Survey
from tests.gated import surveyed
from tests.graphs import Network, conv_net, mbconv, transformer

HERE = Path(__file__).parent
REGENERATE = "SKIPC_REGENERATE" in os.environ

NETWORKS: dict[str, Callable[[], Network]] = {
    "transformer_post_norm": lambda: transformer(norm="post", opset=17),
    "transformer_pre_norm_fused": lambda: transformer(norm="pre", fused=True),
    "conv_net": conv_net,
    "mbconv": mbconv,
}


def described(survey: Survey) -> dict[str, Any]:
    regions = [
        {
            "name": item.name,
            "kind": item.kind,
            "entry": item.entry,
            "merge": item.merge,
            "exit": item.exit,
            "nodes": len(item.nodes),
            "tail": len(item.tail),
            "dims": list(item.dims),
            "channel_axis": item.channel_axis,
        }
        for item in survey.regions
    ]
    return {"regions": regions, "rejected": [[item.node, item.rule] for item in survey.rejected]}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_survey_is_as_it_was(name: str) -> None:
    found = described(surveyed(NETWORKS[name]()).survey)
    path = HERE / f"{name}.json"
    if REGENERATE:
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    assert found == json.loads(path.read_text(encoding="utf-8"))
