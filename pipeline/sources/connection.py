"""One connection to a network stream: opened and read with deadlines, its pictures with the sender's clock."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
from av.error import (
    BrokenPipeError,
    ConnectionRefusedError,
    EOFError,
    ExitError,
    FFmpegError,
    HTTPForbiddenError,
    HTTPNotFoundError,
    HTTPUnauthorizedError,
)

from pipeline.sources.file import video_stream
from pipeline.sources.live_clock import SenderClock
from pipeline.sources.reconnect import Ending
from pipeline.sources.redact import redact_text

# Guessing a frame rate would read twenty frames before the first is shown; time stamps are used as they come.
_QUICK_START = {"fpsprobesize": "0"}
_REFUSED = "check them; they are not tried again, since cameras lock accounts"
# Cameras may send a key picture only every ten seconds or more, and nothing can be decoded before.
_PICTURE_PATIENCE = 6
# AVProducerReferenceTime begins with the wall clock in microseconds.
_REFERENCE_TIME = struct.Struct("=q")


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds. `open_s`: for a connection to be made. `stall_s`: for the next packet."""

    open_s: float
    stall_s: float


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture. `sender_ns`: the sender's wall clock, ns since 1970, where it told. `damaged`: do not show."""

    frame: av.VideoFrame
    sender_ns: int | None
    damaged: bool


class ConnectionLost(Exception):
    """A connection ended or could not be made. The text says why in the user's words, without credentials."""

    def __init__(
        self, reason: str, ending: Ending, remedy: str = "check the address, the network and the camera"
    ) -> None:
        super().__init__(reason)
        self.ending = ending
        self.remedy = remedy


class Connection:
    """An open stream. `url` may hold credentials; `transport`: tcp or udp, for RTSP.

    Raises `ConnectionLost` when it cannot be opened in time.
    """

    def __init__(self, url: str, *, transport: str, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        # Cameras have no end: over RTSP an end is the death of the sender. Over HTTP it may be the end of a file.
        self._ending = Ending.FAILED if url.startswith("rtsp") else Ending.OVER
        options = dict(_QUICK_START)
        if url.startswith("rtsp"):
            options |= {"rtsp_transport": transport, "allowed_media_types": "video"}
        timeouts = (deadlines.open_s, deadlines.stall_s)
        begun_s = time.monotonic()
        try:
            self._container = av.open(url, options=options, timeout=timeouts, metadata_errors="replace")
        except (FFmpegError, OSError, ValueError) as error:
            # FFmpeg reports what it was doing when its time ran out, in many different ways.
            late = time.monotonic() - begun_s >= deadlines.open_s
            raise _lost(
                TimeoutError() if late else error, f"no answer within {deadlines.open_s:g} s"
            ) from None
        try:
            self._video = video_stream(self._container, "the stream")
        except ValueError as error:
            self._container.close()
            raise ConnectionLost(str(error), Ending.FAILED) from None
        # With several threads the decoder of H.264 does not tell which pictures lost a slice.
        self._video.thread_type = "NONE"
        assert self._video.time_base is not None
        self.time_base: Fraction = self._video.time_base

    @property
    def nominal_fps(self) -> float | None:
        return float(self._video.average_rate) if self._video.average_rate else None

    def pictures(self) -> Iterator[Picture]:
        """Pictures until the connection ends, which is always told by `ConnectionLost`."""
        sender = SenderClock()
        shown_s = time.monotonic()
        longest_s = _PICTURE_PATIENCE * self._deadlines.stall_s
        try:
            for packet in self._container.demux(self._video):
                if packet.pts is not None and packet.has_sidedata("prft"):
                    (wall_us,) = _REFERENCE_TIME.unpack_from(packet.get_sidedata("prft"))
                    sender.note(packet.pts, wall_us)
                for picture in self._decoded(packet, sender):
                    yield picture
                    shown_s = time.monotonic()
                if time.monotonic() - shown_s > longest_s:
                    raise ConnectionLost(f"data came, but no picture for {longest_s:g} s", Ending.FAILED)
        except (FFmpegError, OSError) as error:
            raise _lost(error, f"nothing came for {self._deadlines.stall_s:g} s") from None
        raise ConnectionLost("the sender ended the stream", self._ending)

    def close(self) -> None:
        self._container.close()

    def _decoded(self, packet: av.Packet[av.VideoStream], sender: SenderClock) -> Iterator[Picture]:
        try:
            frames = packet.decode()
        except FFmpegError:
            # What cannot be decoded at all leaves no picture; the ones that build on it come out as damaged.
            return
        for frame in frames:
            damaged = frame.is_corrupt or packet.is_corrupt
            yield Picture(frame, sender.at(frame.pts, self.time_base), damaged)


def _lost(error: Exception, late: str) -> ConnectionLost:
    """An error of FFmpeg in the user's words."""
    match error:
        case HTTPUnauthorizedError() | HTTPForbiddenError():
            return ConnectionLost("the user name or password is refused", Ending.REFUSED, _REFUSED)
        case HTTPNotFoundError():
            return ConnectionLost("there is no such stream (404)", Ending.FAILED)
        case ExitError() | TimeoutError():
            return ConnectionLost(late, Ending.FAILED)
        case ConnectionRefusedError():
            return ConnectionLost("nothing listens there", Ending.FAILED)
        case EOFError() | BrokenPipeError():
            return ConnectionLost("the connection was closed", Ending.FAILED)
    return ConnectionLost(redact_text(str(getattr(error, "strerror", None) or error)), Ending.FAILED)
