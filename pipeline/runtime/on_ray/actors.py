"""Ray's side of the stages: thin shells that hold a plain class and pass calls on.

Whatever can fail is done in methods, never in `__init__`: Ray tells what a method raised, but only that a constructor
died. `attempt` numbers the starts of a stream: calls that belong to an earlier start are refused, so that a stream
which was started again never gets a row twice.

`import ray` stays out of here. Nothing heavy is imported before an actor needs it: the source actor never loads torch.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import UserError
from pipeline.core.redaction import redact_text
from pipeline.core.stage_times import TimedStage, timed, timed_keyframe
from pipeline.runtime.driver.messages import AnalysisReport, LogCollector, StepReport, Work

if TYPE_CHECKING:
    from pipeline.core.frame import Frame
    from pipeline.core.records import Cut, EffortStep, Gap, ResumePoint, StoredCaption
    from pipeline.core.regions import AnalysedKeyframe, CaptionRequest, EndedTrack, RegionCaption
    from pipeline.recording.recorder import Recorded, Recorder
    from pipeline.runtime.plan import StreamPlan
    from pipeline.runtime.stream_analysis import StreamAnalysis
    from pipeline.settings.config import RunConfig
    from pipeline.store import StreamWriter
    from sca.regions import ImageEncoding

log = logging.getLogger(__name__)


class StaleCall(RuntimeError):
    """A call that belongs to an earlier start of its stream, or that overtook another."""


class _Actor:
    """What every stage answers beside its work."""

    def life(self) -> None:
        """Never returns: whoever waits for it learns at once that this process has died."""
        threading.Event().wait()

    def memory(self) -> int:
        """Resident memory of this process in bytes."""
        import psutil

        return int(psutil.Process().memory_info().rss)


class SourceActor(_Actor):
    """Decodes one stream; only keyframes leave it. Call `open` first."""

    def prepare(self) -> None:
        """Import what `open` needs, while it is not known yet where the stream goes on."""
        from pipeline.runtime import stages  # noqa: F401

    def open(self, plan: StreamPlan, resume: ResumePoint) -> None:
        from pipeline.runtime.stages import open_buffered

        self._logs = LogCollector()
        logger = logging.getLogger("pipeline")
        logger.setLevel(logging.INFO)
        logger.addHandler(self._logs)
        with timed(TimedStage.START):
            self._reader = open_buffered(plan, resume)

    def step(self, wait_s: float, interval_factor: float) -> tuple[StepReport, Frame | None]:
        """The next keyframe, or a report without one when none came within `wait_s`."""
        read = self._reader.take(wait_s, interval_factor)
        if read is None:
            return StepReport(None, time.time_ns(), self._reader.connected, self._logs.taken()), None
        return StepReport(read.step, read.read_ns, self._reader.connected, self._logs.taken()), read.frame

    def close(self) -> None:
        self._reader.close()


class PerceptionActor(_Actor):
    """Holds the model's eyes, and the trackers of the streams that are pinned to it. Call `load` first."""

    def load(self, config: RunConfig) -> None:
        from pipeline.runtime.model_loading import load_predictor

        with timed(TimedStage.START):
            self._predictor = load_predictor(config, config.runtime.perception_threads, "vision")
        self._streams: dict[str, tuple[int, StreamAnalysis]] = {}

    def open_stream(self, stream: str, config: RunConfig, attempt: int, next_track: int) -> None:
        # Not the stream's plan: what a plan is made of takes as long to import as the engines to load.
        from pipeline.perception.perceiver import Perception
        from pipeline.runtime.stream_analysis import StreamAnalysis

        perception = Perception(self._predictor, config.perception)
        analysis = StreamAnalysis(stream, perception, config.tracking, config.captions, next_track)
        self._streams[stream] = (attempt, analysis)

    def analyse(self, works: tuple[Work, ...], *frames: Frame) -> tuple[Any, ...]:
        """Keyframes of different streams, encoded in one batch.

        Returns the reports in a list, then for each keyframe what was found and which captions are wanted; both are
        None where the report tells a fault, which then concerns that stream alone.
        """
        with timed_keyframe():
            return self._analysed(works, frames)

    def _analysed(self, works: tuple[Work, ...], frames: tuple[Frame, ...]) -> tuple[Any, ...]:
        encodings = self._encoded(works, frames)
        reports: list[AnalysisReport] = []
        results: list[Any] = []
        for work, frame, encoding in zip(works, frames, encodings, strict=True):
            try:
                analysed, requests = self._analysis(work.stream, work.attempt).keyframe(
                    frame, encoding=encoding, probe_share=work.probe_share, view_share=work.view_share
                )
            except Exception as error:
                trace = "" if isinstance(error, StaleCall) else redact_text(traceback.format_exc())
                fault = redact_text(f"{type(error).__name__}: {error}")
                reports.append(AnalysisReport(fault=fault, trace=trace))
                results += [None, None]
            else:
                reports.append(AnalysisReport(len(requests), analysed.avoided))
                results += [analysed, requests]
        return (reports, *results)

    def _encoded(self, works: tuple[Work, ...], frames: tuple[Frame, ...]) -> list[ImageEncoding | None]:
        """Encodings of those keyframes that will be looked at, in one batch; None of the others.

        And none where pictures are encoded one by one in lanes: there each waits for its own.
        """
        encodings: list[ImageEncoding | None] = [None] * len(frames)
        if self._predictor.lanes.count > 1:
            return encodings
        try:
            looked = []
            for row, (work, frame) in enumerate(zip(works, frames, strict=True)):
                attempt, analysis = self._streams.get(work.stream, (None, None))
                if analysis is not None and attempt == work.attempt and analysis.needs_look(frame):
                    looked.append(row)
            with timed(TimedStage.ENCODE):
                made = self._predictor.encode_batch([frames[row].rgb for row in looked])
            for row, encoding in zip(looked, made, strict=True):
                encodings[row] = encoding
        except (
            Exception
        ):  # told of each stream by itself, one picture by one, so that the others do not suffer
            return [None] * len(frames)
        return encodings

    def finish(self, stream: str, attempt: int) -> tuple[EndedTrack, ...]:
        ended = self._analysis(stream, attempt).finish()
        self.forget(stream, attempt)
        return ended

    def forget(self, stream: str, attempt: int) -> None:
        """The stream has gone elsewhere."""
        if stream in self._streams and self._streams[stream][0] <= attempt:
            del self._streams[stream]

    def _analysis(self, stream: str, attempt: int) -> StreamAnalysis:
        current, analysis = self._streams.get(stream, (None, None))
        if analysis is None or current != attempt:
            raise StaleCall(f"{stream}: start {attempt} is not the one that is analysed ({current})")
        return analysis


# Steps of the language model are short, so more work is shared out over captioners, not over threads. A guess.
_CAPTIONING_THREADS = 1


class CaptionerActor(_Actor):
    """Holds the language model; concurrent calls share a batch. Call `load` first."""

    def load(self, config: RunConfig) -> None:
        from pipeline.captioning.captioner import Captioner, CaptionQueue
        from pipeline.runtime.model_loading import load_predictor

        self._deadline_s = config.runtime.stall_deadline_s
        with timed(TimedStage.START):
            predictor = load_predictor(config, _CAPTIONING_THREADS, "language")
        self._queue = CaptionQueue(Captioner(predictor))

    def caption(self, requests: tuple[CaptionRequest, ...]) -> list[RegionCaption | None]:
        return self._queue.caption(requests, self._deadline_s)


class RecorderActor(_Actor):
    """The one writer of the store's streams in this run. Call `open` first."""

    def open(self, store: Path | str) -> None:
        self._store = store
        self._streams: dict[str, _Recording] = {}

    def open_stream(self, plan: StreamPlan, attempt: int) -> ResumePoint:
        """Become the writer of a stream; where it goes on. What an earlier start has left is committed first."""
        from pipeline.recording.recorder import Recorder
        from pipeline.runtime.stages import housekeeping
        from pipeline.store import CaptionStore

        self.close_stream(plan.stream, attempt)
        writer = CaptionStore.open_planned(self._store).writer(
            plan.stream, plan.info, compaction=housekeeping(plan)
        )
        recorder = Recorder(writer, plan.config.recording, plan.config.events)
        self._streams[plan.stream] = _Recording(attempt, writer, recorder)
        return writer.resume

    def record(
        self,
        stream: str,
        attempt: int,
        number: int,
        gaps: tuple[Gap | EffortStep | Cut, ...],
        analysed: AnalysedKeyframe | None = None,
        captions: list[RegionCaption | None] | None = None,
    ) -> Recorded:
        """Take in the `number`-th record of this start, gaps, steps of effort and perhaps a keyframe; totals of the stream."""
        recording = self._recording(stream, attempt)
        if number != recording.taken:
            raise StaleCall(f"{stream}: record {recording.taken} was lost before record {number}")
        recording.taken += 1
        recorder = recording.recorder
        try:
            with timed(TimedStage.COMMIT):
                for gap in gaps:
                    recorder.note(gap)
                if analysed is not None:
                    recorder.keyframe(analysed.regions, captions or [], analysed.ended, analysed.next_track)
        except UserError:
            raise  # the store refused a commit: what was taken in is whole, and may be committed later
        except Exception:
            # Half a keyframe may have been taken in. It must never be committed: the whole one is read again.
            del self._streams[stream]
            recording.writer.close()
            raise
        return recorder.report()

    def commit(self, stream: str, attempt: int) -> Recorded:
        """Make what was taken in durable now."""
        recorder = self._recording(stream, attempt).recorder
        with timed(TimedStage.COMMIT):
            recorder.commit()
        return recorder.report()

    def finish(
        self,
        stream: str,
        attempt: int,
        records: int,
        ended: tuple[EndedTrack, ...],
        reached: ResumePoint | None,
    ) -> Recorded:
        """End this start of a stream, of which there were `records`: behind one that was lost there is more to read."""
        recording = self._recording(stream, attempt)
        if records != recording.taken:
            raise StaleCall(f"{stream}: record {recording.taken} was lost before the end")
        with timed(TimedStage.COMMIT):
            recording.recorder.finish(ended, reached)
        del self._streams[stream]
        recording.writer.close()
        return recording.recorder.report()

    def close_stream(self, stream: str, attempt: int) -> tuple[StoredCaption, ...]:
        """Commit what an earlier start than `attempt`, or this one, has taken in, and give the stream free.

        Returns the caption events that nobody was told of yet.
        """
        recording = self._streams.get(stream)
        if recording is None or recording.attempt > attempt:
            return ()
        del self._streams[stream]
        try:
            recording.recorder.finish((), None)
        finally:
            recording.writer.close()
        return recording.recorder.report().stored

    def _recording(self, stream: str, attempt: int) -> _Recording:
        recording = self._streams.get(stream)
        if recording is None or recording.attempt != attempt:
            raise StaleCall(f"{stream}: start {attempt} is not the one that is recorded")
        return recording


class _Recording:
    """One start of a stream in the recorder's eyes. `taken`: how many records have come."""

    __slots__ = ("attempt", "recorder", "taken", "writer")

    def __init__(self, attempt: int, writer: StreamWriter, recorder: Recorder) -> None:
        self.attempt = attempt
        self.writer = writer
        self.recorder = recorder
        self.taken = 0
