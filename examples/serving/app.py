"""Serve a compiled file over HTTP: answers, the decisions behind them, a log, a monitor and metrics.

    pip install 'skipc[cpu,monitor,serving]'
    SKIPC_MODEL=model.skip.onnx uvicorn --factory examples.serving.app:from_environment --port 8000
    curl localhost:8000/infer -d '{"inputs": {"image": [[...]]}}'

A request that cannot be answered is the client's mistake and gets a 4xx status with a sentence: 400 for what is no
JSON, 413 for too large a body, 422 for names, shapes and values.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from prometheus_client import CollectorRegistry, generate_latest

from skipc.runtime import Answer, DecisionLog, Monitor, Session
from skipc.runtime.metrics import Metrics

MAX_BYTES = 4 << 20

TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}


def from_environment() -> FastAPI:
    """The app for the file that ``SKIPC_MODEL`` names, its log in ``SKIPC_LOG``."""
    return create_app(Path(os.environ["SKIPC_MODEL"]), Path(os.environ.get("SKIPC_LOG", "decisions.log")))


def create_app(model: Path, log_path: Path, *, max_bytes: int = MAX_BYTES, audit_share: float = 0.01) -> FastAPI:
    """The app; its log and monitor end with it."""
    log = DecisionLog(log_path)
    monitor = Monitor(audit_share=audit_share, fall_back=True)
    session = Session(model, observers=[log, monitor])
    registry = CollectorRegistry()
    registry.register(Metrics(monitor, log))

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        monitor.close()
        log.close()

    app = FastAPI(title="skipc", lifespan=life)

    @app.post("/infer")
    async def infer(request: Request) -> dict[str, Any]:
        feeds = _feeds(await _body(request, max_bytes), session)
        return _shown(await run_in_threadpool(_answered, session, feeds))

    @app.get("/health")
    def health() -> dict[str, Any]:
        return {"level": session.level, "alarms": [alarm.message for alarm in monitor.state().alarms]}

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4")

    return app


async def _body(request: Request, max_bytes: int) -> Mapping[str, Any]:
    """The JSON object of a request, read no further than is allowed."""
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > max_bytes:
            raise HTTPException(413, f"the body is larger than {max_bytes} bytes")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"the body is not JSON: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("inputs"), dict):
        raise HTTPException(422, 'expected {"inputs": {NAME: nested lists}}')
    inputs: Mapping[str, Any] = found["inputs"]
    return inputs


def _feeds(inputs: Mapping[str, Any], session: Session) -> dict[str, Any]:
    expected = {item.name: item for item in session.get_inputs()}
    if inputs.keys() != expected.keys():
        raise HTTPException(422, f"expected the inputs {', '.join(expected)}")
    return {name: _array(values, expected[name]) for name, values in inputs.items()}


def _array(values: Any, item: Any) -> Any:
    try:
        found = np.array(values)
        array: Any = found.astype(TYPES[item.type])
    except (ValueError, TypeError, OverflowError) as error:
        raise HTTPException(422, f"input {item.name} is no array of numbers") from error
    if not array.size or not np.array_equal(array, found):
        raise HTTPException(422, f"input {item.name} is empty, or its values do not fit {item.type}")
    fits = array.ndim == len(item.shape) and all(
        not isinstance(wanted, int) or wanted == extent for wanted, extent in zip(item.shape, array.shape, strict=True)
    )
    if not fits:
        raise HTTPException(422, f"input {item.name} has shape {list(array.shape)}, expected {item.shape}")
    return array


def _answered(session: Session, feeds: Mapping[str, Any]) -> Answer:
    """Inputs whose shapes do not fit each other are found out by ONNX Runtime only."""
    try:
        return session.answer(feeds)
    except Exception as error:
        raise HTTPException(422, f"the model refuses these inputs: {type(error).__name__}") from error


def _shown(answer: Answer) -> dict[str, Any]:
    decisions = answer.decisions
    rows = range(len(decisions.scores)) if decisions else range(0)
    return {
        "request": answer.request,
        "level": answer.level,
        "outputs": {name: np.nan_to_num(array).tolist() for name, array in answer.outputs.items()},
        "decisions": [
            [{"block": item.name, "bypassed": item.bypassed, "reason": item.reason} for item in decisions.of(row)]
            for row in rows
            if decisions
        ],
    }
