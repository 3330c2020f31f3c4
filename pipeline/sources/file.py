"""Video files through FFmpeg, with the container's own time stamps."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import av
from av.codec.hwaccel import HWAccel, hwdevices_available
from av.error import FFmpegError
from dateutil import parser as date_parser

from pipeline.core.clock import NS, to_ns
from pipeline.core.errors import SourceRefused
from pipeline.core.frame import ClockSource
from pipeline.core.records import Gap, GapReason, ResumePoint
from pipeline.sources.clocks import StreamClock, ns_to_ticks, ticks_to_ns
from pipeline.sources.identity import file_fingerprint
from pipeline.sources.picture import DecodedFrame, displayed_size, from_video_frame
from pipeline.sources.source import SourceCounts, SourceInfo, SourceKind
from pipeline.sources.tracks import video_track

# Video decoding on the GPU: FFmpeg still demuxes and tells the time, NVDEC makes the pictures.

CPU, NVDEC = "cpu", "nvdec"


def hardware_decoder(name: str) -> HWAccel | None:
    """What `av.open` takes as `hwaccel`: None for the CPU.

    A stream that the GPU cannot decode (its codec, its size) is decoded on the CPU all the same. Raises `SourceRefused`
    where there is no GPU that decodes.
    """
    if name == CPU:
        return None
    assert name == NVDEC, name
    if "cuda" not in hwdevices_available():
        raise SourceRefused(
            "sources.decoder=nvdec: this build of FFmpeg has no CUDA; install the PyAV wheel, or use cpu"
        )
    try:
        HWAccel("cuda").create(av.codec.Codec("h264", "r"))
    except (FFmpegError, OSError, RuntimeError, NotImplementedError):
        raise SourceRefused(
            "sources.decoder=nvdec: no NVIDIA GPU that decodes video is visible here; use cpu, or give the container "
            "the video capability (NVIDIA_DRIVER_CAPABILITIES=compute,video,utility)"
        ) from None
    return HWAccel("cuda", allow_software_fallback=True)


_TEXT_FORMATS = {"tty", "srt", "ass", "webvtt", "microdvd", "lrc", "concat", "ffmetadata"}
_MAX_READ_ERRORS = 64


class VideoFile:
    """A video file: every frame once, in order, with exact PTS. Never drops.

    Wall clock of the first frame: `start_ns` when given, else the container's `creation_time`, else the file's
    modification time minus its duration. A frame that FFmpeg cannot decode, or marks as damaged, is skipped, counted
    and reported as a `Gap` (GapReason.CORRUPT); so is a tail that the container promises and the file does not hold.

    Raises `SourceRefused` naming the file and the remedy when it is missing, empty, not a video or has no frame.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        stream: str,
        start_ns: int | None = None,
        decoder: str = CPU,
        track: int | None = None,
    ) -> None:
        self._path = Path(path)
        self._stream_name = stream
        self._container = open_container(self._path, hardware_decoder(decoder))
        try:
            self._video = video_stream(self._container, str(self._path), track)
            first = self._first_frame()
        except BaseException:
            self._container.close()
            raise
        assert self._video.time_base is not None
        assert first.pts is not None
        self._time_base = self._video.time_base
        self._origin = first.pts
        duration_ns = self._declared_duration_ns()
        width, height = displayed_size(first)
        self._info = SourceInfo(
            stream=stream,
            address=str(self._path),
            kind=SourceKind.FILE,
            width=width,
            height=height,
            start_wall_ns=self._start_wall_ns(duration_ns) if start_ns is None else start_ns,
            fingerprint=file_fingerprint(self._path),
            duration_ns=duration_ns,
            frames=self._video.frames or None,
            nominal_fps=float(self._video.average_rate) if self._video.average_rate else None,
            notices=video_track(self._container, str(self._path), track)[1],
        )
        self._frames = 0
        self._corrupt = 0
        self._resume: ResumePoint | None = None

    @property
    def info(self) -> SourceInfo:
        return self._info

    @property
    def counts(self) -> SourceCounts:
        return SourceCounts(frames=self._frames, corrupt=self._corrupt)

    def resume_after(self, point: ResumePoint) -> None:
        """Continue behind the frame at `point`; its PTS, epoch and frame number keep counting from there."""
        self._resume = point if point.pts_ns >= 0 else None

    def close(self) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[DecodedFrame | Gap]:
        clock = StreamClock(self._time_base, self._origin, self._info.start_wall_ns, ClockSource.FILE)
        resume = self._resume
        # After a PTS reset the container's index cannot be trusted: decode from the start and skip.
        can_seek = resume is not None and resume.epoch == 0
        with suppress(FFmpegError):
            self._container.seek(
                self._origin + ns_to_ticks(resume.pts_ns, self._time_base)
                if resume and can_seek
                else self._origin,
                stream=self._video,
                backward=True,
                any_frame=False,
            )
        index = shown_until = 0
        lost = _LostFrames()
        decoded_any = False
        for picture in self._decode(lost):
            if picture.pts is None:
                continue
            damaged = picture.is_corrupt
            shown_until = picture.pts + (picture.duration or 0)
            time = clock.at(picture.pts)
            missing = lost.before(picture.pts, damaged)
            if resume is not None and time.order <= (resume.epoch, resume.pts_ns):
                index = (
                    resume.frame + 1 if time.order == (resume.epoch, resume.pts_ns) or can_seek else index + 1
                )
                continue
            decoded_any = True
            if missing:
                self._corrupt += len(missing)
                # Where time stamps began anew behind a damaged picture, its own says nothing any more.
                starts = min(clock.peek(min(missing)).wall_ns, time.wall_ns)
                yield Gap(starts, time.wall_ns, GapReason.CORRUPT, len(missing))
            if damaged:
                continue
            self._frames += 1
            yield from_video_frame(self._stream_name, index, time, picture)
            index += 1
        yield from self._missing_tail(clock, lost, shown_until if decoded_any else None)

    def _decode(self, lost: _LostFrames) -> Iterator[av.VideoFrame]:
        """Decoded pictures in display order; damage is noted in `lost` instead of raised."""
        packets = self._container.demux(self._video)
        errors = 0
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except FFmpegError:
                errors += 1
                lost.note_error()
                if errors > _MAX_READ_ERRORS:
                    return
                packets = self._container.demux(self._video)
                continue
            if packet.pts is not None and not packet.is_discard:
                lost.expect(packet.pts)
            if packet.is_corrupt:
                lost.note_error()
            try:
                pictures = packet.decode()
            except FFmpegError:
                lost.note_error()
                continue
            yield from pictures

    def _missing_tail(self, clock: StreamClock, lost: _LostFrames, shown_until: int | None) -> Iterator[Gap]:
        rest = lost.rest()
        last = clock.last_ticks
        if last is None or shown_until is None:
            return
        if rest:
            self._corrupt += len(rest)
            end = clock.peek(max(rest) + clock.last_step)
            yield Gap(clock.peek(min(rest)).wall_ns, end.wall_ns, GapReason.CORRUPT, len(rest))
            return
        duration = self._info.duration_ns
        if duration is None or clock.epoch:
            return
        end = clock.peek(shown_until if shown_until > last else last + clock.last_step)
        if duration - end.pts_ns > max(NS // 2, 3 * ticks_to_ns(clock.last_step, self._time_base)):
            yield Gap(end.wall_ns, self._info.start_wall_ns + duration, GapReason.CORRUPT, 0)

    def _first_frame(self) -> av.VideoFrame:
        """The first picture that has a time stamp: it proves that the file can be decoded and fixes PTS 0."""
        try:
            untimed = False
            for picture in self._decode(_LostFrames()):
                if picture.pts is not None:
                    return picture
                untimed = True
            if untimed:
                raise SourceRefused(
                    f"{self._path}: its frames carry no time stamps; "
                    f"remux it once: ffmpeg -i {self._path.name} -c copy out.mp4"
                )
        except FFmpegError:
            pass
        raise SourceRefused(
            f"{self._path}: no frame could be decoded (empty or damaged video); check that it plays, or re-encode it"
        )

    def _declared_duration_ns(self) -> int | None:
        if self._video.duration:
            return ticks_to_ns(self._video.duration, self._time_base)
        if self._container.duration:
            return self._container.duration * 1000
        return None

    def _start_wall_ns(self, duration_ns: int | None) -> int:
        for tags in (self._video.metadata, self._container.metadata):
            created = tags.get("creation_time")
            if created:
                with suppress(ValueError, OverflowError):
                    return to_ns(date_parser.isoparse(created))
        return self._path.stat().st_mtime_ns - (duration_ns or 0)


class _LostFrames:
    """Which packets never became a picture, once the decoder has complained."""

    def __init__(self) -> None:
        self._expected: list[int] = []
        self._damaged: list[int] = []
        self._errors = False

    def expect(self, pts: int) -> None:
        heapq.heappush(self._expected, pts)

    def note_error(self) -> None:
        self._errors = True

    def before(self, pts: int, damaged: bool) -> list[int]:
        """Time stamps lost up to the good picture at `pts`; a damaged picture is kept for the next good one."""
        unmatched = []
        while self._expected and self._expected[0] <= pts:
            expected = heapq.heappop(self._expected)
            if expected != pts:
                unmatched.append(expected)
        # Field-coded streams send two packets a picture, so unmatched packets alone prove nothing.
        if self._errors:
            self._damaged.extend(unmatched)
        if damaged:
            self._damaged.append(pts)
            return []
        lost, self._damaged = self._damaged, []
        if lost:
            self._errors = False
        return lost

    def rest(self) -> list[int]:
        """What is still lost at the end of the file."""
        return self._damaged + (sorted(self._expected) if self._errors else [])


def open_container(path: Path, hwaccel: HWAccel | None = None) -> av.container.InputContainer:
    """Open a local file for demuxing; `ValueError` with the remedy when that cannot work. `hwaccel`: what decodes."""
    if not path.exists():
        raise SourceRefused(f"{path}: no such file; check the path")
    if not path.is_file():
        raise SourceRefused(
            f"{path}: not a regular file; give a video file, a directory of images or a stream address"
        )
    if path.stat().st_size == 0:
        raise SourceRefused(f"{path}: the file is empty (0 bytes); copy or record it again")
    try:
        # Absolute, for FFmpeg takes what stands before a colon for a protocol.
        container = av.open(str(path.absolute()), metadata_errors="replace", hwaccel=hwaccel)
    except PermissionError:
        raise SourceRefused(f"{path}: no permission to read it; change its permissions") from None
    except (FFmpegError, OSError, ValueError):
        raise SourceRefused(_unreadable(path)) from None
    if container.format.name in _TEXT_FORMATS:
        container.close()
        raise SourceRefused(_unreadable(path))
    return container


def video_stream(
    container: av.container.InputContainer, name: str, wanted: int | None = None
) -> av.VideoStream:
    """The film's stream, or track `wanted` (`tracks.py`), set to decode with little delay."""
    stream, _ = video_track(container, name, wanted)
    # Slice threads keep errors next to the packet that caused them.
    stream.thread_type = "SLICE"
    return stream


def _unreadable(path: Path) -> str:
    head = path.open("rb").read(64)
    if head[4:8] == b"ftyp" or (path.suffix.lower() in {".mp4", ".mov", ".m4v"} and b"ftyp" in head):
        return (
            f"{path}: the MP4 is cut off (its index, the moov atom, is missing); "
            "copy it again in full, or record to MKV, which survives a cut"
        )
    return f"{path}: not a video that FFmpeg can read; check the file, or convert it to MP4 or MKV"
