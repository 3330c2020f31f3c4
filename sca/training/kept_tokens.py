"""Masks that get better under a language model that stays as it is: caption tokens are held to what they were."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sca.data.batches import Batch
from sca.modeling.image_encoder import ImageFeatures
from sca.modeling.sca import Sca
from sca.training.prompting import encode, fuse_prompts, normalise


class KeptTokens:
    """A model as it was when a stage began, for what its mixer says of any region ("learning without forgetting")."""

    def __init__(self, model: Sca) -> None:
        self._model = deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def of(self, batch: Batch, clicks: bool) -> Tensor:
        """The mixer's caption tokens (P, Nc, C) of a batch's prompts."""
        model = self._model
        image = encode(model, normalise(batch.pixels, model), frozen_backbone=True)
        tokens, features = fuse_prompts(model, image.embedding, model.image_pe(), batch, clicks)
        return mixed_tokens(model, image, tokens, features, batch)

    @property
    def state(self) -> dict[str, Tensor]:
        return self._model.state_dict()

    def load(self, state: dict[str, Any]) -> None:
        self._model.load_state_dict(state)


def mixed_tokens(model: Sca, image: ImageFeatures, tokens: Tensor, features: Tensor, batch: Batch) -> Tensor:
    """The mixer's caption tokens (P, Nc, C) from the mask decoder's tokens and image features."""
    regions = model.region_tokens(image, batch.prompt_boxes)
    mixed: Tensor = model.mixer(tokens, features, model.image_pe(), regions)
    return mixed


def token_drift(mixed: Tensor, kept: Tensor) -> Tensor:
    """Mean squared distance of caption tokens (P, Nc, C) from what they were, in units of their variance."""
    return F.mse_loss(mixed, kept) / kept.var().clamp(min=1e-6)
