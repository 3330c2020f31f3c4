"""One door for every kind of source."""

from __future__ import annotations

import glob
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core.clock import NS
from pipeline.core.dropping import KEEP_LATEST, DropPolicy
from pipeline.core.errors import SourceRefused
from pipeline.core.records import Gap, ResumePoint
from pipeline.sources.addresses import is_webcam, plain_input
from pipeline.sources.identity import stream_name
from pipeline.sources.images import ImageSequence
from pipeline.sources.inputs import still_pictures
from pipeline.sources.kinds import SOURCES, SourceRequest
from pipeline.sources.media_kinds import FILM_SUFFIXES, PICTURE_SUFFIXES, MediaKind, picture_kind
from pipeline.sources.picture import DecodedFrame
from pipeline.sources.picture_files import Page, pages_of
from pipeline.sources.source import Source, SourceCounts, SourceInfo, SourceOptions, resumed_at

if TYPE_CHECKING:
    from pipeline.sources.camera import Camera
    from pipeline.sources.file import VideoFile
    from pipeline.sources.film_place import FilmPlace


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

    @property
    def resumed_at(self) -> DecodedFrame | None:
        return resumed_at(self._source)

    def resume_after(self, point: ResumePoint) -> None:
        self._source.resume_after(point)

    def __iter__(self) -> Iterator[DecodedFrame | Gap | None]:
        origin: float | None = None
        for event in self._source:
            if isinstance(event, DecodedFrame):
                due = event.time.pts_ns / NS
                origin = self._clock() - due if origin is None else origin
                if self._stop.wait(max(0.0, origin + due - self._clock())):
                    return
            yield event

    def close(self) -> None:
        self._stop.set()
        self._source.close()


_SHOWN = 80


def open_source(
    uri: str,
    *,
    stream: str | None = None,
    start_ns: int | None = None,
    options: SourceOptions | None = None,
    known: SourceInfo | None = None,
    drop: DropPolicy = KEEP_LATEST,
) -> Source:
    """Open a video file, a directory or glob of images, a network stream, a webcam, or what an installed package knows.

    `stream`: the name under which it is stored (default: from the address). `start_ns`: wall clock of the first
    frame, ns UTC; films and images only. `known`: what an earlier opening found out; a network stream or a webcam is
    then opened without waiting for it to answer. `drop`: what gives way where it cannot wait for its reader. `${NAME}`
    and `${file:PATH}` in an address are filled in from the environment and from files. Raises `SourceRefused` naming
    the input and the remedy.
    """
    options = options or SourceOptions()
    uri = plain_input(uri)
    name = stream or stream_name(uri)
    request = SourceRequest(uri, name, start_ns, options, known, drop)
    if "://" in uri:
        return SOURCES.get(uri.split("://", 1)[0])(request)
    if is_webcam(uri):
        from pipeline.sources.webcam import Webcam

        return _watched(Webcam(uri), request)
    path = _literal_path(uri)
    ending = path.suffix.lower()
    if ending and ending not in FILM_SUFFIXES | PICTURE_SUFFIXES and path.is_file() and SOURCES.knows(ending):
        return SOURCES.get(ending)(request)
    if os.path.isdir(path) or (glob.has_magic(uri) and not os.path.lexists(path)):
        pages = [Page(found) for found in still_pictures(uri)]
        if not pages:
            raise SourceRefused(f"{uri}: no picture in it; name its films one by one, or a pattern of them")
    else:
        kind = picture_kind(path)
        if kind not in (MediaKind.PICTURE, MediaKind.PAGES):
            return _film(path, request)
        pages = pages_of(path) if kind is MediaKind.PAGES else [Page(path)]
    if options.track is not None:
        raise SourceRefused(f"{uri}: pictures have no tracks; leave --track out")
    interval_ns = round(options.image_interval_s * NS)
    return ImageSequence(pages, stream=name, address=uri, interval_ns=interval_ns, start_ns=start_ns)


def _literal_path(uri: str) -> Path:
    """The path, with `~` for a home directory where no file is called so."""
    path = Path(uri) if os.path.lexists(uri) else Path(os.path.expanduser(uri))
    try:
        path.exists()
    except OSError as error:
        raise SourceRefused(f"{uri[:_SHOWN]}...: no such file ({error.strerror}); check the path") from None
    return path


def open_network_camera(request: SourceRequest) -> Source:
    """A film at a web address, or a stream on the network, which is connected to again when it breaks."""
    from pipeline.sources.far_film import FarFilm
    from pipeline.sources.network import NetworkCamera
    from pipeline.sources.web_source import at_address

    met = request.known is not None and request.known.live
    there = NetworkCamera(request.uri, request.options) if met else at_address(request.uri, request.options)
    if isinstance(there, NetworkCamera):
        return _watched(there, request)
    film = there
    return FarFilm(lambda: _film(film, request))


def _film(film: Path | FilmPlace, request: SourceRequest) -> VideoFile:
    from pipeline.sources.file import VideoFile

    return VideoFile(
        film,
        stream=request.stream,
        start_ns=request.start_ns,
        decoder=request.options.decoder,
        track=request.options.track,
        rate=request.options.rate,
    )


def _watched(camera: Camera, request: SourceRequest) -> Source:
    from pipeline.sources.live import LiveStream

    if request.start_ns is not None:
        raise SourceRefused(f"{camera.address}: a live stream has its own clock; leave --start out")
    if request.options.track is not None:
        raise SourceRefused(f"{camera.address}: a live stream's tracks cannot be chosen; leave --track out")
    return LiveStream(
        camera, stream=request.stream, options=request.options, known=request.known, drop=request.drop
    )
