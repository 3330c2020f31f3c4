"""Which video track of a file is the film: never a cover picture or a preview."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import av
from av.stream import Disposition

from pipeline.core.errors import SourceRefused

# Previews of scrub bars are some hundred pixels wide at most, and far smaller than their film.
_PREVIEW_WIDTH = 320
_PREVIEW_SHARE = 1 / 9
_STILL_CODECS = frozenset({"bmp", "gif", "mjpeg", "png", "tiff", "webp"})
_TOLD_BY_NAME = ("cover", "poster", "preview", "thumb")


@dataclass(frozen=True, slots=True)
class VideoTrack:
    """A video track as its container describes it. `number`: from 1, covers left out. `width`, `height`: pixels.

    `frames`: 0 when the container does not say. `readable`: whether there is a decoder.
    """

    number: int
    width: int
    height: int
    codec: str = ""
    title: str = ""
    default: bool = False
    frames: int = 0
    readable: bool = True
    side: bool = False

    @property
    def area(self) -> int:
        return self.width * self.height

    def text(self) -> str:
        """`2 (h264, 1920x1080, default)`."""
        parts = [self.codec or "unknown codec", f"{self.width}x{self.height}"]
        parts += [repr(self.title)] if self.title else []
        parts += ["default"] if self.default else []
        return f"{self.number} ({', '.join(parts)})"


def choose_track(tracks: Sequence[VideoTrack], wanted: int | None = None) -> VideoTrack:
    """The track to read: `wanted`, else the film.

    Left out, unless nothing else is there: what no decoder reads, side tracks (stills, other views), previews by name,
    and tracks of still pictures or single frames that are far smaller than the largest. Of the rest the default ones
    win, then the largest, then the first. `tracks` is not empty. Raises `SourceRefused` when there is no track `wanted`.
    """
    if wanted is not None:
        for track in tracks:
            if track.number == wanted:
                return track
        raise SourceRefused(f"there is no video track {wanted}; there are {tracks_text(tracks)}")
    largest = max(track.area for track in tracks if track.readable or not any(t.readable for t in tracks))
    return max(
        tracks,
        key=lambda track: (
            track.readable,
            not track.side,
            not _stands_still(track, tracks),
            not _is_preview(track, largest),
            track.default,
            track.area,
            -track.number,
        ),
    )


def tracks_text(tracks: Sequence[VideoTrack]) -> str:
    """All of them in one line."""
    return ", ".join(track.text() for track in tracks)


def video_track(
    container: av.container.InputContainer, name: str, wanted: int | None = None
) -> tuple[av.VideoStream, tuple[str, ...]]:
    """The stream of the track to read, and what must be told of the choice. Raises `SourceRefused` beginning with `name`."""
    streams = {number: stream for number, stream in enumerate(_no_covers(container), 1)}
    if not streams:
        if container.streams.audio:
            raise SourceRefused(f"{name}: it holds only audio; give a file with a video stream")
        if _is_mp4(container) and not len(container.streams):
            raise SourceRefused(
                f"{name}: no video stream: nothing was ever written to this MP4, or its index (the moov atom) is damaged; copy "
                "it again"
            )
        raise SourceRefused(f"{name}: it holds no video stream; give a video file")
    tracks = [_described(number, stream) for number, stream in streams.items()]
    try:
        chosen = choose_track(tracks, wanted)
    except SourceRefused as error:
        raise SourceRefused(f"{name}: {error}") from None
    if not chosen.readable and _is_mp4(container):
        raise SourceRefused(
            f"{name}: the index of this MP4 (its moov atom) is damaged, or FFmpeg has no decoder for its video; copy it again, "
            "or, if it plays, re-encode it to H.264"
        )
    if not chosen.readable:
        raise SourceRefused(f"{name}: FFmpeg has no decoder for its video; re-encode it to H.264")
    moving = [track for track in tracks if not _stands_still(track, tracks)]
    told = f"video tracks {tracks_text(tracks)}: track {chosen.number} is read; --track takes another"
    return streams[chosen.number], (told,) if len(moving) > 1 and wanted is None else ()


def _is_mp4(container: av.container.InputContainer) -> bool:
    return "mp4" in container.format.name.split(",")


def _no_covers(container: av.container.InputContainer) -> list[av.VideoStream]:
    covers = Disposition.attached_pic | Disposition.timed_thumbnails
    return [stream for stream in container.streams.video if not stream.disposition & covers]


def _described(number: int, stream: av.VideoStream) -> VideoTrack:
    context = stream.codec_context
    side = Disposition.still_image | Disposition.dependent
    tags = stream.metadata
    return VideoTrack(
        number,
        context.width if context is not None else 0,
        context.height if context is not None else 0,
        context.codec.canonical_name if context is not None else "",
        tags.get("title", ""),
        bool(stream.disposition & Disposition.default),
        stream.frames,
        context is not None,
        bool(stream.disposition & side),
    )


def _stands_still(track: VideoTrack, tracks: Sequence[VideoTrack]) -> bool:
    """Whether this is the title picture of an animation that is another track."""
    return track.frames == 1 and any(other.frames > 1 for other in tracks)


def _is_preview(track: VideoTrack, largest: int) -> bool:
    if any(word in track.title.lower() for word in _TOLD_BY_NAME):
        return True
    still = track.codec in _STILL_CODECS or track.frames == 1
    small = track.area < _PREVIEW_SHARE * largest and track.width <= _PREVIEW_WIDTH
    return small or (still and track.area < largest)
