"""Where models run for measuring losses: in this process, in processes beside it, or on a Dask cluster.

An executor opens a model and gives a session that is used as any other; only where it runs differs. Losses come out
the same everywhere, since each run is of one thread on the same bytes and feeds. Time is never measured through one.
Sending a run away takes about half a millisecond to a process and some milliseconds to a cluster: it pays for models
that run longer than that.
"""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cache
from multiprocessing import get_context
from threading import Lock
from typing import Any, Protocol

import onnx

from skipc.compiler.cache import Cache
from skipc.compiler.data import input_specs
from skipc.runtime.errors import InputError
from skipc.runtime.plan import Array
from skipc.runtime.session import Session, open_session

TRIES = 3
"""Of a run whose worker dies; one that kills every worker it meets is given up."""

KEPT = 4
"""Models that a worker keeps open."""

AHEAD = 4
"""Runs on their way to a thread of a cluster, so that it need not wait for the next one."""

CONNECT_SECONDS = 10

Feeds = Mapping[str, Array]


class Executor(Protocol):
    """Opens models for measuring.

    Attributes:
        cache: of what was measured.
    """

    cache: Cache

    def open(self, model: bytes) -> Session:
        """A session of a serialized model; several threads may use it."""
        ...


class Local:
    """Runs models in this process, on as many threads as it has cores."""

    def __init__(self, cache: Cache | None = None) -> None:
        self.cache = cache or Cache()

    def open(self, model: bytes) -> Session:
        """See `Executor.open`."""
        return open_session(model)


class Remote:
    """What stands in the place of ONNX Runtime's session: runs happen where `send` sends them.

    Args:
        model: serialized.
        send: runs a model once; (this, outputs wanted, feeds) → the outputs, or raises one of `dead`.
        dead: errors that mean that a worker died, so that the run is worth another try.
        renew: mends what a death has broken.
    """

    def __init__(
        self,
        model: bytes,
        send: Callable[[Remote, Sequence[str], Feeds], list[Array]],
        dead: tuple[type[BaseException], ...],
        renew: Callable[[Remote], None],
    ) -> None:
        self.model = model
        self.digest = hashlib.sha256(model).hexdigest()
        self._send, self._dead, self._renew = send, dead, renew

    def run(self, wanted: Sequence[str], feeds: Feeds) -> list[Array]:
        """Run the model once, again where a worker dies.

        Raises:
            InputError: ``workers-died``: the run has killed every worker that tried it.
        """
        for _ in range(TRIES):
            try:
                return self._send(self, wanted, feeds)
            except self._dead:
                self._renew(self)
        hint = "if memory is short, fewer workers need less of it: lower --workers, or leave it out"
        raise InputError("workers-died", f"{TRIES} workers died over one run, one after the other", hint=hint)

    def session(self, parallel: int) -> Session:
        """This as a session that takes so many runs at a time."""
        proto = onnx.ModelProto.FromString(self.model)
        inputs = tuple(spec.name for spec in input_specs(proto))
        return Session("cpu", inputs, tuple(item.name for item in proto.graph.output), self, parallel)


class Processes:
    """Runs models in processes of this machine; a worker gets a model with the first run that needs it."""

    def __init__(self, count: int, cache: Cache | None = None) -> None:
        self.cache = cache or Cache()
        self._count = count
        self._lock = Lock()
        self._pool = self._new_pool()

    def open(self, model: bytes) -> Session:
        """See `Executor.open`."""
        return Remote(model, self._send, (BrokenProcessPool,), self._renew).session(self._count)

    def close(self) -> None:
        """End the workers."""
        self._pool.shutdown(cancel_futures=True)

    def _new_pool(self) -> ProcessPoolExecutor:
        # A forked child would inherit ONNX Runtime's locks without the threads that hold them. Ctrl-C reaches children
        # too; this process answers it for all of them.
        return ProcessPoolExecutor(self._count, get_context("spawn"), signal.signal, (signal.SIGINT, signal.SIG_IGN))

    def _send(self, remote: Remote, wanted: Sequence[str], feeds: Feeds) -> list[Array]:
        found = self._pool.submit(run_here, remote.digest, None, wanted, feeds).result()
        if found is None:
            found = self._pool.submit(run_here, remote.digest, remote.model, wanted, feeds).result()
        assert found is not None
        return found

    def _renew(self, _remote: Remote) -> None:
        """One dead worker breaks a whole pool, for all threads that wait on it; the first of them replaces it."""
        with self._lock:
            try:
                self._pool.submit(int).result()
            except BrokenProcessPool:
                self._pool.shutdown(wait=False)
                self._pool = self._new_pool()


class Cluster:
    """Runs models on the workers of a Dask cluster, which fetch a model from one another, once each."""

    def __init__(self, address: str, cache: Cache | None = None) -> None:
        self.cache = cache or Cache()
        try:
            from distributed import Client, KilledWorker
        except ImportError as error:
            hint = "pip install 'skipc[dask]'"
            raise InputError("dask-missing", "the package distributed is not installed", hint=hint) from error
        try:
            self._client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            hint = "give the scheduler's address, such as tcp://host:8786, and check that it runs"
            what = f"no Dask scheduler answers: {' '.join(str(error).split())}"
            raise InputError("dask-unreachable", what, where=f"--dask {address}", hint=hint) from error
        self._dead = (KilledWorker, CancelledError)
        self._models: dict[str, Any] = {}
        self._lock = Lock()

    def open(self, model: bytes) -> Session:
        """See `Executor.open`."""
        threads = sum(self._client.nthreads().values())
        return Remote(model, self._send, self._dead, self._renew).session(max(1, AHEAD * threads))

    def close(self) -> None:
        """Leave the cluster; its workers stay."""
        self._client.close()

    def _send(self, remote: Remote, wanted: Sequence[str], feeds: Feeds) -> list[Array]:
        if remote.digest not in self._models:
            self._renew(remote)
        model = self._models[remote.digest]
        found = self._client.submit(run_here, remote.digest, model, wanted, feeds, pure=False, retries=TRIES)
        result: list[Array] = found.result()
        return result

    def _renew(self, remote: Remote) -> None:
        """Place a model on the cluster, anew where the worker that held it died; for all threads, the first does it."""
        with self._lock:
            held = self._models.get(remote.digest)
            if held is None or held.status != "finished":
                self._models[remote.digest] = self._client.scatter(remote.model, hash=False)


class _Shelf:
    """Models that are open in a worker, the one used last at the end."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._sessions: dict[str, Session] = {}

    def session(self, digest: str, model: bytes | None) -> Session | None:
        """The session of a model, opened if need be; None where it was never opened here and is not given."""
        with self._lock:
            session = self._sessions.pop(digest, None)
            if session is None and model is not None:
                session = open_session(model)
            if session is not None:
                self._sessions[digest] = session
            while len(self._sessions) > KEPT:
                self._sessions.pop(next(iter(self._sessions)))
            return session


@cache
def _shelf() -> _Shelf:
    """The one of this process: a worker has no other place to keep what outlives a run."""
    return _Shelf()


def run_here(digest: str, model: bytes | None, wanted: Sequence[str], feeds: Feeds) -> list[Array] | None:
    """What a worker does: run a model once; None where it does not have it.

    Args:
        digest: of the model.
        model: serialized, or None where the worker may have it open.
        wanted: names of outputs.
        feeds: inputs by name.
    """
    session = _shelf().session(digest, model)
    if session is None:
        return None
    found = session.run(feeds, wanted)
    return [found[name] for name in wanted]


@contextmanager
def executor_for(workers: int, dask: str, cache: Cache | None = None) -> Iterator[Executor]:
    """The executor that the command line asks for, closed behind its use.

    Args:
        workers: processes of this machine; 0 for threads of this one.
        dask: address of a Dask scheduler; empty for none.
        cache: of what was measured; None to keep nothing.

    Raises:
        InputError: both are asked for, or the cluster cannot be reached.
    """
    if workers and dask:
        raise InputError("usage", "--workers and --dask exclude one another", hint="give one of the two")
    if not workers and not dask:
        yield Local(cache)
        return
    executor = Cluster(dask, cache) if dask else Processes(workers, cache)
    try:
        yield executor
    finally:
        executor.close()
