"""Reads a source up to its next keyframe."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from pipeline.core.frame import Frame, FrameTime
from pipeline.core.motion import MotionField
from pipeline.core.records import Cut, Gap, ResumePoint
from pipeline.core.stage_times import TimedStage, timed
from pipeline.keyframes.following import MotionFollower
from pipeline.keyframes.gate import KeyframeGate, KeyframeOptions
from pipeline.sources import DecodedFrame, Source, SourceCounts
from pipeline.sources.source import resumed_at


@dataclass(frozen=True, slots=True)
class SourceStep:
    """What was read since the last step.

    `has_frame`: a keyframe comes with it. `gaps`: what was missed, and cuts. `reached`: the last frame read. `ended`: nothing
    comes after this.
    """

    has_frame: bool
    gaps: tuple[Gap | Cut, ...]
    counts: SourceCounts
    reached: ResumePoint
    ended: bool = False


class KeyframeReader:
    """Source and keyframe gate together: what runs beside the decoder, so that only keyframes travel.

    The last frame of a stream that ends is a keyframe too, so that tracks reach to the end.
    """

    def __init__(self, source: Source, options: KeyframeOptions, resume: ResumePoint | None = None) -> None:
        self._source = source
        self._gate = KeyframeGate(options)
        self._motion = MotionFollower() if options.follow else None
        self._reached = resume or ResumePoint()
        self._skipped: DecodedFrame | None = None
        if resume is not None and resume.pts_ns >= 0:
            source.resume_after(resume)
            self._gate.resume_after(FrameTime(resume.pts_ns, resume.wall_ns, resume.epoch))
        self._resumed = resume is not None and resume.pts_ns >= 0
        self._items: Iterator[DecodedFrame | Gap | None] = iter(source)

    @property
    def interval_factor(self) -> float:
        """How many times as long as usual the time between keyframes is. May be set while another thread reads."""
        return self._gate.interval_factor

    @interval_factor.setter
    def interval_factor(self, factor: float) -> None:
        self._gate.interval_factor = factor

    @property
    def connected(self) -> bool:
        """Whether frames may be expected now. May be asked while another thread reads."""
        return self._source.counts.connected

    def step(self) -> tuple[SourceStep, Frame | None]:
        """Read on to the next keyframe, to the end, or until a live source has nothing to give."""
        with timed(TimedStage.DECODE):
            return self._read_on()

    def _read_on(self) -> tuple[SourceStep, Frame | None]:
        gaps: list[Gap | Cut] = []
        for item in self._items:
            if item is None:
                return self._step(gaps), None
            if self._resumed:
                self._resumed = False
                if (known := resumed_at(self._source)) is not None:
                    self._gate.remember(known)
            if isinstance(item, Gap):
                gaps.append(item)
                self._break()
                continue
            time = item.time
            if time.epoch != self._reached.epoch:
                self._break()
            self._reached = ResumePoint(time.pts_ns, item.index, time.epoch, time.wall_ns)
            with timed(TimedStage.GATE):
                reason = self._gate.consider(item)
            cuts = self._gate.taken_cuts()
            gaps += cuts
            if cuts:
                self._break()
            if reason is not None:
                self._skipped = None
                return self._step(gaps, has_frame=True), self._frame(item)
            self._skipped = item
            # A flash is passed over: points are found again in the picture after it.
            if self._motion is not None and not self._gate.unclear:
                with timed(TimedStage.GATE):
                    self._motion.passes(item)
        last, self._skipped = self._skipped, None
        if last is not None:
            self._gate.end()
            cuts = self._gate.taken_cuts()
            gaps += cuts
            if cuts:
                self._break()
            return self._step(gaps, has_frame=True), self._frame(last)
        return self._step(gaps, ended=True), None

    def _frame(self, item: DecodedFrame) -> Frame:
        with timed(TimedStage.GATE):
            motion: tuple[MotionField, ...] = () if self._motion is None else self._motion.keyframe(item)
        return replace(item.to_frame(), shot=self._gate.shot, motion=motion)

    def _break(self) -> None:
        """What comes next does not go on from what was seen last."""
        if self._motion is not None:
            self._motion.forget()

    def close(self) -> None:
        self._source.close()

    def _step(self, gaps: list[Gap | Cut], *, has_frame: bool = False, ended: bool = False) -> SourceStep:
        return SourceStep(has_frame, tuple(gaps), self._source.counts, self._reached, ended)
