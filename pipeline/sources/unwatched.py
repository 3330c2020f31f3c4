"""Which stretches of a live stream nobody saw."""

from __future__ import annotations

import threading

from pipeline.core.clock import NS
from pipeline.core.records import Gap, GapReason

# A gap that lasts is told in pieces, so that a query during an outage sees it.
_PIECE_NS = 30 * NS


class Unwatched:
    """Turns pauses between good frames into gaps: "outage" without pictures, "corrupt" with damaged ones only.

    A pause counts from `pause_ns` on, or always when the connection broke. `since_ns`: wall clock from which on the
    stream should have been watched; `resumed`: an earlier run did. Safe to use from two threads.
    """

    def __init__(self, *, since_ns: int, resumed: bool, pause_ns: int, wall_ns: int, steady_ns: int) -> None:
        self._pause_ns = pause_ns
        self._since_ns = since_ns
        self._broken = resumed
        self._damaged = 0
        self._told = False
        # Now, on the clock of the stream: where the last frame was, and when that was on the steady clock.
        self._now = (max(wall_ns, since_ns), steady_ns)
        self._lock = threading.Lock()

    def broken(self) -> None:
        """The connection was lost."""
        with self._lock:
            self._broken = True

    def damaged(self) -> None:
        """A picture came that cannot be shown."""
        with self._lock:
            self._damaged += 1

    def seen(self, wall_ns: int, steady_ns: int) -> Gap | None:
        """A good frame came; the gap before it, if there was one."""
        with self._lock:
            pause_ns = wall_ns - self._since_ns
            missed = self._broken or self._told or self._damaged > 0 or pause_ns >= self._pause_ns
            gap = self._gap(wall_ns) if missed and pause_ns > 0 else None
            self._since_ns, self._now = wall_ns + 1, (wall_ns, steady_ns)
            self._broken = self._told = False
            self._damaged = 0
            return gap

    def waiting(self, steady_ns: int) -> Gap | None:
        """Nothing came for a while; a piece of the gap, if it has become long."""
        with self._lock:
            wall_ns = self._now[0] + max(0, steady_ns - self._now[1])
            if wall_ns - self._since_ns < _PIECE_NS:
                return None
            gap = self._gap(wall_ns)
            self._since_ns = wall_ns
            self._damaged = 0
            self._told = True
            return gap

    def _gap(self, until_ns: int) -> Gap:
        corrupt = self._damaged > 0 and not self._broken
        reason = GapReason.CORRUPT if corrupt else GapReason.OUTAGE
        return Gap(self._since_ns, until_ns, reason, self._damaged if corrupt else 0)
