"""Everything in one process, one keyframe after the other: for tests, debugging, and machines without Ray."""

from __future__ import annotations

import time
from collections import deque
from itertools import pairwise

import psutil

from pipeline.captioning.captioner import Captioner
from pipeline.core.clock import NS
from pipeline.core.errors import UserError
from pipeline.core.records import Gap
from pipeline.perception.perceiver import Perception
from pipeline.recording.recorder import Recorder
from pipeline.runtime.plan import RunPlan, StreamPlan
from pipeline.runtime.progress import ProgressTally, RunObserver, StopRequest, StreamProgress, tell_recorded
from pipeline.runtime.stages import housekeeping, load_predictor, open_reader
from pipeline.runtime.stream_analysis import StreamAnalysis
from pipeline.store import CaptionStore
from sca.predictor import Predictor


def run_inline(
    plan: RunPlan, observer: RunObserver, stop: StopRequest, predictor: Predictor | None = None
) -> list[StreamProgress]:
    """Run the streams of `plan` one after the other; returns where each stands. `predictor`: an already loaded model.

    `observer` hears what it would hear of a run on Ray, except for queues and restarts, which there are none of.

    UserError if a stream stands behind a camera: its turn would never come.
    """
    for stream, following in pairwise(plan.streams):
        if stream.source.live:
            raise UserError(
                f"--runtime inline runs one stream after the other, and {stream.stream} never ends, so "
                f"{following.stream} would wait for ever: use --runtime ray, or one command for each camera"
            )
    model = predictor or load_predictor(plan.config, plan.config.runtime.perception_threads)
    return [_run_stream(plan, stream, model, observer, stop) for stream in plan.streams]


def _run_stream(
    plan: RunPlan, stream: StreamPlan, predictor: Predictor, observer: RunObserver, stop: StopRequest
) -> StreamProgress:
    config = stream.config
    own = psutil.Process()
    tally = ProgressTally(stream)
    captioner = Captioner(predictor)
    with CaptionStore.open(plan.store).writer(
        stream.stream, stream.info, compaction=housekeeping(stream)
    ) as writer:
        resume = writer.resume
        recorder = Recorder(writer, config.recording, config.events)
        analysis = StreamAnalysis(
            stream.stream,
            Perception(predictor, config.perception),
            config.tracking,
            config.captions,
            resume.next_track,
        )
        reader = open_reader(stream, resume)
        # Order and read time of the keyframes that are not committed yet.
        undurable: deque[tuple[tuple[int, int], int]] = deque()
        at_end = False
        step = None

        def tell() -> None:
            recorded, now_ns = recorder.report(), time.time_ns()
            latencies = []
            while undurable and undurable[0][0] <= (recorded.durable.epoch, recorded.durable.pts_ns):
                latencies.append(max(0, now_ns - undurable.popleft()[1]) / NS)
            tell_recorded(observer, tally, recorded, latencies)

        try:
            while not stop.is_set and not at_end:
                step, frame = reader.step()
                at_end = step.ended
                observer.running({stream.stream: reader.connected})
                tally.read(step)
                for event in step.gaps:
                    recorder.note(event)
                    if isinstance(event, Gap):
                        observer.gap(stream.stream, event)
                if frame is not None:
                    undurable.append((frame.time.order, time.time_ns()))
                    analysed, requests = analysis.keyframe(frame)
                    captions = captioner.caption(requests)
                    recorder.keyframe(analysed.regions, captions, analysed.ended, analysed.next_track)
                    tally.analysed(frame.time.pts_ns, analysed.avoided)
                tell()
                observer.alive()
                observer.memory("inline", own.memory_info().rss)
        finally:
            reader.close()
        recorder.finish(analysis.finish(), step.reached if step is not None and at_end else None)
        tally.finish(at_end=at_end)
        tell()
    # A finished stream is down; it is told once, since nobody waits for it.
    observer.running({stream.stream: False})
    return tally.progress
