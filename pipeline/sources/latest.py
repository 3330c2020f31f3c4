"""A one-frame mailbox between a live decoder thread and a slower consumer."""

from __future__ import annotations

import threading
from collections import deque

from pipeline.core.records import Gap
from pipeline.sources.picture import DecodedFrame


class LatestFrame:
    """Keeps the newest frame and every gap; frames that nobody took in time are dropped, counted and told as gaps.

    `put` never blocks. `take` waits up to `timeout_s` and returns None when nothing came; `finish` ends the stream.
    """

    def __init__(self) -> None:
        self._ready = threading.Condition()
        self._gaps: deque[Gap] = deque()
        self._frame: DecodedFrame | None = None
        self._dropped_since: int | None = None
        self._dropped_run = 0
        self._dropped = 0
        self._finished = False

    @property
    def dropped(self) -> int:
        return self._dropped

    @property
    def finished(self) -> bool:
        with self._ready:
            return self._finished and self._frame is None and not self._gaps

    def put(self, frame: DecodedFrame) -> None:
        with self._ready:
            if self._frame is not None:
                self._dropped += 1
                self._dropped_run += 1
                if self._dropped_since is None:
                    self._dropped_since = self._frame.time.wall_ns
            self._frame = frame
            self._ready.notify()

    def put_gap(self, gap: Gap) -> None:
        with self._ready:
            self._gaps.append(gap)
            self._ready.notify()

    def finish(self) -> None:
        with self._ready:
            self._finished = True
            self._ready.notify_all()

    def take(self, timeout_s: float) -> DecodedFrame | Gap | None:
        with self._ready:
            if not self._gaps and self._frame is None and not self._finished:
                self._ready.wait(timeout_s)
            if self._gaps:
                return self._gaps.popleft()
            frame = self._frame
            if frame is None:
                return None
            if self._dropped_since is not None:
                gap = Gap(self._dropped_since, frame.time.wall_ns, "dropped", self._dropped_run)
                self._dropped_since, self._dropped_run = None, 0
                return gap
            self._frame = None
            return frame
