"""Times as people type and read them: clock times, offsets into a stream, ISO 8601."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from fractions import Fraction

from pipeline.core.clock import NS, iso_text, to_datetime, to_ns
from pipeline.core.errors import UserError
from pipeline.query.clock_changes import LocalMoment, local_moment, needs_offset, offset_suffix

_DAY_NS = 24 * 3600 * NS
OVERNIGHT_NS = 12 * 3600 * NS

TIME_HELP = (
    "Clock time (14:00, 14:00:05.5), offset from the start of the stream (90s, 2m, 1h30m, 00:01:30; -30s counts from "
    "its end) or ISO 8601 (2026-11-23T14:00:05+01:00). HH:MM is a clock time. HH:MM:SS is a clock time if the stream "
    "was recorded at that time, else an offset if the stream is that long, else whichever is nearer to the recording. "
    "A clock time means its last occurrence up to the end of the recording, and a line says which other days had it. "
    "Where clocks go back, --from means the first of both times and --to the second; give +01:00 or the like for one. "
    "A date alone is its beginning, as --to its end."
)

_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(d|h|min|ms|m|sec|s)\s*")
_UNITS = re.compile(rf"(-?)((?:{_PART.pattern})+)")
_UNIT_S = {
    "d": Fraction(86400), "h": Fraction(3600), "min": Fraction(60), "m": Fraction(60), "sec": Fraction(1),
    "s": Fraction(1), "ms": Fraction(1, 1000),
}  # fmt: skip
_LONGEST_NS = 100 * 366 * 86400 * NS  # longer, and a moment counted from it no longer fits in 64 bits
_FIRST_NS, _LAST_NS = to_ns(datetime(1, 1, 3, tzinfo=UTC)), to_ns(datetime(9999, 12, 29, tzinfo=UTC))
_SECONDS = re.compile(r"(-?)(\d+(?:\.\d+)?)")
_COLONS = re.compile(r"(\d{1,4}):(\d\d)(?::(\d\d(?:\.\d{1,9})?))?")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
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
    hours of `start`, or where it is midnight. Raises `UserError` for what cannot be read, and when the start is after
    the end.
    """
    first = None if start is None else parse_moment(start, recording)
    last = None if end is None else parse_moment(end, recording, after=first, is_end=True)
    if first is not None and last is not None and first > last:
        raise UserError(
            f"--from {start} ({iso_text(first, recording.zone)}) is after --to {end} "
            f"({iso_text(last, recording.zone)}): swap them"
        )
    return first, last


def window_notes(start: str | None, end: str | None, recording: Recording) -> list[str]:
    """What must be told of the window of `parse_window`: days that it leaves out, times that came twice or never."""
    notes = []
    window = parse_window(start, end, recording)
    for option, text, moment in (("--from", start, window[0]), ("--to", end, window[1])):
        if text is None or moment is None:
            continue
        shown = iso_text(moment, recording.zone)
        local = _named_moment(text, moment, recording)
        if local is not None and local.missing:
            notes.append(f"{option} {text} never came, the clocks went forward over it: {shown} is taken")
        elif local is not None and local.twice:
            other = iso_text(local.first if moment == local.second else local.second, recording.zone)
            notes.append(
                f"{option} {text} came twice, as the clocks went back: {shown} is taken, not {other}"
            )
    day = _only_day(start, window[0], end, window[1], recording)
    if day is not None:
        notes.append(day)
    return notes


def parse_moment(text: str, recording: Recording, *, after: int | None = None, is_end: bool = False) -> int:
    """Wall ns UTC that `text` stands for, by the rules of TIME_HELP.

    `after`: the window's start, which a clock time follows if it can. `is_end`: it ends a window. Raises `UserError`
    naming the text.
    """
    text = text.strip()
    offset = parse_offset(text)
    if offset is not None:
        return offset + (recording.end_ns if text.startswith("-") else recording.start_ns)
    if match := _COLONS.fullmatch(text):
        return _parse_colons(match, text, recording, after, is_end)
    if _ISO.fullmatch(text):
        try:
            moment = _iso_moment(text)
            if moment.tzinfo:
                return _within_calendar(to_ns(moment))
            whole_day = is_end and _DATE.fullmatch(text) is not None
            moment += timedelta(days=whole_day)
            picked = _pick(local_moment(moment, recording.zone), recording, is_end)
        except (ValueError, OverflowError) as error:
            raise _unreadable(text) from error
        return _within_calendar(picked - whole_day)
    raise _unreadable(text)


def _within_calendar(wall_ns: int) -> int:
    """The nearest moment that has a date in every zone: nothing was recorded in the first and the last days that calendars hold."""
    return min(max(wall_ns, _FIRST_NS), _LAST_NS)


def parse_offset(text: str) -> int | None:
    """Nanoseconds of a length with units (`90s`, `1h30m`, `250ms`) or of plain seconds (`90`); None for other forms."""
    try:
        if match := _SECONDS.fullmatch(text):
            length = _exact_ns(match[2])
        elif match := _UNITS.fullmatch(text):
            parts = _PART.finditer(match[2])
            length = round(sum(Fraction(part[1]) * _UNIT_S[part[2]] for part in parts) * NS)
        else:
            return None
    except ValueError:  # more digits than Python reads
        length = _LONGEST_NS + 1
    if length > _LONGEST_NS:
        raise UserError(f"the offset {text!r} is longer than a century: give a shorter one")
    return -length if text.startswith("-") else length


def clock_text(wall_ns: int, zone: tzinfo) -> str:
    """Time of day to the tenth of a second, as in 14:00:05.5."""
    moment = to_datetime(wall_ns, zone)
    return f"{moment:%H:%M:%S}.{moment.microsecond // 100_000}"


def clock_texts(moments: list[int], zone: tzinfo) -> list[str]:
    """Times of day for a column of a table: with the date where there are several, or clocks were set near one.

    In the latter case with the offset from UTC too, for then a time of day may have come twice.
    """
    clocks_set = needs_offset(moments, zone)
    dated = clocks_set or len({to_datetime(moment, zone).date() for moment in moments}) > 1
    return [
        (f"{to_datetime(moment, zone).date()} " if dated else "")
        + clock_text(moment, zone)
        + (offset_suffix(moment, zone) if clocks_set else "")
        for moment in moments
    ]


def offset_text(seconds: float) -> str:
    """Stream time as HH:MM:SS.s, hours growing past 99."""
    tenths = round(seconds * 10)
    sign, tenths = ("-", -tenths) if tenths < 0 else ("", tenths)
    minutes, tenths = divmod(tenths, 600)
    return f"{sign}{minutes // 60:02d}:{minutes % 60:02d}:{tenths // 10:02d}.{tenths % 10}"


def _parse_colons(
    match: re.Match[str], text: str, recording: Recording, after: int | None, is_end: bool
) -> int:
    hours, minutes = int(match[1]), int(match[2])
    seconds_ns = _exact_ns(match[3] or "0")
    if minutes > 59 or seconds_ns >= 60 * NS:
        raise _unreadable(text)
    of_day = (hours * 3600 + minutes * 60) * NS + seconds_ns
    clock = _clock_moment(of_day, recording, after, is_end) if of_day <= _DAY_NS else None
    if match[3] is None:
        if clock is None:
            raise _unreadable(text)
        return clock
    length = recording.end_ns - recording.start_ns
    if clock is None or (_distance(clock, recording) > 0 and of_day <= length):
        return recording.start_ns + of_day
    if _distance(clock, recording) <= max(0, of_day - length):
        return clock
    return recording.start_ns + of_day


def _clock_moment(of_day: int, recording: Recording, after: int | None, is_end: bool) -> int:
    """The last occurrence up to the recording's end, else the one on its first day. `of_day`: ns on the clock, to 24 h.

    With `after`, the occurrence on that day instead, or on the next if that is what an overnight window means.
    """
    days = _days(recording)
    occurrences = {day: _on_day(day, of_day, recording, is_end) for day in days}
    if after is not None and (day := to_datetime(after, recording.zone).date()) in occurrences:
        following = occurrences.get(day + timedelta(days=1))
        if of_day == 0 and following is None:
            # Midnight as the end of a window is the end of its day.
            following = _on_day(day, _DAY_NS, recording, is_end)
        if occurrences[day] < after and following is not None and following - after <= OVERNIGHT_NS:
            return following
        if of_day == 0 and occurrences[day] < after:
            return _on_day(day, _DAY_NS, recording, is_end)
        return occurrences[day]
    past = [moment for moment in occurrences.values() if moment <= recording.end_ns]
    return past[-1] if past else occurrences[days[0]]


def _on_day(day: date, of_day: int, recording: Recording, is_end: bool) -> int:
    return _pick(_local_on_day(day, of_day, recording), recording, is_end)


def _local_on_day(day: date, of_day: int, recording: Recording) -> LocalMoment:
    days, rest = divmod(of_day, _DAY_NS)
    minutes, seconds_ns = divmod(rest, 60 * NS)
    local = datetime.combine(day, time(minutes // 60, minutes % 60)) + timedelta(days=days)
    return local_moment(local, recording.zone, seconds_ns)


def _pick(local: LocalMoment, recording: Recording, is_end: bool) -> int:
    """Of two passes, the first for a start and the second for an end, unless the recording has only the other."""
    if local.change_ns is None or not local.twice:
        return local.first
    if is_end:
        return local.second if recording.end_ns >= local.change_ns else local.first
    return local.first if recording.start_ns < local.change_ns else local.second


def _iso_moment(text: str) -> datetime:
    from dateutil.parser import isoparse  # few queries name a date

    return isoparse(text)


def _named_moment(text: str, moment: int, recording: Recording) -> LocalMoment | None:
    """The time of day that `text` names and `moment` is; None for offsets and times with a zone of their own."""
    text = text.strip()
    if _ISO.fullmatch(text) and not _DATE.fullmatch(text):
        parsed = _iso_moment(text)
        return None if parsed.tzinfo else local_moment(parsed, recording.zone)
    of_day = _of_day(text)
    if of_day is None:
        return None
    around = to_datetime(moment, recording.zone).date()
    for day in (around, around - timedelta(days=1)):
        local = _local_on_day(day, of_day, recording)
        if moment in (local.first, local.second):
            return local
    return None


def _of_day(text: str) -> int | None:
    match = _COLONS.fullmatch(text.strip())
    if match is None:
        return None
    return (int(match[1]) * 3600 + int(match[2]) * 60) * NS + _exact_ns(match[3] or "0")


def _only_day(
    start: str | None, first: int | None, end: str | None, last: int | None, recording: Recording
) -> str | None:
    """Which other days have the window's times of day too, where no date was given."""
    text, moment = (start, first) if start is not None else (end, last)
    if text is None or moment is None or (of_day := _of_day(text)) is None:
        return None
    if _named_moment(text, moment, recording) is None:  # it was read as an offset
        return None
    moments = [_on_day(day, of_day, recording, start is None) for day in _days(recording)]
    others = [one for one in moments if recording.start_ns <= one <= recording.end_ns and one != moment]
    # Without a start, a window reaches back over all earlier days.
    left_out = [one for one in others if (one < moment) == (start is not None)]
    if start is not None and last is not None:
        left_out = others
    if not left_out:
        return None
    days = [str(to_datetime(one, recording.zone).date()) for one in left_out]
    listed = days[0] if len(days) == 1 else f"{len(days)} others, {days[0]} to {days[-1]}"
    shown = to_datetime(moment, recording.zone).date()
    return f"{text} of {shown} is meant; the recording also has that time on {listed}: give a date for those"


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
