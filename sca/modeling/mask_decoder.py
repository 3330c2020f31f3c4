"""Prompt embeddings to masks, and to the tokens and image features that captions start from."""

from __future__ import annotations

from typing import NamedTuple

import torch
from segment_anything import modeling
from torch import Tensor

from sca.config import ScaConfig
from sca.modeling.two_way import SharedImageTwoWayTransformer


class MaskDecoding(NamedTuple):
    """What one pass of the mask decoder gives for P prompts.

    mask_logits (P, K, 4g, 4g); iou (P, K) predicted; tokens (P, 5 + k, C): IoU, mask and prompt tokens after the
    two-way transformer; image_features (P, C, g, g): the image as that transformer updated it for each prompt.
    """

    mask_logits: Tensor
    iou: Tensor
    tokens: Tensor
    image_features: Tensor


class MaskDecoder(modeling.MaskDecoder):
    """SAM's mask decoder that hands on its tokens and updated image features (spec section 1.2)."""

    def __init__(self, config: ScaConfig) -> None:
        decoder = config.mask_decoder
        super().__init__(
            transformer_dim=config.width,
            transformer=SharedImageTwoWayTransformer(
                depth=decoder.depth,
                embedding_dim=config.width,
                num_heads=decoder.num_heads,
                mlp_dim=decoder.mlp_dim,
                attention_downsample_rate=decoder.attention_downsample_rate,
                layer_norm_eps=decoder.layer_norm_eps,
                final_layer_norm_eps=decoder.final_layer_norm_eps,
            ),
            num_multimask_outputs=decoder.num_multimask_outputs,
            iou_head_depth=decoder.iou_head_depth,
            iou_head_hidden_dim=decoder.iou_head_hidden_dim,
        )

    def forward(
        self, image_embedding: Tensor, image_pe: Tensor, sparse: Tensor, dense: Tensor, multimask: bool = True
    ) -> MaskDecoding:
        """Decode P = B * M prompts, image-major.

        image_embedding (B, C, g, g), image_pe (1, C, g, g), sparse (P, k, C), dense (1, B or P, C, g, g).
        K = 3 masks with `multimask`, else the single-mask output.
        """
        tokens, features = self.fuse(image_embedding, image_pe, sparse, dense)
        chosen = slice(1, None) if multimask else slice(0, 1)
        masks = self.predict_mask_logits(tokens, features, chosen)
        iou = self.iou_prediction_head(tokens[:, 0])[:, chosen]
        return MaskDecoding(masks, iou, tokens, features)

    def fuse(
        self, image_embedding: Tensor, image_pe: Tensor, sparse: Tensor, dense: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The two-way transformer alone: tokens (P, 5 + k, C) and image features (P, C, g, g), no masks."""
        prompts, images = sparse.shape[0], image_embedding.shape[0]
        outputs = torch.cat([self.iou_token.weight, self.mask_tokens.weight], dim=0)
        tokens = torch.cat([outputs.expand(prompts, -1, -1), sparse], dim=1)
        if dense.shape[0] not in (1, images):
            image_embedding = image_embedding.repeat_interleave(prompts // images, dim=0)
        side = image_embedding.shape[-2:]
        tokens, features = self.transformer(image_embedding + dense, image_pe, tokens)
        return tokens, features.transpose(1, 2).unflatten(2, side)

    def predict_mask_logits(self, tokens: Tensor, features: Tensor, chosen: slice) -> Tensor:
        """Mask logits (P, K, 4g, 4g) of the chosen mask tokens."""
        upscaled = self.output_upscaling(features)
        mask_tokens = tokens[:, 1 : 1 + self.num_mask_tokens]
        indices = range(self.num_mask_tokens)[chosen]
        kernels = torch.stack([self.output_hypernetworks_mlps[i](mask_tokens[:, i]) for i in indices], dim=1)
        return (kernels @ upscaled.flatten(2)).unflatten(2, upscaled.shape[-2:])
