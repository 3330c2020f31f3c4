"""The compilable stages by name, and the largest batches that they are compiled for: what who runs them has to know."""

from __future__ import annotations

IMAGE_ENCODER = "image-encoder"
MASK_DECODER = "mask-decoder"
MIXER = "mixer"
LANGUAGE_PREFILL = "language-prefill"
LANGUAGE_STEP = "language-step"

VISION = (IMAGE_ENCODER, MASK_DECODER, MIXER)
LANGUAGE = (LANGUAGE_PREFILL, LANGUAGE_STEP)

MAX_FRAMES = 8
MAX_PROMPTS = 64
"""Prompts, and captions, at a time; more are cut."""
