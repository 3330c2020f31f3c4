"""What a plain decode of a file gives, and what the program's own reader does."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import av
from av.error import FFmpegError

from pipeline.core.records import Gap, ResumePoint
from pipeline.sources import DecodedFrame, SourceInfo
from pipeline.sources.file import VideoFile
from tests.media.numbered import number_of


@dataclass(frozen=True, slots=True)
class Seen:
    """Pictures (their numbers, None for one that is damaged), frames and gaps of one reading."""

    numbers: list[int | None]
    frames: list[DecodedFrame]
    gaps: list[Gap]
    info: SourceInfo

    @property
    def times_ns(self) -> list[int]:
        """From the start of the stream, over all epochs."""
        return [frame.time.wall_ns - self.info.start_wall_ns for frame in self.frames]


def plain_decode(path: Path) -> list[int]:
    """Numbers of all whole pictures that FFmpeg makes of the file, from its first key picture to its last packet.

    What lies before the first key picture builds on pictures that are not there: some decoders guess at it.
    """
    numbers: list[int | None] = []
    with av.open(str(path)) as container, suppress(FFmpegError):
        video = container.streams.video[0]
        video.thread_type = "SLICE"
        begun = False
        for packet in container.demux(video):
            begun = begun or packet.is_keyframe
            if not begun and packet.size:
                continue
            with suppress(FFmpegError):
                numbers += [
                    number_of(frame.to_ndarray(format="rgb24", threads=1))
                    for frame in packet.decode()
                    if not frame.is_corrupt
                ]
    return [number for number in numbers if number is not None]


def read_film(path: Path, after: ResumePoint | None = None, rate: float | None = None) -> Seen:
    """Read `path` as the program does, behind `after`."""
    source = VideoFile(path, stream="film", start_ns=0, rate=rate)
    if after is not None:
        source.resume_after(after)
    events = list(source)
    source.close()
    frames = [event for event in events if isinstance(event, DecodedFrame)]
    gaps = [event for event in events if isinstance(event, Gap)]
    return Seen([number_of(frame.to_frame().rgb) for frame in frames], frames, gaps, source.info)


def point_of(frame: DecodedFrame) -> ResumePoint:
    """Where a run that has stored `frame` goes on."""
    return ResumePoint(frame.time.pts_ns, frame.index, frame.time.epoch, frame.time.wall_ns)
