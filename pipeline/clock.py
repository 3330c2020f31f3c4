"""Wall-clock arithmetic in integer nanoseconds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def utc_ns(moment: datetime) -> int:
    """Nanoseconds since 1970-01-01 UTC, exact to the microsecond; a naive `moment` counts as UTC."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (aware - _EPOCH) // timedelta(microseconds=1) * 1000


def utc_datetime(ns: int) -> datetime:
    """The UTC moment `ns` nanoseconds after 1970-01-01, truncated to microseconds."""
    return _EPOCH + timedelta(microseconds=ns // 1000)
