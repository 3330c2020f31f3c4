"""How far a run is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.keyframe_reader import SourceStep
from pipeline.recorder import Recorded
from pipeline.run_plan import StreamPlan


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
    captions_avoided: int = 0
    gaps: int = 0
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


class ProgressTally:
    """Builds the `StreamProgress` of one stream from what its stages report."""

    def __init__(self, plan: StreamPlan) -> None:
        self._plan = plan
        self._step: SourceStep | None = None
        self._recorded: Recorded | None = None
        self._position_ns = max(0, plan.resume.pts_ns)
        self._avoided = 0
        self._finished = False

    def read(self, step: SourceStep) -> None:
        self._step = step

    def analysed(self, position_ns: int, avoided: int) -> None:
        self._position_ns = max(self._position_ns, position_ns)
        self._avoided = avoided

    def recorded(self, recorded: Recorded) -> None:
        self._recorded = recorded

    def finish(self, *, at_end: bool) -> None:
        self._finished = at_end
        if at_end and self._step is not None:
            self._position_ns = max(self._position_ns, self._step.reached.pts_ns)

    @property
    def progress(self) -> StreamProgress:
        counts = self._step.counts if self._step else None
        done = self._recorded
        return StreamProgress(
            stream=self._plan.stream,
            duration_ns=self._plan.source.duration_ns,
            begun_ns=max(0, self._plan.resume.pts_ns),
            position_ns=self._position_ns,
            frames=counts.frames if counts else 0,
            corrupt=counts.corrupt if counts else 0,
            dropped=counts.dropped if counts else 0,
            keyframes=done.keyframes if done else 0,
            regions=done.observations if done else 0,
            tracks=done.tracks if done else 0,
            captions=done.captions if done else 0,
            captions_avoided=self._avoided,
            gaps=done.gaps if done else 0,
            finished=self._finished,
        )
