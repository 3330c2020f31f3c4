"""Building the stages of a run from its plan: the same for every runtime."""

from __future__ import annotations

from typing import Protocol

from pipeline.captioning.captioner import CaptionModel
from pipeline.core.records import ResumePoint
from pipeline.keyframes.buffer import BufferedReader, KeyframeBuffer
from pipeline.keyframes.reader import KeyframeReader
from pipeline.perception.sightings import RegionModel
from pipeline.runtime.plan import StreamPlan
from pipeline.sources import Source, open_source
from pipeline.sources.opening import RealTime
from pipeline.sources.standing import StandingPictures
from pipeline.store.compaction import Compaction

SECONDS_A_DAY = 86_400


def open_reader(plan: StreamPlan, resume: ResumePoint) -> KeyframeReader:
    """The source of a stream behind its keyframe gate, placed behind `resume`."""
    config = plan.config
    # A camera that is away when a stage starts is waited for: what it looks like is known from the plan.
    source: Source = open_source(
        plan.uri,
        stream=plan.stream,
        start_ns=plan.start_ns,
        options=config.sources,
        known=plan.source if plan.source.live else None,
        drop=config.flow.policy_of(live=plan.source.live),
    )
    if not source.info.live:
        source = StandingPictures(source)
        if config.flow.real_time:
            source = RealTime(source)
    return KeyframeReader(source, config.keyframes, resume)


def open_buffered(plan: StreamPlan, resume: ResumePoint) -> BufferedReader:
    """The same, reading ahead in a thread and dropping by the stream's policy."""
    flow = plan.config.flow
    buffer = KeyframeBuffer(flow.policy_of(live=plan.source.live), flow.buffer)
    return BufferedReader(open_reader(plan, resume), buffer, plan.stream)


def housekeeping(plan: StreamPlan) -> Compaction:
    """What the writer of a stream does beside its commits."""
    recording = plan.config.recording
    if not plan.source.live:
        return Compaction()
    days, gigabytes = recording.keep_days, recording.keep_gb
    return Compaction(
        archive_days=recording.archive_days,
        keep_s=None if days is None else days * SECONDS_A_DAY,
        keep_bytes=None if gigabytes is None else round(gigabytes * 1e9),
    )


class RunModel(RegionModel, CaptionModel, Protocol):
    """A model as a run needs it: `sca.predictor.Predictor`, or `sca.compiled.predictor.CompiledPredictor` without torch."""
