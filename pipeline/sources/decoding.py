"""From a file's packets to its pictures in display order, each with what the file says of its time."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import cast

import av
from av.error import FFmpegError

from pipeline.sources.clocks import ticks_to_ns
from pipeline.sources.film_clock import Stamp
from pipeline.sources.geometry import pixel_aspect

_MAX_READ_ERRORS = 64
# Formats that never say when a picture is shown: FFmpeg's AVFMT_NOTIMESTAMPS.
_NO_TIMESTAMPS = 0x80
# So many packets are looked at to learn what kind of stamps a stream has.
_PROBED = 12
# A stream that has shown no key picture for so many packets has none: it refreshes its pictures in pieces.
_KEYLESS = 600
# Packets farther apart than this do not belong to one stretch of reordering.
_REORDERED_S = 60


class StampKind(StrEnum):
    """Where a picture's time comes from.

    SHOWN: the stamp of its own packet. DECODED: the order of display, on the clock of decoding (AVI keeps no other).
    COUNTED: its number, for streams without any clock.
    """

    SHOWN = "shown"
    DECODED = "decoded"
    COUNTED = "counted"


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture. `damaged`: do not show. `lost`: ticks of what should have come before it and did not.
    `aspect`: width over height of its pixels. `torn`: the container says that bytes are missing around it."""

    frame: av.VideoFrame
    stamp: Stamp
    damaged: bool
    lost: tuple[int, ...] = ()
    aspect: Fraction = Fraction(1)
    torn: bool = False


class Decoding:
    """Reads an open container from where it stands and decodes one video stream.

    The decoder is fed from the first key picture on: what lies before it builds on pictures that are not there, and
    counts as lost. `time_base`: seconds a tick, of all stamps. `counted`: seconds between two pictures where the
    stream has no clock.
    """

    def __init__(
        self, container: av.container.InputContainer, video: av.VideoStream, counted: Fraction
    ) -> None:
        self._container = container
        self._video = video
        self._others = list(container.streams.audio)
        self._begun: deque[av.Packet[av.VideoStream]] = deque()
        self._packets = self._read()
        self._others_until_ns = 0
        self._keys: list[int] = []
        self._kind: StampKind | None = None
        self._stated_aspect = video.sample_aspect_ratio
        self._coded_aspect = video.codec_context.sample_aspect_ratio
        self._counted = counted
        self._skipped = 0
        assert video.time_base is not None
        self._lost = _LostPictures(round(_REORDERED_S / video.time_base))
        self._order = _DecodeOrder()
        self.read_errors = 0

    @property
    def kind(self) -> StampKind:
        """What kind of stamps this stream has; looks at its first packets."""
        if self._kind is None:
            self._kind = self._probe()
        return self._kind

    @property
    def time_base(self) -> Fraction:
        if self.kind is StampKind.COUNTED:
            return self._counted
        assert self._video.time_base is not None
        return self._video.time_base

    @property
    def others_until_ns(self) -> int:
        """How far the other tracks reached, on the file's own clock."""
        return self._others_until_ns

    def missing_before(self, ticks: int) -> list[int]:
        """Ticks before `ticks` of what the file holds and no picture came of, at its beginning."""
        return sorted(value for value in self._lost.beginning if value < ticks)

    def keys_until(self, ticks: int) -> int:
        """How many key pictures were fed to the decoder that are shown no later than `ticks`."""
        return sum(key <= ticks for key in self._keys)

    def pictures(self) -> Iterator[Picture]:
        """Pictures in display order to the end of the file; damage is told, never raised."""
        kind = self.kind
        number = 0
        torn: list[int] = []
        for packet in self._from_first_key():
            number, self._skipped = number + self._skipped, 0
            if packet.is_keyframe and packet.size and packet.pts is not None:
                self._keys.append(packet.pts)
            if packet.is_corrupt:
                self._lost.note_error()
                if packet.pts is not None:
                    torn.append(packet.pts)
            if kind is StampKind.DECODED:
                self._order.expect(packet)
            try:
                frames = packet.decode()
            except FFmpegError:
                self._lost.note_error()
                self._order.failed(packet)
                number += 1
                continue
            for frame in frames:
                duration = frame.duration or 0
                damaged = frame.is_corrupt
                match kind:
                    case StampKind.COUNTED:
                        stamp = Stamp(number, 1)
                        number += 1
                        lost = self._lost.counted(stamp.ticks, damaged)
                    case StampKind.DECODED:
                        stamp = Stamp(self._order.shown(frame), duration)
                        lost = self._lost.decoded(self._order.take_failed(), stamp.ticks, damaged)
                    case _:
                        stamp = Stamp(frame.pts, duration)
                        lost = self._lost.before(frame.pts, damaged)
                near = [tick for tick in torn if frame.pts is not None and tick <= frame.pts]
                torn = [tick for tick in torn if tick not in near]
                yield Picture(frame, stamp, damaged, tuple(lost), self._aspect(), bool(near))

    def rest(self) -> list[int]:
        """Ticks of what is still lost at the end of the file."""
        match self.kind:
            case StampKind.SHOWN:
                return self._lost.rest()
            case StampKind.DECODED:
                return self._order.take_failed()
        return []

    def _aspect(self) -> Fraction:
        """What the container says of the pixels, until the codec begins to say something else."""
        coded = self._video.codec_context.sample_aspect_ratio
        return pixel_aspect(self._stated_aspect if coded == self._coded_aspect else coded)

    def _probe(self) -> StampKind:
        if self._container.format.flags & _NO_TIMESTAMPS:
            return StampKind.COUNTED
        while len(self._begun) < _PROBED:
            packet = next(self._packets, None)
            if packet is None:
                break
            self._begun.append(packet)
        full = [packet for packet in self._begun if packet.size]
        if full and all(packet.dts is None and packet.pts is None for packet in full):
            return StampKind.COUNTED
        if self._container.format.name == "avi" or (full and all(packet.pts is None for packet in full)):
            return StampKind.DECODED
        return StampKind.SHOWN

    def _next(self) -> av.Packet[av.VideoStream] | None:
        return self._begun.popleft() if self._begun else next(self._packets, None)

    def _from_first_key(self) -> Iterator[av.Packet[av.VideoStream]]:
        waiting: list[av.Packet[av.VideoStream]] = []
        while (packet := self._next()) is not None:
            if packet.pts is not None and not packet.is_discard:
                self._lost.expect(packet.pts, packet.dts)
            if packet.is_keyframe and packet.size:
                if waiting:
                    self._order.skipped(waiting)
                    self._skipped = len(waiting)
                    self._lost.note_error()
                yield packet
                break
            waiting.append(packet)
            if len(waiting) >= _KEYLESS:
                yield from waiting
                break
        else:
            yield from waiting
            return
        while (packet := self._next()) is not None:
            if packet.pts is not None and not packet.is_discard:
                self._lost.expect(packet.pts, packet.dts)
            yield packet

    def _read(self) -> Iterator[av.Packet[av.VideoStream]]:
        """The video's packets; how far the other tracks reach is noted on the way."""
        packets = self._container.demux([self._video, *self._others])
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except FFmpegError:
                self.read_errors += 1
                self._lost.note_error()
                if self.read_errors > _MAX_READ_ERRORS:
                    return
                packets = self._container.demux([self._video, *self._others])
                continue
            # The packet that flushes the decoder at the end knows its stream, but not that stream's number.
            if packet.stream.index == self._video.index:
                yield cast("av.Packet[av.VideoStream]", packet)
            elif packet.pts is not None and packet.time_base is not None:
                until = ticks_to_ns(packet.pts + (packet.duration or 0), packet.time_base)
                self._others_until_ns = max(self._others_until_ns, until)


class _DecodeOrder:
    """Times of display from times of decoding: the picture shown n-th has the n-th smallest of them."""

    def __init__(self) -> None:
        self._due: list[int] = []
        self._of: dict[int, int] = {}
        self._failed: list[int] = []

    def expect(self, packet: av.Packet[av.VideoStream]) -> None:
        if packet.dts is None or not packet.size:
            return
        heapq.heappush(self._due, packet.dts)
        if packet.pts is not None:
            self._of[packet.pts] = packet.dts

    def failed(self, packet: av.Packet[av.VideoStream]) -> None:
        """No picture comes of `packet`."""
        if packet.dts in self._due:
            self._due.remove(packet.dts)
            heapq.heapify(self._due)
            self._failed.append(packet.dts)

    def skipped(self, packets: list[av.Packet[av.VideoStream]]) -> None:
        self._failed += [packet.dts for packet in packets if packet.dts is not None]

    def take_failed(self) -> list[int]:
        failed, self._failed = self._failed, []
        return failed

    def shown(self, frame: av.VideoFrame) -> int | None:
        decoded = None if frame.pts is None else self._of.pop(frame.pts, None)
        if frame.key_frame and decoded is not None:
            # What was decoded before a key picture is shown before it: what is still due of that never comes.
            while self._due and self._due[0] < decoded:
                self._failed.append(heapq.heappop(self._due))
            self._of = {pts: dts for pts, dts in self._of.items() if dts >= decoded}
        return heapq.heappop(self._due) if self._due else None


class _LostPictures:
    """Which packets never became a picture, once the decoder has complained.

    `reach`: ticks between which packets may be out of order. `beginning`: what lies before the first picture.
    """

    def __init__(self, reach: int) -> None:
        self._reach = reach
        # (how often the clock of decoding had begun anew, time stamp) of packets of which no picture has come.
        self._expected: list[tuple[int, int]] = []
        self._begun = 0
        self._showing = 0
        self._newest: int | None = None
        self._damaged: list[int] = []
        self._errors = False
        self._shown: int | None = None
        self._number = 0
        self.beginning: set[int] = set()

    def expect(self, pts: int, dts: int | None) -> None:
        if dts is not None:
            # Recordings that were joined: what comes now is shown behind all of before, whatever its stamps say.
            self._begun += self._newest is not None and dts < self._newest
            self._newest = dts
        heapq.heappush(self._expected, (self._begun, pts))

    def note_error(self) -> None:
        self._errors = True

    def before(self, pts: int | None, damaged: bool) -> list[int]:
        """Time stamps lost up to the good picture at `pts`; a damaged picture is kept for the next good one."""
        if pts is None:
            return []
        unmatched = []
        if (self._showing, pts) not in self._expected:
            later = (begun for begun, expected in self._expected if expected == pts)
            self._showing = min(later, default=self._showing)
        here = (self._showing, pts)
        if self._shown is None or abs(pts - self._shown) <= self._reach:
            while self._expected and self._expected[0] <= here:
                begun, expected = heapq.heappop(self._expected)
                if (begun, expected) != here and abs(pts - expected) <= self._reach:
                    unmatched.append(expected)
        elif here in self._expected:
            # A stamp far out of line says nothing about the ones in between.
            self._expected.remove(here)
            heapq.heapify(self._expected)
        self.beginning.discard(pts)
        if self._shown is None:
            # Whoever knows the first few pictures decides: stamps may be out of order.
            self.beginning.update(unmatched)
        elif self._errors:
            # Field-coded streams send two packets a picture, so unmatched packets alone prove nothing.
            self._damaged.extend(unmatched)
        if not damaged:
            self._shown = pts
        return self._told(pts, damaged)

    def counted(self, number: int | None, damaged: bool) -> list[int]:
        """Numbers of the pictures that failed before the good one with `number`."""
        assert number is not None
        self._damaged.extend(range(self._number, number))
        self._number = number + 1
        return self._told(number, damaged)

    def decoded(self, failed: list[int], ticks: int | None, damaged: bool) -> list[int]:
        """Times of decoding that failed before the good picture at `ticks`."""
        self._damaged.extend(failed)
        return self._told(ticks, damaged)

    def rest(self) -> list[int]:
        """What is still lost at the end of the file."""
        return self._damaged + (sorted(pts for _, pts in self._expected) if self._errors else [])

    def _told(self, ticks: int | None, damaged: bool) -> list[int]:
        if damaged:
            if ticks is not None:
                self._damaged.append(ticks)
            return []
        lost, self._damaged = self._damaged, []
        if lost:
            self._errors = False
        return lost
