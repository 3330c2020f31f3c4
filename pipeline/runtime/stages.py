"""Building the stages of a run from its plan: the same for every runtime."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import TYPE_CHECKING, Literal

from pipeline.core.records import ResumePoint
from pipeline.keyframes.buffer import BufferedReader, KeyframeBuffer
from pipeline.keyframes.reader import KeyframeReader
from pipeline.runtime.plan import StreamPlan
from pipeline.settings.config import RunConfig
from pipeline.sources import Source, open_source
from pipeline.sources.opening import RealTime
from pipeline.sources.standing import StandingPictures
from pipeline.store.compaction import Compaction

if TYPE_CHECKING:
    from sca.predictor import Predictor


# The C library's allocator, told to keep a long run's memory level.

_M_MMAP_THRESHOLD = -3  # malloc.h
LARGE_BLOCK = 16 << 20


def level_heap() -> None:
    """Give every freed block of `LARGE_BLOCK` bytes or more back to the kernel at once (glibc; nothing elsewhere).

    By itself glibc raises that bound to 32 MiB while a program runs, and then keeps large tensors, whose sizes change
    from keyframe to keyframe, in its heap: between them it becomes full of holes and grows for weeks. Much below this
    bound the kernel's zeroing of new pages costs time. Process-wide, from now on.
    """
    if sys.platform.startswith("linux"):
        set_option = getattr(ctypes.CDLL(None), "mallopt", None)
        if set_option is not None:
            set_option(_M_MMAP_THRESHOLD, LARGE_BLOCK)


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


def load_predictor(
    config: RunConfig, threads: int, part: Literal["all", "vision", "language"] = "all"
) -> Predictor:
    """The model of a run on its device, with `threads` CPU threads of torch (0: all processors but one).

    part: what this process computes; the rest gets no compiled engines.
    """
    # Threads that spin while they wait for each other starve when anything else needs the processor: measured
    # fifteen times slower on two busy cores. OpenMP reads this once, when torch loads it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    level_heap()
    import torch

    import sca

    torch.set_num_threads(threads or max(1, (os.cpu_count() or 2) - 1))
    device = config.runtime.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    predictor = sca.load(config.model, device=device)
    if config.runtime.engine == "eager":
        return predictor
    from engines.acceleration import accelerate
    from engines.selection import ModelPart

    return accelerate(predictor, config.runtime.engine, part=ModelPart(part))
