"""Points, boxes and masks to prompt embeddings."""

from __future__ import annotations

import math

import torch
from segment_anything import modeling
from torch import Tensor

from sca.config import ScaConfig
from sca.errors import UserError

BACKGROUND, FOREGROUND, PAD, IGNORE = 0, 1, -1, -10


class PromptEncoder(modeling.PromptEncoder):
    """SAM's prompt encoder with the conventions of the released SCA models (spec section 1.1).

    Coordinates are pixels of the model's input square, unshifted; +0.5 is added here. They and their Fourier phases
    stay in at least float32 even in a half-precision model: phases reach 20 rad.
    """

    def __init__(self, config: ScaConfig) -> None:
        super().__init__(
            embed_dim=config.width,
            image_embedding_size=(config.grid_size, config.grid_size),
            input_image_size=(config.image_size, config.image_size),
            mask_in_chans=config.prompt_encoder.mask_channels,
        )

    def forward(
        self,
        points: tuple[Tensor, Tensor | None] | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Embed P prompts.

        points: coordinates (P, n, 2) xy and labels (P, n), None for all foreground: 1 foreground, 0 background, -1 pad
        point, -10 to be ignored. boxes (P, 4) xyxy. masks (P or 1, 1, 4g, 4g) logits.
        Returns sparse (P, k, C) with k = n + 1 for points alone, 2 for a box, n + 2 for both (points first), and
        dense (P or 1, C, g, g). UserError if neither points nor boxes are given.
        """
        parts = []
        if points is not None:
            coords, labels = points
            if labels is None:
                labels = torch.full(coords.shape[:2], FOREGROUND, device=coords.device)
            if boxes is None:
                coords = torch.cat([coords, coords.new_zeros(coords.shape[0], 1, 2)], dim=1)
                labels = torch.cat([labels, labels.new_full((labels.shape[0], 1), PAD)], dim=1)
            parts.append(self._embed_points(coords, labels))
        if boxes is not None:
            parts.append(self._embed_boxes(boxes))
        if not parts:
            raise UserError("no prompt: give points, boxes or both")
        if masks is not None:
            dense = self.mask_downscaling(masks)
        else:
            dense = self.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(1, -1, *self.image_embedding_size)
        return torch.cat(parts, dim=1), dense

    def get_dense_pe(self) -> Tensor:
        """Positional encoding of the grid's cell centres, (1, C, g, g)."""
        side = self.image_embedding_size[0]
        weight = self.no_mask_embed.weight
        centres = (torch.arange(side, device=weight.device, dtype=torch.float32) + 0.5) / side
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        return self._encode(torch.stack([x, y], dim=-1)).permute(2, 0, 1).unsqueeze(0).to(weight.dtype)

    def _embed_points(self, points: Tensor, labels: Tensor, pad: bool = False) -> Tensor:
        assert not pad, "forward appends the pad point"
        label = labels.unsqueeze(-1)
        weights = [embedding.weight for embedding in self.point_embeddings]
        out = self._encode_pixels(points)
        out = out + (label == BACKGROUND) * weights[0] + (label == FOREGROUND) * weights[1]
        out = torch.where(label == PAD, self.not_a_point_embed.weight, out)
        return out.masked_fill(label == IGNORE, 0.0)

    def _embed_boxes(self, boxes: Tensor) -> Tensor:
        corners = self._encode_pixels(boxes.reshape(-1, 2, 2))
        return corners + torch.stack(
            [self.point_embeddings[2].weight, self.point_embeddings[3].weight], dim=1
        )

    def _encode_pixels(self, coords: Tensor) -> Tensor:
        normalised = (coords + 0.5) / self.input_image_size[0]
        return self._encode(normalised).to(self.no_mask_embed.weight.dtype)

    def _encode(self, unit_coords: Tensor) -> Tensor:
        gaussian = self.pe_layer.positional_encoding_gaussian_matrix.float()
        phases = 2 * math.pi * ((2 * unit_coords - 1).to(gaussian.dtype) @ gaussian)
        return torch.cat([phases.sin(), phases.cos()], dim=-1)
