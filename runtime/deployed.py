"""A deployment's session: a compiled file or an original behind the call shape of `onnxruntime.InferenceSession`.

The file runs as it was shipped. Levels and decisions that it does not have in force or among its outputs come from
variants made in memory; each is loaded when it is first needed, and costs the memory of one more session.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from skipc.runtime import names
from skipc.runtime import session as opening
from skipc.runtime.answer import Answer, Facts, Feeds, Observer, Source
from skipc.runtime.decisions import Rows, limits_of
from skipc.runtime.errors import InputError
from skipc.runtime.plan import Plan, plan_from_json
from skipc.runtime.shown import Shown
from skipc.runtime.variants import BYPASS, Level, Variant


class _Serving(NamedTuple):
    """What answers requests, exchanged as one: a request sees the old one or the new one.

    Attributes:
        source: that the answers name.
        session: loaded, with or without what shows decisions.
        outputs: of the file.
        values: that show decisions.
    """

    source: Source
    session: opening.Session
    outputs: list[str]
    values: list[str]


class Session:
    """A loaded model. Safe to use from several threads at once.

    Args:
        model: path of a compiled file or an original, or its bytes.
        provider: ``cpu`` or ``cuda``.
        threads: intra-op threads; 0 leaves the choice to ONNX Runtime.
        level: 0 never bypasses, `BYPASS` always does; None for the one that the file says.
        observers: see every answer. With any, decisions are computed for every request.
        forcible: let `warm_up` choose the branches; see `Variant`.
        clock: seconds since 1970.

    Raises:
        InputError: the file is missing or not loadable, the provider does not run it, or there is no such level.
    """

    def __init__(
        self,
        model: bytes | str | Path,
        *,
        provider: str = "cpu",
        threads: int = 1,
        level: Level | None = None,
        observers: Sequence[Observer] = (),
        forcible: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._source = model if isinstance(model, bytes) else Path(model)
        self._where = "" if isinstance(model, bytes) else str(model)
        self._data = model if isinstance(model, bytes) else _read(Path(model))
        self._provider, self._threads, self._clock, self._observers = provider, threads, clock, tuple(observers)
        self._lock = threading.Lock()
        self._loaded: dict[Variant, opening.Session] = {}
        self._prefix, self._numbers = uuid.uuid4().hex[:20], itertools.count()
        self._bindings: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
        self._own = self._load(Variant())
        self._plan = _plan(self._own, self._where)
        self._shown = Shown.of(self._plan) if self._plan and self._plan.blocks else None
        self._digest = hashlib.sha256(self._data).hexdigest()
        self._forcible = forcible and self._plan is not None
        self._serving = self._served(self._checked(level), decisions=bool(observers))
        for observer in self._observers:
            observer.attach(self)

    @property
    def plan(self) -> Plan | None:
        """The plan inside a compiled file; None for an original."""
        return self._plan

    @property
    def digest(self) -> str:
        """SHA-256 of the file as given."""
        return self._digest

    @property
    def provider(self) -> str:
        """The provider that really runs the model, ``cpu`` or ``cuda``."""
        return self._own.provider

    @property
    def level(self) -> Level:
        """The level in force. Setting it loads that level first; requests under way end at the old one."""
        return self._serving.source.level

    @level.setter
    def level(self, level: Level) -> None:
        self._serving = self._served(self._checked(level), decisions=bool(self._observers))

    def get_inputs(self) -> list[Any]:
        """As of `onnxruntime.InferenceSession`."""
        return list(self._own.inference.get_inputs())

    def get_outputs(self) -> list[Any]:
        """As of `onnxruntime.InferenceSession`; what variants add is not among them."""
        return list(self._own.inference.get_outputs())

    def get_providers(self) -> list[str]:
        """As of `onnxruntime.InferenceSession`: what really runs the model comes first."""
        return list(self._own.inference.get_providers())

    def run(self, output_names: Sequence[str] | None, input_feed: Feeds, run_options: Any = None) -> list[Any]:
        """As `onnxruntime.InferenceSession.run`: outputs in the order asked for, all of them for None."""
        if self._observers:
            answer = self._answered(self._serving, input_feed, output_names, run_options)
            for observer in self._observers:
                observer.observe(answer)
            return list(answer.arrays)
        wanted = list(output_names or self._own.outputs)
        found: list[Any] = self._serving.session.inference.run(wanted, input_feed, run_options)
        return found

    def run_batches(self, batches: Iterable[Feeds], output_names: Sequence[str] | None = None) -> Iterator[list[Any]]:
        """Run one batch after the other; each is read when the one before has been answered."""
        for feeds in batches:
            yield self.run(output_names, feeds)

    def answer(
        self,
        feeds: Feeds,
        output_names: Sequence[str] | None = None,
        *,
        request: str = "",
        reference: str = "",
        level: Level | None = None,
        run_options: Any = None,
    ) -> Answer:
        """Run once and give the decisions too.

        Args:
            feeds: inputs by name; a file made with `--level-input` also takes the level of the request there.
            output_names: None for all.
            request: its identifier; empty for a random one.
            reference: what the caller knows it by, for the log.
            level: for this request only; observers do not see such requests.
            run_options: `onnxruntime.RunOptions`.
        """
        wanted = list(dict.fromkeys(output_names)) if output_names else None
        if level is None and self._observers:
            serving = self._serving
        else:
            serving = self._served(self.level if level is None else self._checked(level), decisions=True)
        answer = self._answered(serving, feeds, wanted, run_options, request, reference)
        for observer in self._observers if level is None else ():
            observer.observe(answer)
        return answer

    def _answered(
        self,
        serving: _Serving,
        feeds: Feeds,
        output_names: Sequence[str] | None,
        run_options: Any,
        request: str = "",
        reference: str = "",
    ) -> Answer:
        """Run once. Each step costs a request microseconds, since the model has driven our code out of the caches."""
        source, session, outputs, values = serving
        wanted = outputs if output_names is None else list(output_names)
        start = time.perf_counter()
        found = session.inference.run(wanted + values, feeds, run_options)
        latency_ms = (time.perf_counter() - start) * 1e3
        if names.LEVEL in feeds:
            source = self._source_of(max(0, int(feeds[names.LEVEL])))
        rows = 0 if values else _extent(feeds[self._own.inputs[0]])
        count = len(wanted)
        shown = found[count:]
        facts = Facts(source, next(self._numbers), self._clock(), latency_ms, shown, rows, request, reference)
        return Answer(facts, feeds, wanted, found[:count])

    def warm_up(self, batches: Iterable[Feeds]) -> tuple[str, ...]:
        """Run a few batches ahead of requests: the first run of a branch allocates, and on CUDA tunes convolutions.

        A forcible session takes both branches of every gate on each batch. Any other takes those that its gates choose.

        Returns:
            regions of which one branch was never taken, to be warmed up with other batches.
        """
        forced = self._forced()
        shares = []
        for feeds in batches:
            for limits in forced:
                self._serving.session.inference.run(None, {**feeds, **limits})
            shares.append(self._shares(feeds))
        if self._forcible or not shares or self._plan is None:
            return ()
        live = [limits.is_live for limits in limits_of(self._plan, self.level)]
        seen = np.concatenate(shares)
        one_sided = live & ((seen == 0).all(axis=0) | (seen == 1).all(axis=0))
        return tuple(self._plan.blocks[k].region.name for k in np.flatnonzero(one_sided))

    def _forced(self) -> tuple[Feeds, ...]:
        """Tables of limits that force all gates, one way and the other; for what cannot be forced, none at all."""
        if not self._forcible or self._plan is None:
            return ({},)
        shape = (len(self._plan.thresholds), len(self._plan.blocks))
        floors = np.full((1, shape[1]), -np.inf, np.float32)
        limits = (np.full(shape, limit, np.float32) for limit in (-np.inf, np.inf))
        return tuple({names.THRESHOLDS: table, names.FLOORS: floors} for table in limits)

    def _shares(self, feeds: Feeds) -> Rows:
        """Shares bypassed, [batch, gates], without telling the observers."""
        decisions = self.answer(feeds, level=self.level).decisions
        return np.zeros((1, 0), np.float32) if decisions is None else decisions.bypassed

    def io_binding(self) -> Any:
        """An `onnxruntime.IOBinding` at the level in force, for `run_with_iobinding`; observers do not see its runs."""
        serving = self._serving.session.inference
        binding = serving.io_binding()
        self._bindings[binding] = serving
        return binding

    def run_with_iobinding(self, binding: Any, run_options: Any = None) -> None:
        """As of `onnxruntime.InferenceSession`; a binding stays at the level at which it was made."""
        self._bindings[binding].run_with_iobinding(binding, run_options)

    def _load(self, variant: Variant) -> opening.Session:
        """The session of a variant, loaded when it is first asked for."""
        with self._lock:
            if variant not in self._loaded:
                data = self._source if variant == Variant() else variant.of(self._data)
                self._loaded[variant] = opening.open_session(
                    data, provider=self._provider, threads=self._threads, where=self._where
                )
            return self._loaded[variant]

    def _served(self, level: Level, *, decisions: bool) -> _Serving:
        """What answers at a level, with or without what shows decisions."""
        source, outputs = self._source_of(level), list(self._own.outputs)
        if self._plan is None or self._shown is None:
            return _Serving(source, self._own, outputs, [])
        values = self._shown.values if decisions else ()
        other = None if level == self._plan.level else level
        return _Serving(source, self._load(Variant(other, values, self._forcible)), outputs, list(values))

    def _source_of(self, level: Level) -> Source:
        limits = limits_of(self._plan, level) if self._plan else ()
        return Source(self._digest, level, self._shown, limits, self._prefix)

    def _checked(self, level: Level | None) -> Level:
        levels = len(self._plan.thresholds) if self._plan else 1
        if level is None:
            return self._plan.level if self._plan else 0
        if (level == BYPASS and self._plan) or (isinstance(level, int) and 0 <= level < levels):
            return level
        hint = f"this file has levels 0 to {levels - 1}; 0 never bypasses" if self._plan else "an original has only 0"
        raise InputError("level-unknown", f"there is no level {level}", where=self._where, hint=hint)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        what = f"cannot read the model: {error.strerror or error}"
        raise InputError("model-unreadable", what, where=str(path), hint="check the path") from error


def _extent(array: Any) -> int:
    """Of the first axis; 1 for a scalar."""
    shape = np.shape(array)
    return int(shape[0]) if shape else 1


def _plan(session: opening.Session, where: str) -> Plan | None:
    """The plan inside a compiled file, None for an original; ONNX Runtime hands it out, so that onnx is not needed."""
    text = session.inference.get_modelmeta().custom_metadata_map.get(names.PLAN_KEY)
    return plan_from_json(text, where=where) if text else None
