"""What a run tells whoever watches it."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.records import Gap
from pipeline.runtime.progress import OnProgress, StreamProgress


class RunObserver:
    """Hears what happens in a run; every method may be overridden. Called from the driver's one thread."""

    def progress(self, now: StreamProgress) -> None:
        """The counts of a stream have changed."""

    def gap(self, stream: str, gap: Gap) -> None:
        """A gap of a stream was handed to the store."""

    def queryable(self, stream: str, latency_s: float) -> None:
        """A keyframe became durable, this long after it was read."""

    def shed(self, stream: str, step: int) -> None:
        """The stream now works at this step of `shedding.EFFORTS`."""

    def restarted(self, what: str, stream: str) -> None:
        """A stage ("source", "perception", ...) or a stream ("stream") is started again. `stream`: "" if shared."""

    def running(self, streams: Mapping[str, bool]) -> None:
        """Which streams are up."""

    def depths(self, depths: Mapping[str, int]) -> None:
        """Keyframes that wait for each stage or are at work there."""

    def memory(self, stage: str, resident_bytes: int) -> None:
        """Resident memory of a stage's process."""

    def alive(self) -> None:
        """The driver has gone round once more."""


class ProgressOnly(RunObserver):
    """Passes progress on, and nothing else."""

    def __init__(self, on_progress: OnProgress) -> None:
        self._on_progress = on_progress

    def progress(self, now: StreamProgress) -> None:
        self._on_progress(now)


class Observers(RunObserver):
    """Several observers as one."""

    def __init__(self, *observers: RunObserver) -> None:
        self._observers = observers

    def progress(self, now: StreamProgress) -> None:
        for observer in self._observers:
            observer.progress(now)

    def gap(self, stream: str, gap: Gap) -> None:
        for observer in self._observers:
            observer.gap(stream, gap)

    def queryable(self, stream: str, latency_s: float) -> None:
        for observer in self._observers:
            observer.queryable(stream, latency_s)

    def shed(self, stream: str, step: int) -> None:
        for observer in self._observers:
            observer.shed(stream, step)

    def restarted(self, what: str, stream: str) -> None:
        for observer in self._observers:
            observer.restarted(what, stream)

    def running(self, streams: Mapping[str, bool]) -> None:
        for observer in self._observers:
            observer.running(streams)

    def depths(self, depths: Mapping[str, int]) -> None:
        for observer in self._observers:
            observer.depths(depths)

    def memory(self, stage: str, resident_bytes: int) -> None:
        for observer in self._observers:
            observer.memory(stage, resident_bytes)

    def alive(self) -> None:
        for observer in self._observers:
            observer.alive()
