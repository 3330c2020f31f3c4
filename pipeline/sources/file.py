"""Video files through FFmpeg, with the container's own time stamps."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
from av.error import FFmpegError

from pipeline.core.clock import NS, iso_text
from pipeline.core.errors import SourceRefused
from pipeline.core.records import Gap, ResumePoint
from pipeline.sources.clocks import ns_to_ticks, ticks_to_ns
from pipeline.sources.container import CPU, hardware_decoder, video_stream
from pipeline.sources.decoding import Decoding, Picture, StampKind
from pipeline.sources.film_clock import LOOKAHEAD, FilmClock, Timed
from pipeline.sources.film_events import FilmEvents
from pipeline.sources.film_place import FilmPlace, LocalFilm
from pipeline.sources.film_start import film_start
from pipeline.sources.geometry import geometry_of
from pipeline.sources.picture import DecodedFrame
from pipeline.sources.resuming import Landing, places_to_resume
from pipeline.sources.source import SourceCounts, SourceInfo, SourceKind
from pipeline.sources.tracks import video_track

log = logging.getLogger(__name__)

# Formats in which time stamps may leap at any moment: FFmpeg's AVFMT_TS_DISCONT. Their clock has 33 bits.
_DISCONTINUOUS = 0x200
_WRAP = {"mpegts": 1 << 33, "mpeg": 1 << 33}
# Broadcasts repeat their tables so often that they never hold less.
_LEAST_BITS_A_SECOND = 2_000
_TAIL_NS = 5 * NS
_PAUSE_NS = 60 * NS
# Streams without a clock play at this rate unless they or the user say another.
_ASSUMED_RATE = 25


@dataclass(slots=True)
class _Pass:
    """One reading of the file, from the beginning or from where it was sought."""

    container: av.container.InputContainer
    video: av.VideoStream
    decoding: Decoding

    @property
    def time_base(self) -> Fraction:
        return self.decoding.time_base


class VideoFile:
    """A video file: every picture once, in the order of display, with exact PTS. Never drops.

    Times are `FilmClock`'s; PTS 0 is what a player shows as 0: the beginning of picture or sound, whichever is first.
    Its wall clock is `start_ns` when given, else `film_start`'s choice. Pictures are displayed (`Geometry`) in the size
    of the first one; a change of size is told by a `Gap` of no length (GapReason.RESIZED). What FFmpeg cannot decode, or
    marks as damaged, is skipped, counted and told as a `Gap` (GapReason.CORRUPT); so are a beginning without key picture
    and a tail that the container promises and the file does not hold. A leap in a broadcast is a GapReason.OUTAGE.

    `rate`: pictures a second of a stream without a clock (raw H.264 and the like).

    Raises `SourceRefused` naming the file and the remedy when it is missing, empty, not a video or has no frame.
    """

    def __init__(
        self,
        film: str | Path | FilmPlace,
        *,
        stream: str,
        start_ns: int | None = None,
        decoder: str = CPU,
        track: int | None = None,
        rate: float | None = None,
    ) -> None:
        self._place = LocalFilm(Path(film)) if isinstance(film, str | Path) else film
        self._address = self._place.address
        self._stream_name = stream
        self._decoder = decoder
        self._track = track
        self._rate = rate
        self._pass = self._open()
        self._events: FilmEvents | None = None
        self._resume: ResumePoint | None = None
        self._origin: int | None = None
        try:
            self._pictures = self._pass.decoding.pictures()
            self._first = self._beginning()
            self._info = self._introduce(start_ns)
        except BaseException:
            self._pass.container.close()
            raise

    @property
    def info(self) -> SourceInfo:
        return self._info

    @property
    def counts(self) -> SourceCounts:
        return SourceCounts() if self._events is None else self._events.counts

    @property
    def resumed_at(self) -> DecodedFrame | None:
        return None if self._events is None else self._events.resumed_at

    def resume_after(self, point: ResumePoint) -> None:
        """Continue behind the frame at `point`; its PTS, epoch and frame number keep counting from there."""
        self._resume = point if point.pts_ns >= 0 else None

    def close(self) -> None:
        self._pass.container.close()

    def __iter__(self) -> Iterator[DecodedFrame | Gap]:
        resume = self._resume
        if resume is None:
            yield from self._shown(chain(self._first, self._pictures), self._clock())
            return
        seekable = self._pass.decoding.kind is StampKind.SHOWN
        for place in places_to_resume(resume, seekable=seekable):
            if place is not None and (rest := self._sought(resume, place)) is not None:
                yield from rest
                return
        yield from self._shown(chain(self._first, self._pictures), self._clock(), skip=resume)

    def _sought(self, point: ResumePoint, place_ns: int) -> Iterator[DecodedFrame | Gap] | None:
        """What comes behind `point`, read from `place_ns` on; None when that cannot be trusted."""
        origin = self._known_origin()
        before, self._pass = self._pass, self._open()
        time_base = before.time_base
        landing = Landing(point)
        try:
            # Before anything else is asked of the new reading, since it looks at its first packets.
            self._pass.container.seek(
                origin + ns_to_ticks(place_ns, time_base),
                stream=self._pass.video,
                backward=True,
                any_frame=False,
            )
            clock = self._clock(origin)
            pictures = self._pass.decoding.pictures()
            timed = _timed(pictures, clock)
            for one in timed:
                known = clock.strays + clock.sorted + clock.resets == 0
                keys = self._pass.decoding.keys_until(origin + ns_to_ticks(one.time.pts_ns, time_base))
                whole = not one.item.damaged
                passed = landing.passed(one.time, own=one.own and known and whole, keys=keys)
                if passed is None:
                    continue
                if passed:
                    before.container.close()
                    return self._told(timed, clock, skip=point, known=one)
                break
        except FFmpegError:
            pass
        self._pass.container.close()
        self._pass = before
        return None

    def _shown(
        self, pictures: Iterator[Picture], clock: FilmClock[Picture], skip: ResumePoint | None = None
    ) -> Iterator[DecodedFrame | Gap]:
        return self._told(_timed(pictures, clock), clock, skip)

    def _told(
        self,
        timed: Iterator[Timed[Picture]],
        clock: FilmClock[Picture],
        skip: ResumePoint | None,
        known: Timed[Picture] | None = None,
    ) -> Iterator[DecodedFrame | Gap]:
        broadcast = bool(self._pass.container.format.flags & _DISCONTINUOUS)
        events = FilmEvents(self._info, clock, self._pass.time_base, broadcast=broadcast)
        self._events = events
        yield from events.of(timed, skip, known)
        yield from events.missing(self._pass.decoding.rest(), self._declared_end())
        if clock.strays:
            log.warning(
                "%s: %d time stamps were far out of line; those pictures were timed by their neighbours",
                self._stream_name,
                clock.strays,
            )

    def _open(self) -> _Pass:
        container = self._place.open(hardware_decoder(self._decoder))
        try:
            video = video_stream(container, self._address, self._track)
            return _Pass(container, video, Decoding(container, video, self._counted(video)))
        except BaseException:
            container.close()
            raise

    def _counted(self, video: av.VideoStream) -> Fraction:
        """Seconds from picture to picture where the stream has no clock."""
        if self._rate is not None:
            return 1 / Fraction(self._rate).limit_denominator(1_000_000)
        stated = video.codec_context.framerate
        return 1 / Fraction(stated) if stated and 1 <= stated <= 1000 else Fraction(1, _ASSUMED_RATE)

    def _beginning(self) -> list[Picture]:
        """The first few pictures: they prove that the file can be decoded, and show what is missing before them."""
        begun: list[Picture] = []
        for picture in self._pictures:
            begun.append(picture)
            if sum(not one.damaged for one in begun) > LOOKAHEAD:
                break
        whole = next((place for place, one in enumerate(begun) if not one.damaged), None)
        if whole is None:
            raise SourceRefused(
                f"{self._address}: no frame could be decoded (empty or damaged video); check that it plays, or re-encode it"
            )
        stamps = [one.stamp.ticks for one in begun if one.stamp.ticks is not None]
        if stamps and self._pass.decoding.kind is StampKind.SHOWN:
            missing = self._pass.decoding.missing_before(min(stamps))
            begun[whole] = replace(begun[whole], lost=tuple(sorted({*missing, *begun[whole].lost})))
        return begun

    @property
    def _first_whole(self) -> Picture:
        return next(picture for picture in self._first if not picture.damaged)

    def _introduce(self, start_ns: int | None) -> SourceInfo:
        first, video, container = self._first_whole, self._pass.video, self._pass.container
        geometry = geometry_of(first.frame, first.aspect)
        duration_ns = self._duration_ns()
        notices = list(video_track(container, self._address, self._track)[1])
        if self._pass.decoding.kind is StampKind.COUNTED:
            said = (
                "as asked for"
                if self._rate is not None
                else "as the stream says or by custom; --rate says it better"
            )
            notices.append(
                f"it has no clock: played at {float(1 / self._pass.time_base):g} pictures a second, {said}"
            )
        if container.format.name == "hls" and container.duration is None:
            notices.append(
                "this playlist has no end (#EXT-X-ENDLIST): what stands in it now is all that is read"
            )
        if start_ns is None:
            length_ns = self._checked_length_ns(duration_ns)
            start = film_start(
                (video.metadata, container.metadata),
                modified_ns=self._place.modified_ns(),
                duration_ns=length_ns,
                now_ns=time.time_ns(),
            )
            start_ns = start.wall_ns
            notices += start.notices
            if start.by_length and length_ns != duration_ns:
                notices.append(
                    "its header and its pictures do not agree on how long it is; its wall clock, taken from its last "
                    f"change, is {iso_text(start_ns)}; --start says it better"
                )
        width, height = geometry.display
        return SourceInfo(
            stream=self._stream_name,
            address=self._address,
            kind=SourceKind.FILE,
            width=width,
            height=height,
            start_wall_ns=start_ns,
            fingerprint=self._place.fingerprint(),
            duration_ns=duration_ns,
            frames=video.frames or None,
            nominal_fps=float(video.average_rate) if video.average_rate else None,
            pixel_aspect=str(geometry.aspect),
            notices=tuple(notices),
        )

    def _clock(self, exact_origin: int | None = None) -> FilmClock[Picture]:
        container = self._pass.container
        rate = self._pass.video.average_rate
        return FilmClock(
            self._pass.time_base,
            self._info.start_wall_ns,
            origin=self._origin_hint() if exact_origin is None else exact_origin,
            exact=exact_origin is not None,
            wrap=_WRAP.get(container.format.name),
            step_ns=round(NS / rate) if rate and 0.01 <= rate <= 1000 else None,
            end=self._declared_end(),
        )

    def _known_origin(self) -> int:
        """Ticks of PTS 0, as reading from the beginning finds it."""
        if self._origin is None:
            clock = self._clock()
            found = any(True for picture in self._first for _ in clock.push(picture.stamp, picture))
            while not found:
                picture = next(self._pictures, None)
                if picture is None:
                    found = any(True for _ in clock.flush())
                    break
                self._first.append(picture)
                found = any(True for _ in clock.push(picture.stamp, picture))
            self._origin = clock.origin
        return self._origin

    def _origin_hint(self) -> int | None:
        """Where sound begins, or the first packet that could not be decoded: before the first picture, perhaps."""
        if self._pass.decoding.kind is not StampKind.SHOWN:
            return 0
        hints = list(self._first_whole.lost)
        for sound in self._pass.container.streams.audio:
            if sound.start_time is not None and sound.time_base is not None:
                begins = round(sound.start_time * sound.time_base / self._pass.time_base)
                # Before 0 lies only what a decoder of sound needs to begin.
                hints.append(max(0, begins) if self._pass.container.format.name not in _WRAP else begins)
        return min(hints, default=None)

    def _declared_end(self) -> int | None:
        """The tick at which the file says that its video ends; None where nothing or nobody reliable says so."""
        container, video = self._pass.container, self._pass.video
        if self._pass.decoding.kind is StampKind.COUNTED or container.format.flags & _DISCONTINUOUS:
            return None
        if video.duration:
            return (video.start_time or 0) + video.duration
        if not container.duration or container.duration < 0:
            return None
        end_ns = ((container.start_time or 0) + container.duration) * 1000
        # The sound that lasts longer than the picture is no picture that is missing.
        if self._pass.decoding.others_until_ns >= end_ns - NS // 2:
            return None
        return ns_to_ticks(end_ns, self._pass.time_base)

    def _checked_length_ns(self, stated_ns: int | None) -> int | None:
        """The length that the file states, unless its last pictures or its size say otherwise; None: not known."""
        first, time_base = self._first_whole.stamp.ticks, self._pass.time_base
        if stated_ns is None or first is None or self._pass.decoding.kind is not StampKind.SHOWN:
            return stated_ns
        if self._pass.container.format.flags & _DISCONTINUOUS:
            size = self._place.size_bytes()
            rate = None if size is None else size * 8 * NS / max(1, stated_ns)
            return stated_ns if rate is None or rate >= _LEAST_BITS_A_SECOND else None
        probe = self._open()
        try:
            near = first + ns_to_ticks(max(0, stated_ns - _TAIL_NS), time_base)
            probe.container.seek(near, stream=probe.video, backward=True, any_frame=False)
            stamps = [packet.pts for packet in probe.container.demux(probe.video) if packet.pts is not None]
        except FFmpegError:
            return stated_ns
        finally:
            probe.container.close()
        found_ns = ticks_to_ns(max(stamps[-LOOKAHEAD:], default=first) - first, time_base)
        # A last picture may be shown for long, so that only a header that says far more is doubted.
        last_ns = ticks_to_ns(self._first_whole.stamp.duration, time_base)
        return stated_ns if stated_ns - found_ns <= max(_PAUSE_NS, 2 * last_ns) else found_ns

    def _duration_ns(self) -> int | None:
        """How long the film is from PTS 0, by what the file says."""
        first = self._first_whole.stamp.ticks
        hint = self._origin_hint()
        declared = self._declared_end()
        if declared is not None and first is not None:
            return max(
                0, ticks_to_ns(declared - min(first, first if hint is None else hint), self._pass.time_base)
            )
        if self._pass.video.duration and self._pass.decoding.kind is not StampKind.COUNTED:
            return ticks_to_ns(self._pass.video.duration, self._pass.time_base)
        return self._pass.container.duration * 1000 if self._pass.container.duration else None


def _timed(pictures: Iterator[Picture], clock: FilmClock[Picture]) -> Iterator[Timed[Picture]]:
    for picture in pictures:
        yield from clock.push(picture.stamp, picture)
    yield from clock.flush()
