"""What happens to keyframes that come faster than they are looked at."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from pydantic import Field

from pipeline.core.frame import Frame
from pipeline.core.options import Options
from pipeline.core.records import Gap
from pipeline.keyframes.reader import KeyframeReader, SourceStep
from pipeline.keyframes.shedding import SheddingOptions


class DropPolicy(StrEnum):
    """What gives way when keyframes wait: the source, all but the newest keyframe, or the oldest."""

    BLOCK = "block"
    KEEP_LATEST = "keep-latest"
    DROP_OLDEST = "drop-oldest"


class FlowOptions(Options):
    """How a stream is kept in step with the machine."""

    policy: DropPolicy | None = Field(
        default=None, description="block, keep-latest or drop-oldest; none: keep-latest if live, else block"
    )
    buffer: int = Field(default=4, ge=1, description="keyframes that may wait under drop-oldest")
    real_time: bool = Field(default=False, description="play a file at its own speed, as a camera would")
    shedding: SheddingOptions = SheddingOptions()

    def policy_of(self, *, live: bool) -> DropPolicy:
        """The policy of a stream. A file that plays at its own speed counts as live."""
        if self.policy is not None:
            return self.policy
        return DropPolicy.KEEP_LATEST if live or self.real_time else DropPolicy.BLOCK


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
        self._capacity = 1 if policy is DropPolicy.KEEP_LATEST else capacity
        self._clock_ns = clock_ns
        self._changed = threading.Condition()
        self._items: deque[ReadStep] = deque()
        self._carried: list[Gap] = []
        self._missing_since_ns: int | None = None
        self._missing = 0
        self._dropped = 0
        self._error: Exception | None = None
        self._closed = False

    def put(self, step: SourceStep, frame: Frame | None) -> bool:
        """Queue a step; under `block`, wait for room. False when the buffer was closed meanwhile."""
        item = ReadStep(step, frame, self._clock_ns())
        with self._changed:
            while (
                self._policy is DropPolicy.BLOCK and not self._closed and len(self._items) >= self._capacity
            ):
                self._changed.wait()
            if self._closed:
                return False
            while frame is not None and len(self._items) >= self._capacity and self._drop_oldest():
                pass
            self._items.append(item)
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
                item = self._items.popleft()
                self._changed.notify_all()
                return self._with_losses(item)
            if self._error is not None:
                raise self._error
            return None

    def close(self) -> None:
        """Nobody takes any more."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()

    def _drop_oldest(self) -> bool:
        for place, item in enumerate(self._items):
            if item.frame is not None:
                del self._items[place]
                self._carried.extend(item.step.gaps)
                if self._missing_since_ns is None:
                    self._missing_since_ns = item.frame.time.wall_ns
                self._missing += 1
                self._dropped += 1
                return True
        return False

    def _with_losses(self, item: ReadStep) -> ReadStep:
        gaps = [*self._carried, *item.step.gaps]
        self._carried = []
        if self._missing_since_ns is not None and (item.frame is not None or item.step.ended):
            end = max(self._missing_since_ns, item.step.reached.wall_ns)
            gaps.append(Gap(self._missing_since_ns, end, "dropped", self._missing))
            self._missing_since_ns, self._missing = None, 0
        counts = replace(item.step.counts, dropped=item.step.counts.dropped + self._dropped)
        return replace(item, step=replace(item.step, gaps=tuple(gaps), counts=counts))


# A source that reads ahead in a thread of its own, and drops by policy when nobody keeps up.


class BufferedReader:
    """`KeyframeReader` behind a `KeyframeBuffer`. `take` never waits longer than it is told to."""

    def __init__(self, reader: KeyframeReader, buffer: KeyframeBuffer, name: str) -> None:
        self._reader = reader
        self._buffer = buffer
        self._last: SourceStep | None = None
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
        self._buffer.close()
        self._reader.close()

    def _read(self) -> None:
        try:
            while True:
                step, frame = self._reader.step()
                idle = frame is None and not step.gaps and not step.ended
                if (not idle and not self._buffer.put(step, frame)) or step.ended:
                    return
        except Exception as error:
            self._buffer.fail(error)
