"""The one policy for a file's clock: what its time stamps say, as times that never run backwards."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise, takewhile
from statistics import median_low
from typing import Generic, TypeVar

from pipeline.core.clock import NS
from pipeline.core.frame import ClockSource, FrameTime
from pipeline.sources.clocks import ns_to_ticks, ticks_to_ns

# As many pictures are looked at before the first of them is timed: more than a decoder puts out of order, and enough
# to tell one stray stamp from stamps that begin anew.
LOOKAHEAD = 8
# A step back by less than this is disorder among neighbours (jitter, stamps in decode order), by more a reset.
LATE_NS = 1 * NS
# A step ahead by more than this is believed only where the pictures behind it go on from there.
LEAP_NS = 10 * NS
# Sound may begin this long before the picture; what lies farther off is not the same film's beginning.
_LATE_PICTURE_NS = 3600 * NS
# A clock that wraps does so within this of its end.
_WRAP_NEAR_NS = 60 * NS
# Decoders and muxers mix up neighbours, no more than these.
_DISORDER = 4
# Where so many pictures in a row lie behind what was shown, it is not they that are late: stamps begin anew.
_ANEW = 3
_FIRST_STEP_NS = NS // 25

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a file says of one picture's time. `ticks`: when it is shown, None where it does not say. `duration`: how
    long, 0 where it does not say. Both in units of the file's time base."""

    ticks: int | None
    duration: int = 0


@dataclass(frozen=True, slots=True)
class Timed(Generic[Item]):
    """A picture with its time. `own`: whether that is what its stamp says; else it was set between its neighbours.

    `lasts_ns`: how long the file says it is shown, 0 where it does not say.
    """

    item: Item
    time: FrameTime
    own: bool
    lasts_ns: int


@dataclass(slots=True)
class _Waiting(Generic[Item]):
    item: Item
    ticks: int | None
    duration: int


class FilmClock(Generic[Item]):
    """Gives each picture of a file its `FrameTime`, strictly growing in (epoch, PTS) and in wall clock.

    Pictures come in display order, with what the file says of them (`push`), and leave in the same order once
    `LOOKAHEAD` more have been seen (`flush` at the end). The rules, in order:

    * A clock of `wrap` ticks goes on past its end.
    * A stamp from which the pictures behind it do not go on, while they do from the picture before it, is a stray; so
      is a last picture that leaps for no stated reason. It is set between its neighbours.
    * A step back from which the next pictures go on, by more than a second or to where the stamps began, is a reset: a
      new epoch, whose PTS begins at 0 and whose wall clock goes on behind the last picture. A step ahead is time that
      passed.
    * Smaller disorder is sorted: the times stay, and go to the pictures in display order. Where stamps ran ahead for a
      while and step back, nothing is added: time goes on at half its speed at most until they have caught up.
    * Equal and missing stamps are set evenly between their neighbours.

    All of it depends on the last `LOOKAHEAD` pictures and the next ones only. `origin`: ticks of PTS 0 where that is
    not the first picture (sound that begins before it); one that lies behind it, or an hour before, is not believed.
    `exact`: the origin is known from an earlier reading, and the first picture may lie anywhere behind it.
    `start_wall_ns`: wall clock of PTS 0. `step_ns`: the nominal time between pictures. `end`: the tick at which the
    file says it ends.
    """

    def __init__(
        self,
        time_base: Fraction,
        start_wall_ns: int,
        *,
        origin: int | None = None,
        wrap: int | None = None,
        step_ns: int | None = None,
        end: int | None = None,
        exact: bool = False,
    ) -> None:
        self._time_base = time_base
        self._wall_ns = start_wall_ns
        self._hint = origin
        self._exact = exact
        self._wrap = wrap
        self._wraps = 0
        self._end = end
        self._waiting: deque[_Waiting[Item]] = deque()
        self._steps: deque[int] = deque(maxlen=LOOKAHEAD)
        self._nominal_ns = step_ns or _FIRST_STEP_NS
        # Ticks of the present epoch's PTS 0; none before the first picture is timed.
        self._origin: int | None = None
        self._pts_ns = 0
        self._lasts_ns = 0
        self._newest: int | None = None
        self._epoch = 0
        self.strays = self.sorted = self.resets = 0

    @property
    def epoch(self) -> int:
        return self._epoch

    @property
    def origin(self) -> int:
        """Ticks of the present epoch's PTS 0; call only after a picture was timed."""
        assert self._origin is not None
        return self._origin

    @property
    def step_ns(self) -> int:
        """The usual time between two pictures lately."""
        return median_low(self._steps) if self._steps else self._nominal_ns

    def push(self, stamp: Stamp, item: Item) -> Iterator[Timed[Item]]:
        """Take the next picture in, and give out those whose time is now known."""
        self._waiting.append(_Waiting(item, self._unwrapped(stamp.ticks), stamp.duration))
        while len(self._waiting) > LOOKAHEAD:
            yield self._settle()

    def flush(self) -> Iterator[Timed[Item]]:
        """No more pictures come: give out the rest."""
        while self._waiting:
            yield self._settle()

    def at(self, ticks: int) -> FrameTime:
        """The time that `ticks` has in the present epoch; call only after a picture was timed."""
        assert self._origin is not None
        pts_ns = ticks_to_ns(ticks - self._origin, self._time_base)
        return FrameTime(pts_ns, self._wall_ns + pts_ns, self._epoch, ClockSource.FILE)

    def _unwrapped(self, ticks: int | None) -> int | None:
        if ticks is None or self._wrap is None:
            return ticks
        # FFmpeg unwraps by a rule of its own, which takes a real reset for a wrap.
        ticks %= self._wrap
        near = ns_to_ticks(_WRAP_NEAR_NS, self._time_base)
        if self._newest is not None:
            if self._newest > self._wrap - near and ticks < near:
                self._wraps += 1
            elif self._wraps and self._newest < near and ticks > self._wrap - near:
                # A picture from before the wrap that is shown behind one from after it.
                return ticks + (self._wraps - 1) * self._wrap
        self._newest = ticks
        return ticks + self._wraps * self._wrap

    def _settle(self) -> Timed[Item]:
        begins = self._origin is None
        if begins:
            self._begin()
        head = self._waiting[0]
        epoch = self._epoch
        pts_ns = self._own_ns(head)
        own = pts_ns is not None
        if pts_ns is None:
            pts_ns = self._pts_ns + 1 if begins else self._between()
        if own and not begins and epoch == self._epoch:
            self._steps.append(pts_ns - self._pts_ns)
        self._waiting.popleft()
        self._pts_ns = pts_ns
        self._lasts_ns = ticks_to_ns(max(0, head.duration), self._time_base)
        time = FrameTime(pts_ns, self._wall_ns + pts_ns, self._epoch, ClockSource.FILE)
        return Timed(head.item, time, own, self._lasts_ns)

    def _begin(self) -> None:
        """Fix PTS 0, so that the first picture's stamp lies one nanosecond behind what is counted as seen."""
        known = [(place, w.ticks) for place, w in enumerate(self._waiting) if w.ticks is not None]
        if not known:
            # A film without a single stamp so far: it begins now, and a stamp that comes later counts from here.
            self._origin = self._hint or 0
            self._pts_ns = -1
            return
        place, first = known[0]
        rest = [self._ns(ticks - first) for _, ticks in known[1:]]
        lasts = ticks_to_ns(max(0, self._waiting[place].duration), self._time_base)
        if rest and not _near(0, rest[0], max(LEAP_NS, lasts + LATE_NS)) and _agree(rest, 0):
            self.strays += 1
            self._waiting[place].ticks = None
            place, first = known[1]
            rest = [self._ns(ticks - first) for _, ticks in known[2:]]
        near = min([0, *(value for value in rest if value > -LATE_NS)])
        first -= ns_to_ticks(-near, self._time_base)
        if place:
            # The pictures before it have no stamp of their own: one usual step each.
            steps = [
                self._ns(after - before) // (there - here)
                for (here, before), (there, after) in pairwise(known)
                if 0 < self._ns(after - before) <= LEAP_NS
            ]
            first -= place * ns_to_ticks(median_low(steps) if steps else self.step_ns, self._time_base)
        self._origin = first
        hint = self._hint
        if hint is not None:
            hint = hint if self._wrap is None or self._exact else hint % self._wrap
            if self._exact or 0 <= self._ns(first - hint) <= _LATE_PICTURE_NS:
                self._origin = hint
        self._pts_ns = self._ns(first - self._origin) - 1

    def _own_ns(self, head: _Waiting[Item]) -> int | None:
        """The PTS that the head's stamp says, put in order; None where it says nothing that can be believed."""
        if head.ticks is None:
            return None
        own = self._pts_of(head.ticks)
        before = self._pts_ns
        far = self._far_ns
        if not before - LATE_NS < own <= before + far:
            followers = self._followers()
            here = sum(_near(before, value, far * (count + 1)) for count, value in followers)
            there = sum(_near(own, value, far * count) for count, value in followers)
            alone = not there and _agree([value for _, value in followers], own)
            if (here and here >= there) or ((alone or not followers) and not self._stated_leap(own, before)):
                self.strays += 1
                return None
            if own < before:
                self._reset(head)
                return self._own_ns(head)
        if own <= before:
            next_ones = [value for _, value in self._followers()]
            behind = list(takewhile(lambda value: value <= before, next_ones))
            if (
                own < min(behind, default=own)
                and own <= _DISORDER * self.step_ns
                and len(behind) >= min(_ANEW, max(2, len(next_ones)))
                and behind == sorted(behind)
            ):
                # Not one late picture: all of them begin anew, where the first ones did. Program streams that stamp one
                # picture of several are off for a while, and come back: those would add time for good.
                self._reset(head)
                return self._own_ns(head)
            return None
        return self._sorted(head, own)

    def _sorted(self, head: _Waiting[Item], own: int) -> int | None:
        """Disorder among neighbours: the earliest of their times is the head's."""
        earlier = [
            (value, place)
            for place, waiting in enumerate(self._waiting)
            if waiting.ticks is not None
            and place
            and self._pts_ns < (value := self._pts_of(waiting.ticks)) < own
        ]
        if not earlier:
            return own
        followers = len(self._waiting) - 1
        if len(earlier) >= max(1, followers * 3 // 4) and own - max(earlier)[0] > _DISORDER * self.step_ns:
            # Nearly everything that follows lies before it: it alone is wrong.
            self.strays += 1
            return None
        self.sorted += 1
        value, place = min(earlier)
        other = self._waiting[place]
        head.ticks, other.ticks = other.ticks, head.ticks
        return value

    def _between(self) -> int:
        """A time between the picture before and the next one that has a usable stamp."""
        reach = self._far_ns
        for place, waiting in enumerate(self._waiting):
            if not place or waiting.ticks is None:
                continue
            value = self._pts_of(waiting.ticks)
            if self._pts_ns < value <= self._pts_ns + reach * (place + 1):
                return self._pts_ns + max(1, (value - self._pts_ns) // (place + 1))
        behind = any(value <= self._pts_ns for _, value in self._followers())
        return self._pts_ns + max(1, self.step_ns // 2 if behind else self.step_ns)

    def _reset(self, head: _Waiting[Item]) -> None:
        """Stamps begin anew at the head: a new epoch, right behind the picture before."""
        assert head.ticks is not None
        self._wall_ns += self._pts_ns + (
            self._lasts_ns if 0 < self._lasts_ns <= self._far_ns else self.step_ns
        )
        near = [
            waiting.ticks
            for waiting in self._waiting
            if waiting.ticks is not None and -LATE_NS < self._ns(waiting.ticks - head.ticks) <= 0
        ]
        self._origin = min(near)
        self._pts_ns = -1
        self._epoch += 1
        self.resets += 1

    def _followers(self) -> list[tuple[int, int]]:
        """(how many pictures behind the head, PTS) of what is waiting behind it."""
        return [
            (place, self._pts_of(waiting.ticks))
            for place, waiting in enumerate(self._waiting)
            if place and waiting.ticks is not None
        ]

    def _stated_leap(self, own: int, before: int) -> bool:
        """Whether the file gives a reason for a last picture that comes long after the one before."""
        if own <= before or self._origin is None:
            return False
        if self._lasts_ns >= own - before - LATE_NS:
            return True
        return self._end is not None and self._pts_of(self._end) >= own

    @property
    def _far_ns(self) -> int:
        return max(LEAP_NS, LOOKAHEAD * self.step_ns)

    def _pts_of(self, ticks: int) -> int:
        assert self._origin is not None
        return self._ns(ticks - self._origin)

    def _ns(self, ticks: int) -> int:
        return ticks_to_ns(ticks, self._time_base)


def _near(before: int, after: int, reach: int) -> bool:
    """Whether a picture at `after` can come within `reach` behind one at `before`, some disorder allowed."""
    return -LATE_NS < after - before <= reach


def _agree(values: list[int], but: int) -> bool:
    """Whether pictures go on from each other, at least two of them, and none from one at `but`."""
    if len(values) < 2:
        return False
    line = sum(_near(values[0], value, LEAP_NS * count) for count, value in enumerate(values[1:], 1))
    return 2 * line >= len(values) - 1 and not any(_near(but, value, LEAP_NS) for value in values)
