"""The verbs that look back from a compiled file to its original: restore, diff, view."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

import onnx

from skipc.compiler.build import normalized, require_same_model, serialized
from skipc.compiler.console import Console
from skipc.compiler.difference import difference_json, difference_text
from skipc.compiler.emit import check_writable, write_all
from skipc.compiler.external_data import data_beside, digest_of
from skipc.compiler.source import Source, check_source, load_model
from skipc.passes.restore import Restore
from skipc.passes.stamp import plan_of
from skipc.runtime.errors import InputError

Result = tuple[dict[str, Any], str]

SUFFIX = ".skip"


def restore_verb(console: Console, *, compiled: Path, out: Path | None) -> Result:
    """``skipc restore``."""
    out = out or _default_output(compiled)
    if out.resolve() == compiled.resolve():
        raise InputError("output-is-input", "the output would overwrite the model", where=str(out), hint="choose -o")
    check_writable(out)
    source = load_model(compiled)
    with console.stage("restoring the original"):
        content = serialized(_restored(source))
    write_all({**data_beside(compiled, source.files, out), out: content})
    identical = digest_of(content, source.files) == plan_of(source.model, where=str(compiled)).model_digest
    same = "byte for byte the file that was compiled" if identical else SAME_GRAPH
    found = {"ok": True, "output": str(out), "identical": identical, "size_bytes": len(content)}
    return found, f"wrote {out}: {same}"


SAME_GRAPH = "the same graph and weights as the file that was compiled, which held them in other bytes"


def _default_output(compiled: Path) -> Path:
    """MODEL.onnx for MODEL.skip.onnx, unless there is such a file, or the name tells nothing."""
    stem = compiled.stem.removesuffix(SUFFIX)
    out = compiled.with_name(f"{stem}.onnx")
    return compiled.with_name(f"{stem}.restored.onnx") if out.exists() or stem == compiled.stem else out


def _restored(source: Source) -> onnx.ModelProto:
    """The original.

    Raises:
        InputError: the compiled model was changed, so that no original can be put together.
    """
    try:
        restored = Restore().apply(source.model)
    except InputError as error:
        error.where = error.where or str(source.path)
        raise
    try:
        check_source(restored, source.path)
    except InputError as error:
        hint = "restore from the file as `skipc compile` wrote it"
        what = f"the model was changed after it was compiled: restored, {error.what}"
        raise InputError("original-changed", what, where=str(source.path), hint=hint) from error
    return restored


def diff_verb(console: Console, *, compiled: Path, original: Path | None) -> Result:
    """``skipc diff``."""
    source = load_model(compiled)
    plan = plan_of(source.model, where=str(compiled))
    with console.stage("comparing"):
        restored = _restored(source)
        found = difference_json(normalized(restored), source.model, plan)
    text = difference_text(found)
    if original is None:
        return found, text
    given = load_model(original)
    require_same_model(plan, given.digest, where=str(original))
    equal = serialized(restored) == serialized(given.model)
    verdict = "restored, it equals the original" if equal else "DIFFERENT from the original when restored"
    return {**found, "ok": equal}, f"{text}\n{verdict}"


def view_verb(console: Console, *, compiled: Path, original: Path | None, port: int, browser: bool) -> Result:
    """``skipc view``: serve original and compiled until interrupted."""
    source = load_model(compiled)
    plan_of(source.model, where=str(compiled))
    netron = _netron()
    with tempfile.TemporaryDirectory(prefix="skipc-view-") as folder:
        before = original or Path(folder) / f"{compiled.stem.removesuffix(SUFFIX)}.original.onnx"
        if original is None:
            write_all({**data_beside(compiled, source.files, before), before: serialized(_restored(source))})
        urls = [
            _served(netron, path, port + offset if port else 0, browser)
            for offset, path in enumerate((before, compiled))
        ]
        console.say(f"original at {urls[0]}, compiled at {urls[1]}; end with Ctrl-C")
        netron.wait()
    return {"ok": True, "original": urls[0], "compiled": urls[1]}, "closed"


def _served(netron: Any, path: Path, port: int, browser: bool) -> str:
    """Serve a file on this machine alone; where it can be seen."""
    try:
        host, number = netron.start(str(path), address=("127.0.0.1", port), browse=browser)
    except OSError as error:
        hint = "choose another with --port; 0 takes any that is free"
        what = f"cannot listen on port {port}: {error.strerror or error}"
        raise InputError("port-taken", what, where="--port", hint=hint) from error
    return f"http://{host}:{number}"


def _netron() -> Any:
    try:
        import netron
    except ImportError as error:
        hint = "pip install 'skipc[view]', or open both files at https://netron.app"
        raise InputError("netron-missing", "Netron is not installed", hint=hint) from error
    logging.getLogger(netron.__name__).setLevel(logging.WARNING)
    return netron
