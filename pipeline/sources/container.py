"""Opening a video file's container: what decodes it, which of its streams is the film, and what is wrong with it."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import BinaryIO

import av
from av.codec.hwaccel import HWAccel, hwdevices_available
from av.error import FFmpegError

from pipeline.core.errors import MalformedFile, SourceRefused
from pipeline.sources.playlists import check_local_playlist
from pipeline.sources.tracks import video_track
from sca.picture_size import MOST_PIXELS

TEXT_FORMATS = {"tty", "srt", "ass", "webvtt", "microdvd", "lrc", "concat", "ffmetadata"}

# Video decoding on the GPU: FFmpeg still demuxes and tells the time, NVDEC makes the pictures.

# For the slowest disk's sake; what takes longer does not end.
_OPENED_WITHIN_S = 60.0
# FFmpeg waits for the segments of one that has no end, and they may never come.
_PLAYLIST_WITHIN_S = 8.0
# A file is what stands in it now: FFmpeg would read one without its end again and again, a thousand times.
_AS_IT_STANDS = {"max_reload": "2", "m3u8_hold_counters": "2", "live_start_index": "0"}

MOST_MOVING_PIXELS = 36_000_000
"""Of a film's picture: those of 8K and no more, for several are held at once."""

BOUNDED = {"max_pixels": str(MOST_PIXELS)}
"""Options to open any container with: FFmpeg decodes a first picture to see what is in it, whatever size that says."""

CPU, NVDEC = "cpu", "nvdec"

_MOST_AT_ONCE = 640 << 20
"""What FFmpeg may take in one piece: no picture of `MOST_PIXELS` needs more, and no camera's packet a hundredth of it."""


def _bound_allocations() -> None:
    """A part of MJPEG that never ends, or says that it has two gigabytes, grew as fast as the network brings it."""
    try:
        with open("/proc/self/maps") as maps:
            libraries = {line.split()[-1] for line in maps if "libavutil" in line}
        for library in libraries:
            ctypes.CDLL(library).av_max_alloc(ctypes.c_size_t(_MOST_AT_ONCE))
    except (OSError, AttributeError):  # no Linux: FFmpeg's own bound, two gigabytes, holds
        return


_bound_allocations()


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
        container = local_container(path, hwaccel)
    except MalformedFile:
        raise
    except PermissionError:
        raise SourceRefused(f"{path}: no permission to read it; change its permissions") from None
    except (FFmpegError, OSError, ValueError):
        raise SourceRefused(_unreadable(path)) from None
    if container.format.name in TEXT_FORMATS:
        container.close()
        raise SourceRefused(_unreadable(path))
    return container


def local_container(path: Path, hwaccel: HWAccel | None = None) -> av.container.InputContainer:
    """FFmpeg's view of any local file. Raises `MalformedFile`, `FFmpegError`, OSError and ValueError."""
    playlist = check_local_playlist(path)
    # Absolute, for FFmpeg takes what stands before a colon for a protocol.
    if playlist:
        return av.open(
            str(path.absolute()),
            metadata_errors="replace",
            hwaccel=hwaccel,
            timeout=(_PLAYLIST_WITHIN_S, _PLAYLIST_WITHIN_S),
            options=BOUNDED | _AS_IT_STANDS,
        )
    return av.open(
        str(path.absolute()),
        metadata_errors="replace",
        hwaccel=hwaccel,
        timeout=(_OPENED_WITHIN_S, None),
        options=BOUNDED,
    )


def video_stream(
    container: av.container.InputContainer, name: str, wanted: int | None = None
) -> av.VideoStream:
    """The film's stream, or track `wanted` (`tracks.py`), set to decode with little delay."""
    stream, _ = video_track(container, name, wanted)
    if stream.width * stream.height > MOST_MOVING_PIXELS:
        raise SourceRefused(
            f"{name}: moving pictures of more than {MOST_MOVING_PIXELS // 10**6} megapixels; scale them down"
        )
    bounded(stream, MOST_MOVING_PIXELS)
    # Slice threads keep errors next to the packet that caused them.
    stream.thread_type = "SLICE"
    return stream


def bounded(stream: av.VideoStream, most: int = MOST_PIXELS) -> av.VideoStream:
    """The same stream, whose decoder refuses pictures of more than `most` pixels."""
    decoder: av.VideoCodecContext | None = stream.codec_context
    if decoder is not None:  # of a codec that this FFmpeg knows
        decoder.options = {"max_pixels": str(most)}
    return stream


def _unreadable(path: Path) -> str:
    with path.open("rb") as file:
        index = _mp4_index(file, path.stat().st_size)
    if index is None:
        return f"{path}: not a video that FFmpeg can read; check the file, or convert it to MP4 or MKV"
    if index:
        return f"{path}: the index of this MP4 (its moov atom) cannot be read; copy it again, or convert it to MKV"
    return (
        f"{path}: the MP4 is cut off (its index, the moov atom, is missing); "
        "copy it again in full, or record to MKV, which survives a cut"
    )


def _mp4_index(file: BinaryIO, size: int) -> bool | None:
    """Whether an MP4 holds its whole index; None where the file is no MP4."""
    at, first = 0, True
    while at + 8 <= size:
        file.seek(at)
        head = file.read(16)
        kind, length = head[4:8], int.from_bytes(head[:4], "big")
        if first and kind != b"ftyp":
            return None
        first = False
        if length == 1 and len(head) == 16:
            length = int.from_bytes(head[8:16], "big")
        end = size if length == 0 else at + length
        if kind == b"moov":
            return end <= size
        if end < at + 8:
            # No box at all: what follows was overwritten, and may have been anything.
            return True
        at = end
    return None if first else False
