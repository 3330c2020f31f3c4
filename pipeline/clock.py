"""Wall-clock arithmetic in integer nanoseconds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from dateutil.parser import isoparse
from dateutil.tz import tzlocal

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def utc_ns(moment: datetime) -> int:
    """Nanoseconds since 1970-01-01 UTC, exact to the microsecond; a naive `moment` counts as UTC."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (aware - _EPOCH) // timedelta(microseconds=1) * 1000


def utc_datetime(ns: int) -> datetime:
    """The UTC moment `ns` nanoseconds after 1970-01-01, truncated to microseconds."""
    return _EPOCH + timedelta(microseconds=ns // 1000)


def iso_ns(text: str) -> int:
    """ISO 8601 text as nanoseconds since 1970 UTC; without an offset it is this machine's local time.

    Raises `ValueError` naming the text and the remedy.
    """
    try:
        moment = isoparse(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a date and time; write it as 2026-05-01T14:00:00+02:00") from None
    return utc_ns(moment if moment.tzinfo else moment.replace(tzinfo=tzlocal()))
