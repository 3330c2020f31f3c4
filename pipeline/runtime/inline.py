"""Everything in one process, one keyframe after the other: for tests, debugging, and machines without Ray."""

from __future__ import annotations

import logging
import time
import traceback
from collections import deque
from itertools import pairwise

import psutil

from pipeline.captioning.captioner import Captioner
from pipeline.core.clock import NS
from pipeline.core.errors import StageFailed, UserError
from pipeline.core.records import Gap
from pipeline.core.regions import AnalysedKeyframe, CaptionRequest
from pipeline.core.restarts import Ending, RestartHistory, next_restart
from pipeline.core.stage_times import TimedStage, timed, timed_keyframe
from pipeline.perception.perceiver import Perception
from pipeline.recording.recorder import Recorder
from pipeline.runtime.model_loading import inline_threads, load_predictor
from pipeline.runtime.plan import RunPlan, StreamPlan
from pipeline.runtime.progress import ProgressTally, RunObserver, StopRequest, StreamProgress, tell_recorded
from pipeline.runtime.stages import RunModel, housekeeping, open_buffered
from pipeline.runtime.stream_analysis import StreamAnalysis
from pipeline.sources import redact_text
from pipeline.store import CaptionStore
from sca.lanes import Begun

log = logging.getLogger(__name__)

_WAIT_S = 0.1


def run_inline(
    plan: RunPlan, observer: RunObserver, stop: StopRequest, predictor: RunModel | None = None
) -> list[StreamProgress]:
    """Run the streams of `plan` one after the other; returns where each stands. `predictor`: an already loaded model.

    `observer` hears what it would hear of a run on Ray, except for queues, which there are none of.

    UserError if a stream stands behind a camera: its turn would never come.
    """
    for stream, following in pairwise(plan.streams):
        if stream.source.live:
            raise UserError(
                f"--runtime inline runs one stream after the other, and {stream.stream} never ends, so "
                f"{following.stream} would wait for ever: use --runtime ray, or one command for each camera"
            )
    with timed(TimedStage.START):
        model = predictor or load_predictor(plan.config, inline_threads(plan.config))
    return [_Watching(plan, stream, model, observer, stop).run() for stream in plan.streams]


class _Watching:
    """One stream in this process, from opening to its end, over any number of restarts."""

    def __init__(
        self,
        plan: RunPlan,
        stream: StreamPlan,
        predictor: RunModel,
        observer: RunObserver,
        stop: StopRequest,
    ) -> None:
        self._store = plan.store
        self._stream = stream
        self._predictor = predictor
        self._captioner = Captioner(predictor)
        self._observer = observer
        self._stop = stop
        self._tally = ProgressTally(stream)

    def run(self) -> StreamProgress:
        """Where the stream stands afterwards.

        What our own stages raise is logged with its traceback, and the stream goes on behind its last commit as far as
        its `restarts` allow; `StageFailed` when they do not. A `UserError` ends it: its input is at fault.
        """
        history = RestartHistory()
        while True:
            try:
                self._watch()
                return self._tally.progress
            except (UserError, StageFailed):
                raise
            except Exception as error:
                name, reason = self._stream.stream, redact_text(f"{type(error).__name__}: {error}")
                log.error(
                    "a fault of the program in %s:\n%s", name, redact_text(traceback.format_exc()).rstrip()
                )
                again = next_restart(Ending.FAILED, history, time.monotonic(), self._stream.config.restarts)
                if again is None or self._stop.is_set:
                    count = len(history.granted_s)
                    after = f" after {count} restarts" if count else ""
                    raise StageFailed(
                        f"{name} failed: {reason}{after}; run the same command to go on"
                    ) from error
                log.warning(
                    "%s failed: %s; going on behind the last commit in %.1f s", name, reason, again.delay_s
                )
                history = again.history
                self._tally.restarted()
                self._observer.restarted("stream", name)
                self._observer.progress(self._tally.progress)
                self._stop.wait(again.delay_s)

    def _watch(self) -> None:
        """Watch the stream behind its last commit until it ends or a stop is asked for."""
        stream, config, tally, observer = self._stream, self._stream.config, self._tally, self._observer
        own = psutil.Process()
        store = CaptionStore.open_planned(self._store)
        with store.writer(stream.stream, stream.info, compaction=housekeeping(stream)) as writer:
            resume = writer.resume
            recorder = Recorder(writer, config.recording, config.events)
            analysis = StreamAnalysis(
                stream.stream,
                Perception(self._predictor, config.perception),
                config.tracking,
                config.captions,
                resume.next_track,
            )
            reader = open_buffered(stream, resume)
            # Order and read time of the keyframes that are not committed yet.
            undurable: deque[tuple[tuple[int, int], int]] = deque()
            at_end = False
            step = None
            # Captions and record of the last keyframe are made beside the look at the next one.
            last: Begun[None] | None = None

            def record(seen: tuple[AnalysedKeyframe, tuple[CaptionRequest, ...]]) -> None:
                analysed, requests = seen
                captions = self._captioner.caption(requests)
                with timed(TimedStage.COMMIT):
                    recorder.keyframe(analysed.regions, captions, analysed.ended, analysed.next_track)

            def settle() -> None:
                nonlocal last
                begun, last = last, None
                if begun is not None:
                    begun.results()

            def tell() -> None:
                recorded, now_ns = recorder.report(), time.time_ns()
                latencies = []
                while undurable and undurable[0][0] <= (recorded.durable.epoch, recorded.durable.pts_ns):
                    latencies.append(max(0, now_ns - undurable.popleft()[1]) / NS)
                tell_recorded(observer, tally, recorded, latencies)

            try:
                while not self._stop.is_set and not at_end:
                    read = reader.take(_WAIT_S)
                    observer.running({stream.stream: reader.connected})
                    frame = None if read is None else read.frame
                    seen = None
                    if frame is None or (read is not None and read.step.gaps):
                        settle()  # what is told of a film stands behind the keyframes before it
                    if read is not None:
                        step = read.step
                        at_end = step.ended
                        tally.read(step)
                        for event in step.gaps:
                            recorder.note(event)
                            if isinstance(event, Gap):
                                observer.gap(stream.stream, event)
                        if frame is not None:
                            undurable.append((frame.time.order, read.read_ns))
                            with timed_keyframe():
                                seen = analysis.keyframe(frame)
                            settle()
                            tally.analysed(frame.time.pts_ns, seen[0].avoided)
                    tell()
                    if seen is not None:
                        last = self._predictor.lanes.later(record, seen)
                    observer.alive()
                    observer.memory("inline", own.memory_info().rss)
                settle()
            finally:
                reader.close()
                if last is not None:
                    last.wait()
            with timed(TimedStage.COMMIT):
                recorder.finish(analysis.finish(), step.reached if step is not None and at_end else None)
            tally.finish(at_end=at_end)
            tell()
        # A finished stream is down; it is told once, since nobody waits for it.
        observer.running({stream.stream: False})
