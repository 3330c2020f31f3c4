"""From a film's timed pictures to frames and gaps: what was shown, what was lost, and where nothing is."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from fractions import Fraction

from pipeline.core.clock import NS
from pipeline.core.frame import FrameTime
from pipeline.core.records import Gap, GapReason, ResumePoint
from pipeline.sources.clocks import ticks_to_ns
from pipeline.sources.decoding import Picture
from pipeline.sources.film_clock import FilmClock, Timed
from pipeline.sources.geometry import Orientations, geometry_of
from pipeline.sources.picture import DecodedFrame, from_video_frame
from pipeline.sources.source import SourceCounts, SourceInfo

log = logging.getLogger(__name__)

# A pause up to this long is a picture that stands; a longer one needs a stated duration. Broadcasts leap more easily.
_PAUSE_NS = 60 * NS
_BROADCAST_PAUSE_NS = 10 * NS
# Where bytes are missing, pictures this many times as far apart as usual have lost one between them.
_TORN_STEPS = 1.5
# FFmpeg marks a packet or two before the hole, and pictures are shown in another order.
_TORN_PICTURES = 5


class FilmEvents:
    """What `VideoFile` gives out of one reading. `broadcast`: its time stamps may leap at any moment."""

    def __init__(
        self, info: SourceInfo, clock: FilmClock[Picture], time_base: Fraction, *, broadcast: bool
    ) -> None:
        self._info = info
        self._clock = clock
        self._time_base = time_base
        self._longest_pause = _BROADCAST_PAUSE_NS if broadcast else _PAUSE_NS
        self._size_now = (info.width, info.height)
        self._after: tuple[int, int] | None = None
        self._last: Timed[Picture] | None = None
        self._orientations = Orientations()
        self._frames = self._corrupt = self._torn = 0
        self.resumed_at: DecodedFrame | None = None

    @property
    def counts(self) -> SourceCounts:
        return SourceCounts(frames=self._frames, corrupt=self._corrupt)

    def of(
        self,
        timed: Iterator[Timed[Picture]],
        skip: ResumePoint | None = None,
        known: Timed[Picture] | None = None,
    ) -> Iterator[DecodedFrame | Gap]:
        """Frames and gaps of `timed`. `skip`: leave out what an earlier run has seen; `known`: its last picture."""
        self._after = None if skip is None else (skip.epoch, skip.pts_ns)
        index = 0
        if known is not None and skip is not None:
            self._last, index = known, skip.frame + 1
            self.resumed_at = self._frame(skip.frame, known)
        for one in timed:
            fresh = self._is_fresh(one.time)
            if fresh:
                yield from self._before(one)
            if one.item.damaged:
                continue
            if fresh:
                yield from self._resized(one)
                self._frames += 1
                yield self._frame(index, one)
            elif skip is not None:
                if one.time.order == self._after:
                    # The number under which this picture is stored.
                    index = skip.frame
                self.resumed_at = self._frame(index, one)
            self._last = one
            index += 1

    def missing(self, rest: list[int], declared_end: int | None) -> Iterator[Gap]:
        """What the end of the file owes. `rest`: ticks of pictures that never came; `declared_end`: of the film."""
        shown, clock = self._last, self._clock
        if shown is None:
            return
        step = clock.step_ns
        end = shown.time.pts_ns + (shown.lasts_ns or step)
        wall = shown.time.wall_ns - shown.time.pts_ns
        if self._after is not None and (shown.time.epoch, end) <= self._after:
            return
        if rest:
            self._corrupt += len(rest)
            until = min(max(clock.at(max(rest)).pts_ns + step, end + step), end + _PAUSE_NS)
            yield Gap(wall + end, wall + until, GapReason.CORRUPT, len(rest))
            return
        # A declared end may come from the very stamp that is out of line.
        if declared_end is None or shown.time.epoch or clock.strays:
            return
        promised = clock.at(declared_end).pts_ns
        if promised - end > max(NS // 2, 3 * step):
            yield Gap(wall + end, wall + promised, GapReason.CORRUPT, 0)

    def _is_fresh(self, time: FrameTime) -> bool:
        return self._after is None or time.order > self._after

    def _before(self, one: Timed[Picture]) -> Iterator[Gap]:
        """The gap between the picture before and this one, if there is one."""
        lost, until = one.item.lost, one.time.wall_ns
        last = self._last
        self._torn = _TORN_PICTURES if one.item.torn else max(0, self._torn - 1)
        seen_until = self._info.start_wall_ns if last is None else last.time.wall_ns
        if lost:
            self._corrupt += len(lost)
            start = until
            if one.item.stamp.ticks is not None:
                start -= ticks_to_ns(one.item.stamp.ticks - min(lost), self._time_base)
            if self._torn and last is not None:
                # Beside the pictures that failed there are those whose packets are missing.
                start = min(start, seen_until + self._clock.step_ns)
            # Where time stamps began anew behind a damaged picture, its own says nothing any more.
            yield Gap(min(max(start, seen_until), until), until, GapReason.CORRUPT, len(lost))
        elif last is not None:
            pause = until - seen_until
            if pause > self._longest_pause and last.lasts_ns < pause - NS:
                yield Gap(seen_until + last.lasts_ns, until, GapReason.OUTAGE, 0)
            elif self._torn and pause > _TORN_STEPS * self._clock.step_ns:
                # Whole packets are missing, so that nobody can tell how many pictures were in them.
                yield Gap(seen_until + self._clock.step_ns, until, GapReason.CORRUPT, 0)

    def _resized(self, one: Timed[Picture]) -> Iterator[Gap]:
        size = geometry_of(one.item.frame, one.item.aspect, self._orientations).display
        if size == self._size_now:
            return
        self._size_now = size
        text = f"{size[0]}x{size[1]}"
        log.warning(
            "%s: from %.1f s on the picture is %s; it is fitted into the first one's %dx%d",
            self._info.stream,
            one.time.pts_ns / NS,
            text,
            self._info.width,
            self._info.height,
        )
        yield Gap(one.time.wall_ns, one.time.wall_ns, GapReason.RESIZED, 0)

    def _frame(self, index: int, one: Timed[Picture]) -> DecodedFrame:
        frame = from_video_frame(
            self._info.stream,
            index,
            one.time,
            one.item.frame,
            (self._info.width, self._info.height),
            one.item.aspect,
            self._orientations,
        )
        frame.lasts_ns = one.lasts_ns
        return frame
