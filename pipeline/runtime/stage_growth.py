"""When a stage that grows and grows is replaced, so that weeks do not end in the kernel killing something."""

from __future__ import annotations

_MIB = 1 << 20


class StageGrowth:
    """Compares what a stage's process holds with what it held when it began to work."""

    def __init__(self) -> None:
        self._first: int | None = None

    def exceeds(self, resident_bytes: int, limit_mb: int) -> bool:
        """Note a size. True when the process has grown by more than `limit_mb` MiB (0: never) and is to be replaced."""
        if self._first is None:
            self._first = resident_bytes
        return limit_mb > 0 and resident_bytes - self._first > limit_mb * _MIB
