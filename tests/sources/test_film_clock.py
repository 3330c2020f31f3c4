"""The clock of files: random histories of time stamps, each with its truth."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from pipeline.core.clock import NS
from pipeline.core.frame import FrameTime
from pipeline.sources.film_clock import FilmClock, Stamp

MS = Fraction(1, 1000)
BROADCAST = Fraction(1, 90_000)
WRAP = 1 << 33
TEN = [index * 100 for index in range(20)]


def times(stamps: list[int | Stamp | None], base: Fraction = MS, **options: int | None) -> list[FrameTime]:
    clock: FilmClock[int] = FilmClock(base, 0, **options)  # type: ignore[arg-type]
    timed = []
    for index, stamp in enumerate(stamps):
        timed += clock.push(stamp if isinstance(stamp, Stamp) else Stamp(stamp), index)
    timed += clock.flush()
    assert [one.item for one in timed] == list(range(len(stamps)))
    return [one.time for one in timed]


def milliseconds(stamps: list[int | Stamp | None], base: Fraction = MS, **options: int | None) -> list[int]:
    return [time.wall_ns // 1_000_000 for time in times(stamps, base, **options)]


@pytest.mark.parametrize("place", [0, 1, 7, 10, 18, 19])
@pytest.mark.parametrize("away", [3_600_000, -3_600_000, 5_000, -900_000])
def test_one_stray_stamp_changes_nothing_else(place: int, away: int) -> None:
    stamps = list(TEN)
    stamps[place] += away
    # A last picture that comes five seconds later than usual may well be true.
    expected = stamps if (place, away) == (19, 5_000) else TEN
    assert milliseconds(stamps) == expected


def test_a_picture_that_is_a_little_late_adds_no_time() -> None:
    stamps = list(TEN)
    for place in (3, 9, 14):
        stamps[place] += 150
    found = milliseconds(stamps)
    assert all(abs(time - due) <= 150 for time, due in zip(found, TEN, strict=True))
    assert found[-1] == TEN[-1]


@pytest.mark.parametrize(("ahead", "long"), [(160, 15), (400, 10), (900, 30)])
def test_stamps_that_run_ahead_for_a_while_and_come_back_add_no_time(ahead: int, long: int) -> None:
    """As MPEG program streams do that stamp one picture of several."""
    due = [40 * index for index in range(150)]
    stamps = [stamp + ahead if 40 <= index < 40 + long else stamp for index, stamp in enumerate(due)]
    found = times(list(stamps), step_ns=NS // 25)
    assert {time.epoch for time in found} == {0}
    walls = [time.wall_ns // 1_000_000 for time in found]
    assert walls == sorted(set(walls))
    assert all(-1 <= wall - time <= ahead for wall, time in zip(walls, due, strict=True))
    caught_up = 40 + long + 2 * ahead // 40 + 1
    assert walls[caught_up:] == due[caught_up:]


def test_stamps_in_decode_order_are_given_to_pictures_in_display_order() -> None:
    assert milliseconds([0, 200, 300, 100, 500, 400, 600, 800, 900, 700]) == TEN[:10]


def test_equal_and_missing_stamps_are_set_evenly_between_their_neighbours() -> None:
    assert milliseconds([0, 100, 100, 100, 400, 500]) == [0, 100, 200, 300, 400, 500]
    assert milliseconds([None, 100, None, None, 400, None]) == [0, 100, 200, 300, 400, 500]


def test_a_film_without_any_stamp_runs_at_its_nominal_rate() -> None:
    assert milliseconds([None] * 4, step_ns=NS // 20) == [0, 50, 100, 150]


@pytest.mark.parametrize("length", [5, 20])
def test_stamps_that_begin_anew_go_on_on_the_wall(length: int) -> None:
    found = times([*TEN[:length], *TEN, *TEN])
    assert [time.epoch for time in found] == [0] * length + [1] * 20 + [2] * 20
    assert [time.pts_ns // 1_000_000 for time in found[length : length + 20]] == TEN
    assert [time.wall_ns // 1_000_000 for time in found] == [index * 100 for index in range(length + 40)]


def test_a_stray_right_before_or_behind_a_reset_is_no_leap() -> None:
    for place in (19, 20):
        stamps = [*TEN, *TEN]
        stamps[place] += 3_600_000
        found = milliseconds(stamps)
        assert 3_800 <= found[-1] <= 4_000


def test_a_clock_of_33_bits_goes_on_past_its_end() -> None:
    begins = WRAP - 4 * 9000
    assert milliseconds([(begins + i * 9000) % WRAP for i in range(20)], BROADCAST, wrap=WRAP) == TEN
    shuffled = [0, 1, 2, 4, 3, 5, 7, 6, 8]
    assert milliseconds([(begins + i * 9000) % WRAP for i in shuffled], BROADCAST, wrap=WRAP) == TEN[:9]


def test_a_reset_is_no_wrap_although_ffmpeg_takes_it_for_one() -> None:
    late = [36_000 * 90_000 + index * 9000 for index in range(20)]
    # FFmpeg adds the length of the clock to stamps that lie before the first one.
    found = times([*late, *(WRAP + index * 9000 for index in range(20))], BROADCAST, wrap=WRAP)
    assert [time.wall_ns // 1_000_000 for time in found] == [index * 100 for index in range(40)]
    assert {time.epoch for time in found} == {0, 1}


def test_stamps_that_start_late_count_from_the_first_picture_or_the_sound_before_it() -> None:
    late = [36_000_000 + stamp for stamp in TEN]
    assert milliseconds(late) == TEN
    assert milliseconds(late, origin=36_000_000 - 3000) == [3000 + stamp for stamp in TEN]
    # Sound that begins behind the picture, or hours before, is not the film's beginning.
    assert milliseconds(late, origin=36_000_500) == TEN
    assert milliseconds(late, origin=0) == TEN


def test_slide_shows_and_pauses_keep_their_time() -> None:
    assert milliseconds([0, 10_000]) == [0, 10_000]
    assert milliseconds([0, 100_000, 200_000, 300_000]) == [0, 100_000, 200_000, 300_000]
    paused = [*TEN, *(stamp + 500_000 for stamp in TEN)]
    assert milliseconds(paused) == paused


def test_a_last_picture_that_leaps_is_believed_where_the_file_says_why() -> None:
    stamps = [*TEN[:19], 3_601_800]
    assert milliseconds(stamps)[-1] == 1900
    stated = [*(Stamp(stamp, 100) for stamp in TEN[:18]), Stamp(TEN[18], 3_600_000), Stamp(3_601_800)]
    assert milliseconds(stated)[-1] == 3_601_800
    assert milliseconds(stamps, end=3_601_900)[-1] == 3_601_800


def test_exact_ticks_stay_exact() -> None:
    ticks = [0, 1001, 2002, 9009, 9010, 40040, 123456, 123457, 200000]
    found = times(ticks, Fraction(1, 30_000))
    assert [time.pts_ns for time in found] == [tick * NS // 30_000 for tick in ticks]


@dataclass(frozen=True, slots=True)
class History:
    """Stamps as a file gives them, and what is true: wall time and epoch of each picture, None for one that a stamp
    does not tell exactly. Between two exact pictures the others lie in order."""

    stamps: list[int | None]
    truth: list[int | None]
    end: int
    epochs: int
    wrap: bool
    step: int


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Parts that each begin anew, at even or uneven rates, with strays, missing and equal stamps, and pairs out of order."""
    wrap = draw(st.booleans())
    # Milliseconds, or ticks of a broadcast's clock.
    unit = 90 if wrap else 1
    stamps: list[int | None] = []
    truth: list[int | None] = []
    wall = 0
    step = draw(st.integers(15, 120))
    parts = draw(st.integers(1, 3))
    begins = draw(st.integers(0, 36_000_000)) + 40_000_000
    for part in range(parts):
        count = draw(st.integers(24, 60))
        steps = [
            step + draw(st.integers(-step // 3, step // 3)) if draw(st.booleans()) else step
            for _ in range(count)
        ]
        at = begins
        first = len(stamps)
        for own in steps:
            stamps.append(at * unit)
            truth.append(wall + at - begins)
            at += own
        # Oddities keep so far apart that each stands among pictures in good order, and away from the joints.
        place = first + draw(st.integers(10, 13))
        while place < first + count - 10:
            match draw(st.integers(0, 6)):
                case 0:
                    stamps[place] += (
                        draw(st.sampled_from([-1, 1])) * draw(st.integers(20_000, 7_200_000)) * unit
                    )
                    truth[place] = None
                case 1:
                    stamps[place] = None
                    truth[place] = None
                case 2:
                    stamps[place] = stamps[place - 1]
                    truth[place] = None
                case 3:
                    stamps[place], stamps[place + 1] = stamps[place + 1], stamps[place]
                case 4:
                    a, b, c = stamps[place : place + 3]
                    stamps[place : place + 3] = [b, c, a]
                case _:
                    pass
            place += draw(st.integers(12, 20))
        wall += at - begins - steps[-1]
        # What the clock takes for the last step of a part is the usual one lately.
        last = [b - a for a, b in pairwise([value for value in truth[first:] if value is not None][-9:])]
        if part < parts - 1:
            wall += sorted(last)[(len(last) - 1) // 2] if last else step
            begins = max(0, begins - draw(st.integers(5_000, 30_000_000)) - (at - begins))
    if wrap:
        stamps = [None if stamp is None else stamp % WRAP for stamp in stamps]
    return History(stamps, truth, wall, parts, wrap, step)


def check(history: History) -> None:
    """Times in order, exact where the stamps are, and nothing added or lost in all."""
    base, wrap = (BROADCAST, WRAP) if history.wrap else (MS, None)
    found = times(list(history.stamps), base, wrap=wrap, step_ns=history.step * 1_000_000)
    assert len({time.epoch for time in found}) == history.epochs
    assert all(before.order < after.order for before, after in pairwise(found))
    assert all(before.wall_ns < after.wall_ns for before, after in pairwise(found))
    # A joint is as long as the usual step, of which the clock and this test may choose another by a picture.
    slack = 2 * history.step * 1_000_000 * (history.epochs - 1) + 1000 * history.epochs
    for time, due in zip(found, history.truth, strict=True):
        assert due is None or abs(time.wall_ns - due * 1_000_000) <= slack
    assert abs(found[-1].wall_ns - history.end * 1_000_000) <= slack


def check_many(examples: int, chosen: int) -> None:
    """A long run over as many histories, from a seed."""

    @seed(chosen)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(histories())
    def all_of(history: History) -> None:
        check(history)

    all_of()


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
@given(histories())
def test_any_history_of_stamps_gives_times_in_order_that_are_exact_where_the_stamps_are(
    history: History,
) -> None:
    check(history)
