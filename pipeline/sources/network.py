"""One connection to a network stream: opened and read with deadlines, its pictures with the sender's clock."""

from __future__ import annotations

import builtins
import io
import logging
import os
import socket
import ssl
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from types import MappingProxyType
from urllib.parse import urlsplit

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
    ProtocolNotFoundError,
)

from pipeline.core.redaction import BLANK, fill_in, redact_text, redact_url
from pipeline.core.restarts import LossCause
from pipeline.sources.camera import ConnectionLost, Picture
from pipeline.sources.clocks import SenderClock
from pipeline.sources.container import BOUNDED, video_stream
from pipeline.sources.dash import DashServer, live_dash
from pipeline.sources.film_or_camera import AddressKind, ContainerSays, FeedTiming, by_container, timing
from pipeline.sources.geometry import pixel_aspect
from pipeline.sources.identity import address_fingerprint
from pipeline.sources.repeated import NewPictures, ShownPictures
from pipeline.sources.rtsp_greeting import greeted
from pipeline.sources.source import SourceKind, SourceOptions

log = logging.getLogger(__name__)


class NetworkCamera:
    """A stream at an address, which may hold credentials or blanks for them (`secrets.py`).

    `segmented`: it is known to be delivered so (`FeedTiming`); `dash`: by a manifest of DASH, as by its name otherwise.
    """

    def __init__(
        self, uri: str, options: SourceOptions, *, segmented: bool = False, dash: bool = False
    ) -> None:
        self._first: Connection | None = None
        self._shown = ShownPictures()
        self._told = False
        self._dash = dash or _names_dash(uri)
        self._segmented = segmented or self._dash
        self._uri = uri
        self._options = options
        self.kind = SourceKind.LIVE
        self.address = redact_url(uri)
        self.fingerprint = address_fingerprint(uri)

    def connect(self) -> Connection:
        first, self._first = self._first, None
        connection = first or self.open()
        if connection.kind is AddressKind.FILM:
            # A broadcast that is over may leave its recording at the same address: that was watched when it was live.
            connection.close()
            raise ConnectionLost(
                "the sender ended the stream; what stands there is a recording", LossCause.OVER
            )
        return connection

    def use_first(self, connection: Connection) -> None:
        """`connection` is open already: it is the next one that `connect` gives."""
        self._first = connection

    def open(self) -> Connection:
        """A new connection, whatever is there."""
        try:
            url = fill_in(self._uri)
        except ValueError as error:
            raise ConnectionLost(str(error), LossCause.FAILED, "then start again") from None
        if not self._told and url.lower().startswith(("rtsps://", "rtmps://")):
            # Cameras sign their own certificates, so that to check them would shut most of them out.
            self._told = True
            log.warning(
                "%s: what comes is encrypted, but whose certificate it is, is not checked", self.address
            )
        connection = self._open(url)
        if connection.timing is FeedTiming.SEGMENTED and not self._segmented:
            # FFmpeg cannot be told so later: between two segments nothing comes for as long as a segment lasts.
            self._segmented = True
            connection.close()
            connection = self._open(url)
        return connection

    def _open(self, url: str) -> Connection:
        if self._dash:
            server = DashServer(url, self._options)
            silence_s = _SEGMENT_PATIENCE * self._options.stall_timeout_s
            return self._connected(url, live_dash(server, silence_s))
        if not url.lower().startswith("rtsp"):
            return self._connected(url)
        begun_s = time.monotonic()
        timeout_s = self._options.open_timeout_s
        with ExitStack() as during:
            try:
                url = during.enter_context(greeted(url, timeout_s))
            except builtins.TimeoutError:
                raise _lost(TimeoutError(), f"no answer within {timeout_s:g} s") from None
            except builtins.ConnectionRefusedError:
                raise ConnectionLost("nothing listens there", LossCause.FAILED) from None
            except (builtins.ConnectionError, ssl.SSLError):
                log.debug("%s: not greeted", self.address, exc_info=True)
            except OSError as error:
                raise _lost(error, "") from None
            try:
                return self._connected(url)
            except ConnectionLost as lost:
                if lost.ending is LossCause.REFUSED or time.monotonic() - begun_s > _AGAIN_WITHIN_S:
                    raise
        # There are cameras that take one connection only, and the one that greeted them was there already.
        return self._connected(url)

    def _connected(self, url: str, joined: io.RawIOBase | None = None) -> Connection:
        patience = _SEGMENT_PATIENCE if self._segmented else 1
        deadlines = Deadlines(
            self._options.open_timeout_s, patience * self._options.stall_timeout_s, self._segmented
        )
        return Connection(
            url,
            transport=self._options.rtsp_transport,
            deadlines=deadlines,
            joined=joined,
            shown=self._shown,
            tls=certificate_options(url, self._options.check_certificates),
        )

    def answers(self) -> bool | None:
        return answers(self._uri)


def _names_dash(uri: str) -> bool:
    """A camera that was met before is not asked again what it is: manifests are called so."""
    parts = urlsplit(BLANK.sub("_", uri))
    return parts.scheme.lower() in ("http", "https") and parts.path.lower().endswith(".mpd")


# Whether a server is who it says it is.

_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")


def certificate_options(url: str, check: bool) -> dict[str, str]:
    """What makes FFmpeg's own connections to an https `url` believe no false certificate; of itself it believes any.

    Segments of HLS it fetches without these: FFmpeg does not hand them on.
    """
    if not check or not url.lower().startswith("https://"):
        return {}
    known = (ssl.get_default_verify_paths().cafile, *_BUNDLES)
    trusted = next((path for path in known if path and os.path.isfile(path)), None)
    return {} if trusted is None else {"tls_verify": "1", "ca_file": trusted}


# Whether anybody listens at an address: cheap enough to ask while backing off.

_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443, "rtmp": 1935, "rtmps": 443}
_TIMEOUT_S = 0.5


def answers(url: str) -> bool | None:
    """Whether the host of `url` takes a TCP connection now; None where that cannot be asked (UDP, a bad address).

    The connection is closed at once: no session is made and no password sent.
    """
    try:
        parts = urlsplit(BLANK.sub("_", url))
        port = parts.port or _PORTS.get(parts.scheme.lower())
    except ValueError:
        return None
    if parts.scheme.lower() not in _PORTS or not parts.hostname or port is None:
        return None
    try:
        socket.create_connection((parts.hostname, port), timeout=_TIMEOUT_S).close()
    except OSError:
        return False
    return True


# Guessing a frame rate would read twenty frames before the first is shown; time stamps are used as they come.
_QUICK_START = BOUNDED | {"fpsprobesize": "0"}
# Of HLS, begin with the last segment but one: the oldest that is listed (FFmpeg begins three from the end) has often
# gone before it is asked for, and behind the newest nothing is in store.
_NEAR_THE_END = {"live_start_index": "-2"}
REFUSED_REMEDY = "check them; they are not tried again, since cameras lock accounts"
# Cameras may send a key picture only every ten seconds or more, and nothing can be decoded before.
_PICTURE_PATIENCE = 6
# An answer that came so soon was no silence.
_AGAIN_WITHIN_S = 3.0
# Segments last 2 to 10 s as a rule, and may be late by one.
_SEGMENT_PATIENCE = 6
# AVProducerReferenceTime begins with the wall clock in microseconds.
_REFERENCE_TIME = struct.Struct("=q")


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds. `open_s`: for a connection to be made. `stall_s`: for the next packet, of what comes as it is made.

    `segmented`: it comes seconds at a time.
    """

    open_s: float
    stall_s: float
    segmented: bool = False


class Connection:
    """An open stream. `url` may hold credentials; `transport`: tcp or udp, for RTSP.

    `shown`: what earlier connections showed of it, which is not shown again where it comes in segments. `joined`: what is
    read in the place of `url`, delivered in segments; it keeps its own deadlines. `tls`: of `certificate_options`. Raises
    `ConnectionLost` when it cannot be opened in time.
    """

    def __init__(
        self,
        url: str,
        *,
        transport: str,
        deadlines: Deadlines,
        shown: ShownPictures,
        joined: io.RawIOBase | None = None,
        tls: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._deadlines = deadlines
        # Cameras have no end: over RTSP an end is the death of the sender. Over HTTP it may be the end of a file.
        self._ending = LossCause.FAILED if url.startswith("rtsp") else LossCause.OVER
        options = _QUICK_START | dict(tls) | (_NEAR_THE_END if deadlines.segmented else {})
        if url.startswith("rtsp"):
            options |= {"rtsp_transport": transport, "allowed_media_types": "video"}
        timeouts = (deadlines.open_s, deadlines.stall_s)
        begun_s = time.monotonic()
        self._open = (
            partial(av.open, url, options=options, timeout=timeouts, metadata_errors="replace")
            if joined is None
            else partial(av.open, joined, options=_QUICK_START, metadata_errors="replace")
        )
        try:
            container = self._open()
        except (FFmpegError, OSError, ValueError) as error:
            # FFmpeg reports what it was doing when its time ran out, in many different ways.
            late = time.monotonic() - begun_s >= deadlines.open_s
            raise _lost(
                TimeoutError() if late else error, f"no answer within {deadlines.open_s:g} s"
            ) from None
        assert isinstance(container, av.container.InputContainer)
        self._container = container
        try:
            self._video = video_stream(self._container, "the stream")
        except ValueError as error:
            self._container.close()
            raise ConnectionLost(str(error), LossCause.FAILED) from None
        # With several threads the decoder of H.264 does not tell which pictures lost a slice.
        self._video.thread_type = "NONE"
        assert self._video.time_base is not None
        self.time_base: Fraction = self._video.time_base
        self.timing = timing(self._container.format.name) if joined is None else FeedTiming.SEGMENTED
        self._new = NewPictures(shown) if self.timing is FeedTiming.SEGMENTED else None
        self._web = joined is None and url.lower().startswith(("http://", "https://"))
        self.kind = _kind(container) if self._web else AddressKind.CAMERA

    @property
    def nominal_fps(self) -> float | None:
        if self.timing is FeedTiming.INVENTED:
            return None
        return float(self._video.average_rate) if self._video.average_rate else None

    @property
    def pixel_aspect(self) -> Fraction:
        return pixel_aspect(self._video.sample_aspect_ratio)

    def pictures(self) -> Iterator[Picture]:
        """Pictures until the connection ends, which is always told by `ConnectionLost`."""
        sender = SenderClock()
        asked_s = shown_s = time.monotonic()
        longest_s = _PICTURE_PATIENCE * self._deadlines.stall_s
        silence = f"nothing came for {self._deadlines.stall_s:g} s"
        try:
            for packet in self._container.demux(self._video):
                if self._out_of_time(asked_s):
                    # The last of what came before: its moment is past, and who was told of the silence has it in there.
                    break
                if packet.pts is not None and packet.has_sidedata("prft"):
                    (wall_us,) = _REFERENCE_TIME.unpack_from(packet.get_sidedata("prft"))
                    sender.note(packet.pts, wall_us)
                for picture in self._decoded(packet, sender):
                    yield picture
                    shown_s = time.monotonic()
                asked_s = time.monotonic()
                if asked_s - shown_s > longest_s:
                    raise ConnectionLost(f"data came, but no picture for {longest_s:g} s", LossCause.FAILED)
        except (FFmpegError, OSError) as error:
            raise _lost(error, silence) from None
        # FFmpeg gives up waiting for a segment as it does at the end of all.
        if self._out_of_time(asked_s):
            raise ConnectionLost(silence, LossCause.FAILED)
        if self._new is not None and self._web and not self._is_over():
            raise ConnectionLost("no further segment could be read", LossCause.FAILED)
        raise ConnectionLost("the sender ended the stream", self._ending)

    def _is_over(self) -> bool:
        """Whether the playlist says so: FFmpeg ends as well where a server has failed."""
        try:
            with self._open() as again:
                return _kind(again) is AddressKind.FILM
        except (FFmpegError, OSError, ValueError):
            return False

    def _out_of_time(self, asked_s: float) -> bool:
        """Whether segments were waited for as long as anybody waits for them."""
        waited_s = time.monotonic() - asked_s
        return self.timing is FeedTiming.SEGMENTED and waited_s >= self._deadlines.stall_s

    def close(self) -> None:
        self._container.close()

    def _decoded(self, packet: av.Packet[av.VideoStream], sender: SenderClock) -> Iterator[Picture]:
        if self._new is not None:
            self._new.read(packet)
        try:
            frames = packet.decode()
        except FFmpegError:
            # What cannot be decoded at all leaves no picture; the ones that build on it come out as damaged.
            return
        # Many senders count the packets of each segment from 0: FFmpeg takes that for a loss. What is lost of a segment,
        # the decoder tells.
        lossy = packet.is_corrupt and self._new is None
        for frame in frames:
            if self._new is None or self._new.is_new(frame.pts):
                yield Picture(frame, sender.at(frame.pts, self.time_base), frame.is_corrupt or lossy)


def _kind(container: av.container.InputContainer) -> AddressKind:
    return by_container(ContainerSays(container.format.name, container.duration))


def _lost(error: Exception, late: str) -> ConnectionLost:
    """An error of FFmpeg in the user's words."""
    match error:
        case HTTPUnauthorizedError() | HTTPForbiddenError():
            return ConnectionLost("the user name or password is refused", LossCause.REFUSED, REFUSED_REMEDY)
        case ProtocolNotFoundError():
            return ConnectionLost(
                "the FFmpeg that PyAV brings was built without this protocol",
                LossCause.REFUSED,
                "give the address of the same stream as RTSP, HLS (.m3u8) or MPEG-TS over UDP",
            )
        case HTTPNotFoundError():
            return ConnectionLost("there is no such stream (404)", LossCause.FAILED)
        case ExitError() | TimeoutError():
            return ConnectionLost(late, LossCause.FAILED)
        case ConnectionRefusedError():
            return ConnectionLost("nothing listens there", LossCause.FAILED)
        case EOFError() | BrokenPipeError():
            return ConnectionLost("the connection was closed", LossCause.FAILED)
    return ConnectionLost(redact_text(str(getattr(error, "strerror", None) or error)), LossCause.FAILED)
