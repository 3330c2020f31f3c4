"""Where to go on in a file: how far back to seek, and when to trust what was found there.

A demuxer seeks by the time of decoding, to any packet, or not at all, and says "done" each time. So nothing is believed
that was not seen: the last picture that is known must come by. Where it does not, the film is decoded from its first
packet again, which costs time and loses nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.core.clock import NS
from pipeline.core.frame import FrameTime
from pipeline.core.records import ResumePoint
from pipeline.sources.film_clock import LOOKAHEAD

# Far enough for two key pictures of most films; then of nearly all; then the whole film is decoded again.
_BACK_NS = (12 * NS, 60 * NS)
# Shorter than this, reading from the beginning costs no more than seeking.
_SHORT_NS = 15 * NS
# Leading pictures of an open group lean on the group before it, so that one key picture is not enough.
_KEYS = 2
# So many pictures in good order, and the clock remembers what it would have without the seek.
_CALM = 2 * LOOKAHEAD


def places_to_resume(point: ResumePoint, *, seekable: bool) -> Iterator[int | None]:
    """PTS in ns to seek to, one after the other until one is trusted; None: the beginning, which always is.

    `seekable`: whether the file's time stamps are those of its pictures, so that one can be known again by its stamp.
    """
    if seekable and point.epoch == 0 and point.pts_ns > _SHORT_NS:
        for back in _BACK_NS:
            if point.pts_ns > back:
                yield point.pts_ns - back
    yield None


@dataclass(slots=True)
class Landing:
    """Watches the pictures behind a seek until the last one that is known comes by.

    Seeking is trusted when that very picture, by its exact time, was decoded whole, at least two key pictures were
    decoded before it (what follows then builds on nothing from before the seek, open groups included), and all
    pictures since the seek, enough for the clock to have the same memory as without it, had stamps in good order.
    """

    point: ResumePoint
    seen: int = 0
    calm: bool = True

    def passed(self, time: FrameTime, *, own: bool, keys: int) -> bool | None:
        """Take in the next whole picture: True when it is the known one, False when seeking failed, else None.

        `own`: its time is what its stamp says, and nothing was put in order so far. `keys`: key pictures until it.
        """
        self.seen += 1
        self.calm = self.calm and own
        if time.order < (self.point.epoch, self.point.pts_ns):
            return None
        found = time.order == (self.point.epoch, self.point.pts_ns)
        return found and self.calm and keys >= _KEYS and self.seen > _CALM
