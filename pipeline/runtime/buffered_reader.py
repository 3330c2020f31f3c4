"""A source that reads ahead in a thread of its own, and drops by policy when nobody keeps up."""

from __future__ import annotations

import threading

from pipeline.flow import KeyframeBuffer, ReadStep
from pipeline.keyframe_reader import KeyframeReader, SourceStep


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
