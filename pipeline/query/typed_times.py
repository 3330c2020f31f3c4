"""Times as people type and read them: clock times, offsets into a stream, ISO 8601."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from fractions import Fraction

from dateutil.parser import isoparse

from pipeline.core.clock import NS, iso_text, to_datetime, to_ns
from pipeline.core.errors import UserError

OVERNIGHT_NS = 12 * 3600 * NS

TIME_HELP = (
    "Clock time (14:00, 14:00:05.5), offset from the start of the stream (90s, 2m, 1h30m, 00:01:30; -30s counts from "
    "its end) or ISO 8601 (2026-11-23T14:00:05+01:00). HH:MM is a clock time. HH:MM:SS is a clock time if the stream "
    "was recorded at that time, else an offset if the stream is that long, else whichever is nearer to the recording. "
    "A clock time means its last occurrence up to the end of the recording."
)

_UNITS = re.compile(r"(-?)((?:\d+(?:\.\d+)?\s*(?:d|h|min|m|sec|s|ms)\s*)+)")
_SECONDS = re.compile(r"(-?)(\d+(?:\.\d+)?)")
_COLONS = re.compile(r"(\d{1,4}):(\d\d)(?::(\d\d(?:\.\d{1,9})?))?")
_ISO = re.compile(r"\d{4}-\d\d-\d\d.*")


@dataclass(frozen=True, slots=True)
class Recording:
    """What typed times refer to: wall ns UTC of a stream's start and end, and the zone of clock times."""

    start_ns: int
    end_ns: int
    zone: tzinfo = UTC


def parse_window(start: str | None, end: str | None, recording: Recording) -> tuple[int | None, int | None]:
    """Wall ns UTC of `--from` and `--to`; None stays None.

    A clock time for `end` that is before `start` means the next day only where the recording reaches it within 12
    hours of `start`. Raises `UserError` for what cannot be read, and when the start is after the end.
    """
    first = None if start is None else parse_moment(start, recording)
    last = None if end is None else parse_moment(end, recording, after=first)
    if first is not None and last is not None and first > last:
        raise UserError(
            f"--from {start} ({iso_text(first, recording.zone)}) is after --to {end} "
            f"({iso_text(last, recording.zone)}): swap them"
        )
    return first, last


def parse_moment(text: str, recording: Recording, *, after: int | None = None) -> int:
    """Wall ns UTC that `text` stands for, by the rules of TIME_HELP.

    `after`: the window's start, which a clock time follows if it can. Raises `UserError` naming the text.
    """
    text = text.strip()
    offset = parse_offset(text)
    if offset is not None:
        return offset + (recording.end_ns if text.startswith("-") else recording.start_ns)
    if match := _COLONS.fullmatch(text):
        return _parse_colons(match, text, recording, after)
    if _ISO.fullmatch(text):
        try:
            moment = isoparse(text)
        except ValueError as error:
            raise _unreadable(text) from error
        return to_ns(moment if moment.tzinfo else moment.replace(tzinfo=recording.zone))
    raise _unreadable(text)


def parse_offset(text: str) -> int | None:
    """Nanoseconds of a length with units (`90s`, `1h30m`, `250ms`) or of plain seconds (`90`); None for other forms."""
    if match := _SECONDS.fullmatch(text):
        length = _exact_ns(match[2])
    elif match := _UNITS.fullmatch(text):
        import pandas as pd  # takes half a second to import; other forms do without

        length = pd.Timedelta(match[2].replace("d", "D")).value
    else:
        return None
    return -length if match[1] else length


def clock_text(wall_ns: int, zone: tzinfo) -> str:
    """Time of day to the tenth of a second, as in 14:00:05.5."""
    moment = to_datetime(wall_ns, zone)
    return f"{moment:%H:%M:%S}.{moment.microsecond // 100_000}"


def offset_text(seconds: float) -> str:
    """Stream time as HH:MM:SS.s, hours growing past 99."""
    tenths = round(seconds * 10)
    sign, tenths = ("-", -tenths) if tenths < 0 else ("", tenths)
    minutes, tenths = divmod(tenths, 600)
    return f"{sign}{minutes // 60:02d}:{minutes % 60:02d}:{tenths // 10:02d}.{tenths % 10}"


def _parse_colons(match: re.Match[str], text: str, recording: Recording, after: int | None) -> int:
    hours, minutes = int(match[1]), int(match[2])
    seconds_ns = _exact_ns(match[3] or "0")
    if minutes > 59 or seconds_ns >= 60 * NS:
        raise _unreadable(text)
    clock = _clock_moment(hours, minutes, seconds_ns, recording, after) if hours < 24 else None
    if match[3] is None:
        if clock is None:
            raise _unreadable(text)
        return clock
    length = recording.end_ns - recording.start_ns
    offset = (hours * 3600 + minutes * 60) * NS + seconds_ns
    if clock is None or (_distance(clock, recording) > 0 and offset <= length):
        return recording.start_ns + offset
    if _distance(clock, recording) <= max(0, offset - length):
        return clock
    return recording.start_ns + offset


def _clock_moment(hours: int, minutes: int, seconds_ns: int, recording: Recording, after: int | None) -> int:
    """The last occurrence up to the recording's end, else the one on its first day.

    With `after`, the occurrence on that day instead, or on the next if that is what an overnight window means.
    """
    days = _days(recording)
    occurrences = {
        day: to_ns(datetime.combine(day, time(hours, minutes), recording.zone)) + seconds_ns for day in days
    }
    if after is not None and (day := to_datetime(after, recording.zone).date()) in occurrences:
        following = occurrences.get(day + timedelta(days=1))
        if occurrences[day] < after and following is not None and following - after <= OVERNIGHT_NS:
            return following
        return occurrences[day]
    past = [moment for moment in occurrences.values() if moment <= recording.end_ns]
    return past[-1] if past else occurrences[days[0]]


def _days(recording: Recording) -> list[date]:
    """Dates of the recording in its zone."""
    first = to_datetime(recording.start_ns, recording.zone).date()
    last = to_datetime(recording.end_ns, recording.zone).date()
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]


def _distance(moment: int, recording: Recording) -> int:
    """How far a moment lies outside the recording, in ns."""
    return max(recording.start_ns - moment, moment - recording.end_ns, 0)


def _exact_ns(seconds: str) -> int:
    return round(Fraction(seconds) * NS)


def _unreadable(text: str) -> UserError:
    return UserError(
        f"cannot read the time {text!r}: give a clock time (14:00, 14:00:05.5), an offset (90s, 2m, 1h30m, 00:01:30) "
        "or ISO 8601 (2026-11-23T14:00:05+01:00)"
    )
