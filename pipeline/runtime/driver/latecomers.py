"""New cameras that did not answer when a run began: asked again while the others are watched, and let in when they do."""

from __future__ import annotations

import logging
import queue
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from pipeline.core.errors import SourceAway, UserError
from pipeline.core.restarts import backoff_s
from pipeline.runtime.plan import AwayStream, StreamPlan
from pipeline.sources import redact_text

log = logging.getLogger(__name__)

_LEAST_S = 1.0


class Latecomers:
    """Asks each camera in a thread of its own, with growing pauses. `engines`: what computes, as its stream will say.

    `pause`: seconds until the next try after so many, for the longest that the camera's settings allow.
    """

    def __init__(
        self,
        away: Sequence[AwayStream],
        engines: str,
        pause: Callable[[int, float], float] | None = None,
    ) -> None:
        self._engines = engines
        self._pause = pause or _pause_s
        self._over = threading.Event()
        self._arrived: queue.SimpleQueue[StreamPlan | tuple[AwayStream, UserError]] = queue.SimpleQueue()
        self._missing: dict[str, UserError] = {one.stream: one.why for one in away}
        for one in away:
            if one.why.again:
                threading.Thread(
                    target=self._ask, args=(one,), name=f"late-{one.stream}", daemon=True
                ).start()

    @property
    def missing(self) -> dict[str, UserError]:
        """Streams that are not watched yet, and why."""
        return dict(self._missing)

    def arrived(self) -> list[StreamPlan]:
        """Those that have answered since the last question."""
        plans: list[StreamPlan] = []
        while True:
            try:
                found = self._arrived.get_nowait()
            except queue.Empty:
                return plans
            if isinstance(found, StreamPlan):
                del self._missing[found.stream]
                plans.append(replace(found, info=replace(found.info, engines=self._engines)))
            else:
                stream, why = found[0].stream, found[1]
                self._missing[stream] = why
                log.error("%s: %s; it is not asked again in this run", stream, why)

    def end(self) -> None:
        """Ask nobody any more."""
        self._over.set()

    def _ask(self, one: AwayStream) -> None:
        tries = 0
        while not self._over.wait(self._pause(tries, one.config.sources.max_backoff_s)):
            tries += 1
            try:
                self._arrived.put(one.meet())
                return
            except SourceAway as error:
                if error.again:
                    continue
                self._arrived.put((one, error))
                return
            except UserError as error:
                self._arrived.put((one, error))
                return
            except Exception as error:
                log.exception("%s: asking for it failed", one.stream)
                why = f"asking for it failed ({redact_text(str(error))}); please report this"
                self._arrived.put((one, UserError(why)))
                return


def _pause_s(tries: int, longest_s: float) -> float:
    return max(_LEAST_S, backoff_s(tries + 1, random.random(), longest_s))
