"""Captions for the regions that the caption gate chose, in one batch whatever stream they come from."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Protocol

import numpy as np

from pipeline.captioning.attributes import names_nothing, without_false_colours, without_guessed_people
from pipeline.core.regions import CaptionRequest, RegionCaption
from pipeline.core.stage_times import TimedStage, timed
from sca.regions import Caption


class CaptionModel(Protocol):
    """What a captioner needs of a model, such as `sca.predictor.Predictor`: words for region tokens (P, Nr, C) float32.

    `fits` (P,) float32: how much each region's box looks like a thing's own, which a judge of captions may ask.
    """

    def caption(self, features: np.ndarray, *, fits: np.ndarray | None = None) -> list[Caption]: ...


class Captioner:
    """Turns caption requests into captions."""

    def __init__(self, model: CaptionModel, *, max_batch: int = 64) -> None:
        self._model = model
        self._max_batch = max_batch

    def caption(self, requests: Sequence[CaptionRequest]) -> list[RegionCaption | None]:
        """One caption a request, in order; None where the model had no words."""
        with timed(TimedStage.CAPTIONS):
            return self._captions(requests)

    def _captions(self, requests: Sequence[CaptionRequest]) -> list[RegionCaption | None]:
        captions: list[RegionCaption | None] = []
        for start in range(0, len(requests), self._max_batch):
            block = requests[start : start + self._max_batch]
            tokens = np.stack([request.tokens for request in block]).astype(np.float32)
            fits = np.array([request.fit for request in block], np.float32)
            for request, caption in zip(block, self._model.caption(tokens, fits=fits), strict=True):
                captions.append(
                    None if not caption.text or names_nothing(caption.text) else _attach(request, caption)
                )
        return captions


def _attach(request: CaptionRequest, caption: Caption) -> RegionCaption:
    text = without_guessed_people(caption.text, caption.word_logprobs)
    if request.colours is not None:
        text = without_false_colours(text, request.colours)
    return RegionCaption(
        track=request.track,
        frame=request.frame,
        time=request.time,
        box=request.box,
        mask=request.mask,
        feature=request.feature,
        text=text,
        score=caption.score,
        logprob=caption.logprob,
        again=request.again,
    )


# Joins the caption requests of several callers into one batch.

_Job = tuple[tuple[CaptionRequest, ...], "Future[list[RegionCaption | None]]"]


class CaptionQueue:
    """One worker thread that captions whatever has gathered, so that concurrent keyframes share a batch."""

    def __init__(self, captioner: Captioner, *, max_batch: int = 64) -> None:
        self._captioner = captioner
        self._max_batch = max_batch
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="captioner", daemon=True)
        self._thread.start()

    def caption(self, requests: Sequence[CaptionRequest], deadline_s: float) -> list[RegionCaption | None]:
        """One caption a request, in order (see `Captioner.caption`). Raises what the captioner raised, or TimeoutError after `deadline_s`."""
        if not requests:
            return []
        future: Future[list[RegionCaption | None]] = Future()
        self._jobs.put((tuple(requests), future))
        return future.result(timeout=deadline_s)

    def close(self) -> None:
        """Finish what is queued and stop."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            jobs = [job]
            open_end = True
            while sum(len(requests) for requests, _ in jobs) < self._max_batch:
                try:
                    following = self._jobs.get_nowait()
                except Empty:
                    break
                if following is None:
                    open_end = False
                    break
                jobs.append(following)
            self._answer(jobs)
            if not open_end:
                return

    def _answer(self, jobs: list[_Job]) -> None:
        try:
            captions = self._captioner.caption([request for requests, _ in jobs for request in requests])
        except BaseException as error:
            for _, future in jobs:
                future.set_exception(error)
            return
        start = 0
        for requests, future in jobs:
            future.set_result(captions[start : start + len(requests)])
            start += len(requests)
