"""Segment and Caption Anything: the model, and nothing that knows of video.

import sca
model = sca.load("demo")
model.describe(image, boxes=[[10, 20, 200, 220]])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sca.auto_classes import register_auto_classes
    from sca.automatic import AutomaticMaskGenerator, AutomaticSettings, RegionRecord
    from sca.checkpoints import load_shipped, save_shipped
    from sca.checkpoints.released_layout import save_released
    from sca.config import ScaConfig
    from sca.model_names import model_names
    from sca.predictor import Caption, ImageEncoding, Predictor, Segmentation
    from sca.pretrained import Sca
    from sca.processor import ScaProcessor
    from sca.registry import load

_HOMES = {
    "AutomaticMaskGenerator": "sca.automatic",
    "AutomaticSettings": "sca.automatic",
    "Caption": "sca.predictor",
    "ImageEncoding": "sca.predictor",
    "Predictor": "sca.predictor",
    "RegionRecord": "sca.automatic",
    "Sca": "sca.pretrained",
    "ScaConfig": "sca.config",
    "ScaProcessor": "sca.processor",
    "Segmentation": "sca.predictor",
    "load": "sca.registry",
    "load_shipped": "sca.checkpoints",
    "model_names": "sca.model_names",
    "register_auto_classes": "sca.auto_classes",
    "save_released": "sca.checkpoints.released_layout",
    "save_shipped": "sca.checkpoints",
}

__all__ = [
    "AutomaticMaskGenerator",
    "AutomaticSettings",
    "Caption",
    "ImageEncoding",
    "Predictor",
    "RegionRecord",
    "Sca",
    "ScaConfig",
    "ScaProcessor",
    "Segmentation",
    "load",
    "load_shipped",
    "model_names",
    "register_auto_classes",
    "save_released",
    "save_shipped",
]


def __getattr__(name: str) -> Any:
    # transformers takes seconds to import, and a query of a store never needs it.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
