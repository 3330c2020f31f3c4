"""Timing and reconnection policies of live streams: whatever clocks, time stamps and networks do."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.frame import ClockSource, FrameTime
from pipeline.core.records import Gap, ResumePoint
from pipeline.core.restarts import LossCause, RestartPolicy, backoff_s, reconnects, refused_pause_s
from pipeline.sources.clocks import Arrival, LiveClock, SenderClock
from pipeline.sources.unwatched import Unwatched

NS = 1_000_000_000
HOUR = 3600 * NS
NOON = 1_800_000_000 * NS
TICKS = Fraction(1, 90_000)


class Camera:
    """A camera on a bench: a steady second at a time, with clocks that can be turned by hand."""

    def __init__(self, after: ResumePoint | None = None, max_error_s: float = 10) -> None:
        self.clock = LiveClock(after or ResumePoint(), max_error_ns=round(max_error_s * NS))
        self.steady_ns = 0
        self.ours_ns = NOON
        self.ticks = 5_000
        self.sender_off_ns: int | None = None

    def frame(self, seconds: float = 0.1) -> FrameTime | None:
        step_ns = round(seconds * NS)
        self.steady_ns += step_ns
        self.ours_ns += step_ns
        self.ticks += round(seconds * 90_000)
        return self.again()

    def again(self) -> FrameTime | None:
        sender = None if self.sender_off_ns is None else self.ours_ns + self.sender_off_ns
        return self.clock.at(self.ticks, TICKS, sender, Arrival(self.ours_ns, self.steady_ns))

    def sure_frame(self, seconds: float = 0.1) -> FrameTime:
        time = self.frame(seconds)
        assert time is not None
        return time


def test_an_undisturbed_stream_keeps_its_time_stamps() -> None:
    camera = Camera()
    times = [camera.sure_frame(0.04) for _ in range(100)]
    assert [time.pts_ns for time in times] == [index * 40_000_000 for index in range(100)]
    assert [time.wall_ns for time in times] == [NOON + (index + 1) * 40_000_000 for index in range(100)]
    assert {time.epoch for time in times} == {0}


def test_the_senders_clock_is_taken_where_it_is_near_ours_and_left_where_it_is_not() -> None:
    camera = Camera()
    camera.sender_off_ns = 2 * NS
    first = camera.sure_frame()
    assert (first.clock, first.wall_ns) == (ClockSource.RTCP, camera.ours_ns + 2 * NS)
    camera.sender_off_ns = -HOUR
    time = camera.sure_frame()
    assert time.clock is ClockSource.ARRIVAL
    assert time.wall_ns > first.wall_ns
    # Seven seconds off is near, but not near enough for a clock that was an hour off before.
    camera.sender_off_ns = -7 * NS
    assert camera.sure_frame().clock is ClockSource.ARRIVAL
    camera.sender_off_ns = -4 * NS
    assert camera.sure_frame().clock is ClockSource.RTCP


def test_a_clock_that_was_set_back_is_met_at_half_speed() -> None:
    camera = Camera()
    camera.sender_off_ns = 0
    before = camera.sure_frame()
    camera.sender_off_ns = -6 * NS
    after = [camera.sure_frame() for _ in range(200)]
    assert all(time.clock is ClockSource.RTCP for time in after)
    walls = [before.wall_ns, *(time.wall_ns for time in after)]
    assert walls == sorted(set(walls))
    assert after[100].wall_ns > NOON + 5 * NS
    # Six seconds are made good in twelve.
    assert after[-1].wall_ns == camera.ours_ns - 6 * NS


def test_time_stamps_that_jump_open_an_epoch_and_little_disorder_does_not() -> None:
    camera = Camera()
    camera.sure_frame()
    late_by = camera.ticks
    last = camera.sure_frame()
    camera.ticks = late_by
    assert camera.again() is None
    camera.ticks -= 900_000
    back = camera.again()
    assert back is not None
    assert back.epoch == last.epoch + 1
    camera.ticks += 10**9
    ahead = camera.frame()
    assert ahead is not None
    assert ahead.epoch == back.epoch + 1
    assert ahead.pts_ns - back.pts_ns < NS


def test_frames_without_time_stamps_are_timed_by_arrival() -> None:
    camera = Camera()
    arrivals = [camera.clock.at(None, TICKS, None, Arrival(NOON + n * NS, n * NS)) for n in range(3)]
    stamped = camera.clock.at(777, TICKS, None, Arrival(NOON + 3 * NS, 3 * NS))
    assert [time and time.pts_ns for time in [*arrivals, stamped]] == [0, NS, 2 * NS, 3 * NS]
    assert stamped is not None
    assert stamped.epoch == 0


def test_a_resumed_stream_goes_on_in_a_new_epoch() -> None:
    point = ResumePoint(pts_ns=50 * NS, frame=9, epoch=2, wall_ns=NOON + HOUR)
    time = Camera(point).sure_frame()
    assert time.epoch == 3
    assert time.pts_ns > point.pts_ns
    # Our own clock was set back by an hour between the runs.
    assert time.wall_ns > point.wall_ns


_step = st.fixed_dictionaries(
    {
        "elapsed": st.integers(0, 20 * NS),
        "ours": st.one_of(st.just(0), st.sampled_from([-HOUR, HOUR, -NS, NS])),
        "ticks": st.one_of(st.none(), st.integers(-(10**9), 10**9), st.integers(0, 9000)),
        "sender": st.one_of(st.none(), st.integers(-2 * HOUR, 2 * HOUR), st.integers(-NS, NS)),
        "reconnected": st.booleans(),
    }
)


@pytest.mark.promise("order-of-rows")
@given(
    st.lists(_step, min_size=1, max_size=60),
    st.sampled_from([ResumePoint(), ResumePoint(pts_ns=7, frame=1, epoch=4, wall_ns=NOON + HOUR)]),
    st.sampled_from([0, 10 * NS, 10 * HOUR]),
)
def test_no_disturbance_ever_reorders_rows(
    steps: list[dict[str, int]], after: ResumePoint, max_error_ns: int
) -> None:
    clock = LiveClock(after, max_error_ns=max_error_ns)
    steady = ticks = 0
    ours = NOON
    last = FrameTime(after.pts_ns, after.wall_ns, after.epoch)
    for step in steps:
        steady += step["elapsed"]
        ours += step["elapsed"] + step["ours"]
        if step["reconnected"]:
            clock.reconnected()
        stamp = None
        if step["ticks"] is not None:
            ticks += step["ticks"]
            stamp = ticks
        sender = None if step["sender"] is None else ours + step["sender"]
        time = clock.at(stamp, TICKS, sender, Arrival(ours, steady))
        if time is None:
            continue
        assert time.order > last.order
        assert time.wall_ns > last.wall_ns
        if max_error_ns == 0:
            assert time.clock is ClockSource.ARRIVAL or sender == ours
        last = time


def test_the_senders_clock_holds_near_the_packet_that_told_it() -> None:
    sender = SenderClock()
    assert sender.at(90_000, TICKS) is None
    sender.note(90_000, NOON // 1000)
    assert sender.at(180_000, TICKS) == NOON + NS
    assert sender.at(45_000, TICKS) == NOON - NS // 2
    assert sender.at(None, TICKS) is None
    assert sender.at(90_000 * 3600, TICKS) is None


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True), st.floats(0.1, 120))
def test_backoff_grows_to_its_cap_with_full_jitter(failures: int, draw: float, longest: float) -> None:
    pause = backoff_s(failures, draw, longest)
    assert 0 <= pause <= longest
    assert pause <= 0.5 * 2 ** min(failures, 20)
    assert backoff_s(failures, 0.0, longest) == 0
    assert backoff_s(failures + 1, draw, longest) >= pause
    assert backoff_s(40, 0.5, longest) == longest / 2


def test_the_policy_decides_what_is_opened_again() -> None:
    allowed = {policy: {e for e in LossCause if reconnects(policy, e)} for policy in RestartPolicy}
    assert allowed == {
        RestartPolicy.NEVER: set(),
        RestartPolicy.ON_ERROR: {LossCause.FAILED},
        RestartPolicy.ALWAYS: {LossCause.FAILED, LossCause.OVER},
    }


@pytest.mark.promise("sent-once")
def test_a_password_is_tried_again_only_where_it_was_accepted_and_seldom() -> None:
    again = {policy for policy in RestartPolicy if reconnects(policy, LossCause.REFUSED, accepted=True)}
    assert again == {RestartPolicy.ON_ERROR, RestartPolicy.ALWAYS}
    assert [refused_pause_s(refusals) / 60 for refusals in (0, 1, 2, 3, 10**9)] == [5, 15, 60, 60, 60]


def unwatched(**given: int | bool) -> Unwatched:
    return Unwatched(
        since_ns=int(given.get("since_ns", NOON)),
        resumed=bool(given.get("resumed", False)),
        pause_ns=5 * NS,
        wall_ns=NOON,
        steady_ns=0,
    )


def test_a_short_pause_is_no_gap_and_a_broken_connection_always_is() -> None:
    pauses = unwatched()
    assert pauses.seen(NOON + 2 * NS, 2 * NS) is None
    assert pauses.seen(NOON + 3 * NS, 3 * NS) is None
    pauses.broken()
    assert pauses.seen(NOON + 4 * NS, 4 * NS) == Gap(NOON + 3 * NS + 1, NOON + 4 * NS, "outage")
    assert pauses.seen(NOON + 10 * NS, 10 * NS) == Gap(NOON + 4 * NS + 1, NOON + 10 * NS, "outage")


@pytest.mark.promise("steady-gaps")
@given(
    st.lists(st.tuples(st.integers(1, 4 * NS), st.sampled_from([0, 0, HOUR, -HOUR])), min_size=1, max_size=20)
)
def test_a_clock_that_is_set_makes_no_gap(steps: list[tuple[int, int]]) -> None:
    """Pictures come every four seconds at most, so nothing is missed, whatever the wall clock says."""
    pauses = unwatched()
    wall_ns, steady_ns, set_ns = NOON, 0, 0
    pauses.seen(wall_ns, steady_ns)
    for elapsed_ns, set_by_ns in steps:
        steady_ns += elapsed_ns
        set_ns += set_by_ns
        # Times that are given out only ever grow (`LiveClock`).
        wall_ns = max(NOON + steady_ns + set_ns, wall_ns + elapsed_ns // 2 + 1)
        assert pauses.seen(wall_ns, steady_ns) is None


@pytest.mark.parametrize("set_by_ns", [HOUR, 10 * NS])
def test_an_outage_while_the_clock_is_set_is_as_long_as_it_was(set_by_ns: int) -> None:
    pauses = unwatched()
    pauses.seen(NOON, 0)
    pauses.broken()
    back_ns = NOON + 7 * NS + set_by_ns
    assert pauses.seen(back_ns, 7 * NS) == Gap(back_ns - 7 * NS, back_ns, "outage")


@pytest.mark.promise("damaged-counted")
def test_damaged_pictures_are_a_gap_from_the_last_good_to_the_next() -> None:
    pauses = unwatched()
    pauses.seen(NOON + NS, NS)
    pauses.damaged()
    pauses.damaged()
    assert pauses.seen(NOON + 2 * NS, 2 * NS) == Gap(NOON + NS + 1, NOON + 2 * NS, "corrupt", 2)
    assert pauses.seen(NOON + 3 * NS, 3 * NS) is None


def test_a_long_outage_is_told_in_pieces_without_a_hole() -> None:
    pauses = unwatched(since_ns=NOON - HOUR, resumed=True)
    pieces = [gap for second in range(100) if (gap := pauses.waiting(second * NS))]
    last = pauses.seen(NOON + 100 * NS, 100 * NS)
    assert last is not None
    pieces.append(last)
    assert pieces[0].start_ns == NOON - HOUR
    assert pieces[-1].end_ns == NOON + 100 * NS
    assert len(pieces) >= 4
    assert all(a.end_ns == b.start_ns for a, b in pairwise(pieces))
    assert {gap.reason for gap in pieces} == {"outage"}
