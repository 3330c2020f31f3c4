"""A mailbox with one place between a live decoder thread and a slower consumer."""

from __future__ import annotations

import threading
from collections import deque

from pipeline.core.dropping import KEEP_LATEST, DropPolicy
from pipeline.core.records import Gap, GapReason
from pipeline.sources.picture import DecodedFrame


class FrameMailbox:
    """Keeps one frame and every gap; frames that the policy drops are counted and told as gaps.

    `put` waits only where the policy would rather have the source wait than lose a frame. `take` waits up to `timeout_s`
    and returns None when nothing came; `finish` ends the stream and frees who waits.
    """

    def __init__(self, policy: DropPolicy = KEEP_LATEST) -> None:
        self._policy = policy
        self._ready = threading.Condition()
        self._gaps: deque[Gap] = deque()
        self._frame: DecodedFrame | None = None
        # Dropped before the frame that waits, and after it.
        self._before: tuple[int, int] | None = None
        self._after: tuple[int, int] | None = None
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
            while self._frame is not None and not self._finished:
                held_ns = self._frame.time.wall_ns
                gone = self._policy.gives_way([held_ns], frame.time.wall_ns)
                if gone is None:
                    self._ready.wait()
                    continue
                self._dropped += 1
                if gone == 1:
                    self._after = _run(self._after, frame.time.wall_ns)
                    return
                self._before = _joined(_run(self._before, held_ns), self._after)
                self._frame = self._after = None
            if self._frame is None:
                self._frame = frame
                if self._after is not None:
                    self._before, self._after = _joined(self._before, self._after), None
            self._ready.notify_all()

    def put_gap(self, gap: Gap) -> None:
        with self._ready:
            self._gaps.append(gap)
            self._ready.notify_all()

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
            if self._before is not None:
                since_ns, count = self._before
                self._before = None
                return Gap(since_ns, frame.time.wall_ns, GapReason.DROPPED, count)
            self._frame = None
            self._ready.notify_all()
            return frame


def _run(run: tuple[int, int] | None, wall_ns: int) -> tuple[int, int]:
    """A run of dropped frames, (first wall ns, count), with one more."""
    return (wall_ns, 1) if run is None else (run[0], run[1] + 1)


def _joined(first: tuple[int, int] | None, then: tuple[int, int] | None) -> tuple[int, int] | None:
    if first is None or then is None:
        return first or then
    return first[0], first[1] + then[1]
