"""Loading the model of a run, for a whole run or a part of it, in any process."""

from __future__ import annotations

import ctypes
import gc
import itertools
import logging
import os
import sys
import threading
from typing import TYPE_CHECKING, Literal

from pipeline.core.errors import UserError

if TYPE_CHECKING:
    from pipeline.runtime.stages import RunModel
    from pipeline.settings.config import RunConfig
    from sca.predictor import Predictor

# A run that looks for a keyframe waits for these imports: no sources and no store here.

log = logging.getLogger(__name__)

_POLL_S = 0.2

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
    _calm_process()
    threads = threads or _threads_beside_decoding(os.cpu_count() or 2)
    compiled = None if config.runtime.engine == "eager" else _compiled(config, threads, part)
    model = compiled or _on_torch(config, threads, part)
    # What was imported and loaded stays: looking through all of it for garbage again and again cost a twentieth of a keyframe.
    gc.freeze()
    return model


def _calm_process() -> None:
    # Threads that spin while they wait for each other starve when anything else needs the processor: measured
    # fifteen times slower on two busy cores. OpenMP reads this once, when torch loads it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    level_heap()


class EarlyModel:
    """The model of a run in this process, loaded in a thread beside the planning of the run, where its engines are prepared.

    The interpreter waits for the thread when it ends: native code that is cut off in the middle would abort it.
    """

    def __init__(self, config: RunConfig) -> None:
        _calm_process()
        self._config = config
        self._model: RunModel | None = None
        self._thread = threading.Thread(target=self._load, name="early-model")
        self._thread.start()

    def taken(self) -> RunModel | None:
        """The model when it is there; None where it has to be loaded with its reasons told: not prepared, or damaged."""
        while self._thread.is_alive():  # in slices, so that an interrupt gets through
            self._thread.join(_POLL_S)
        model, self._model = self._model, None
        if model is not None:
            gc.freeze()
        return model

    def _load(self) -> None:
        from engines.manifest import EngineRejected
        from engines.preparation import EngineRequest, find_prepared, open_compiled

        runtime = self._config.runtime
        try:
            prepared = find_prepared(EngineRequest(self._config.model, runtime.device, runtime.engine))
            if prepared is not None:
                self._model = open_compiled(prepared, "all", inline_threads(self._config))
        except (EngineRejected, UserError, RuntimeError, OSError) as error:
            log.debug("not loaded early: %s", error)


def eyes_of_one_picture(model: str) -> RunModel:
    """What looks at a single picture: the engines that a run on this machine has prepared, or the model itself with torch, which takes ten
    times as long to load. Nothing is compiled for one picture."""
    from engines.manifest import EngineRejected
    from engines.preparation import EngineRequest, find_prepared, open_compiled

    _calm_process()
    # As a run asks for them by itself, and as one does that was told what it would find.
    for device, engine in itertools.product(("auto", "cpu"), ("auto", "openvino")):
        try:
            prepared = find_prepared(EngineRequest(model, device, engine))
            eyes = None if prepared is None else open_compiled(prepared, "vision", 1)
        except (EngineRejected, UserError, RuntimeError, OSError) as error:
            log.debug("prepared engines cannot be used: %s", error)
            continue
        if eyes is not None:
            return eyes
    import sca

    return sca.load(model)


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
