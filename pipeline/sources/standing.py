"""A picture that stands for long, seen again and again: slide shows, screen recordings, the last picture of a film."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.core.clock import NS
from pipeline.core.frame import FrameTime
from pipeline.core.records import Gap, ResumePoint
from pipeline.sources.picture import DecodedFrame, still_shown
from pipeline.sources.source import Source, SourceCounts, SourceInfo, resumed_at

# A picture that stands is looked at again so often.
AGAIN_NS = NS
STANDS_NS = NS // 2
"""What is shown for so long is no flash and no part of a movement: a slide, a photo."""


class StandingPictures:
    """A recorded source, in which a picture that is shown for long comes again every second, marked `held`.

    It stands until the next picture comes, unless a gap lies between them, and the last one for as long as its file
    says: what it shows is there at every second of that time, not only at the first.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._after: ResumePoint | None = None

    @property
    def info(self) -> SourceInfo:
        return self._source.info

    @property
    def counts(self) -> SourceCounts:
        return self._source.counts

    @property
    def resumed_at(self) -> DecodedFrame | None:
        return resumed_at(self._source)

    def resume_after(self, point: ResumePoint) -> None:
        self._after = point
        self._source.resume_after(point)

    def __iter__(self) -> Iterator[DecodedFrame | Gap | None]:
        last: DecodedFrame | None = None
        begins = self._after is not None
        for event in self._source:
            if event is None:
                yield None
                continue
            if begins:
                last, begins = resumed_at(self._source), False
            if isinstance(event, DecodedFrame):
                if last is not None:
                    pause = event.time.wall_ns - last.time.wall_ns
                    yield from self._held(last, last.time.pts_ns + pause - AGAIN_NS // 2)
                last = event
            elif isinstance(event, Gap) and event.end_ns > event.start_ns:
                last = None
            yield event
        last = resumed_at(self._source) if begins else last
        if last is not None and last.lasts_ns > AGAIN_NS + AGAIN_NS // 2:
            end = last.time.pts_ns + last.lasts_ns
            yield from self._held(last, end - AGAIN_NS // 2)
            if self._is_fresh(last.time.epoch, end):
                yield still_shown(last, _later(last.time, end))

    def close(self) -> None:
        self._source.close()

    def _held(self, frame: DecodedFrame, until_pts_ns: int) -> Iterator[DecodedFrame]:
        for pts_ns in range(frame.time.pts_ns + AGAIN_NS, until_pts_ns, AGAIN_NS):
            if self._is_fresh(frame.time.epoch, pts_ns):
                yield still_shown(frame, _later(frame.time, pts_ns))

    def _is_fresh(self, epoch: int, pts_ns: int) -> bool:
        return self._after is None or (epoch, pts_ns) > (self._after.epoch, self._after.pts_ns)


def _later(time: FrameTime, pts_ns: int) -> FrameTime:
    return FrameTime(pts_ns, time.wall_ns + pts_ns - time.pts_ns, time.epoch, time.clock)
