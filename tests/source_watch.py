"""Reads a source in a thread and keeps what it gave, so that a test can break things meanwhile."""

from __future__ import annotations

import threading
from types import TracebackType

from pipeline.core.frame import ClockSource
from pipeline.core.records import Gap
from pipeline.sources import DecodedFrame, Source
from tests.rtsp_camera import wait_for


class Watch:
    """Iterates `source` until it ends, fails or the block is left. `frames`, `gaps`: what came; `error`: why it ended."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.frames: list[DecodedFrame] = []
        self.gaps: list[Gap] = []
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.source.close()
        self._thread.join(10)

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    @property
    def epoch(self) -> int:
        return self.frames[-1].time.epoch if self.frames else -1

    def reasons(self) -> list[str]:
        return [gap.reason for gap in self.gaps if gap.reason != "dropped"]

    def wait_frames(self, count: int, what: str = "frames") -> None:
        """Until `count` more frames have come."""
        until = len(self.frames) + count
        wait_for(lambda: len(self.frames) >= until or self.ended, what)
        assert self.error is None, self.error
        assert not self.ended, "the source ended"

    def wait_clock(self, clock: ClockSource) -> None:
        """Until a frame comes whose wall clock is from there."""
        seen = len(self.frames)
        wait_for(lambda: any(f.time.clock is clock for f in self.frames[seen:]), f"a frame with {clock} time")

    def check_order(self) -> None:
        """Frames came in order of (epoch, PTS), of number and of wall clock, none twice; no good frame in a gap."""
        orders = [frame.time.order for frame in self.frames]
        walls = [frame.time.wall_ns for frame in self.frames]
        numbers = [frame.index for frame in self.frames]
        assert orders == sorted(set(orders))
        assert walls == sorted(set(walls))
        assert numbers == sorted(set(numbers))
        for gap in self.gaps:
            assert gap.start_ns < gap.end_ns
            if gap.reason != "dropped":
                assert not any(gap.start_ns <= wall < gap.end_ns for wall in walls)

    def _read(self) -> None:
        try:
            for event in self.source:
                if isinstance(event, DecodedFrame):
                    self.frames.append(event)
                elif isinstance(event, Gap):
                    self.gaps.append(event)
        except Exception as error:
            self.error = error
