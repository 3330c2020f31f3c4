"""How far a run is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

from pipeline.core.records import Gap, StoredCaption
from pipeline.core.regions import NOTHING_AVOIDED, Avoided
from pipeline.keyframes.reader import SourceStep
from pipeline.recording.recorder import Recorded
from pipeline.runtime.plan import StreamPlan


@dataclass(frozen=True, slots=True)
class StreamProgress:
    """Counts of one stream since the run began. `position_ns`: PTS up to which everything is analysed."""

    stream: str
    duration_ns: int | None
    begun_ns: int = 0
    position_ns: int = 0
    frames: int = 0
    corrupt: int = 0
    dropped: int = 0
    keyframes: int = 0
    regions: int = 0
    tracks: int = 0
    captions: int = 0
    avoided: Avoided = NOTHING_AVOIDED
    gaps: int = 0
    reconnects: int = 0
    restarts: int = 0
    finished: bool = False

    @property
    def watched_ns(self) -> int:
        """Stream time that this run has got through."""
        return max(0, self.position_ns - self.begun_ns)


OnProgress = Callable[[StreamProgress], None]


class StopRequest:
    """Asks a run to stop after what is in flight. Safe to set from a signal handler or another thread."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    @property
    def is_set(self) -> bool:
        return self._event.is_set()

    def wait(self, timeout_s: float) -> None:
        """Until a stop is asked for, or `timeout_s` seconds."""
        self._event.wait(timeout_s)


class ProgressTally:
    """Builds the `StreamProgress` of one stream from what its stages report, over any number of restarts."""

    def __init__(self, plan: StreamPlan) -> None:
        self._plan = plan
        self._step: SourceStep | None = None
        self._now = _Totals()
        self._before = _Totals()
        self._position_ns = max(0, plan.resume.pts_ns)
        self._restarts = 0
        self._finished = False

    @property
    def stream(self) -> str:
        return self._plan.stream

    def read(self, step: SourceStep) -> None:
        self._step = step
        counts = step.counts
        self._now = replace(
            self._now,
            frames=counts.frames,
            corrupt=counts.corrupt,
            dropped=counts.dropped,
            reconnects=counts.reconnects,
        )

    def analysed(self, position_ns: int, avoided: Avoided) -> None:
        self._position_ns = max(self._position_ns, position_ns)
        self._now = replace(self._now, avoided=avoided)

    def recorded(self, recorded: Recorded) -> None:
        if (recorded.keyframes, recorded.gaps) < (self._now.keyframes, self._now.gaps):
            return  # an answer that was overtaken by a later one
        self._now = replace(
            self._now,
            keyframes=recorded.keyframes,
            observations=recorded.observations,
            tracks=recorded.tracks,
            captions=recorded.captions,
            gaps=recorded.gaps,
        )

    def restarted(self) -> None:
        """The stages of the stream count from zero again."""
        self._before, self._now = self._before + self._now, _Totals()
        self._restarts += 1
        self._finished = False

    def finish(self, *, at_end: bool) -> None:
        self._finished = at_end
        if at_end and self._step is not None:
            self._position_ns = max(self._position_ns, self._step.reached.pts_ns)

    @property
    def progress(self) -> StreamProgress:
        total = self._before + self._now
        return StreamProgress(
            stream=self._plan.stream,
            duration_ns=self._plan.source.duration_ns,
            begun_ns=max(0, self._plan.resume.pts_ns),
            position_ns=self._position_ns,
            frames=total.frames,
            corrupt=total.corrupt,
            dropped=total.dropped,
            keyframes=total.keyframes,
            regions=total.observations,
            tracks=total.tracks,
            captions=total.captions,
            avoided=total.avoided,
            gaps=total.gaps,
            reconnects=total.reconnects,
            restarts=self._restarts,
            finished=self._finished,
        )


@dataclass(frozen=True, slots=True)
class _Totals:
    frames: int = 0
    corrupt: int = 0
    dropped: int = 0
    reconnects: int = 0
    keyframes: int = 0
    observations: int = 0
    tracks: int = 0
    captions: int = 0
    avoided: Avoided = NOTHING_AVOIDED
    gaps: int = 0

    def __add__(self, other: _Totals) -> _Totals:
        return _Totals(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


# What a run tells whoever watches it.


class RunObserver:
    """Hears what happens in a run; every method may be overridden. Called from the driver's one thread."""

    def progress(self, now: StreamProgress) -> None:
        """The counts of a stream have changed."""

    def gap(self, stream: str, gap: Gap) -> None:
        """A gap of a stream was handed to the store."""

    def captions(self, stream: str, stored: tuple[StoredCaption, ...]) -> None:
        """Caption events became durable, in the order written. One that lasts is told again with a later end.

        None is told twice as it stands; those of a recorder that died between its commit and its report are in the
        store alone.
        """

    def queryable(self, stream: str, latency_s: float) -> None:
        """A keyframe became durable, this long after it was read."""

    def shed(self, stream: str, step: int) -> None:
        """The stream now works at this step of `shedding.EFFORTS`."""

    def restarted(self, what: str, stream: str) -> None:
        """A stage ("source", "perception", ...) or a stream ("stream") is started again. `stream`: "" if shared."""

    def running(self, streams: Mapping[str, bool]) -> None:
        """Which streams are up."""

    def broken(self, why: str | None) -> None:
        """What all streams stand on is gone, in words; None: it is there again."""

    def depths(self, depths: Mapping[str, int]) -> None:
        """Keyframes that wait for each stage or are at work there."""

    def memory(self, stage: str, resident_bytes: int) -> None:
        """Resident memory of a stage's process."""

    def alive(self) -> None:
        """The driver has gone round once more."""


def tell_recorded(
    observer: RunObserver, tally: ProgressTally, recorded: Recorded, latencies_s: Sequence[float]
) -> None:
    """What the recorder has reported, told the same way by every runtime. `latencies_s`: of keyframes now durable."""
    tally.recorded(recorded)
    if recorded.stored:
        observer.captions(tally.stream, recorded.stored)
    for latency in latencies_s:
        observer.queryable(tally.stream, latency)
    observer.progress(tally.progress)


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

    def captions(self, stream: str, stored: tuple[StoredCaption, ...]) -> None:
        for observer in self._observers:
            observer.captions(stream, stored)

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

    def broken(self, why: str | None) -> None:
        for observer in self._observers:
            observer.broken(why)

    def depths(self, depths: Mapping[str, int]) -> None:
        for observer in self._observers:
            observer.depths(depths)

    def memory(self, stage: str, resident_bytes: int) -> None:
        for observer in self._observers:
            observer.memory(stage, resident_bytes)

    def alive(self) -> None:
        for observer in self._observers:
            observer.alive()
