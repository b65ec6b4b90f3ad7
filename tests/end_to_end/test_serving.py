"""The example service over HTTP on the loopback: right answers, clear refusals, and no line lost under load."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skipc.runtime import Session
from skipc.runtime.lines import read_log
from tests.deployment import compiled, feeds

pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")
uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

MAX_BYTES = 10_000


@dataclass(frozen=True)
class Service:
    url: str
    log: Path
    server: Any
    thread: threading.Thread

    def post(self, **options: Any) -> Any:
        return httpx.post(f"{self.url}/infer", timeout=60, **options)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    from examples.serving.app import create_app

    model = tmp_path / "m.skip.onnx"
    model.write_bytes(compiled())
    app = create_app(model, tmp_path / "d.log", max_bytes=MAX_BYTES, audit_share=0.0)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    found = Service(f"http://127.0.0.1:{port}", tmp_path / "d.log", server, thread)
    yield found
    found.stop()


def inputs(seed: int, batch: int = 1) -> dict[str, Any]:
    return {"inputs": {"x": feeds(seed, batch)["x"].tolist()}}


def test_answers_are_the_sessions(service: Service) -> None:
    expected = Session(compiled()).answer(feeds(0, 2))
    found = service.post(json=inputs(0, 2))
    assert found.status_code == 200
    np.testing.assert_allclose(found.json()["outputs"]["y"], expected.outputs["y"], rtol=1e-6)
    assert expected.decisions is not None
    assert [item["reason"] for item in found.json()["decisions"][1]] == [x.reason for x in expected.decisions.of(1)]


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        ({"content": b"{"}, 400, "not JSON"),
        ({"content": b"\xff"}, 400, "not JSON"),
        ({"content": b""}, 400, "not JSON"),
        ({"content": b"[" * 9000}, 400, "not JSON"),
        ({"json": []}, 422, "expected"),
        ({"json": {"inputs": {}}}, 422, "expected the inputs x"),
        ({"json": {"inputs": {"x": [[1] * 6], "z": 1}}}, 422, "expected the inputs x"),
        ({"json": {"inputs": {"x": [[1] * 5]}}}, 422, "has shape [1, 5]"),
        ({"json": {"inputs": {"x": [1] * 6}}}, 422, "has shape [6]"),
        ({"json": {"inputs": {"x": [[1], [1, 2]]}}}, 422, "no array of numbers"),
        ({"json": {"inputs": {"x": [["a"] * 6]}}}, 422, "no array of numbers"),
        ({"json": {"inputs": {"x": []}}}, 422, "empty"),
        ({"json": {"inputs": {"x": None}}}, 422, "x"),
        ({"content": b" " * (MAX_BYTES + 1)}, 413, "larger than"),
    ],
)
def test_mistakes_of_clients_are_told(service: Service, options: dict[str, Any], status: int, words: str) -> None:
    found = service.post(**options)
    assert found.status_code == status
    assert words in found.json()["detail"]
    assert service.post(json=inputs(0)).status_code == 200


@pytest.mark.slow
def test_load_from_many_clients(service: Service) -> None:
    """Good and bad requests mixed, on connections of their own: each gets its answer, and each good one its line."""
    expected = [Session(compiled()).run(None, feeds(seed))[0] for seed in range(20)]

    def client(number: int) -> list[bool]:
        with httpx.Client(timeout=60) as connection:
            good = []
            for k in range(50):
                seed = (7 * number + k) % 20
                answer = connection.post(f"{service.url}/infer", json=inputs(seed))
                good.append(bool(np.allclose(answer.json()["outputs"]["y"], expected[seed], rtol=1e-6)))
                good.append(connection.post(f"{service.url}/infer", content=b"{").status_code == 400)
            return good

    with ThreadPoolExecutor(8) as pool:
        assert all(all(found) for found in pool.map(client, range(8)))
    text = httpx.get(f"{service.url}/metrics").text
    assert "skipc_requests_watched_total" in text
    assert httpx.get(f"{service.url}/health").json() == {"level": 1, "alarms": []}
    service.stop()
    assert len(list(read_log(service.log))) == 400
