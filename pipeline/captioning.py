"""Captions for the regions that the caption gate chose, in one batch whatever stream they come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pipeline.analysed import CaptionRequest
from pipeline.caption_events import RegionCaption
from sca.predictor import Caption


class CaptionModel(Protocol):
    """What a captioner needs of `sca.predictor.Predictor`."""

    def caption(self, features: Tensor) -> list[Caption]: ...


class Captioner:
    """Turns caption requests into captions."""

    def __init__(self, model: CaptionModel, *, max_batch: int = 64) -> None:
        self._model = model
        self._max_batch = max_batch

    def caption(self, requests: Sequence[CaptionRequest]) -> list[RegionCaption | None]:
        """One caption a request, in order; None where the model had no words."""
        captions: list[RegionCaption | None] = []
        for start in range(0, len(requests), self._max_batch):
            block = requests[start : start + self._max_batch]
            tokens = torch.from_numpy(np.stack([request.tokens for request in block]).astype(np.float32))
            for request, caption in zip(block, self._model.caption(tokens), strict=True):
                captions.append(_attach(request, caption) if caption.text else None)
        return captions


def _attach(request: CaptionRequest, caption: Caption) -> RegionCaption:
    return RegionCaption(
        track=request.track,
        frame=request.frame,
        time=request.time,
        box=request.box,
        mask=request.mask,
        feature=tuple(request.feature.tolist()),
        text=caption.text,
        score=caption.score,
        logprob=caption.logprob,
    )
