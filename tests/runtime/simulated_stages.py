"""The stages of a simulated run: the product's own actor classes around a source, a model and a store of no size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.frame import ClockSource, Frame, FrameTime
from pipeline.core.records import Batch, Cut, EffortStep, Gap, GapReason, ResumePoint
from pipeline.core.regions import (
    NOTHING_AVOIDED,
    AnalysedKeyframe,
    CaptionRequest,
    EndedTrack,
    RegionCaption,
    Regions,
)
from pipeline.keyframes.reader import SourceStep
from pipeline.recording.recorder import Recorder
from pipeline.runtime.driver.messages import StepReport, Work
from pipeline.runtime.driver.remote import Call, Ref, StageKind
from pipeline.runtime.on_ray.actors import PerceptionActor, RecorderActor, _Recording
from pipeline.runtime.plan import StreamPlan
from pipeline.settings.config import RunConfig
from pipeline.sources import SourceCounts
from sca.lanes import ONE_LANE
from tests.runtime.simulated_cluster import NS, Happenings, SimulatedProcess, SimulatedStore

BOX = np.asarray([[0, 0, 8, 8]], np.float32)
SCORE = np.ones(1, np.float32)
FEATURE = np.asarray([[1, 0]], np.float32)


class SimulatedSource(SimulatedProcess):
    kind = StageKind.SOURCE

    def __init__(self, cluster: Happenings, stream: str) -> None:
        super().__init__(cluster)
        self._film = cluster.films[stream]
        self._next = 0
        self._gaps: list[Gap] = []
        self._counts = SourceCounts()
        self._over = False

    def open(self, plan: StreamPlan, resume: ResumePoint) -> Call:
        def run() -> None:
            self._next, self._reached = resume.frame + 1, resume
            if self._film.live:
                self._next = max(self._next, self._now_frame())
                if resume.pts_ns >= 0:
                    self._gaps.append(Gap(resume.wall_ns, self._film.wall_ns(self._next), GapReason.OUTAGE))

        return self._call(run)

    def _now_frame(self) -> int:
        return int(-(-self.cluster.clock.now_s // 1))

    def step(self, wait_s: float, interval_factor: float) -> tuple[Call, Ref]:
        frame = self.value()

        def run() -> StepReport:
            step = self._step()
            now_ns = self.cluster.clock.wall_ns()
            if step is not None and step.has_frame:
                time = FrameTime(step.reached.pts_ns, step.reached.wall_ns, 0, ClockSource.FILE)
                frame.make(Frame("", step.reached.frame, time, np.zeros((8, 8, 3), np.uint8)))
            else:
                frame.make(None)
            return StepReport(step, now_ns, True)

        film, now_s = self._film, self.cluster.clock.now_s
        after_s = min(wait_s, max(0.0, self._next - now_s)) if film.live else 0.0
        return self._call(run, makes=(frame,), after_s=after_s), frame

    def _step(self) -> SourceStep | None:
        film, draw = self._film, self.cluster.random
        assert not self._over
        gaps, self._gaps = tuple(self._gaps), []
        if film.live:
            if self.cluster.clock.now_s < self._next:
                return SourceStep(False, gaps, self._counts, self._reached) if gaps else None
        else:
            if draw.random() < 0.1:
                self._gaps = list(gaps)
                return None
            if self._next >= film.length:
                self._over = True
                behind = [film.gap_behind(film.length - 1)] if film.length - 1 in film.gaps else []
                end = max(self._reached, film.end, key=lambda point: point.pts_ns)
                return SourceStep(False, (*gaps, *behind), self._counts, end, ended=True)
        frame = self._next
        if frame == film.breaks_at:
            raise ValueError("no such frame")
        skipped = draw.randrange(3) if film.skips else 0
        if film.live:
            skipped = max(0, int(self.cluster.clock.now_s) - frame)
        elif frame + skipped >= film.length:
            skipped = 0
        told = [
            film.gap_behind(before - 1)
            for before in range(frame, frame + skipped + 1)
            if before - 1 in film.gaps
        ]
        if skipped:
            told.append(Gap(film.wall_ns(frame), film.wall_ns(frame + skipped), GapReason.DROPPED, skipped))
        frame += skipped
        self._next = frame + 1
        self._reached = ResumePoint(frame * NS, frame, 0, film.wall_ns(frame))
        return SourceStep(True, (*gaps, *told), self._counts, self._reached)


class _Analysis:
    """A tracker that sees another region in each keyframe."""

    def __init__(self, cluster: Happenings, stream: str, next_track: int, look: Callable[[], None]) -> None:
        self._cluster = cluster
        self._stream = stream
        self._look = look
        self._track = next_track - 1
        self._last = -1
        self._needed = True

    def needs_look(self, frame: Frame) -> bool:
        self._needed = frame.index % 5 != 3
        return self._needed

    def keyframe(
        self, frame: Frame, *, encoding: object, probe_share: float, view_share: float
    ) -> tuple[AnalysedKeyframe, tuple[CaptionRequest, ...]]:
        self._look()
        assert encoding == (frame.rgb.shape if self._needed else None)
        self._cluster.claim(frame.index > self._last, f"{self._stream}: {frame.index} after {self._last}")
        self._last = frame.index
        self._track += 1
        track = np.asarray([self._track])
        regions = Regions(self._stream, frame.index, frame.time, (8, 8), BOX, (None,), SCORE, FEATURE, track)
        box = (0.0, 0.0, 8.0, 8.0)
        request = CaptionRequest(self._track, frame.index, frame.time, box, None, FEATURE[0], FEATURE)
        wanted = (request,) if self._cluster.random.random() < 0.7 else ()
        return AnalysedKeyframe(regions, (), self._track + 1, NOTHING_AVOIDED), wanted

    def finish(self) -> tuple[EndedTrack, ...]:
        return (EndedTrack(self._track, 0, 0, 1),) if self._last >= 0 else ()


class _Model:
    lanes = ONE_LANE

    def encode_batch(self, pictures: list[np.ndarray]) -> list[tuple[int, ...]]:
        return [picture.shape for picture in pictures]


class _Perception(PerceptionActor):
    """The product's own, around a model of no size."""

    def __init__(self, cluster: Happenings) -> None:
        self._cluster = cluster
        self._predictor: Any = _Model()
        self._streams = {}
        self._first = cluster.started[StageKind.PERCEPTION] == 1
        self._looks = 0

    def look(self) -> None:
        self._looks += 1
        if self._cluster.script.loses_context and self._first and self._looks > 3:
            raise RuntimeError("no context")

    def open_stream(self, plan: StreamPlan, attempt: int, next_track: int) -> None:
        analysis: Any = _Analysis(self._cluster, plan.stream, next_track, self.look)
        self._streams[plan.stream] = (attempt, analysis)


class SimulatedPerception(SimulatedProcess):
    kind = StageKind.PERCEPTION

    def __init__(self, cluster: Happenings) -> None:
        super().__init__(cluster)
        self._actor = _Perception(cluster)

    def load(self, config: RunConfig) -> Call:
        return self._call(lambda: None, work=False)

    def open_stream(self, plan: StreamPlan, attempt: int, next_track: int) -> Call:
        return self._call(lambda: self._actor.open_stream(plan, attempt, next_track))

    def analyse(self, works: Sequence[Work], frames: Sequence[Ref]) -> tuple[Call, Sequence[tuple[Ref, Ref]]]:
        results = [(self.value(), self.value()) for _ in works]

        def run() -> Any:
            reports, *made = self._actor.analyse(tuple(works), *[frame.get() for frame in frames])
            for value, result in zip([v for pair in results for v in pair], made, strict=True):
                value.make(result)
            return reports

        makes = tuple(value for pair in results for value in pair)
        # Slower than sources are, so that keyframes wait and are looked at together.
        return self._call(run, *frames, makes=makes, after_s=self.cluster.random.uniform(0, 0.1)), results

    def finish(self, stream: str, attempt: int) -> Ref:
        ended = self.value()
        self._call(lambda: ended.make(self._actor.finish(stream, attempt)), makes=(ended,))
        return ended

    def forget(self, stream: str, attempt: int) -> None:
        self._call(lambda: self._actor.forget(stream, attempt), work=False)


class SimulatedCaptioner(SimulatedProcess):
    kind = StageKind.CAPTIONER
    concurrent = True

    def load(self, config: RunConfig) -> Call:
        return self._call(lambda: None, work=False)

    def caption(self, requests: Ref) -> tuple[Call, Ref]:
        captions = self.value()

        def run() -> None:
            captions.make([words(request) for request in requests.get()])

        return self._call(run, requests, makes=(captions,)), captions


def words(request: CaptionRequest) -> RegionCaption:
    text = f"what is in {request.frame}"
    return RegionCaption(
        request.track, request.frame, request.time, request.box, None, request.feature, text, 0.5, -1.0
    )


class _Writer:
    """A store's writer that counts only as long as its process lives."""

    def __init__(self, store: SimulatedStore) -> None:
        self._store = store

    @property
    def resume(self) -> ResumePoint:
        return self._store.resume

    def commit(self, batch: Batch) -> None:
        self._store.commit(batch)

    def close(self) -> None:
        pass


class _RecorderActor(RecorderActor):
    """The product's own, around a store in memory."""

    def __init__(self, cluster: Happenings) -> None:
        self._cluster = cluster
        self._streams = {}

    def open_stream(self, plan: StreamPlan, attempt: int) -> ResumePoint:
        self.close_stream(plan.stream, attempt)
        writer: Any = _Writer(self._cluster.stores[plan.stream])
        clock = self._cluster.clock.wall_ns
        recorder = Recorder(writer, plan.config.recording, plan.config.events, clock)
        self._streams[plan.stream] = _Recording(attempt, writer, recorder)
        return writer.resume


class SimulatedRecorder(SimulatedProcess):
    kind = StageKind.RECORDER

    def __init__(self, cluster: Happenings) -> None:
        super().__init__(cluster)
        self._actor = _RecorderActor(cluster)

    def open(self, store: Path | str) -> Call:
        return self._call(lambda: None, work=False)

    def open_stream(self, plan: StreamPlan, attempt: int) -> Call:
        return self._call(lambda: self._actor.open_stream(plan, attempt))

    def record(
        self,
        stream: str,
        attempt: int,
        number: int,
        gaps: tuple[Gap | EffortStep | Cut, ...],
        analysed: Ref,
        captions: Ref,
    ) -> Call:
        def run() -> Any:
            found = None if analysed is None else analysed.get()
            worded = None if captions is None else captions.get()
            if found is not None:
                self.cluster.claim(found.regions.stream == stream, f"{stream} gets a keyframe of another")
                mine = all(caption.frame == found.regions.frame_index for caption in worded or ())
                self.cluster.claim(mine, f"{stream} gets captions of another keyframe")
            if self.cluster.breaks_half_way and found is not None:
                nonsense: Any = (None,)
                found = replace(found, ended=nonsense)  # raises when the keyframe's rows are taken in already
            return self._actor.record(stream, attempt, number, gaps, found, worded)

        return self._call(run, analysed, captions)

    def commit(self, stream: str, attempt: int) -> Call:
        return self._call(lambda: self._actor.commit(stream, attempt))

    def finish(
        self, stream: str, attempt: int, records: int, ended: Ref, reached: ResumePoint | None
    ) -> Call:
        return self._call(lambda: self._actor.finish(stream, attempt, records, ended.get(), reached), ended)

    def close_stream(self, stream: str, attempt: int) -> Call:
        return self._call(lambda: self._actor.close_stream(stream, attempt))


class SimulatedCluster(Happenings):
    """Where the stages of a simulated run are started."""

    def source(self, plan: StreamPlan) -> SimulatedSource:
        return SimulatedSource(self, plan.stream)

    def perception(self) -> SimulatedPerception:
        return SimulatedPerception(self)

    def captioner(self) -> SimulatedCaptioner:
        return SimulatedCaptioner(self)

    def recorder(self) -> SimulatedRecorder:
        return SimulatedRecorder(self)
