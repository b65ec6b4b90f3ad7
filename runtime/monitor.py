"""Watch a deployment: live bypass rates and scores against calibration, and audits that run requests in full as well.

An alarm means one of two things, each with its own bound on the probability that it is ever false:

- *scores*: live scores are not distributed as calibration's were, so the certificate's assumption does not hold. The
  loss may still be fine: gates run more of the network on unfamiliar input.
- *loss*: the mean loss of the audited requests exceeds the certificate's limit: the promise is broken. False means
  that the true mean, given what came before, was never above the limit.

Both bounds are halves of `false_alarms`, the first shared out evenly among the gates.
"""

from __future__ import annotations

import logging
import random
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skipc.runtime.answer import Answer, Facts, Feeds
from skipc.runtime.errors import InputError
from skipc.runtime.losses import LOSSES, Audited, on_real_tokens
from skipc.runtime.plan import Array, Plan
from skipc.runtime.watch import Alarm, State, Watch

if TYPE_CHECKING:
    from types import TracebackType

    from skipc.runtime.deployed import Session


PAUSE_S = 0.05
"""From one look at what waits to the next."""


@dataclass(frozen=True, eq=False)
class _Seen:
    """What the worker needs of an answer; feeds and output are copies, and None where it is not audited."""

    facts: Facts
    feeds: Feeds | None
    output: Array | None


class Monitor:
    """An observer of one `Session`; its work is done by a thread of its own.

    Args:
        audit_share: of the requests, chosen at random, that also run at level 0, whose session it loads.
        loss: of the audits; None for the certificate's, where that needs no labels.
        false_alarms: probability, over the monitor's whole life, that any alarm is false.
        fall_back: whether an alarm puts level 0 in force.
        on_alarm: called in the monitor's thread, or in that of `flush`.
        window: live scores that PSI and KS look at.
        waiting: requests that may wait for the thread; more are skipped, and counted.
        seed: of every random choice.
    """

    def __init__(
        self,
        *,
        audit_share: float = 0.02,
        loss: Audited | None = None,
        false_alarms: float = 0.01,
        fall_back: bool = False,
        on_alarm: Callable[[Alarm], None] | None = None,
        window: int = 1000,
        waiting: int = 1000,
        seed: int = 0,
    ) -> None:
        self._audit_share, self._loss, self._fall_back, self._on_alarm = audit_share, loss, fall_back, on_alarm
        self._false_alarms, self._window, self._seed = false_alarms, window, seed
        self._random = random.Random(seed)
        self._most_waiting = waiting
        self._waiting: deque[_Seen] = deque()
        self._lock, self._turn, self._closed = threading.Lock(), threading.Lock(), threading.Event()
        self._skipped = 0
        self._worker = threading.Thread(target=self._work, name="skipc monitor", daemon=True)

    def attach(self, session: Session) -> None:
        """See `Observer.attach`.

        Raises:
            InputError: the session has an original, or a loss that cannot be audited without labels.
        """
        plan = session.plan
        if plan is None:
            raise InputError(
                "not-compiled", "an original has no gates to watch", hint="compile it with `skipc compile`"
            )
        self._session = session
        self._output = plan.certificate.output if plan.certificate else session.get_outputs()[0].name
        self._judge, self._mask = self._judged_by(plan), plan.mask
        self._watch = Watch(plan, session.level, false_alarms=self._false_alarms, window=self._window, seed=self._seed)
        self._worker.start()

    def _judged_by(self, plan: Plan) -> Audited | None:
        """The loss of the audits; None where there are none."""
        if self._audit_share == 0.0 or plan.certificate is None:
            return None
        found = self._loss or LOSSES.get(plan.certificate.loss)
        if found is None:
            what = f"the loss {plan.certificate.loss} cannot be audited by its name alone"
            raise InputError("loss-unknown", what, hint="give Monitor(loss=...), or audit_share=0")
        return found

    def observe(self, answer: Answer) -> None:
        """See `Observer.observe`."""
        if self._closed.is_set():
            return
        if len(self._waiting) >= self._most_waiting:
            with self._lock:
                self._skipped += 1
            return
        audited = self._judge is not None and answer.level != 0 and self._random.random() < self._audit_share
        audited = audited and self._output in answer.names
        # Waking the thread for each request would cost the request some 40 µs: it looks now and then.
        self._waiting.append(self._seen(answer, audited=audited))

    def _seen(self, answer: Answer, *, audited: bool) -> _Seen:
        if not audited:
            return _Seen(answer.facts, None, None)
        feeds = {name: np.array(array) for name, array in answer.feeds.items()}
        return _Seen(answer.facts, feeds, np.array(answer.outputs[self._output]))

    def _work(self) -> None:
        while not self._closed.wait(PAUSE_S):
            self.flush()
        self.flush()

    def flush(self) -> None:
        """Look at every request that waits, in this thread."""
        with self._turn:
            while self._waiting:
                try:
                    self._look_at(self._waiting.popleft())
                except Exception:
                    # A loss or callback that fails must not end the watch.
                    logging.getLogger(__name__).exception("a request could not be watched")

    def _look_at(self, seen: _Seen) -> None:
        request, decisions = seen.facts.request, seen.facts.decisions
        if decisions is None:
            return
        with self._lock:
            alarms = self._watch.observe(request, seen.facts.source.level, decisions.scores, decisions.bypassed)
        if seen.feeds is not None and seen.output is not None and self._judge is not None:
            full = self._session.answer(seen.feeds, [self._output], level=0).outputs[self._output]
            real = seen.feeds[self._mask] != 0 if self._mask in seen.feeds else None
            loss = float(np.mean(on_real_tokens(self._judge, full, seen.output, real)))
            with self._lock:
                alarms += self._watch.audit(request, loss)
        for alarm in alarms:
            if self._fall_back:
                self._session.level = 0
            if self._on_alarm is not None:
                self._on_alarm(alarm)

    def state(self) -> State:
        """What is known now, of the requests that the thread has got to."""
        with self._lock:
            return self._watch.state(self._session.level, self._skipped)

    def close(self) -> None:
        """Look at what is waiting, and end; later requests are no longer watched."""
        self._closed.set()
        if self._worker.is_alive():
            self._worker.join()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
