"""When a frame of a live stream was: a policy that never lets time run backwards, whatever clocks do."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from pipeline.core.clock import NS
from pipeline.core.frame import ClockSource, FrameTime
from pipeline.core.records import ResumePoint

# Container time stamps to nanoseconds, in integers only.


def ticks_to_ns(ticks: int, time_base: Fraction) -> int:
    """`ticks` of `time_base` seconds as nanoseconds, rounded down. Exact integer arithmetic, no fps."""
    return ticks * time_base.numerator * NS // time_base.denominator


def ns_to_ticks(ns: int, time_base: Fraction) -> int:
    """The last tick of `time_base` that does not lie after `ns`."""
    return (ns + 1) * time_base.denominator // (time_base.numerator * NS) if ns >= 0 else 0


# A step back by less than this is a late or doubled frame, by more a reset of the time stamps.
_LATE_NS = 1 * NS
# Time stamps that run ahead of our own clock by more than this in one step were reset as well.
_LEAP_NS = 10 * NS


@dataclass(frozen=True, slots=True)
class Arrival:
    """When a frame reached us. `wall_ns`: ns since 1970 UTC, may jump. `steady_ns`: a clock that never does."""

    wall_ns: int
    steady_ns: int


class LiveClock:
    """Gives each frame of a live stream its `FrameTime`, strictly growing in (epoch, PTS) and in wall clock.

    PTS counts from the first frame of the first run, from the stream's own time stamps. A new epoch begins with each
    reconnection, and where time stamps step back or leap ahead; its PTS goes on where our own clock says.

    Wall clock: the sender's, where it is known and within `max_error_ns` of ours, else the time of arrival. A sender
    that was farther off must come within half of that to be believed again. Where the chosen clock lies behind what was
    given out already (it was set back, or the source of time changed), time goes on at half speed until it has caught
    up: rows stay in order and no moment is given out twice.
    """

    def __init__(self, after: ResumePoint, *, max_error_ns: int) -> None:
        resumed = after.pts_ns >= 0
        self._max_error_ns = max_error_ns
        self._epoch = after.epoch
        self._pts_ns = max(after.pts_ns, 0)
        self._wall_ns = after.wall_ns
        self._steady_ns: int | None = None
        self._started = resumed
        self._new_epoch = resumed
        self._anchor: tuple[int, int] | None = None
        self._distrusted = False

    @property
    def epoch(self) -> int:
        return self._epoch

    def reconnected(self) -> None:
        """The next frame comes over a new connection."""
        self._new_epoch = self._started

    def at(
        self, ticks: int | None, time_base: Fraction, sender_ns: int | None, arrival: Arrival
    ) -> FrameTime | None:
        """The time of the next frame, or None for a frame that comes too late to be shown.

        `ticks`: its time stamp in units of `time_base` seconds, if it has one. `sender_ns`: the sender's wall clock.
        """
        elapsed = 0 if self._steady_ns is None else max(0, arrival.steady_ns - self._steady_ns)
        pts_ns = self._continued(ticks, time_base, elapsed)
        if pts_ns is None:
            return None
        clock, wall_ns = self._chosen(sender_ns, arrival.wall_ns)
        if self._started:
            wall_ns = max(wall_ns, self._wall_ns + elapsed // 2 + 1)
        self._started = True
        self._pts_ns, self._wall_ns, self._steady_ns = pts_ns, wall_ns, arrival.steady_ns
        return FrameTime(pts_ns, wall_ns, self._epoch, clock)

    def _continued(self, ticks: int | None, time_base: Fraction, elapsed: int) -> int | None:
        if not self._started:
            self._pin(ticks, self._pts_ns)
            return self._pts_ns
        onward = self._pts_ns + max(1, elapsed)
        if not self._new_epoch:
            if ticks is None or self._anchor is None:
                self._pin(ticks, onward)
                return onward
            origin, base_ns = self._anchor
            pts_ns = base_ns + ticks_to_ns(ticks - origin, time_base)
            step = pts_ns - self._pts_ns
            if 0 < step <= elapsed + _LEAP_NS:
                return pts_ns
            if -_LATE_NS < step <= 0 and elapsed < _LATE_NS:
                return None
        self._new_epoch = False
        self._epoch += 1
        self._pin(ticks, onward)
        return onward

    def _pin(self, ticks: int | None, pts_ns: int) -> None:
        self._anchor = None if ticks is None else (ticks, pts_ns)

    def _chosen(self, sender_ns: int | None, arrival_ns: int) -> tuple[ClockSource, int]:
        if sender_ns is None:
            return ClockSource.ARRIVAL, arrival_ns
        allowed = self._max_error_ns // 2 if self._distrusted else self._max_error_ns
        self._distrusted = abs(sender_ns - arrival_ns) > allowed
        if self._distrusted:
            return ClockSource.ARRIVAL, arrival_ns
        return ClockSource.RTCP, sender_ns


class SenderClock:
    """The sender's wall clock at any time stamp, from the latest packet that carried it."""

    def __init__(self) -> None:
        self._known: tuple[int, int] | None = None

    def note(self, ticks: int, wall_us: int) -> None:
        """A packet stamped `ticks` was made at `wall_us` microseconds since 1970."""
        self._known = (ticks, wall_us * 1000)

    def at(self, ticks: int | None, time_base: Fraction) -> int | None:
        """Nanoseconds since 1970 at `ticks`; None where nothing near it is known."""
        if self._known is None or ticks is None:
            return None
        known, wall_ns = self._known
        apart_ns = ticks_to_ns(ticks - known, time_base)
        return wall_ns + apart_ns if abs(apart_ns) <= _LEAP_NS else None


# When a picture is shown that came with seconds of others: a policy over time stamps and a clock that is passed in.

# Waiting for the next segment for longer than this past its time means that nothing was in store: the schedule moves.
_DRY_NS = NS // 4
# Segments that expired unread are a hole of so long at most; what leaps farther has begun anew.
_LONGEST_HOLE_NS = 30 * NS
# What is missing between two pictures lasts longer than this, and than pictures of that sender usually are apart.
_LEAST_HOLE_NS = 1 * NS
_USUAL_STEPS = 3
# Segments that a server lost come one or two in a row; behind a leap, all do that the playlist no longer holds.
_WAITED_OUT = 2


class Pacing:
    """Spreads what is delivered in bursts (segments of HLS and DASH) over its media time.

    Nobody reads ahead: pictures wait undecoded with the sender, so that memory stays bounded. The schedule is pinned to
    the first picture, and moves only where time stamps begin anew or the sender was late. That *we* were slow moves
    nothing: such pictures are due in the past and are shown at once. A hole in the media is waited out, so that it is
    seen as the pause that it is; `after_hole`: the last picture stood behind one. Where one follows
    the other, each waited out for longer than all that comes between, it is the waiting that loses segments, since the
    stamps leapt: then the schedule moves. Steady clock and media time in ns.
    """

    def __init__(self) -> None:
        self._pin: tuple[int, int] | None = None
        self._media_ns = 0
        self._step_ns = 0
        # How many holes in a row were waited out for longer than what came since the one before, which ended then.
        self._waited = 0
        self._hole_ns = (0, 0)
        self.after_hole = False

    def due_ns(self, media_ns: int, *, asked_ns: int, now_ns: int) -> int:
        """When on the steady clock the picture at `media_ns` is shown. `asked_ns`: since when it was waited for."""
        step = media_ns - self._media_ns
        self.after_hole = False
        if self._pin is None or not 0 <= step <= _LONGEST_HOLE_NS:
            return self._moved(media_ns, now_ns)
        self.after_hole = step > max(_LEAST_HOLE_NS, _USUAL_STEPS * self._step_ns) and self._step_ns > 0
        self._media_ns, self._step_ns = media_ns, step
        pinned_ns, since_ns = self._pin
        due = since_ns + media_ns - pinned_ns
        if now_ns - max(due, asked_ns) > _DRY_NS:
            return self._moved(media_ns, now_ns)
        if self.after_hole and due > now_ns:
            wait_ns, ended_ns = self._hole_ns
            self._waited = self._waited + 1 if wait_ns > media_ns - step - ended_ns else 1
            self._hole_ns = (due - now_ns, media_ns)
            if self._waited > _WAITED_OUT:
                self._waited = 0
                return self._moved(media_ns, now_ns)
        return due

    def _moved(self, media_ns: int, now_ns: int) -> int:
        self._pin, self._media_ns = (media_ns, now_ns), media_ns
        return now_ns


# Between two bursts nothing comes for so long, and each holds media of more than a second, delivered four times as fast as it
# plays. One may be what a server keeps for whoever connects; a second one says how it delivers.
_BURST_PAUSE_NS = 8 * NS // 10
_LEAST_BURST_NS = 1 * NS
_BURST_HASTE = 4
_BURSTS = 2


class Bursts:
    """Whether a stream that says nothing of it is delivered seconds at a time. Media time and steady clock in ns."""

    def __init__(self) -> None:
        self._begun: tuple[int, int] | None = None
        self._last: tuple[int, int] | None = None
        self._count = 0
        self.found = False

    def note(self, media_ns: int, now_ns: int) -> None:
        """The picture at `media_ns` has come."""
        last, self._last = self._last, (media_ns, now_ns)
        if last is None or self._begun is None or not 0 <= media_ns - last[0] <= _LEAP_NS:
            self._begun, self._count = self._last, 0
        elif now_ns - last[1] >= _BURST_PAUSE_NS:
            media, took = last[0] - self._begun[0], last[1] - self._begun[1]
            burst = media >= _LEAST_BURST_NS and _BURST_HASTE * took <= media
            self._begun, self._count = self._last, self._count + 1 if burst else 0
            self.found = self.found or self._count >= _BURSTS
