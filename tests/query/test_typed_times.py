"""TODO docstring."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.clock import NS, iso_text, to_ns
from pipeline.core.errors import UserError
from pipeline.query.typed_times import Recording, clock_text, offset_text, parse_moment, parse_window

BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str) -> int:
    return to_ns(datetime.fromisoformat(text))


CLIP = Recording(at("2026-11-22T14:00:10+01:00"), at("2026-11-22T14:10:10+01:00"), BERLIN)
WEEK = Recording(at("2026-11-16T08:00:00+01:00"), at("2026-11-22T13:00:00+01:00"), BERLIN)
NIGHT = Recording(at("2026-11-21T22:00:00+01:00"), at("2026-11-22T02:00:00+01:00"), BERLIN)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("14:02", "2026-11-22T14:02:00+01:00"),
        ("14:00", "2026-11-22T14:00:00+01:00"),
        ("14:02:05.5", "2026-11-22T14:02:05.500000+01:00"),
        ("90s", "2026-11-22T14:01:40+01:00"),
        ("90", "2026-11-22T14:01:40+01:00"),
        ("2m", "2026-11-22T14:02:10+01:00"),
        ("1h30m", "2026-11-22T15:30:10+01:00"),
        ("250ms", "2026-11-22T14:00:10.250000+01:00"),
        ("-30s", "2026-11-22T14:09:40+01:00"),
        ("00:01:30", "2026-11-22T14:01:40+01:00"),
        ("2026-11-22T14:02", "2026-11-22T14:02:00+01:00"),
        ("2026-11-22T13:02:00Z", "2026-11-22T14:02:00+01:00"),
        ("2026-11-22", "2026-11-22T00:00:00+01:00"),
    ],
)
def test_forms_of_a_time(text: str, expected: str) -> None:
    assert parse_moment(text, CLIP) == at(expected)


def test_three_fields_are_a_clock_time_where_the_recording_has_that_time_of_day() -> None:
    across_midnight = Recording(at("2026-11-22T23:59:00+01:00"), at("2026-11-23T00:05:00+01:00"), BERLIN)
    assert parse_moment("00:01:30", across_midnight) == at("2026-11-23T00:01:30+01:00")
    assert parse_moment("00:05:30", across_midnight) == at("2026-11-22T23:59:00+01:00") + 330 * NS


def test_three_fields_outside_the_recording_take_the_nearer_meaning() -> None:
    assert parse_moment("14:00:00", CLIP) == at("2026-11-22T14:00:00+01:00")
    assert parse_moment("00:11:00", CLIP) == CLIP.start_ns + 660 * NS
    assert parse_moment("30:00:00", CLIP) == CLIP.start_ns + 30 * 3600 * NS


def test_a_clock_time_means_its_last_occurrence_in_a_long_recording() -> None:
    assert parse_moment("12:00", WEEK) == at("2026-11-22T12:00:00+01:00")
    assert parse_moment("14:00", WEEK) == at("2026-11-21T14:00:00+01:00")
    assert parse_window("14:00", "14:05", WEEK) == (
        at("2026-11-21T14:00:00+01:00"),
        at("2026-11-21T14:05:00+01:00"),
    )


def test_a_window_may_cross_midnight() -> None:
    assert parse_window("23:50", "00:10", NIGHT) == (
        at("2026-11-21T23:50:00+01:00"),
        at("2026-11-22T00:10:00+01:00"),
    )


@pytest.mark.parametrize(
    ("start", "end", "recording"),
    [("14:05", "14:00", CLIP), ("14:05", "14:00", WEEK), ("90s", "30s", CLIP), ("3m", "14:01", CLIP)],
)
def test_a_window_that_ends_before_it_starts_is_refused(start: str, end: str, recording: Recording) -> None:
    with pytest.raises(ValueError, match=f"--from {start} .* is after --to {end} .*swap"):
        parse_window(start, end, recording)


def test_open_windows() -> None:
    assert parse_window(None, None, CLIP) == (None, None)
    assert parse_window(None, "60s", CLIP) == (None, CLIP.start_ns + 60 * NS)


@pytest.mark.parametrize(
    "text", ["", "noon", "25:00", "14:60", "14:00:61", "90x", "2026-13-01", "1:2", "--5s", "h"]
)
def test_what_cannot_be_read_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"cannot read the time .*give a clock time"):
        parse_moment(text, CLIP)


def test_clock_times_follow_the_zone_that_was_asked_for() -> None:
    utc = Recording(CLIP.start_ns, CLIP.end_ns, UTC)
    assert parse_moment("13:02", utc) == parse_moment("14:02", CLIP)


def test_clock_times_on_the_day_the_clocks_change() -> None:
    day = Recording(at("2026-10-25T00:00:00+02:00"), at("2026-10-25T23:00:00+01:00"), BERLIN)
    assert parse_moment("01:00", day) == at("2026-10-25T01:00:00+02:00")
    assert parse_moment("12:00", day) == at("2026-10-25T12:00:00+01:00")


moments = st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1), timezones=st.sampled_from([UTC, BERLIN]))


@settings(deadline=None)
@given(moments)
def test_iso_text_reads_back(moment: datetime) -> None:
    wall = to_ns(moment)
    assert parse_moment(iso_text(wall), CLIP) == wall
    assert parse_moment(iso_text(wall, BERLIN), CLIP) == wall


@settings(deadline=None)
@given(moments, st.integers(1, 23 * 36_000), st.data())
def test_clock_text_reads_back_within_a_day(moment: datetime, tenths: int, data: st.DataObject) -> None:
    start = to_ns(moment) // (NS // 10) * (NS // 10)
    recording = Recording(start, start + tenths * NS // 10, UTC)
    wall = start + data.draw(st.integers(0, tenths)) * NS // 10
    assert parse_moment(clock_text(wall, UTC), recording) == wall


@settings(deadline=None)
@given(st.integers(0, 359_999), st.data())
def test_offset_text_reads_back(tenths: int, data: st.DataObject) -> None:
    start = at("2026-11-22T12:00:00+00:00")  # so no offset into ten hours is a time of day that was recorded
    length = data.draw(st.integers(tenths, 359_999))
    recording = Recording(start, start + length * NS // 10, UTC)
    assert parse_moment(offset_text(tenths / 10), recording) == start + tenths * NS // 10


_PARTS = st.lists(
    st.tuples(
        st.integers(0, 999), st.integers(0, 999), st.sampled_from(["d", "h", "min", "m", "sec", "s", "ms"])
    ),
    min_size=1,
    max_size=4,
)


@given(_PARTS)
def test_lengths_with_units_are_exact(parts: list[tuple[int, int, str]]) -> None:
    ns = {"d": 86400 * NS, "h": 3600 * NS, "min": 60 * NS, "m": 60 * NS, "sec": NS, "s": NS, "ms": NS // 1000}
    text = "".join(f"{whole}.{thousandths:03d}{unit}" for whole, thousandths, unit in parts)
    wanted = sum((whole * 1000 + thousandths) * (ns[unit] // 1000) for whole, thousandths, unit in parts)
    assert parse_moment(text, CLIP) == CLIP.start_ns + wanted


@pytest.mark.parametrize("text", ["99999999999999d", "9" * 400, "-99999999999h"])
def test_a_length_beyond_any_recording_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="longer than a century"):
        parse_moment(text, CLIP)
