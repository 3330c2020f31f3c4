"""How far a run is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

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

    def analysed(self, position_ns: int, avoided: int) -> None:
        self._position_ns = max(self._position_ns, position_ns)
        self._now = replace(self._now, avoided=avoided)

    def recorded(self, recorded: Recorded) -> None:
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
            captions_avoided=total.avoided,
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
    avoided: int = 0
    gaps: int = 0

    def __add__(self, other: _Totals) -> _Totals:
        return _Totals(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))
