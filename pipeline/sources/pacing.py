"""When a picture is shown that came with seconds of others: a policy over time stamps and a clock that is passed in."""

from __future__ import annotations

from pipeline.core.clock import NS

# Waiting for the next segment for longer than this past its time means that nothing was in store: the schedule moves.
_DRY_NS = NS // 4
# Segments that expired unread are a hole of so long at most; what leaps farther has begun anew.
_LONGEST_HOLE_NS = 30 * NS


class Pacing:
    """Spreads what is delivered in bursts (segments of HLS and DASH) over its media time.

    Nobody reads ahead: pictures wait undecoded with the sender, so that memory stays bounded. The schedule is pinned to
    the first picture, and moves only where time stamps begin anew or the sender was late. That *we* were slow moves
    nothing: such pictures are due in the past and are shown at once. A hole in the media is waited out, so that it is
    seen as the pause that it is. Steady clock and media time in ns.
    """

    def __init__(self) -> None:
        self._pin: tuple[int, int] | None = None
        self._media_ns = 0

    def due_ns(self, media_ns: int, *, asked_ns: int, now_ns: int) -> int:
        """When on the steady clock the picture at `media_ns` is shown. `asked_ns`: since when it was waited for."""
        step = media_ns - self._media_ns
        if self._pin is None or not 0 <= step <= _LONGEST_HOLE_NS:
            return self._moved(media_ns, now_ns)
        self._media_ns = media_ns
        pinned_ns, since_ns = self._pin
        due = since_ns + media_ns - pinned_ns
        if now_ns - max(due, asked_ns) > _DRY_NS:
            return self._moved(media_ns, now_ns)
        return due

    def _moved(self, media_ns: int, now_ns: int) -> int:
        self._pin, self._media_ns = (media_ns, now_ns), media_ns
        return now_ns
