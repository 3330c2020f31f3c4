"""A stage in the driver's eyes: its process, what is in flight there, and when it is to be replaced."""

from __future__ import annotations

from typing import Generic, TypeVar

from pipeline.runtime.driver.remote import Process, StageKind

# When a stage that lives but fails call after call is replaced, such as one whose GPU context is broken.

FAULTS_IN_A_ROW = 3
"""One may be a bad picture's doing, and two the same picture's once more behind the last commit."""


class StageTrust:
    """Counts what failed since the last call of a stage that went well."""

    def __init__(self) -> None:
        self.faults = 0

    def went_well(self) -> None:
        self.faults = 0

    def failed(self) -> bool:
        """Note a failed call. True when the stage is to be replaced."""
        self.faults += 1
        return self.faults >= FAULTS_IN_A_ROW


# When a stage that grows and grows is replaced, so that weeks do not end in the kernel killing something.

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


P = TypeVar("P", bound=Process, covariant=True)


class Stage(Generic[P]):
    """A running stage. `ready`: its model is loaded. `calls`: pieces of work in flight."""

    def __init__(self, kind: StageKind, name: str, process: P) -> None:
        self.kind = kind
        self.name = name
        self.process = process
        self.trust = StageTrust()
        self.growth = StageGrowth()
        self._ready = self._dead = False
        self._calls = 0

    @property
    def ready(self) -> bool:
        return self._ready

    @property
    def dead(self) -> bool:
        return self._dead

    @property
    def calls(self) -> int:
        return self._calls

    @property
    def title(self) -> str:
        """Its name among those of all stages, which says of what kind it is."""
        return self.name if self.kind in self.name else f"{self.kind}-{self.name}"

    def loaded(self) -> None:
        assert not self._dead
        self._ready = True

    def asked(self) -> None:
        """A piece of work is on its way there."""
        self._calls += 1

    def answered(self) -> None:
        """The outcome of a piece of work is known, whatever it is."""
        assert self._calls > 0
        self._calls -= 1

    def end(self) -> None:
        """Kill the process, whatever it does."""
        self._dead = True
        self.process.kill()
