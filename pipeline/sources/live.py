"""Network cameras: RTSP and HTTP through FFmpeg, with deadlines and reconnection."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
from av.error import FFmpegError
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_when_event_set,
    wait_random_exponential,
)

from pipeline.frame import ClockSource, FrameTime
from pipeline.records import Gap, ResumePoint
from pipeline.sources.file import video_stream
from pipeline.sources.identity import address_fingerprint
from pipeline.sources.latest import LatestFrame
from pipeline.sources.picture import DecodedFrame, displayed_size, from_video_frame
from pipeline.sources.redact import redact_text, redact_url
from pipeline.sources.source import SourceCounts, SourceInfo, SourceKind
from pipeline.sources.timing import ticks_to_ns

log = logging.getLogger(__name__)

# A pause between frames longer than this is told as an outage, even without a reconnect.
_OUTAGE_NS = 5_000_000_000
_POLL_S = 0.2


class LiveStream:
    """A camera or network stream: the newest frame wins, drops and outages become gaps.

    A decoder thread reads with deadlines (`open_timeout_s`, `read_timeout_s`), reconnects with jittered exponential
    backoff and never gives up until `close`. PTS counts from the first frame of the run; each reconnect or PTS reset
    starts a new epoch. Wall clock: time of arrival. The first connection is made here, so that a wrong address or
    password is a `ValueError` at once; its text never holds credentials.
    """

    def __init__(
        self,
        uri: str,
        *,
        stream: str,
        transport: str = "tcp",
        open_timeout_s: float = 10.0,
        read_timeout_s: float = 5.0,
        max_backoff_s: float = 30.0,
        wall_clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._uri = uri
        self._address = redact_url(uri)
        self._stream_name = stream
        self._transport = transport
        self._timeouts = (open_timeout_s, read_timeout_s)
        self._max_backoff_s = max_backoff_s
        self._now = wall_clock_ns
        self._stop = threading.Event()
        self._box = LatestFrame()
        self._thread: threading.Thread | None = None
        self._resume = ResumePoint()
        self._frames = 0
        self._corrupt = 0
        self._reconnects = 0
        try:
            self._connection: _Connection | None = self._open()
            first = next(self._pictures(self._connection))
        except (FFmpegError, OSError) as error:
            raise ValueError(
                f"{self._address}: cannot connect ({redact_text(str(error.strerror or error))}); "
                "check the address, the network and the credentials"
            ) from None
        except StopIteration:
            raise ValueError(f"{self._address}: connected, but no frame came; check the camera") from None
        width, height = displayed_size(first)
        video = self._connection.video
        self._info = SourceInfo(
            stream=stream,
            address=self._address,
            kind=SourceKind.LIVE,
            width=width,
            height=height,
            start_wall_ns=self._now(),
            fingerprint=address_fingerprint(uri),
            nominal_fps=float(video.average_rate) if video.average_rate else None,
        )

    @property
    def info(self) -> SourceInfo:
        return self._info

    @property
    def counts(self) -> SourceCounts:
        return SourceCounts(self._frames, self._corrupt, self._box.dropped, self._reconnects)

    def resume_after(self, point: ResumePoint) -> None:
        """A camera cannot go back: numbering goes on, and the time since `point` becomes an outage."""
        self._resume = point

    def close(self) -> None:
        self._stop.set()
        self._box.finish()
        connection = self._connection
        if self._thread is None and connection is not None:
            connection.container.close()

    def __iter__(self) -> Iterator[DecodedFrame | Gap | None]:
        if self._resume.pts_ns >= 0 and self._resume.wall_ns:
            yield Gap(self._resume.wall_ns, self._info.start_wall_ns, "outage", 0)
        self._thread = threading.Thread(
            target=self._read_forever, name=f"live-{self._stream_name}", daemon=True
        )
        self._thread.start()
        while not self._box.finished:
            yield self._box.take(_POLL_S)

    def _open(self) -> _Connection:
        options = {"rtsp_transport": self._transport} if self._uri.startswith("rtsp") else {}
        container = av.open(self._uri, options=options, timeout=self._timeouts, metadata_errors="replace")
        try:
            return _Connection(container, video_stream(container, self._address))
        except ValueError:
            container.close()
            raise

    def _read_forever(self) -> None:
        """The decoder thread: read until the stream breaks, tell the outage, connect again."""
        numbering = _LiveNumbering(self._resume)
        retry = Retrying(
            retry=retry_if_exception_type((FFmpegError, OSError, ValueError)),
            wait=wait_random_exponential(multiplier=0.5, max=self._max_backoff_s),
            stop=stop_when_event_set(self._stop),
            sleep=self._sleep,
            before_sleep=self._note_failure,
            reraise=True,
        )
        try:
            while not self._stop.is_set():
                connection = self._connection
                self._connection = None
                if connection is None:
                    connection = retry(self._open)
                    self._reconnects += 1
                try:
                    self._read(connection, numbering)
                except (FFmpegError, OSError) as error:
                    log.warning("%s: %s; reconnecting", self._address, redact_text(str(error)))
                finally:
                    connection.container.close()
                numbering.new_epoch()
                self._stop.wait(_POLL_S)
        except (FFmpegError, OSError, ValueError):
            assert self._stop.is_set()
        finally:
            self._box.finish()

    def _read(self, connection: _Connection, numbering: _LiveNumbering) -> None:
        time_base = connection.video.time_base
        assert time_base is not None
        for picture in self._pictures(connection):
            if self._stop.is_set():
                return
            if picture.is_corrupt:
                self._corrupt += 1
                continue
            wall_ns = self._now()
            if numbering.last_wall_ns and wall_ns - numbering.last_wall_ns > _OUTAGE_NS:
                self._box.put_gap(Gap(numbering.last_wall_ns, wall_ns, "outage", 0))
            index, moment = numbering.number(picture.pts, time_base, wall_ns)
            self._frames += 1
            self._box.put(from_video_frame(self._stream_name, index, moment, picture))

    def _pictures(self, connection: _Connection) -> Iterator[av.VideoFrame]:
        for packet in connection.container.demux(connection.video):
            try:
                yield from packet.decode()
            except FFmpegError:
                self._corrupt += 1

    def _sleep(self, seconds: float) -> None:
        self._stop.wait(seconds)

    def _note_failure(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        log.warning("%s: attempt %d failed: %s", self._address, state.attempt_number, redact_text(str(error)))


@dataclass(frozen=True, slots=True)
class _Connection:
    container: av.container.InputContainer
    video: av.VideoStream


class _LiveNumbering:
    """Frame numbers and times that grow over reconnects and PTS resets, continuing an earlier run."""

    def __init__(self, resume: ResumePoint) -> None:
        self._index = resume.frame + 1
        self._epoch = resume.epoch + 1 if resume.pts_ns >= 0 else 0
        self._base_ns = max(resume.pts_ns, 0)
        self._origin: int | None = None
        self._last_pts: int | None = None
        self._last_ns = self._base_ns
        self.last_wall_ns = 0

    def new_epoch(self) -> None:
        self._epoch += 1
        self._base_ns = self._last_ns
        self._origin = self._last_pts = None

    def number(self, pts: int | None, time_base: Fraction, wall_ns: int) -> tuple[int, FrameTime]:
        """The number and time of the next frame; without PTS, the time of arrival stands in."""
        ticks = (
            pts if pts is not None else int(wall_ns * time_base.denominator // (time_base.numerator * 10**9))
        )
        if self._last_pts is not None and ticks < self._last_pts:
            self.new_epoch()
        if self._origin is None:
            self._origin = ticks
        self._last_pts = ticks
        self._last_ns = self._base_ns + ticks_to_ns(ticks - self._origin, time_base)
        self.last_wall_ns = wall_ns
        index = self._index
        self._index += 1
        return index, FrameTime(self._last_ns, wall_ns, self._epoch, ClockSource.ARRIVAL)
