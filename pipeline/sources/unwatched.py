"""Which stretches of a live stream nobody saw."""

from __future__ import annotations

import threading

from pipeline.core.clock import NS
from pipeline.core.records import Gap, GapReason

# A wall clock that moves on by more than the steady clock does, and this, has been set: nobody missed that time.
_SET_NS = 1 * NS
# A gap that lasts is told in pieces, so that a query during an outage sees it.
_PIECE_NS = 30 * NS


class Unwatched:
    """Turns pauses between good frames into gaps: "outage" without pictures, "corrupt" with damaged ones only.

    A pause counts from `pause_ns` on, or always when the connection broke. It is as long as the steady clock says where
    the wall clock has been set meanwhile, for that moves times and nobody missed anything. `since_ns`: wall clock from which on the
    stream should have been watched; `resumed`: an earlier run did. Safe to use from two threads.
    """

    def __init__(self, *, since_ns: int, resumed: bool, pause_ns: int, wall_ns: int, steady_ns: int) -> None:
        self._pause_ns = pause_ns
        self._since_ns = since_ns
        self._broken = resumed
        self._damaged = 0
        self._told = False
        # When `since_ns` was, on the steady clock; an earlier process cannot tell.
        self._since_steady_ns: int | None = None
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
            pause_ns = self._pause(wall_ns, steady_ns)
            missed = self._broken or self._told or self._damaged > 0 or pause_ns >= self._pause_ns
            gap = self._gap(wall_ns - pause_ns, wall_ns) if missed and pause_ns > 0 else None
            self._since_ns, self._since_steady_ns = wall_ns + 1, steady_ns
            self._now = (wall_ns, steady_ns)
            self._broken = self._told = False
            self._damaged = 0
            return gap

    def waiting(self, steady_ns: int) -> Gap | None:
        """Nothing came for a while; a piece of the gap, if it has become long."""
        with self._lock:
            wall_ns = self._now[0] + max(0, steady_ns - self._now[1])
            if wall_ns - self._since_ns < _PIECE_NS:
                return None
            gap = self._gap(self._since_ns, wall_ns)
            self._since_ns, self._since_steady_ns = wall_ns, steady_ns
            self._damaged = 0
            self._told = True
            return gap

    def _pause(self, wall_ns: int, steady_ns: int) -> int:
        """How long nobody saw anything until now. Without a step of the wall clock, all since `since_ns`."""
        wall_pause = wall_ns - self._since_ns
        if self._since_steady_ns is None:
            return wall_pause
        steady_pause = max(0, steady_ns - self._since_steady_ns)
        return steady_pause if wall_pause - steady_pause > _SET_NS else wall_pause

    def _gap(self, since_ns: int, until_ns: int) -> Gap:
        corrupt = self._damaged > 0 and not self._broken
        reason = GapReason.CORRUPT if corrupt else GapReason.OUTAGE
        return Gap(since_ns, until_ns, reason, self._damaged if corrupt else 0)
