"""What every source keeps, whatever it reads: see `pipeline.sources.source.Source`."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import cv2
import pytest

from pipeline.core.frame import ClockSource
from pipeline.core.records import Gap, ResumePoint
from pipeline.sources import DecodedFrame, Source

ENOUGH = 12
STREAM = "one"
Opener = Callable[[], Source]


def some(source: Source, count: int = ENOUGH) -> tuple[list[DecodedFrame], list[Gap]]:
    """The first `count` frames and the gaps between them."""
    frames: list[DecodedFrame] = []
    gaps: list[Gap] = []
    until = time.monotonic() + 60
    for event in source:
        if isinstance(event, DecodedFrame):
            frames.append(event)
        elif isinstance(event, Gap):
            gaps.append(event)
        if len(frames) >= count:
            break
        assert time.monotonic() < until, "no more frames came"
    source.close()
    return frames, gaps


class SourceTests:
    """Subclass it and give the fixture `opener`: a function that opens the same source, as stream "one", at each call.

    The source holds at least `ENOUGH` frames of real content. `secrets`: parts of its address that must not be shown.
    """

    secrets: tuple[str, ...] = ()

    @pytest.fixture
    def opener(self) -> Opener:
        raise NotImplementedError

    def test_it_is_known_before_it_is_read(self, opener: Opener) -> None:
        before = time.time_ns()
        source = opener()
        info = source.info
        source.close()
        assert info.stream == STREAM
        assert info.width > 0
        assert info.height > 0
        assert info.fingerprint
        assert info.start_wall_ns > 0
        if info.live:
            assert before <= info.start_wall_ns <= time.time_ns()
        for secret in self.secrets:
            assert secret not in repr(info)

    def test_frames_are_numbered_and_timed_in_order(self, opener: Opener) -> None:
        source = opener()
        info = source.info
        frames, gaps = some(source)
        assert len(frames) == ENOUGH
        for before, after in itertools.pairwise(frames):
            assert after.index > before.index
            assert after.time.order > before.time.order
            assert after.time.wall_ns > before.time.wall_ns
        assert frames[0].time.wall_ns >= info.start_wall_ns
        assert all(frame.stream == STREAM for frame in frames)
        clocks = {frame.time.clock for frame in frames}
        assert clocks <= ({ClockSource.ARRIVAL, ClockSource.RTCP} if info.live else {ClockSource.FILE})
        assert all(gap.start_ns < gap.end_ns for gap in gaps)
        if not info.live:
            assert [frame.index for frame in frames] == list(range(ENOUGH))

    def test_pixels_have_the_size_that_was_told_and_fit_their_thumbnail(self, opener: Opener) -> None:
        source = opener()
        info = source.info
        frames, _ = some(source, 3)
        for frame in frames:
            full = frame.to_frame()
            assert full.rgb.shape == (info.height, info.width, 3)
            assert full.rgb.dtype == "uint8"
            assert (full.index, full.time) == (frame.index, frame.time)
            thumbnail = frame.thumbnail()
            grey = cv2.cvtColor(full.rgb, cv2.COLOR_RGB2GRAY)
            small = cv2.resize(grey, thumbnail.shape[::-1], interpolation=cv2.INTER_AREA)
            assert abs(small.astype(int) - thumbnail).mean() < 20

    def test_resuming_never_repeats_and_never_goes_back(self, opener: Opener) -> None:
        frames, _ = some(opener())
        last = frames[5]
        point = ResumePoint(last.time.pts_ns, last.index, last.time.epoch, last.time.wall_ns)
        source = opener()
        live = source.info.live
        source.resume_after(point)
        again, gaps = some(source)
        assert all(frame.index > point.frame for frame in again)
        assert all(frame.time.order > last.time.order for frame in again)
        assert all(frame.time.wall_ns > point.wall_ns for frame in again)
        if live:
            # What could not be seen in between is told.
            assert any(gap.reason == "outage" and gap.start_ns == point.wall_ns + 1 for gap in gaps)
            assert again[0].time.epoch > point.epoch
        else:
            assert again[0].index == point.frame + 1
            assert not gaps

    def test_what_was_dropped_or_damaged_is_counted_and_told(self, opener: Opener) -> None:
        source = opener()
        frames, gaps = some(source)
        counts = source.counts
        assert counts.frames >= len(frames)
        assert counts.dropped >= sum(gap.frames for gap in gaps if gap.reason == "dropped")
        assert counts.corrupt == sum(gap.frames for gap in gaps if gap.reason == "corrupt") == 0

    def test_closing_ends_it_within_a_second(self, opener: Opener) -> None:
        source = opener()
        events = iter(source)
        next(event for event in events if isinstance(event, DecodedFrame))
        begun = time.monotonic()
        source.close()
        if source.info.live:
            assert sum(isinstance(event, DecodedFrame) for event in events) <= 1
        source.close()
        assert time.monotonic() - begun < 1

    def test_it_can_be_closed_without_being_read(self, opener: Opener) -> None:
        source = opener()
        source.close()
        source.close()

    def test_the_same_source_has_the_same_fingerprint(self, opener: Opener) -> None:
        first, second = opener(), opener()
        assert first.info.fingerprint == second.info.fingerprint
        first.close()
        second.close()
