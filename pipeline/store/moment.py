"""Moments as callers give them, in the nanoseconds that are stored."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np

Moment = int | datetime | np.datetime64

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def time_window(start: Moment | None, end: Moment | None) -> tuple[int | None, int | None]:
    """First and last ns of a window, None where it is open. Raises `ValueError` when it ends before it starts."""
    first = None if start is None else nanoseconds(start)
    last = None if end is None else nanoseconds(end)
    if first is not None and last is not None and first > last:
        raise ValueError(f"the window ends before it starts ({start} > {end}): swap --from and --to")
    return first, last


def nanoseconds(moment: Moment) -> int:
    """Nanoseconds since 1970 UTC. Raises `ValueError` for a `datetime` without a time zone."""
    if isinstance(moment, int | np.integer):
        return int(moment)
    if isinstance(moment, np.datetime64):
        return int(moment.astype("datetime64[ns]").astype(np.int64))
    if moment.tzinfo is None:
        raise ValueError(f"{moment} has no time zone: give one, such as datetime(..., tzinfo=timezone.utc)")
    own = getattr(moment, "nanosecond", 0)  # pandas.Timestamp
    return ((moment - _EPOCH) // timedelta(microseconds=1)) * 1000 + int(own)
