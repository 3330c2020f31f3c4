"""Pictures that a broadcast in segments gives again when it is connected to again.

FFmpeg begins near the end of what is listed, whether that has been shown or not: after a moment without the server the
last seconds would come twice, and of a playlist that nobody continues the same seconds again and again, as if they were
happening now.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import av

# Two segments of twenty seconds, at sixty pictures a second and with room.
_REMEMBERED = 4096


class ShownPictures:
    """The latest that were shown of one address, over all its connections: their time stamps, and what was coded there.

    A loop that begins again has the same pictures at other stamps, an encoder that begins again others at the same.
    """

    def __init__(self) -> None:
        self._coded: OrderedDict[int, int] = OrderedDict()

    def add(self, stamp: int, coded: int) -> None:
        """A picture was handed on; `coded`: the checksum of its packet."""
        self._coded[stamp] = coded
        self._coded.move_to_end(stamp)
        if len(self._coded) > _REMEMBERED:
            self._coded.popitem(last=False)

    def holds(self, stamp: int, coded: int) -> bool:
        return self._coded.get(stamp) == coded


class NewPictures:
    """Which pictures of one connection are new: all from the first packet on that `shown` does not hold."""

    def __init__(self, shown: ShownPictures) -> None:
        self._shown = shown
        self._begun = False
        # Packets of which no picture has come: checksums by time stamp, and whether they were shown before.
        self._waiting: dict[int, tuple[int, bool]] = {}

    def read(self, packet: av.Packet[av.VideoStream]) -> None:
        """`packet` is about to be decoded."""
        if packet.pts is None or not packet.size:
            return
        coded = zlib.crc32(packet)
        again = not self._begun and self._shown.holds(packet.pts, coded)
        self._begun = not again
        self._waiting[packet.pts] = (coded, again)
        if len(self._waiting) > _REMEMBERED:
            del self._waiting[next(iter(self._waiting))]

    def is_new(self, stamp: int | None) -> bool:
        """Whether the picture at `stamp`, which came of a packet, is to be handed on; it then counts as shown."""
        coded, again = self._waiting.pop(stamp, (0, False)) if stamp is not None else (0, False)
        if stamp is not None and not again:
            self._shown.add(stamp, coded)
        return not again
