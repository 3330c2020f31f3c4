"""Streams of DASH, which PyAV's FFmpeg cannot read: their segments as the one file that they are parts of."""

from __future__ import annotations

import hashlib
import http.client
import io
import logging
import random
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from fractions import Fraction
from typing import Protocol
from urllib.error import HTTPError

import av
from av.codec.hwaccel import HWAccel
from av.error import FFmpegError

from pipeline.core.clock import NS
from pipeline.core.errors import SourceRefused
from pipeline.core.restarts import LossCause, RestartPolicy, backoff_s
from pipeline.sources.camera import ConnectionLost
from pipeline.sources.container import BOUNDED
from pipeline.sources.dash_manifest import BadManifest, DashVideo, Piece, Segment, read_manifest
from pipeline.sources.source import SourceOptions
from pipeline.sources.web_file import WebServer, passes, why

log = logging.getLogger(__name__)

# Hours of a timeline that lists each segment; what is larger is no manifest.
_MANIFEST_BYTES = 8 << 20
# Ten seconds at 200 Mbit/s.
_PIECE_BYTES = 256 << 20
_CHUNK_BYTES = 1 << 20
# In units of the time that a server may take to answer: none keeps us by a byte now and then.
_PATIENCE = 2
_PIECE_PATIENCE = 12
_BUFFER_BYTES = 256 << 10
_TRIES = 10
_LIVE_TRIES = 3
_AGAIN_S = 0.5
# Answers tell the time in whole seconds.
_CLOCKS_AGREE_S = 2
_REFUSED = {401, 403}


class DashServer:
    """A manifest's address, and what it names. `url` may hold `user:password@`, which only its own server gets."""

    def __init__(self, url: str, options: SourceOptions) -> None:
        self._server = WebServer(
            url, timeout_s=options.open_timeout_s, check_certificate=options.check_certificates
        )
        self._timeout_s = options.open_timeout_s
        self._ahead_s = Fraction(0)

    def now_s(self) -> Fraction:
        """Seconds since 1970, on the server's clock where it and ours do not agree."""
        return Fraction(time.time_ns(), NS) + self._ahead_s

    def manifest(self) -> DashVideo:
        """Raises `OSError`, `HTTPException` and `BadManifest`."""
        with self._server.get() as answer:
            content = _all_of(answer, _MANIFEST_BYTES, _PATIENCE * self._timeout_s)
            self._ahead_s = _ahead_s(answer.headers.get("Date"))
            return read_manifest(content, answer.url, self.now_s())

    def piece(self, piece: Piece) -> bytes:
        """Raises `OSError` and `HTTPException`, also where it does not come whole."""
        part = piece.first > 0 or piece.last is not None
        with self._server.elsewhere(piece.url).get(piece.first, until=piece.last) as answer:
            content = _all_of(answer, _PIECE_BYTES, _PIECE_PATIENCE * self._timeout_s)
            if part and answer.status != 206:
                end = None if piece.last is None else piece.last + 1
                content = content[piece.first : end]
            return content

    def elsewhere(self, url: str) -> WebServer:
        return self._server.elsewhere(url)


class _Joined(io.RawIOBase):
    """Pieces one behind the other; FFmpeg reads them."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while not self._left:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._left = memoryview(piece)
        size = len(self._left) if size < 0 else size
        given, self._left = self._left[:size], self._left[size:]
        return bytes(given)


class DashFilm:
    """A film whose segments a static manifest names: read once, from its beginning to its end."""

    def __init__(self, address: str, server: DashServer, video: DashVideo, options: SourceOptions) -> None:
        self.address = address
        self._server = server
        self._video = video
        self._tries = 0 if options.reconnect is RestartPolicy.NEVER else _TRIES
        self._longest_pause_s = options.max_backoff_s

    def open(self, hwaccel: HWAccel | None) -> av.container.InputContainer:
        try:
            container = av.open(
                _Joined(self._pieces()),
                metadata_errors="replace",
                hwaccel=hwaccel,
                buffer_size=_BUFFER_BYTES,
                options=BOUNDED,
            )
        except (FFmpegError, OSError):
            raise SourceRefused(
                f"{self.address}: what this DASH manifest names is no video that FFmpeg can read; check that it plays"
            ) from None
        assert isinstance(container, av.container.InputContainer)
        return container

    def fingerprint(self) -> str:
        told = f"{self.address} {self._video.duration_s}"
        return f"web:{hashlib.sha256(told.encode()).hexdigest()[:32]}"

    def modified_ns(self) -> int:
        return time.time_ns()

    def size_bytes(self) -> int | None:
        return None

    def _pieces(self) -> Iterator[bytes]:
        number = 0
        try:
            if self._video.init is not None:
                yield self._piece(self._video.init, "the beginning")
            for segment in self._video.segments():
                try:
                    content = self._piece(segment.piece, f"segment {number + 1}")
                except SourceRefused:
                    # By the rounding of its length the last one may not be there.
                    end = self._video.duration_s
                    if number and not self._video.listed and _is_over(segment, end):
                        return
                    raise
                yield content
                number += 1
        except BadManifest as bad:
            raise SourceRefused(f"{self.address}: this DASH manifest cannot be read: {bad}") from None

    def _piece(self, piece: Piece, name: str) -> bytes:
        failures = 0
        while True:
            try:
                return self._server.piece(piece)
            except (OSError, http.client.HTTPException) as error:
                if failures >= self._tries or not passes(error):
                    raise SourceRefused(
                        f"{self.address}: reading stopped at {name}: {why(error)}; check the network and the server, and "
                        "start again: it goes on there"
                    ) from None
                pause_s = backoff_s(failures, random.random(), self._longest_pause_s)
                failures += 1
                log.warning("%s: %s; next try in %.1f s", self.address, why(error), pause_s)
                time.sleep(pause_s)


def live_dash(server: DashServer, silence_s: float) -> io.RawIOBase:
    """The segments of a stream that goes on, from near its newest one on, as a file without an end.

    Reading it raises `ConnectionLost`, also where nothing new came for `silence_s`. So does this, where there is none.
    """
    try:
        video = server.manifest()
    except BadManifest as bad:
        raise ConnectionLost(
            f"its DASH manifest cannot be read: {bad}", LossCause.FAILED, "then start again"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        raise _lost(error) from None
    if not video.live:
        raise ConnectionLost("the sender ended the stream; what stands there is a recording", LossCause.OVER)
    return _Joined(_live_pieces(server, video, silence_s))


def _live_pieces(server: DashServer, video: DashVideo, silence_s: float) -> Iterator[bytes]:
    if video.init is not None:
        content = _live_piece(server, video.init, _LIVE_TRIES * _AGAIN_S)
        if content is None:
            raise ConnectionLost("there is no such stream (404)", LossCause.FAILED)
        yield content
    after_s: Fraction | None = None
    news_s = read_s = time.monotonic()
    lasts_s = 1.0
    while True:
        segment = video.next(after_s, server.now_s())
        if segment is not None:
            after_s, lasts_s = segment.begins_s, float(segment.lasts_s)
            content = _live_piece(server, segment.piece, lasts_s)
            if content is not None:
                yield content
                news_s = time.monotonic()
            elif (near := video.next(None, server.now_s())) is not None and near.begins_s > after_s:
                # We were so slow that it has gone, and those behind it may have gone as well.
                after_s = near.begins_s - near.lasts_s
        elif time.monotonic() - news_s > silence_s:
            raise ConnectionLost(f"nothing new came for {silence_s:g} s", LossCause.FAILED)
        else:
            time.sleep(min(_AGAIN_S, max(0.05, lasts_s / 8)))
        if video.listed:
            # Each new segment is told by a new manifest.
            wanted, every_s = segment is None, min(float(video.refresh_s or lasts_s), lasts_s)
        else:
            # Segments come by the clock; a new manifest tells of a new period, or the end.
            wanted, every_s = video.refresh_s is not None, float(video.refresh_s or 0)
        if wanted and time.monotonic() - read_s >= max(_AGAIN_S, every_s):
            read_s = time.monotonic()
            video = _again(server, video)


def _again(server: DashServer, before: DashVideo) -> DashVideo:
    """The manifest as it is now, or the one before, if it cannot be had at the moment."""
    try:
        video = server.manifest()
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, HTTPError) and error.code in _REFUSED:
            raise _lost(error) from None
        return before
    except BadManifest:
        return before
    if not video.live:
        raise ConnectionLost("the sender ended the stream", LossCause.OVER)
    if video.period != before.period or video.init != before.init:
        raise ConnectionLost("the sender began a new period", LossCause.FAILED)
    return video


def _live_piece(server: DashServer, piece: Piece, patience_s: float) -> bytes | None:
    """Its bytes; None where it did not come in time: what is missing is seen by the hole in the time stamps."""
    until = time.monotonic() + max(_AGAIN_S, patience_s)
    while True:
        try:
            return server.piece(piece)
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, HTTPError) and error.code in _REFUSED:
                raise _lost(error) from None
            log.debug("a segment did not come: %s", why(error))
            if time.monotonic() > until:
                if not isinstance(error, HTTPError):
                    raise _lost(error) from None
                return None
        time.sleep(_AGAIN_S)


def _lost(error: Exception) -> ConnectionLost:
    if isinstance(error, HTTPError) and error.code in _REFUSED:
        return ConnectionLost(
            "the user name or password is refused",
            LossCause.REFUSED,
            "check them; they are not tried again, since cameras lock accounts",
        )
    return ConnectionLost(why(error), LossCause.FAILED)


def _is_over(segment: Segment, end_s: Fraction | None) -> bool:
    return end_s is not None and segment.begins_s + segment.lasts_s >= end_s


class _Answer(Protocol):
    length: int | None

    def read1(self, size: int) -> bytes: ...


def _all_of(answer: _Answer, most: int, most_s: float) -> bytes:
    """All that comes. Raises `OSError` where it is too much, takes longer than `most_s`, or breaks off."""
    until_s = time.monotonic() + most_s
    parts: list[bytes] = []
    size = 0
    while part := answer.read1(_CHUNK_BYTES):
        size += len(part)
        if size > most:
            raise OSError(f"it is larger than {most >> 20} MiB")
        if time.monotonic() > until_s:
            raise TimeoutError
        parts.append(part)
    if answer.length:
        raise ConnectionError("the connection was closed")
    return b"".join(parts)


def _ahead_s(date: str | None) -> Fraction:
    """By how much a server whose answer has this date is ahead of us; 0 where nobody can tell."""
    try:
        ahead = 0.0 if date is None else parsedate_to_datetime(date).timestamp() + 0.5 - time.time()
    except (ValueError, TypeError, OverflowError):
        return Fraction(0)
    return Fraction(ahead) if abs(ahead) > _CLOCKS_AGREE_S else Fraction(0)
