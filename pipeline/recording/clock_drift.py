"""How fast a stream's own clock runs against the wall clock, and which clock its wall times came from."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from pipeline.core.clock import NS
from pipeline.core.frame import ClockSource, FrameTime
from pipeline.core.records import ClockReading

# Arrival jitters by tens of milliseconds: less than a minute would tell hundreds of ppm that are not there.
_SHORTEST_NS = 60 * NS
_SAMPLE_NS = 5 * NS
_SAMPLES = 120
_READING_NS = 60 * NS


def drift_ppm(samples: Sequence[tuple[int, int]]) -> float | None:
    """How many millionths faster the wall clock ran than PTS, over (pts_ns, wall_ns) pairs in order of PTS.

    The median slope over all pairs that are at least a third of the window apart (Theil-Sen): a third of the samples
    may be anywhere without moving it much. None when the samples cover less than a minute.
    """
    if len(samples) < 3 or samples[-1][0] - samples[0][0] < _SHORTEST_NS:
        return None
    # Relative to the first sample, floats hold nanoseconds exactly for months.
    pts, wall = (np.array(samples, np.int64) - np.array(samples[0], np.int64)).T.astype(float)
    apart = pts[None, :] - pts[:, None]
    far = apart >= (pts[-1] - pts[0]) / 3
    slopes = (wall[None, :] - wall[:, None])[far] / apart[far]
    return (float(np.median(slopes)) - 1.0) * 1e6


class ClockLog:
    """Turns the times of keyframes into the clock readings that are stored.

    A reading for the first keyframe, for each new epoch and each change of the clock's source, and once a minute for
    live streams. A file's clock is its PTS: it has no drift and needs no more readings.
    """

    def __init__(self) -> None:
        self._samples: deque[tuple[int, int]] = deque(maxlen=_SAMPLES)
        self._last: ClockReading | None = None

    def note(self, time: FrameTime) -> ClockReading | None:
        """The reading to store with the keyframe at `time`, if there is one. Call in order of time."""
        last = self._last
        changed = last is None or (last.epoch, last.clock) != (time.epoch, time.clock)
        if changed:
            self._samples.clear()
        if not self._samples or time.pts_ns - self._samples[-1][0] >= _SAMPLE_NS:
            self._samples.append((time.pts_ns, time.wall_ns))
        due = (
            last is not None
            and time.clock is not ClockSource.FILE
            and time.wall_ns - last.wall_ns >= _READING_NS
        )
        if not changed and not due:
            return None
        self._last = ClockReading(
            time.wall_ns, time.pts_ns, time.epoch, time.clock, drift_ppm(tuple(self._samples))
        )
        return self._last
