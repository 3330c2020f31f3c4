"""A recording that plays at its own speed, as a camera would."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

from pipeline.core.records import Gap, ResumePoint
from pipeline.sources import DecodedFrame, Source, SourceCounts, SourceInfo


class RealTime:
    """A source whose frames come no earlier than their PTS says, counted from the first one.

    Frames that come late are passed on at once: like a camera, it never waits for its consumer.
    `clock`: seconds, steady.
    """

    def __init__(self, source: Source, clock: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._clock = clock
        self._stop = threading.Event()

    @property
    def info(self) -> SourceInfo:
        return self._source.info

    @property
    def counts(self) -> SourceCounts:
        return self._source.counts

    def resume_after(self, point: ResumePoint) -> None:
        self._source.resume_after(point)

    def __iter__(self) -> Iterator[DecodedFrame | Gap | None]:
        origin: float | None = None
        for event in self._source:
            if isinstance(event, DecodedFrame):
                due = event.time.pts_ns / 1e9
                origin = self._clock() - due if origin is None else origin
                if self._stop.wait(max(0.0, origin + due - self._clock())):
                    return
            yield event

    def close(self) -> None:
        self._stop.set()
        self._source.close()
