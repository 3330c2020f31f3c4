"""Local cameras through OpenCV."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction

import cv2

from pipeline.records import Gap, ResumePoint
from pipeline.sources.latest import LatestFrame
from pipeline.sources.live_clock import Arrival, LiveClock
from pipeline.sources.picture import DecodedFrame, from_array
from pipeline.sources.source import SourceCounts, SourceInfo, SourceKind

_POLL_S = 0.2


class Webcam:
    """A camera by number (`0`) or device (`/dev/video0`): newest frame wins, time of arrival is the clock.

    Raises `ValueError` when the device cannot be opened.
    """

    def __init__(self, uri: str, *, stream: str, wall_clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._capture = cv2.VideoCapture(int(uri) if uri.isdigit() else uri)
        ok, first = self._capture.read() if self._capture.isOpened() else (False, None)
        if not ok or first is None:
            self._capture.release()
            raise ValueError(
                f"{uri}: cannot open this camera; check that it is plugged in and not used elsewhere"
            )
        self._now = wall_clock_ns
        self._stop = threading.Event()
        self._box = LatestFrame()
        self._resume = ResumePoint()
        self._frames = 0
        self._info = SourceInfo(
            stream=stream,
            address=uri,
            kind=SourceKind.WEBCAM,
            width=int(first.shape[1]),
            height=int(first.shape[0]),
            start_wall_ns=self._now(),
            fingerprint=f"webcam:{uri}",
        )

    @property
    def info(self) -> SourceInfo:
        return self._info

    @property
    def counts(self) -> SourceCounts:
        return SourceCounts(frames=self._frames, dropped=self._box.dropped)

    def resume_after(self, point: ResumePoint) -> None:
        """A camera cannot go back: numbering goes on, and the time since `point` becomes an outage."""
        self._resume = point

    def close(self) -> None:
        self._stop.set()
        self._box.finish()

    def __iter__(self) -> Iterator[DecodedFrame | Gap | None]:
        if self._resume.pts_ns >= 0 and self._resume.wall_ns < self._info.start_wall_ns:
            yield Gap(self._resume.wall_ns, self._info.start_wall_ns, "outage", 0)
        threading.Thread(target=self._read_forever, name=f"webcam-{self._info.stream}", daemon=True).start()
        while not self._box.finished:
            yield self._box.take(_POLL_S)

    def _read_forever(self) -> None:
        index = self._resume.frame + 1
        begun = max(self._resume.wall_ns, self._info.start_wall_ns)
        clock = LiveClock(replace(self._resume, wall_ns=begun), max_error_ns=0)
        while not self._stop.is_set():
            ok, bgr = self._capture.read()
            if not ok:
                break
            moment = clock.at(None, Fraction(1), None, Arrival(self._now(), time.monotonic_ns()))
            assert moment is not None
            rgb = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
            self._frames += 1
            self._box.put(from_array(self._info.stream, index, moment, rgb))
            index += 1
        self._capture.release()
        self._box.finish()
