"""Time: moments on the wall clock and stretches of it, in integer nanoseconds since 1970 UTC."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from dateutil import tz

from pipeline.core.errors import UserError

if TYPE_CHECKING:
    import numpy as np

NS = 10**9
"""Nanoseconds in a second."""

DAY_NS = 86_400 * NS
"""Nanoseconds in a day of UTC, which knows no summer time; leap seconds are not counted."""

Moment: TypeAlias = "int | datetime | np.datetime64"
"""Moments as callers give them: ns since 1970 UTC, a datetime with a zone, or a datetime64 in UTC."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def local_zone() -> tzinfo:
    """The zone of this machine with its rules of all years: of `TZ`, else of /etc/localtime."""
    name = os.environ.get("TZ")
    if name is None:
        return _zone_file("/etc/localtime") or tz.tzlocal()
    name = name.removeprefix(":")
    if not name:
        return UTC
    if name.startswith("/"):
        return _zone_file(name) or tz.tzlocal()
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        # Rules written out, such as CET-1CEST: the system's library reads those.
        if max(abs(time.timezone), abs(time.altzone)) >= DAY_NS // NS:
            raise UserError(
                f"TZ={name}: this zone is a day or more away from UTC; set TZ to a name such as Europe/Berlin"
            ) from None
        return tz.tzlocal()


def _zone_file(path: str) -> tzinfo | None:
    try:
        with open(path, "rb") as file:
            return ZoneInfo.from_file(file, key=os.path.realpath(path).partition("zoneinfo/")[2] or None)
    except (OSError, ValueError):
        return None


def to_ns(moment: datetime) -> int:
    """Nanoseconds since 1970 UTC, exact to the microsecond; a `moment` without a zone counts as UTC."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (aware - _EPOCH) // timedelta(microseconds=1) * 1000


def to_datetime(wall_ns: int, zone: tzinfo = UTC) -> datetime:
    """The moment in a zone, truncated to the microsecond."""
    return (_EPOCH + timedelta(microseconds=wall_ns // 1000)).astimezone(zone)


def iso_text(wall_ns: int, zone: tzinfo = UTC) -> str:
    """ISO 8601 to the microsecond; `Z` for UTC."""
    return to_datetime(wall_ns, zone).isoformat(timespec="microseconds").replace("+00:00", "Z")


def iso_ns(text: str) -> int:
    """ISO 8601 text as nanoseconds since 1970 UTC; without an offset it is this machine's local time.

    Raises `UserError` naming the text and the remedy, also for a local time that came twice or never.
    """
    from dateutil.parser import isoparse  # half of what the clock would cost to import

    try:
        moment = isoparse(text)
    except (ValueError, OverflowError):
        raise UserError(f"{text!r} is not a date and time; write it as 2026-05-01T14:00:00+02:00") from None
    if moment.tzinfo:
        return to_ns(moment)
    zone = local_zone()
    first, second = (moment.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    if to_ns(first) == to_ns(second):
        return to_ns(first)
    offsets = [one.isoformat()[-6:] for one in (first, second)]
    what = "came twice" if to_ns(first) < to_ns(second) else "never came, as the clocks went forward over it"
    raise UserError(f"{text!r} {what}: add the offset that is meant, {offsets[0]} or {offsets[1]}")


def nanoseconds(moment: Moment) -> int:
    """Nanoseconds since 1970 UTC. Raises `UserError` for a `datetime` without a time zone."""
    if isinstance(moment, int):
        return int(moment)
    if not isinstance(moment, datetime):
        import numpy as np  # who has such a moment has it already; a command's first line does not wait for it

        return (
            int(moment.astype("datetime64[ns]").astype(np.int64))
            if isinstance(moment, np.datetime64)
            else int(moment)
        )
    if moment.tzinfo is None:
        raise UserError(f"{moment} has no time zone: give one, such as datetime(..., tzinfo=timezone.utc)")
    # pandas.Timestamp is a datetime that counts nanoseconds beside its microseconds.
    return to_ns(moment) + int(getattr(moment, "nanosecond", 0))


def time_window(start: Moment | None, end: Moment | None) -> tuple[int | None, int | None]:
    """First and last ns of a window, None where it is open. Raises `UserError` when it ends before it starts."""
    first = None if start is None else nanoseconds(start)
    last = None if end is None else nanoseconds(end)
    if first is not None and last is not None and first > last:
        raise UserError(f"the window ends before it starts ({start} > {end}): swap --from and --to")
    return first, last


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
