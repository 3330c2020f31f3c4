"""Remote calls in flight, each with a deadline and somebody who is told how it ended."""

from __future__ import annotations

import logging
from collections.abc import Callable, KeysView
from dataclasses import dataclass
from typing import Any

from pipeline.core.errors import StageFailed
from pipeline.runtime.driver.remote import Answered, Call, Clock, Event, Fault, FaultKind

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Pending:
    then: Callable[[Any], None]
    failed: Callable[[Fault], None]
    until_s: float


class Calls:
    """Pending calls. `then` is called with an answer, `failed` with the fault: of kind LATE when the time is over.

    The traceback of whatever a stage raised goes to the log here, whoever is told of it.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pending: dict[Call, _Pending] = {}

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def pending(self) -> KeysView[Call]:
        return self._pending.keys()

    def add(
        self,
        call: Call,
        then: Callable[[Any], None],
        failed: Callable[[Fault], None],
        deadline_s: float,
    ) -> None:
        assert call not in self._pending
        self._pending[call] = _Pending(then, failed, self._clock.steady_s() + deadline_s)

    def forget(self, call: Call) -> None:
        self._pending.pop(call, None)

    def forget_all(self) -> None:
        self._pending.clear()

    def hear(self, event: Event) -> None:
        """Tell whoever waits for the call; nobody when it was forgotten, or given up as late."""
        pending = self._pending.pop(event.call, None)
        if pending is None:
            return
        if isinstance(event, Answered):
            pending.then(event.value)
            return
        if event.fault.trace:
            log_trace(str(event.fault.error), event.fault.trace)
        pending.failed(event.fault)

    def expire(self) -> None:
        """Give up the calls whose time is over."""
        now_s = self._clock.steady_s()
        for call, pending in list(self._pending.items()):
            if now_s > pending.until_s and self._pending.pop(call, None) is not None:
                pending.failed(Fault(FaultKind.LATE, StageFailed("gave no answer in time")))


def log_trace(what: str, trace: str) -> None:
    """A fault of ours in a stage, which goes on by policy: nobody else would ever see where it came from."""
    log.error("a fault of the program: %s\n%s", what, trace.rstrip())
