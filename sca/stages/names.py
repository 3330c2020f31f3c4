"""The compilable stages by name, and the largest batches that they are compiled for: what who runs them has to know."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sca.config import ScaConfig

IMAGE_ENCODER = "image-encoder"
CAPTION_ENCODER = "caption-encoder"
"""Only of models with a caption backbone."""
BOX_PROPOSER = "box-proposer"
"""Only of models that propose boxes of things."""
MASK_DECODER = "mask-decoder"
MIXER = "mixer"
LANGUAGE_PREFILL = "language-prefill"
LANGUAGE_STEP = "language-step"

VISION = (IMAGE_ENCODER, MASK_DECODER, MIXER, CAPTION_ENCODER, BOX_PROPOSER)
LANGUAGE = (LANGUAGE_PREFILL, LANGUAGE_STEP)

MAX_FRAMES = 8
MAX_PROMPTS = 64
"""Prompts, and captions, at a time; more are cut."""


def has_caption_encoder(config: ScaConfig) -> bool:
    """Whether the caption map comes from a backbone of its own, so that pictures are segmented without it."""
    return bool(getattr(config.encoder, "caption_backbone", ""))


def vision_stages(config: ScaConfig) -> tuple[str, ...]:
    """The stages of such a model between a picture and what the language model reads."""
    absent = {
        CAPTION_ENCODER: not has_caption_encoder(config),
        BOX_PROPOSER: config.proposals is None,
    }
    return tuple(name for name in VISION if not absent.get(name, False))
