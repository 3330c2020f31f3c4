"""The hour that comes twice, the hour that is missing, midnight, several days, and zones of the past."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.clock import NS, iso_ns, local_zone, to_datetime, to_ns
from pipeline.core.errors import UserError
from pipeline.query.clock_changes import local_moment, needs_offset
from pipeline.query.typed_times import Recording, clock_texts, parse_moment, parse_window, window_notes

BERLIN = ZoneInfo("Europe/Berlin")
HOUR = 3600 * NS


def at(text: str) -> int:
    return to_ns(datetime.fromisoformat(text))


BACK = Recording(at("2026-10-25T02:00:00+02:00"), at("2026-10-25T03:15:00+01:00"), BERLIN)
FORWARD = Recording(at("2026-03-29T00:00:00+01:00"), at("2026-03-29T12:00:00+02:00"), BERLIN)


def test_a_window_in_the_hour_that_comes_twice_holds_both_passes_and_says_so() -> None:
    assert parse_window("02:10", "02:50", BACK) == (
        at("2026-10-25T02:10+02:00"),
        at("2026-10-25T02:50+01:00"),
    )
    assert window_notes("02:10", "02:50", BACK) == [
        "--from 02:10 came twice, as the clocks went back: 2026-10-25T02:10:00.000000+02:00 is taken, "
        "not 2026-10-25T02:10:00.000000+01:00",
        "--to 02:50 came twice, as the clocks went back: 2026-10-25T02:50:00.000000+01:00 is taken, "
        "not 2026-10-25T02:50:00.000000+02:00",
    ]


def test_from_the_first_pass_to_the_second_is_a_window_of_its_own() -> None:
    assert parse_window("02:50", "02:10", BACK) == (
        at("2026-10-25T02:50+02:00"),
        at("2026-10-25T02:10+01:00"),
    )


@pytest.mark.parametrize("typed", ["2026-10-25T02:30+01:00", "2026-10-25T01:30Z"])
def test_a_time_with_an_offset_is_one_pass_and_needs_no_word(typed: str) -> None:
    assert parse_window(typed, None, BACK) == (at("2026-10-25T02:30+01:00"), None)
    assert window_notes(typed, None, BACK) == []


def test_only_the_pass_that_was_recorded_is_meant() -> None:
    early = Recording(at("2026-10-25T01:00+02:00"), at("2026-10-25T02:55+02:00"), BERLIN)
    late = Recording(at("2026-10-25T02:05+01:00"), at("2026-10-25T04:00+01:00"), BERLIN)
    assert parse_window("02:10", "02:50", early) == (
        at("2026-10-25T02:10+02:00"),
        at("2026-10-25T02:50+02:00"),
    )
    assert parse_window("02:10", "02:50", late) == (
        at("2026-10-25T02:10+01:00"),
        at("2026-10-25T02:50+01:00"),
    )


def test_the_hour_that_is_missing_stands_for_the_moment_of_the_change() -> None:
    change = at("2026-03-29T03:00+02:00")
    assert parse_window("02:30", "03:30", FORWARD) == (change, at("2026-03-29T03:30+02:00"))
    assert parse_window("01:30", "2026-03-29T02:15", FORWARD) == (at("2026-03-29T01:30+01:00"), change)
    (note,) = window_notes("02:30", "03:30", FORWARD)
    assert note == (
        "--from 02:30 never came, the clocks went forward over it: 2026-03-29T03:00:00.000000+02:00 is taken"
    )


def test_midnight_ends_a_day() -> None:
    day = Recording(at("2026-11-22T08:00+01:00"), at("2026-11-22T20:00+01:00"), BERLIN)
    for typed in ("00:00", "24:00"):
        assert parse_window("18:00", typed, day) == (
            at("2026-11-22T18:00+01:00"),
            at("2026-11-23T00:00+01:00"),
        )
    night = Recording(at("2026-11-21T22:00+01:00"), at("2026-11-22T02:00+01:00"), BERLIN)
    assert parse_window("23:00", "24:00", night) == (
        at("2026-11-21T23:00+01:00"),
        at("2026-11-22T00:00+01:00"),
    )
    assert parse_moment("00:00", night) == at("2026-11-22T00:00+01:00")
    with pytest.raises(UserError, match="cannot read the time '24:01'"):
        parse_moment("24:01", day)


def test_a_date_alone_is_all_of_that_day() -> None:
    assert parse_window("2026-10-25", "2026-10-25", BACK) == (
        at("2026-10-25T00:00+02:00"),
        at("2026-10-26T00:00+01:00") - 1,
    )


def test_several_days_are_told_of() -> None:
    week = Recording(at("2026-11-16T08:00+01:00"), at("2026-11-22T13:00+01:00"), BERLIN)
    assert window_notes("14:00", "14:05", week) == [
        "14:00 of 2026-11-21 is meant; the recording also has that time on 5 others, 2026-11-16 to 2026-11-20: "
        "give a date for those"
    ]
    assert window_notes("2026-11-18T14:00", "14:05", week) == []
    assert window_notes("90s", "14:05", week) == []
    one_day = Recording(at("2026-11-22T08:00+01:00"), at("2026-11-22T13:00+01:00"), BERLIN)
    assert window_notes("09:00", "09:05", one_day) == []


def test_a_table_names_date_and_offset_where_a_time_of_day_does_not_tell() -> None:
    both = [at("2026-10-25T02:15+02:00"), at("2026-10-25T02:15+01:00")]
    assert clock_texts(both, BERLIN) == ["2026-10-25 02:15:00.0 +02:00", "2026-10-25 02:15:00.0 +01:00"]
    assert clock_texts(both[:1], BERLIN) == ["2026-10-25 02:15:00.0 +02:00"]
    assert clock_texts([at("2026-11-22T02:15+01:00")], BERLIN) == ["02:15:00.0"]
    assert clock_texts([at("2026-11-22T02:15Z"), at("2026-11-23T02:15Z")], UTC) == [
        "2026-11-22 02:15:00.0",
        "2026-11-23 02:15:00.0",
    ]
    assert not needs_offset([], BERLIN)


@pytest.fixture
def zone_variable(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    yield monkeypatch
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("variable", "offset_hours"),
    [
        ("Europe/Moscow", 4),
        (":Europe/Moscow", 4),
        ("UTC", 0),
        ("", 0),
        ("Asia/Kolkata", 5.5),
        ("CET-1CEST", 2),
    ],
)
def test_the_zone_of_the_machine_knows_the_rules_of_the_past(
    zone_variable: pytest.MonkeyPatch, variable: str, offset_hours: float
) -> None:
    zone_variable.setenv("TZ", variable)
    time.tzset()
    # Moscow was four hours ahead in 2012, and is three now.
    summer = to_datetime(at("2012-07-01T00:00Z"), local_zone())
    assert summer.utcoffset() == timedelta(hours=offset_hours)


@pytest.mark.parametrize("variable", ["../../etc/passwd", "/etc", "/no/such/file", "No/Where"])
def test_an_odd_zone_breaks_nothing(zone_variable: pytest.MonkeyPatch, variable: str) -> None:
    zone_variable.setenv("TZ", variable)
    assert to_datetime(0, local_zone()).year in (1969, 1970)


def test_a_start_that_came_twice_or_never_is_refused_with_both_offsets(
    zone_variable: pytest.MonkeyPatch,
) -> None:
    zone_variable.setenv("TZ", "Europe/Berlin")
    with pytest.raises(UserError, match=r"came twice: add the offset that is meant, \+02:00 or \+01:00"):
        iso_ns("2026-10-25T02:30")
    with pytest.raises(UserError, match=r"never came.*\+01:00 or \+02:00"):
        iso_ns("2026-03-29T02:30")
    assert iso_ns("2026-10-25T02:30+01:00") == at("2026-10-25T01:30Z")
    assert iso_ns("2026-10-25T04:30") == at("2026-10-25T03:30Z")


ZONES = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "America/St_Johns", "UTC",
         "Africa/Casablanca", "Pacific/Apia", "Asia/Tehran"]  # fmt: skip
zones = st.sampled_from(ZONES).map(ZoneInfo)


@settings(deadline=None, max_examples=300)
@given(st.datetimes(datetime(1975, 1, 1), datetime(2035, 1, 1)), zones)
def test_a_local_time_stands_for_moments_that_show_it(local: datetime, zone: ZoneInfo) -> None:
    local = local.replace(microsecond=0)
    moment = local_moment(local, zone)
    assert moment.first <= moment.second
    shown = [to_datetime(one, zone).replace(tzinfo=None, fold=0) for one in (moment.first, moment.second)]
    if moment.missing:
        before = to_datetime(moment.first - 1000, zone).replace(tzinfo=None, fold=0)
        assert before < local < shown[0]
    else:
        assert shown == [local, local]


@settings(deadline=None, max_examples=300)
@given(
    st.datetimes(datetime(2000, 1, 1), datetime(2035, 1, 1)),
    zones,
    st.integers(60, 4 * 86_400),
    st.floats(0, 1),
)
def test_every_moment_of_a_recording_can_be_asked_for_by_what_a_table_shows(
    begin: datetime, zone: ZoneInfo, length: int, share: float
) -> None:
    start = to_ns(begin.replace(microsecond=0, tzinfo=UTC))
    recording = Recording(start, start + length * NS, zone)
    wall = start + int(share * length) * NS
    typed = to_datetime(wall, zone).replace(tzinfo=None).isoformat(timespec="seconds")
    first, last = parse_window(typed, typed, recording)
    assert first is not None
    assert last is not None
    assert first <= wall <= last
    notes = window_notes(typed, typed, recording)
    assert bool(notes) == (first != last or local_moment(datetime.fromisoformat(typed), zone).twice)


@settings(deadline=None, max_examples=200)
@given(
    st.dates(date(2000, 1, 1), date(2035, 1, 1)),
    zones,
    st.integers(1, 72),
    st.integers(0, 1439),
    st.integers(0, 1439),
)
def test_any_two_times_of_day_give_a_window_or_one_error(
    day: date, zone: ZoneInfo, hours: int, first: int, last: int
) -> None:
    start = to_ns(datetime(day.year, day.month, day.day, 5, tzinfo=UTC))
    recording = Recording(start, start + hours * HOUR, zone)
    typed = [f"{minutes // 60:02d}:{minutes % 60:02d}" for minutes in (first, last)]
    try:
        begin, end = parse_window(typed[0], typed[1], recording)
    except UserError:
        # Only a second time that no day of the recording has after the first one.
        assert last < first or hours < 24
        return
    assert begin is not None
    assert end is not None
    assert begin <= end
    told = " ".join(window_notes(typed[0], typed[1], recording))
    for moment, text in ((begin, typed[0]), (end, typed[1])):
        assert f"{to_datetime(moment, zone):%H:%M}" == text or f"{text} never came" in told
