"""Remote calls in flight, each with a deadline and somebody who is told how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray

# Results are small and ready when they are fetched: this only bounds a broken connection.
_FETCH_S = 30.0


@dataclass(frozen=True, slots=True)
class _Call:
    then: Callable[[Any], None]
    failed: Callable[[Exception], None]
    until: float


class Calls:
    """Pending calls. `then` is called with a result, `failed` with what was raised, or `TimeoutError` when late."""

    def __init__(self) -> None:
        self._pending: dict[Any, _Call] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def add(
        self,
        ref: Any,
        then: Callable[[Any], None],
        failed: Callable[[Exception], None],
        deadline_s: float,
    ) -> None:
        self._pending[ref] = _Call(then, failed, time.monotonic() + deadline_s)

    def forget(self, ref: Any) -> None:
        self._pending.pop(ref, None)

    def wait(self, timeout_s: float) -> None:
        """Wait up to `timeout_s` for any call, and tell the outcome of all that are done or late."""
        refs = list(self._pending)
        if not refs:
            time.sleep(timeout_s)
            return
        ready, _ = ray.wait(refs, num_returns=1, timeout=timeout_s)
        if ready:
            more, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
            ready = list(dict.fromkeys([*ready, *more]))
        for ref in ready:
            call = self._pending.pop(ref, None)
            if call is None:
                continue
            try:
                value = ray.get(ref, timeout=_FETCH_S)
            except Exception as error:
                call.failed(error)
            else:
                call.then(value)
        now = time.monotonic()
        for ref, call in list(self._pending.items()):
            if now > call.until and self._pending.pop(ref, None) is not None:
                call.failed(TimeoutError("no answer in time"))
