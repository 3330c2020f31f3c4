"""Cameras, on the network or plugged in: watched by a thread that connects again."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from pipeline.core.clock import NS
from pipeline.core.dropping import KEEP_LATEST, DropPolicy
from pipeline.core.errors import SourceAway, SourceRefused
from pipeline.core.leaving import READER_THREAD
from pipeline.core.records import Gap, ResumePoint
from pipeline.core.restarts import HEALTHY_S, LossCause, backoff_s, reconnects, refused_pause_s
from pipeline.sources.camera import Camera, ConnectionLost, Feed, Picture
from pipeline.sources.clocks import Arrival, Bursts, LiveClock, Pacing, ticks_to_ns
from pipeline.sources.film_or_camera import FeedTiming
from pipeline.sources.geometry import Orientations, geometry_of
from pipeline.sources.latest import FrameMailbox
from pipeline.sources.picture import DecodedFrame, from_video_frame
from pipeline.sources.source import SourceCounts, SourceInfo, SourceOptions
from pipeline.sources.unwatched import Unwatched

log = logging.getLogger(__name__)

_POLL_S = 0.2
_KNOCK_S = 0.5
_LONGEST_KNOCK_S = 8.0
_LET_GO_S = 0.3


class LiveStream:
    """A camera: `drop` says which frame wins where nobody keeps up; drops, damage and outages become gaps.

    A thread of its own connects, reads with deadlines, and connects again by `options.reconnect`, so that `close` and
    an interrupted first connection never wait for the network. Frames are timed by `LiveClock`; all have the size of
    the first one, so that pixels mean the same when a camera changes its resolution.

    Unless `known` says what an earlier opening found out, the first connection is made here, and what is wrong with
    it is a `ValueError`. Iterating raises `ValueError` when the stream ended for good with an error: credentials that
    are refused and never were accepted, or any under the policy "never". No text holds credentials.
    """

    def __init__(
        self,
        camera: Camera,
        *,
        stream: str,
        options: SourceOptions | None = None,
        known: SourceInfo | None = None,
        drop: DropPolicy = KEEP_LATEST,
        wall_clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._camera = camera
        self._address = camera.address
        self._stream = stream
        self._options = options or SourceOptions()
        self._wall_clock_ns = wall_clock_ns
        self._stop = threading.Event()
        self._begin = threading.Event()
        self._tried = threading.Event()
        self._box = FrameMailbox(drop)
        self._failure: str | None = None
        # A picture came, so the credentials were right; how often they have been refused since.
        self._never_met: LossCause | None = None
        self._accepted = False
        self._refusals = 0
        self._resume = ResumePoint()
        self._clock: LiveClock | None = None
        self._unwatched: Unwatched | None = None
        self._counts = SourceCounts(connected=False)
        self._orientations = Orientations()
        self._index = 0
        self._bursty = False
        self._info: SourceInfo | None = replace(known, stream=stream) if known is not None else None
        self._thread = threading.Thread(target=self._run, name=READER_THREAD + stream, daemon=True)
        if self._info is None:
            self._meet()

    @property
    def info(self) -> SourceInfo:
        assert self._info is not None
        return self._info

    @property
    def counts(self) -> SourceCounts:
        return replace(self._counts, dropped=self._box.dropped)

    def resume_after(self, point: ResumePoint) -> None:
        """A camera cannot go back: numbering goes on, and the time since `point` becomes an outage."""
        self._resume = point

    def close(self) -> None:
        self._stop.set()
        self._begin.set()
        self._box.finish()
        if self._thread.is_alive():
            # A webcam can be open once only, and whoever closes it may be about to open it again.
            self._thread.join(_LET_GO_S)

    def __iter__(self) -> Iterator[DecodedFrame | Gap | None]:
        self._prepare()
        self._begin.set()
        if self._thread.ident is None:
            self._thread.start()
        assert self._unwatched is not None
        while not self._box.finished:
            event = self._box.take(_POLL_S)
            yield event
            if event is None and (gap := self._unwatched.waiting(time.monotonic_ns())) is not None:
                yield gap
        if self._failure is not None and not self._stop.is_set():
            raise SourceRefused(self._failure)

    def _meet(self) -> None:
        """Connect for the first time, in the thread, so that an interrupt gets through at any moment."""
        try:
            self._thread.start()
            # In slices: a signal that comes just before an endless wait begins would not end it.
            while not self._tried.wait(_POLL_S):
                pass
        except BaseException:
            self.close()
            raise
        if self._failure is not None:
            if self._never_met is None:
                raise SourceRefused(self._failure)
            raise SourceAway(self._failure, again=self._never_met is not LossCause.REFUSED)

    def _prepare(self) -> None:
        """Decide where numbers and times go on."""
        resumed = self._resume.pts_ns >= 0
        since_ns = self._resume.wall_ns + 1 if resumed else self.info.start_wall_ns
        self._index = self._resume.frame + 1
        self._clock = LiveClock(
            replace(self._resume, wall_ns=since_ns), max_error_ns=round(self._options.max_clock_error_s * NS)
        )
        self._unwatched = Unwatched(
            since_ns=since_ns,
            resumed=resumed,
            pause_ns=round(self._options.stall_timeout_s * NS),
            wall_ns=self._wall_clock_ns(),
            steady_ns=time.monotonic_ns(),
        )

    def _run(self) -> None:
        """The thread: connect, read until the stream breaks, wait, connect again."""
        failures = 0
        try:
            while not self._stop.is_set():
                begun = time.monotonic()
                try:
                    self._connect_and_read()
                except ConnectionLost as lost:
                    failures = 0 if time.monotonic() - begun > HEALTHY_S else failures
                    if self._stop.is_set() or not self._goes_on(lost):
                        return
                    if lost.ending is LossCause.REFUSED:
                        self._sit_out(lost)
                        continue
                    pause_s = backoff_s(failures, random.random(), self._options.max_backoff_s)
                    failures += 1
                    log.warning("%s: %s; next try in %.1f s", self._address, lost, pause_s)
                    if self._pause(pause_s):
                        failures = 0
        except Exception as error:
            # Whoever iterates must hear of it: a thread that dies in silence looks like a camera that is off.
            log.exception("%s: the reader failed", self._address)
            self._failure = f"{self._address}: reading it failed ({type(error).__name__}); please report this"
        finally:
            self._counts = replace(self._counts, connected=False)
            self._box.finish()
            self._tried.set()

    def _sit_out(self, lost: ConnectionLost) -> None:
        """Credentials that were accepted before are refused: a long wait, whoever listens there meanwhile."""
        pause_s = refused_pause_s(self._refusals)
        self._refusals += 1
        log.warning(
            "%s: %s, though it was accepted before; tried again in %.0f min, since cameras lock accounts",
            self._address, lost, pause_s / 60,
        )  # fmt: skip
        self._stop.wait(pause_s)

    def _pause(self, seconds: float) -> bool:
        """Wait between two tries. When somebody listens where nobody did, the wait is over; then True."""
        until = time.monotonic() + seconds
        away, knock_s = False, _KNOCK_S
        while not self._stop.is_set() and (left := until - time.monotonic()) > 0:
            # Asked again and again, since a camera that is going down may still take connections for a moment.
            listens = self._camera.answers()
            if away and listens:
                return True
            away = away or listens is False
            knock_s = _KNOCK_S if away else min(2 * knock_s, _LONGEST_KNOCK_S)
            self._stop.wait(min(left, knock_s))
        return False

    def _goes_on(self, lost: ConnectionLost) -> bool:
        """Whether to connect again after `lost`; says why not."""
        self._counts = replace(self._counts, connected=False)
        if self._unwatched is not None:
            self._unwatched.broken()
        if self._clock is not None:
            self._clock.reconnected()
        met = self._info is not None
        if met and reconnects(self._options.reconnect, lost.ending, accepted=self._accepted):
            return True
        if not met:
            self._never_met = lost.ending
            self._failure = f"{self._address}: cannot connect: {lost}; {lost.remedy}"
        elif lost.ending is not LossCause.OVER:
            self._failure = f"{self._address}: the connection was lost: {lost}; {lost.remedy}"
        return False

    def _connect_and_read(self) -> None:
        """One connection's life. Ends with `ConnectionLost`, or because of `close`."""
        connection = self._camera.connect()
        self._orientations = Orientations()
        try:
            asked_ns = time.monotonic_ns()
            segmented = connection.timing is FeedTiming.SEGMENTED
            pacing = Pacing() if segmented or self._bursty else None
            bursts = Bursts()
            for picture in connection.pictures():
                if self._stop.is_set():
                    return
                self._accepted, self._refusals = True, 0
                if self._info is None:
                    self._info = self._introduce(connection, picture)
                    self._tried.set()
                if not self._begin.is_set():
                    self._begin.wait()
                    if self._stop.is_set():
                        return
                if not self._counts.connected:
                    again = self._counts.frames > 0
                    self._counts = replace(
                        self._counts, connected=True, reconnects=self._counts.reconnects + again
                    )
                if (
                    pacing is None
                    and connection.timing is FeedTiming.STAMPED
                    and self._comes_in(bursts, connection, picture)
                ):
                    pacing, self._bursty = Pacing(), True
                    log.warning("%s: it comes seconds at a time; shown at its own pace", self._address)
                arrival = self._awaited(connection, picture, pacing, asked_ns)
                if self._stop.is_set():
                    return
                self._take(connection, picture, arrival)
                if not picture.damaged:
                    # For one that can be shown has been waited for since the last such.
                    asked_ns = time.monotonic_ns()
        finally:
            connection.close()

    @staticmethod
    def _comes_in(bursts: Bursts, connection: Feed, picture: Picture) -> bool:
        if picture.frame.pts is not None:
            bursts.note(ticks_to_ns(picture.frame.pts, connection.time_base), time.monotonic_ns())
        return bursts.found

    def _awaited(self, connection: Feed, picture: Picture, pacing: Pacing | None, asked_ns: int) -> Arrival:
        """Wait until `picture` is due, and when that was: now, unless it came in a burst."""
        now_ns = time.monotonic_ns()
        if pacing is None or picture.frame.pts is None or picture.damaged:
            return Arrival(self._wall_clock_ns(), now_ns)
        media_ns = ticks_to_ns(picture.frame.pts, connection.time_base)
        due_ns = pacing.due_ns(media_ns, asked_ns=asked_ns, now_ns=now_ns)
        if pacing.after_hole and self._unwatched is not None:
            # Segments that expired before they were read: nobody saw what was in them.
            self._unwatched.broken()
        while (left_ns := due_ns - time.monotonic_ns()) > 0 and not self._stop.wait(left_ns / NS):
            pass
        return Arrival(self._wall_clock_ns() + due_ns - time.monotonic_ns(), due_ns)

    def _introduce(self, connection: Feed, picture: Picture) -> SourceInfo:
        width, height = geometry_of(picture.frame, connection.pixel_aspect).display
        return SourceInfo(
            stream=self._stream,
            address=self._address,
            kind=self._camera.kind,
            width=width,
            height=height,
            start_wall_ns=self._wall_clock_ns(),
            fingerprint=self._camera.fingerprint,
            nominal_fps=connection.nominal_fps,
            pixel_aspect=str(connection.pixel_aspect),
        )

    def _take(self, connection: Feed, picture: Picture, arrival: Arrival) -> None:
        """Time and hand on one picture."""
        assert self._clock is not None
        assert self._unwatched is not None
        if picture.damaged:
            self._counts = replace(self._counts, corrupt=self._counts.corrupt + 1)
            self._unwatched.damaged()
            return
        ticks = None if connection.timing is FeedTiming.INVENTED else picture.frame.pts
        moment = self._clock.at(ticks, connection.time_base, picture.sender_ns, arrival)
        if moment is None:
            # Its time stamp stands still or lies behind: a picture that cannot be placed in time is not shown, but counted.
            self._counts = replace(self._counts, corrupt=self._counts.corrupt + 1)
            self._unwatched.damaged()
            return
        gap = self._unwatched.seen(moment.wall_ns, arrival.steady_ns)
        if gap is not None:
            self._box.put_gap(gap)
        size = (self.info.width, self.info.height)
        aspect = connection.pixel_aspect
        self._box.put(
            from_video_frame(
                self._stream, self._index, moment, picture.frame, size, aspect, self._orientations
            )
        )
        self._counts = replace(self._counts, frames=self._counts.frames + 1)
        self._index += 1
