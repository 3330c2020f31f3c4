"""One door for every kind of source."""

from __future__ import annotations

import glob
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core.errors import SourceRefused
from pipeline.core.records import Gap, ResumePoint
from pipeline.core.redaction import redact_url
from pipeline.sources.file import VideoFile
from pipeline.sources.identity import stream_name
from pipeline.sources.images import IMAGE_SUFFIXES, ImageSequence, image_paths
from pipeline.sources.picture import DecodedFrame
from pipeline.sources.source import Source, SourceCounts, SourceInfo, SourceOptions

if TYPE_CHECKING:
    from pipeline.sources.camera import Camera


# A recording that plays at its own speed, as a camera would.


class RealTime:
    """A source whose frames come no earlier than their PTS says, counted from the first one.

    Frames that come late are passed on at once: like a camera, it never waits for its consumer.
    `clock`: seconds, steady.
    """

    def __init__(self, source: Source, clock: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._clock = clock
        self._stop = threading.Event()

    @property
    def info(self) -> SourceInfo:
        return self._source.info

    @property
    def counts(self) -> SourceCounts:
        return self._source.counts

    def resume_after(self, point: ResumePoint) -> None:
        self._source.resume_after(point)

    def __iter__(self) -> Iterator[DecodedFrame | Gap | None]:
        origin: float | None = None
        for event in self._source:
            if isinstance(event, DecodedFrame):
                due = event.time.pts_ns / 1e9
                origin = self._clock() - due if origin is None else origin
                if self._stop.wait(max(0.0, origin + due - self._clock())):
                    return
            yield event

    def close(self) -> None:
        self._stop.set()
        self._source.close()


_LIVE_SCHEMES = {"rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "udp", "rtp", "srt", "tcp"}
_VIDEO_SUFFIXES = frozenset(
    {
        ".mp4",
        ".mkv",
        ".mov",
        ".avi",
        ".webm",
        ".m4v",
        ".ts",
        ".mts",
        ".mpg",
        ".mpeg",
        ".flv",
        ".wmv",
        ".ogv",
        ".3gp",
    }
)


def open_source(
    uri: str,
    *,
    stream: str | None = None,
    start_ns: int | None = None,
    options: SourceOptions | None = None,
    known: SourceInfo | None = None,
) -> Source:
    """Open a video file, a directory or glob of images, a network stream or a webcam.

    `stream`: the name under which it is stored (default: from the address). `start_ns`: wall clock of the first
    frame, ns UTC; files and images only. `known`: what an earlier opening found out; a network stream or a webcam is
    then opened without waiting for it to answer. `${NAME}` and `${file:PATH}` in an address are filled in from the
    environment and from files. Raises `SourceRefused` naming the input and the remedy.
    """
    options = options or SourceOptions()
    name = stream or stream_name(uri)
    if "://" in uri:
        scheme = uri.split("://", 1)[0].lower()
        if scheme == "file":
            return open_source(uri.split("://", 1)[1], stream=name, start_ns=start_ns, options=options)
        if scheme not in _LIVE_SCHEMES:
            raise SourceRefused(
                f"{redact_url(uri)}: unknown address; known: {', '.join(sorted(_LIVE_SCHEMES))}, file"
            )
        from pipeline.sources.network import NetworkCamera

        return _watched(NetworkCamera(uri, options), name, start_ns, options, known)
    if uri.isdigit() or uri.startswith("/dev/video"):
        from pipeline.sources.webcam import Webcam

        return _watched(Webcam(uri), name, start_ns, options, known)
    path = Path(uri).expanduser()
    interval_ns = round(options.image_interval_s * 1e9)
    if path.is_dir():
        images = image_paths(path)
        if not images:
            raise SourceRefused(
                f"{uri}: this directory holds no images; name its videos one by one, or a glob of them"
            )
        return ImageSequence(images, stream=name, address=uri, interval_ns=interval_ns, start_ns=start_ns)
    if path.suffix.lower() in IMAGE_SUFFIXES and (path.exists() or glob.has_magic(uri)):
        images = [Path(found) for found in glob.glob(str(path))] if glob.has_magic(uri) else [path]
        return ImageSequence(images, stream=name, address=uri, interval_ns=interval_ns, start_ns=start_ns)
    return VideoFile(path, stream=name, start_ns=start_ns, decoder=options.decoder)


def expand_inputs(inputs: list[str]) -> list[str]:
    """Globs and directories of videos become one input a video; everything else stays as it is.

    Raises `SourceRefused` for a glob that matches nothing.
    """
    expanded: list[str] = []
    for uri in inputs:
        if "://" in uri or not (glob.has_magic(uri) or Path(uri).is_dir()) or Path(uri).is_file():
            expanded.append(uri)
            continue
        if Path(uri).is_dir():
            videos = sorted(
                str(path) for path in Path(uri).iterdir() if path.suffix.lower() in _VIDEO_SUFFIXES
            )
            expanded.extend(videos if videos and not image_paths(Path(uri)) else [uri])
            continue
        matches = sorted(glob.glob(uri))
        if not matches:
            raise SourceRefused(f"{uri}: nothing matches this pattern; check the path")
        pictures = all(Path(match).suffix.lower() in IMAGE_SUFFIXES for match in matches)
        expanded.extend([uri] if pictures else matches)
    return expanded


def _watched(
    camera: Camera, name: str, start_ns: int | None, options: SourceOptions, known: SourceInfo | None
) -> Source:
    from pipeline.sources.live import LiveStream

    if start_ns is not None:
        raise SourceRefused(f"{camera.address}: a live stream has its own clock; leave --start out")
    return LiveStream(camera, stream=name, options=options, known=known)
