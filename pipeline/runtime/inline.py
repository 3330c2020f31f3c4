"""Everything in one process, one keyframe after the other: for tests, debugging, and machines without Ray."""

from __future__ import annotations

from itertools import pairwise

from pipeline.captioning.captioner import Captioner
from pipeline.core.errors import UserError
from pipeline.perception.perceiver import Perception
from pipeline.recording.recorder import Recorder
from pipeline.runtime.plan import RunPlan, StreamPlan
from pipeline.runtime.progress import OnProgress, ProgressTally, StopRequest, StreamProgress
from pipeline.runtime.stages import housekeeping, load_predictor, open_reader
from pipeline.runtime.stream_analysis import StreamAnalysis
from pipeline.store import CaptionStore
from sca.predictor import Predictor


def run_inline(
    plan: RunPlan, on_progress: OnProgress, stop: StopRequest, predictor: Predictor | None = None
) -> list[StreamProgress]:
    """Run the streams of `plan` one after the other; returns where each stands. `predictor`: an already loaded model.

    UserError if a stream stands behind a camera: its turn would never come.
    """
    for stream, following in pairwise(plan.streams):
        if stream.source.live:
            raise UserError(
                f"--runtime inline runs one stream after the other, and {stream.stream} never ends, so "
                f"{following.stream} would wait for ever: use --runtime ray, or one command for each camera"
            )
    model = predictor or load_predictor(plan.config, plan.config.runtime.perception_threads)
    return [_run_stream(plan, stream, model, on_progress, stop) for stream in plan.streams]


def _run_stream(
    plan: RunPlan, stream: StreamPlan, predictor: Predictor, on_progress: OnProgress, stop: StopRequest
) -> StreamProgress:
    config = stream.config
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
        at_end = False
        step = None
        try:
            while not stop.is_set and not at_end:
                step, frame = reader.step()
                at_end = step.ended
                tally.read(step)
                for gap in step.gaps:
                    recorder.gap(gap)
                if frame is not None:
                    analysed, requests = analysis.keyframe(frame)
                    captions = captioner.caption(requests)
                    recorder.keyframe(analysed.regions, captions, analysed.ended, analysed.next_track)
                    tally.analysed(frame.time.pts_ns, analysed.avoided)
                tally.recorded(recorder.recorded)
                on_progress(tally.progress)
        finally:
            reader.close()
        recorder.finish(analysis.finish(), step.reached if step is not None and at_end else None)
    tally.recorded(recorder.recorded)
    tally.finish(at_end=at_end)
    on_progress(tally.progress)
    return tally.progress
