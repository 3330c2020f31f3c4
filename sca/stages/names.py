"""The compilable stages by name, and the largest batches that they are compiled for: what who runs them has to know."""

from __future__ import annotations

IMAGE_ENCODER = "image-encoder"
CAPTION_ENCODER = "caption-encoder"
"""Only of models with a caption backbone."""
MASK_DECODER = "mask-decoder"
MIXER = "mixer"
LANGUAGE_PREFILL = "language-prefill"
LANGUAGE_STEP = "language-step"

VISION = (IMAGE_ENCODER, MASK_DECODER, MIXER, CAPTION_ENCODER)
LANGUAGE = (LANGUAGE_PREFILL, LANGUAGE_STEP)

MAX_FRAMES = 8
MAX_PROMPTS = 64
"""Prompts, and captions, at a time; more are cut."""


def vision_stages(caption_encoder: bool) -> tuple[str, ...]:
    """The stages between a picture and what the language model reads, of a model with or without a caption encoder."""
    return VISION if caption_encoder else VISION[:3]
