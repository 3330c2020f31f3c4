"""Times of day and the moments they stand for: one, two where clocks go back, none where they go forward."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

from pipeline.core.clock import NS, to_datetime, to_ns


@dataclass(frozen=True, slots=True)
class LocalMoment:
    """What a date and time of day stand for, ns UTC. `first` < `second` where it came twice, else they are equal.

    `change_ns`: when the clocks were set between the two, or past a time that never came; None where they were not.
    """

    first: int
    second: int
    change_ns: int | None = None

    @property
    def twice(self) -> bool:
        return self.first < self.second

    @property
    def missing(self) -> bool:
        return self.change_ns is not None and not self.twice


def local_moment(local: datetime, zone: tzinfo, more_ns: int = 0) -> LocalMoment:
    """`local` (without a zone; its `fold` does not count), `more_ns` later on the same clock.

    A time that never came, because clocks went over it, stands for the moment at which they did.
    """
    first, second = (to_ns(local.replace(tzinfo=zone, fold=fold)) for fold in (0, 1))
    if first == second:
        return LocalMoment(first + more_ns, second + more_ns)
    change = _change_between(min(first, second) - 1, max(first, second), zone)
    if first < second:
        return LocalMoment(first + more_ns, second + more_ns, change)
    return LocalMoment(change, change, change)


def needs_offset(moments: Iterable[int], zone: tzinfo) -> bool:
    """Whether times of day alone would not tell these moments apart, or from others an hour away: clocks were set near."""
    offsets = set()
    for wall_ns in moments:
        moment = to_datetime(wall_ns, zone)
        offsets |= {moment.replace(fold=fold).utcoffset() for fold in (0, 1)}
    return len(offsets) > 1


def offset_suffix(wall_ns: int, zone: tzinfo) -> str:
    """` +02:00`, to go behind a time of day."""
    return " " + to_datetime(wall_ns, zone).isoformat()[-6:] if zone is not UTC else " Z"


def _change_between(before: int, after: int, zone: tzinfo) -> int:
    """The moment in (`before`, `after`], to the second, from which another offset holds."""
    offset = _offset(after, zone)
    while after - before > NS:
        middle = (before + after) // 2
        if _offset(middle, zone) == offset:
            after = middle
        else:
            before = middle
    return after // NS * NS


def _offset(wall_ns: int, zone: tzinfo) -> timedelta | None:
    return to_datetime(wall_ns, zone).utcoffset()
