"""What perception hands on: light, so that who only stores it need not load the model's libraries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.frame import FrameTime
from pipeline.regions import Regions, RleMask
from pipeline.tracking import EndedTrack


@dataclass(frozen=True, slots=True)
class CaptionRequest:
    """A region that needs a caption. `tokens`: (Nc, C) float16 caption tokens; `box` xyxy pixels."""

    track: int
    frame: int
    time: FrameTime
    box: tuple[float, float, float, float]
    mask: RleMask | None
    feature: np.ndarray
    tokens: np.ndarray


@dataclass(frozen=True, slots=True)
class AnalysedKeyframe:
    """What one keyframe brought. `avoided`: observations so far that needed no caption."""

    regions: Regions
    ended: tuple[EndedTrack, ...]
    next_track: int
    avoided: int
