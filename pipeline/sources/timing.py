"""Container time stamps to nanoseconds, in integers only."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from pipeline.frame import ClockSource, FrameTime

NS = 1_000_000_000


def ticks_to_ns(ticks: int, time_base: Fraction) -> int:
    """`ticks` of `time_base` seconds as nanoseconds, rounded down. Exact integer arithmetic, no fps."""
    return ticks * time_base.numerator * NS // time_base.denominator


def ns_to_ticks(ns: int, time_base: Fraction) -> int:
    """The last tick of `time_base` that does not lie after `ns`."""
    return (ns + 1) * time_base.denominator // (time_base.numerator * NS) if ns >= 0 else 0


@dataclass(slots=True)
class StreamClock:
    """Turns container time stamps of one stream into `FrameTime`s that never go backwards.

    `origin`: the time stamp of the first frame. A time stamp that steps back (concatenated recordings, a camera's
    reset) opens a new epoch that continues on the wall where the last one ended.
    """

    time_base: Fraction
    origin: int
    start_wall_ns: int
    clock: ClockSource = ClockSource.FILE
    epoch: int = 0
    last_ticks: int | None = None
    last_step: int = 0

    def at(self, ticks: int) -> FrameTime:
        """The time of the frame stamped `ticks`; call in display order."""
        if self.last_ticks is not None:
            if ticks < self.last_ticks:
                ended = ticks_to_ns(self.last_ticks + self.last_step - self.origin, self.time_base)
                self.start_wall_ns += ended
                self.origin = ticks
                self.epoch += 1
            else:
                self.last_step = ticks - self.last_ticks
        self.last_ticks = ticks
        return self.peek(ticks)

    def peek(self, ticks: int) -> FrameTime:
        """The time that `ticks` has in the present epoch, without advancing the clock."""
        pts_ns = ticks_to_ns(ticks - self.origin, self.time_base)
        return FrameTime(pts_ns, self.start_wall_ns + pts_ns, self.epoch, self.clock)
