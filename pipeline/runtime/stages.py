"""Building the stages of a run from its plan: the same for every runtime."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import sys
from typing import TYPE_CHECKING, Literal, Protocol

from pipeline.captioning.captioner import CaptionModel
from pipeline.core.errors import UserError
from pipeline.core.records import ResumePoint
from pipeline.keyframes.buffer import BufferedReader, KeyframeBuffer
from pipeline.keyframes.reader import KeyframeReader
from pipeline.perception.sightings import RegionModel
from pipeline.runtime.plan import StreamPlan
from pipeline.settings.config import RunConfig
from pipeline.sources import Source, open_source
from pipeline.sources.opening import RealTime
from pipeline.sources.standing import StandingPictures
from pipeline.store.compaction import Compaction

if TYPE_CHECKING:
    from sca.predictor import Predictor

log = logging.getLogger(__name__)

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


class RunModel(RegionModel, CaptionModel, Protocol):
    """A model as a run needs it: `sca.predictor.Predictor`, or `sca.compiled.predictor.CompiledPredictor` without torch."""


def inline_threads(config: RunConfig) -> int:
    """How many threads the model has where nothing decodes while it computes: every processor, unless it is settled."""
    return config.runtime.perception_threads or os.cpu_count() or 1


def _threads_beside_decoding(processors: int) -> int:
    """All but one, which decodes; both of two, for decoding needs a tenth of one and the other would stand idle."""
    return max(1, min(2, processors), processors - 1)


def load_predictor(
    config: RunConfig, threads: int, part: Literal["all", "vision", "language"] = "all"
) -> RunModel:
    """The model of a run on its device, with `threads` CPU threads (0: all processors but one, and two of two).

    part: what this process computes; the rest gets no compiled engines. Where all engines are OpenVINO's, nothing of torch
    is imported.
    """
    # Threads that spin while they wait for each other starve when anything else needs the processor: measured
    # fifteen times slower on two busy cores. OpenMP reads this once, when torch loads it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    level_heap()
    threads = threads or _threads_beside_decoding(os.cpu_count() or 2)
    compiled = None if config.runtime.engine == "eager" else _compiled(config, threads, part)
    model = compiled or _on_torch(config, threads, part)
    # What was imported and loaded stays: looking through all of it for garbage again and again cost a twentieth of a keyframe.
    gc.freeze()
    return model


def _compiled(config: RunConfig, threads: int, part: Literal["all", "vision", "language"]) -> RunModel | None:
    """The model from its engines alone; None where torch has to compute some of it."""
    from engines.manifest import EngineRejected
    from engines.preparation import EngineRequest, PreparationFailed, find_prepared, open_compiled, prepare

    request = EngineRequest(config.model, config.runtime.device, config.runtime.engine)
    try:
        # On this machine the engines were prepared before the run; on another node of a cluster nobody did that yet.
        prepared = find_prepared(request) or prepare(request, log.info)
        return open_compiled(prepared, part, threads)
    except (PreparationFailed, EngineRejected, UserError, RuntimeError) as error:
        log.warning("the prepared engines are not used, torch computes: %s", error)
        return None


def _on_torch(config: RunConfig, threads: int, part: Literal["all", "vision", "language"]) -> Predictor:
    import torch

    import sca

    torch.set_num_threads(threads)
    device = config.runtime.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    predictor = sca.load(config.model, device=device)
    if config.runtime.engine == "eager":
        return predictor
    from engines.acceleration import accelerate
    from engines.selection import ModelPart

    return accelerate(predictor, config.runtime.engine, part=ModelPart(part))
