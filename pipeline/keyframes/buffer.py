"""What happens to keyframes that come faster than they are looked at."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from pydantic import Field

from pipeline.core.dropping import BLOCK, KEEP_LATEST, DropPolicy, drop_policy
from pipeline.core.frame import Frame
from pipeline.core.motion import MotionField
from pipeline.core.options import Options
from pipeline.core.records import Cut, Gap, GapReason
from pipeline.keyframes.reader import KeyframeReader, SourceStep
from pipeline.keyframes.shedding import SheddingOptions

Motion = tuple[MotionField, ...]
# Keyframes dropped in a row over which motion is still told: errors add up, and so do the bytes.
_LONGEST_CHAIN = 8
# Whoever closes a reader waits so long for the picture that is being decoded: longer than the largest takes. A guess.
_MOST_WAIT_S = 5.0


def chained(earlier: Motion, later: Motion) -> Motion:
    """How things moved over keyframes that nobody looks at: all steps, or none where one of them is not known."""
    whole = bool(earlier) and bool(later) and len(earlier) + len(later) <= _LONGEST_CHAIN
    return (*earlier, *later) if whole else later


class FlowOptions(Options):
    """How a stream is kept in step with the machine."""

    policy: str | None = Field(
        default=None,
        description="what gives way when keyframes come too fast: block, keep-latest, drop-oldest or one of an "
        "installed package; none: keep-latest if live, else block",
    )
    buffer: int = Field(default=4, ge=1, description="keyframes that may wait under drop-oldest")
    real_time: bool = Field(default=False, description="play a file at its own speed, as a camera would")
    shedding: SheddingOptions = SheddingOptions()

    def policy_of(self, *, live: bool) -> DropPolicy:
        """The policy of a stream. A file that plays at its own speed counts as live. `UserError` for an unknown one."""
        if self.policy is not None:
            return drop_policy(self.policy)
        return KEEP_LATEST if live or self.real_time else BLOCK


@dataclass(frozen=True, slots=True)
class ReadStep:
    """A step of a source, and when it was read (wall ns of the reading machine)."""

    step: SourceStep
    frame: Frame | None
    read_ns: int


class KeyframeBuffer:
    """A bounded queue between a reading thread and a slower consumer, with a drop policy.

    Gaps, counts and the end of the stream always get through; the time from a dropped keyframe to the next one that
    got through becomes a gap with the reason "dropped". An error of the reader is raised by `take` after what was
    read before it.
    """

    def __init__(self, policy: DropPolicy, capacity: int, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._policy = policy
        self._capacity = policy.places(capacity)
        self._clock_ns = clock_ns
        self._changed = threading.Condition()
        self._items: deque[_Held] = deque()
        self._lost_last = _Losses()
        self._lost = _Losses()
        self._dropped = 0
        self._error: Exception | None = None
        self._closed = False

    def put(self, step: SourceStep, frame: Frame | None) -> bool:
        """Queue a step, or drop its keyframe; where the policy says so, wait for a place. False once it is closed."""
        item = ReadStep(step, frame, self._clock_ns())
        with self._changed:
            while not self._closed and len(self._items) >= self._capacity:
                waiting = [place for place, held in enumerate(self._items) if held.item.frame is not None]
                if not waiting:
                    break
                times = [self._items[place].item.step.reached.wall_ns for place in waiting]
                gone = self._policy.gives_way(times, step.reached.wall_ns)
                if gone is None:
                    self._changed.wait()
                elif frame is None:
                    break  # gaps and the end take nobody's place
                elif gone == len(waiting):
                    self._dropped += 1
                    self._lost_last.add(_Losses.of(item))
                    return True
                else:
                    self._drop(waiting[gone])
            if self._closed:
                return False
            self._items.append(_Held(item, self._lost_last))
            self._lost_last = _Losses()
            self._changed.notify_all()
            return True

    def fail(self, error: Exception) -> None:
        """The reader has stopped with `error`."""
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def take(self, timeout_s: float) -> ReadStep | None:
        """The next step with everything that was dropped before it, or None when nothing came in time."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._error or self._closed, timeout_s)
            if self._items:
                held = self._items.popleft()
                self._changed.notify_all()
                self._lost.add(held.lost)
                return self._with_losses(held.item)
            if self._error is not None:
                raise self._error
            return None

    def close(self) -> None:
        """Nobody takes any more."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()

    def _drop(self, place: int) -> None:
        """Take a keyframe out; what went with it is told by its successor."""
        held = self._items[place]
        del self._items[place]
        self._dropped += 1
        held.lost.add(_Losses.of(held.item))
        if place < len(self._items):
            following = self._items[place]
            held.lost.add(following.lost)
            following.lost = held.lost
        else:
            held.lost.add(self._lost_last)
            self._lost_last = held.lost

    def _with_losses(self, item: ReadStep) -> ReadStep:
        lost = self._lost
        gaps = [*lost.gaps, *item.step.gaps]
        lost.gaps = []
        if lost.since_ns is not None and (item.frame is not None or item.step.ended):
            end = max(lost.since_ns, item.step.reached.wall_ns)
            gaps.append(Gap(lost.since_ns, end, GapReason.DROPPED, lost.frames))
            if item.frame is not None:
                motion = chained(lost.motion, item.frame.motion)
                item = replace(item, frame=replace(item.frame, motion=motion))
            self._lost = _Losses()
        counts = replace(item.step.counts, dropped=item.step.counts.dropped + self._dropped)
        return replace(item, step=replace(item.step, gaps=tuple(gaps), counts=counts))


@dataclass(slots=True)
class _Losses:
    """Keyframes dropped in a row: since which wall ns, how many, and the gaps and cuts that came with them."""

    since_ns: int | None = None
    frames: int = 0
    gaps: list[Gap | Cut] = field(default_factory=list)
    motion: Motion = ()

    @classmethod
    def of(cls, item: ReadStep) -> _Losses:
        assert item.frame is not None
        return cls(item.frame.time.wall_ns, 1, list(item.step.gaps), item.frame.motion)

    def add(self, later: _Losses) -> None:
        self.since_ns = later.since_ns if self.since_ns is None else self.since_ns
        self.frames += later.frames
        self.gaps += later.gaps
        self.motion = chained(self.motion, later.motion)


@dataclass(slots=True)
class _Held:
    """A step in the queue, and what was dropped between its predecessor and itself."""

    item: ReadStep
    lost: _Losses


# A source that reads ahead in a thread of its own, and drops by policy when nobody keeps up.


class BufferedReader:
    """`KeyframeReader` behind a `KeyframeBuffer`. `take` never waits longer than it is told to."""

    def __init__(self, reader: KeyframeReader, buffer: KeyframeBuffer, name: str) -> None:
        self._reader = reader
        self._buffer = buffer
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._read, name=f"reader-{name}", daemon=True)
        self._thread.start()

    @property
    def connected(self) -> bool:
        """Whether frames may be expected now."""
        return self._reader.connected

    def take(self, timeout_s: float, interval_factor: float = 1.0) -> ReadStep | None:
        """The next keyframe, gap or end. Keyframes come `interval_factor` times as seldom from now on."""
        self._reader.interval_factor = interval_factor
        return self._buffer.take(timeout_s)

    def close(self) -> None:
        """Read no further. What is closed while it decodes would take the process with it: whoever is last closes it."""
        self._buffer.close()
        self._closed.set()
        self._thread.join(_MOST_WAIT_S)

    def _read(self) -> None:
        try:
            while not self._closed.is_set():
                step, frame = self._reader.step()
                idle = frame is None and not step.gaps and not step.ended
                if (not idle and not self._buffer.put(step, frame)) or step.ended:
                    break
        except Exception as error:
            self._buffer.fail(error)
        finally:
            self._closed.wait()
            self._reader.close()
