"""Ray's side of the stages: thin shells that hold a plain class and pass calls on.

Whatever can fail is done in methods, never in `__init__`: Ray tells what a method raised, but only that a constructor
died.

`import ray` stays here and in `ray_runtime`. Nothing heavy is imported before an actor needs it: the source actor
never loads torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.config import RunConfig
from pipeline.frame import Frame
from pipeline.keyframe_reader import SourceStep
from pipeline.records import ResumePoint
from pipeline.run_plan import RunPlan, StreamPlan

if TYPE_CHECKING:
    from pipeline.caption_events import RegionCaption
    from pipeline.recorder import Recorded, Recorder
    from pipeline.stream_analysis import AnalysedKeyframe, CaptionRequest, StreamAnalysis
    from pipeline.tracking import EndedTrack


class SourceActor:
    """Decodes one stream; only keyframes leave it. Call `open` first."""

    def open(self, plan: StreamPlan, config: RunConfig, resume: ResumePoint) -> None:
        from pipeline.runtime.stages import open_reader

        self._reader = open_reader(plan, config, resume)

    def step(self) -> tuple[SourceStep, Frame | None]:
        return self._reader.step()

    def close(self) -> None:
        self._reader.close()


class PerceptionActor:
    """Holds the model's eyes, and the trackers of the streams that are pinned to it. Call `load` first."""

    def load(self, config: RunConfig) -> None:
        from pipeline.perception import Perception
        from pipeline.runtime.stages import load_predictor

        self._config = config
        predictor = load_predictor(config, config.runtime.perception_threads)
        self._perception = Perception(predictor, config.perception)
        self._streams: dict[str, StreamAnalysis] = {}

    def open_stream(self, stream: str, resume: ResumePoint) -> None:
        from pipeline.stream_analysis import StreamAnalysis

        config = self._config
        self._streams[stream] = StreamAnalysis(
            stream, self._perception, config.tracking, config.captions, resume.next_track
        )

    def analyse(self, stream: str, frame: Frame) -> tuple[AnalysedKeyframe, tuple[CaptionRequest, ...]]:
        return self._streams[stream].keyframe(frame)

    def finish(self, stream: str) -> tuple[EndedTrack, ...]:
        return self._streams.pop(stream).finish()


class CaptionerActor:
    """Holds the language model; concurrent calls share a batch. Call `load` first."""

    def load(self, config: RunConfig) -> None:
        from pipeline.caption_queue import CaptionQueue
        from pipeline.captioning import Captioner
        from pipeline.runtime.stages import load_predictor

        self._deadline_s = config.runtime.stall_deadline_s
        self._queue = CaptionQueue(Captioner(load_predictor(config, config.runtime.captioning_threads)))

    def caption(self, requests: tuple[CaptionRequest, ...]) -> list[RegionCaption | None]:
        return self._queue.caption(requests, self._deadline_s)


class RecorderActor:
    """The one writer of the store's streams in this run. Call `open` first."""

    def open(self, plan: RunPlan) -> list[ResumePoint]:
        """Become the writer of every stream of the plan; where each goes on."""
        from pipeline.recorder import Recorder
        from pipeline.store import CaptionStore

        store = CaptionStore.open(plan.store)
        self._recorders: dict[str, Recorder] = {}
        resumes = []
        for stream in plan.streams:
            writer = store.writer(stream.stream, stream.info)
            self._recorders[stream.stream] = Recorder(writer, plan.config.recording, plan.config.events)
            resumes.append(writer.resume)
        return resumes

    def record(
        self,
        stream: str,
        step: SourceStep,
        analysed: AnalysedKeyframe | None = None,
        captions: list[RegionCaption | None] | None = None,
    ) -> tuple[Recorded, int]:
        """Totals of the stream, and how many captions the gate has avoided."""
        recorder = self._recorders[stream]
        for gap in step.gaps:
            recorder.gap(gap)
        if analysed is not None:
            recorder.keyframe(analysed.regions, captions or [], analysed.ended, analysed.next_track)
        return recorder.recorded, analysed.avoided if analysed is not None else 0

    def finish(self, stream: str, ended: tuple[EndedTrack, ...], reached: ResumePoint | None) -> Recorded:
        recorder = self._recorders.pop(stream)
        recorder.finish(ended, reached)
        return recorder.recorded
