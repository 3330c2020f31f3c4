"""Stretches of wall-clock time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class TimeSpan:
    """Wall ns UTC from `start` to `end`, both included."""

    start: int
    end: int

    @property
    def length(self) -> int:
        return self.end - self.start

    def overlaps(self, start: int | None, end: int | None) -> bool:
        return (start is None or self.end >= start) and (end is None or self.start <= end)


def share_watched(window: TimeSpan, recorded: TimeSpan, gaps: Iterable[TimeSpan]) -> float:
    """Share of `window` that lies in `recorded` and in no gap, 0..1. Overlapping gaps count once."""
    start, end = max(window.start, recorded.start), min(window.end, recorded.end)
    if window.length <= 0:
        return float(start <= end and not any(g.start <= window.start <= g.end for g in gaps))
    missed, position = 0, start
    for gap in sorted(gaps):
        lo, hi = max(gap.start, position), min(gap.end, end)
        if hi > lo:
            missed += hi - lo
            position = hi
    return max(0, end - start - missed) / window.length
