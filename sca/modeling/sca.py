"""Segment and Caption Anything: the modules joined (paper section 3, spec section 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sca.config import ScaConfig
from sca.errors import UserError
from sca.modeling.box_proposals import BoxProposals, ProposedBoxes
from sca.modeling.image_encoder import ImageFeatures, build_image_encoder, encode_image
from sca.modeling.language_model import build_language_model, embed_tokens, hidden_size
from sca.modeling.mask_decoder import MaskDecoder, MaskDecoding
from sca.modeling.mixer import Mixer, RegionPooler
from sca.modeling.prompt_encoder import PromptEncoder
from sca.modeling.region_reader import RegionReader

TASKS = ("recognition", "caption")
IGNORED_LABEL = -100


class CaptionLoss(NamedTuple):
    """loss: scalar, label-smoothed mean cross-entropy. logits (P, L + 1, V); logits[:, :-1] predict labels[:, 1:].

    labels (P, L + 1): -100 in front and at padding.
    """

    loss: Tensor
    logits: Tensor
    labels: Tensor


class Sca(nn.Module):
    """The whole model. Nothing is frozen; `released_trainable_parameters` names what the paper trains.

    Prompts are in pixels of the S x S model input. P = B * M prompts belong to B images, image-major.
    """

    def __init__(self, config: ScaConfig) -> None:
        super().__init__()
        self.config = config
        self.image_encoder = build_image_encoder(config)
        self.prompt_encoder = PromptEncoder(config)
        self.mask_decoder = MaskDecoder(config)
        self.mixer = Mixer(config)
        self.region_pooler = RegionPooler(config) if config.mixer.region_grid else None
        self.region_reader = RegionReader(config) if config.reader is not None else None
        self.box_proposals = BoxProposals(config) if config.proposals is not None else None
        text_width = hidden_size(config.language_model)
        self.language_project = nn.Linear(config.width, text_width)
        self.task_tokens = nn.Embedding(len(TASKS) * config.num_task_tokens, text_width)
        self.initialise_fresh_modules()
        self.language_model = build_language_model(config.language_model)

    def initialise_fresh_modules(self) -> None:
        """N(0, initializer_range) for what SAM and the language model do not bring (spec section 1.5)."""
        fresh: list[nn.Module] = [self.mixer, self.language_project, self.task_tokens]
        fresh += [part for part in (self.region_pooler, self.region_reader) if part is not None]
        for module in (inner for outer in fresh for inner in outer.modules()):
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=self.config.initializer_range)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def released_trainable_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that the paper trains: mixer, caption tokens, projection and task tokens.

        Region tokens, which the released models lack, belong to the mixer.
        """
        prefixes = ("mixer.", "region_pooler.", "region_reader.", "language_project.", "task_tokens.")
        return {name: value for name, value in self.named_parameters() if name.startswith(prefixes)}

    @property
    def needs_boxes(self) -> bool:
        """Whether captions need the regions' boxes, to pool features inside them."""
        return self.region_pooler is not None or self.region_reader is not None

    def image_pe(self) -> Tensor:
        """Positional encoding of the image embedding, (1, C, g, g)."""
        return self.prompt_encoder.get_dense_pe()

    def encode_image(self, pixels: Tensor) -> ImageFeatures:
        """Normalised pixels (B, 3, S, S) to image features."""
        return encode_image(self.image_encoder, pixels, with_region_map=self.needs_boxes)

    def decode_masks(
        self,
        image: ImageFeatures,
        *,
        boxes: Tensor | None = None,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        masks: Tensor | None = None,
        multimask: bool = True,
    ) -> MaskDecoding:
        """Decode P prompts on B images.

        boxes (P, 4) xyxy; points (P, n, 2) xy; labels (P, n), see `PromptEncoder`; masks (1, B or P, 1, 4g, 4g)
        logits. At least one of boxes and points.
        """
        sparse, dense = self.prompt_encoder(None if points is None else (points, labels), boxes, masks)
        return self.mask_decoder(image.embedding, self.image_pe(), sparse, dense, multimask)

    def propose(self, image: ImageFeatures) -> ProposedBoxes:
        """Boxes of things in B images, one of every cell. Only of a model with `config.proposals`."""
        assert self.box_proposals is not None
        finer, _ = self.split_region_map(image.region_map)
        assert finer is not None
        proposed: ProposedBoxes = self.box_proposals(image.embedding, finer)
        return proposed

    def region_tokens(self, image: ImageFeatures, boxes: Tensor | None) -> Tensor | None:
        """Region tokens (P, r * r, C) of boxes (P, 4) xyxy on B images, None if the mixer has none."""
        if self.region_pooler is None:
            return None
        finer, _ = self.split_region_map(image.region_map)
        return self.region_pooler(image.embedding, finer, _per_image(image, boxes))

    def split_region_map(self, region_map: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """The part of the finer map that region tokens are pooled from, and the caption map where it is there."""
        own = self.config.encoder.region_channels
        if region_map is None or region_map.shape[1] == own:
            return region_map, None
        finer, caption_map = region_map.split([own, self.config.encoder.caption_channels], dim=1)
        return finer, caption_map

    def mix(
        self, image: ImageFeatures, tokens: Tensor, image_features: Tensor, boxes: Tensor | None = None
    ) -> Tensor:
        """Region tokens (P, Nr, C) from the mask decoder's tokens and image features: `config.num_region_tokens`.

        boxes (P, 4) xyxy: needed only where features are pooled inside the regions.
        """
        mixed = self.mixer(tokens, image_features, self.image_pe(), self.region_tokens(image, boxes))
        return self.with_readings(mixed, image, boxes)

    def with_readings(self, caption_tokens: Tensor, image: ImageFeatures, boxes: Tensor | None) -> Tensor:
        """The mixer's caption tokens (P, Nc, C), and the reader's where the model has one."""
        if self.region_reader is None:
            return caption_tokens
        _, caption_map = self.split_region_map(image.region_map)
        assert caption_map is not None
        readings = self.region_reader.read(caption_map, _per_image(image, boxes))
        tokens: Tensor = self.region_reader(caption_tokens, readings)
        return tokens

    def caption_task(self) -> Tensor:
        """The task tokens (Nt, H) that ask for a caption."""
        return self.task_tokens.weight.unflatten(0, (len(TASKS), -1))[TASKS.index("caption")]

    def language_prefix(self, caption_tokens: Tensor, tasks: Tensor | None = None) -> Tensor:
        """Prefix (P, Nt + Nr, H) that the language model reads: task tokens, then projected caption tokens.

        caption_tokens (P, Nr, C), of `mix`; tasks (P,) int64 indices into `TASKS`, None for captions.
        """
        prompts = caption_tokens.shape[0]
        table = self.task_tokens.weight.unflatten(0, (len(TASKS), -1))
        task = self.caption_task().expand(prompts, -1, -1) if tasks is None else table[tasks]
        return torch.cat([task, self.language_project(caption_tokens)], dim=1)

    def caption_loss(
        self, prefix: Tensor, token_ids: Tensor, attention_mask: Tensor, *, label_smoothing: float = 0.1
    ) -> CaptionLoss:
        """Teacher-forced loss (spec section 1.5).

        prefix (P, n, H); token_ids and attention_mask (P, L), right-padded, each text ending in EOS. A row whose mask
        is all zero counts for nothing, so images with fewer regions can be padded.
        """
        embeds = torch.cat([prefix, embed_tokens(self.language_model, token_ids).to(prefix.dtype)], dim=1)
        ones = attention_mask.new_ones(prefix.shape[:2])
        length = token_ids.shape[1]
        logits = self.language_model(
            inputs_embeds=embeds,
            attention_mask=torch.cat([ones, attention_mask], dim=1),
            use_cache=False,
            logits_to_keep=length + 1,
        ).logits.float()
        labels = F.pad(token_ids.masked_fill(attention_mask == 0, IGNORED_LABEL), (1, 0), value=IGNORED_LABEL)
        loss = F.cross_entropy(
            logits[:, :-1].flatten(0, 1),
            labels[:, 1:].flatten(),
            ignore_index=IGNORED_LABEL,
            label_smoothing=label_smoothing,
        )
        return CaptionLoss(loss, logits, labels)

    def forward_training(
        self,
        pixels: Tensor | ImageFeatures,
        token_ids: Tensor,
        attention_mask: Tensor,
        *,
        boxes: Tensor | None = None,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        masks: Tensor | None = None,
        region_boxes: Tensor | None = None,
        tasks: Tensor | None = None,
        label_smoothing: float = 0.1,
    ) -> CaptionLoss:
        """Teacher-forced caption loss of M regions on each of B images.

        pixels (B, 3, S, S), or image features computed before; token_ids, attention_mask (B, M, L); boxes (B, M, 4);
        points (B, M, n, 2); labels (B, M, n); masks (B, 1, 4g, 4g); tasks (B,) indices into `TASKS`;
        region_boxes (B, M, 4): where to pool region tokens if it is not the box prompt.
        """
        image = pixels if isinstance(pixels, ImageFeatures) else self.encode_image(pixels)
        count = token_ids.shape[1]
        flat_boxes = None if boxes is None else boxes.flatten(0, 1)
        sparse, dense = self.prompt_encoder(
            None
            if points is None
            else (points.flatten(0, 1), None if labels is None else labels.flatten(0, 1)),
            flat_boxes,
            masks,
        )
        tokens, features = self.mask_decoder.fuse(image.embedding, self.image_pe(), sparse, dense)
        region = flat_boxes if region_boxes is None else region_boxes.flatten(0, 1)
        caption_tokens = self.mix(image, tokens, features, region)
        repeated = None if tasks is None else tasks.repeat_interleave(count)
        return self.caption_loss(
            self.language_prefix(caption_tokens, repeated),
            token_ids.flatten(0, 1),
            attention_mask.flatten(0, 1),
            label_smoothing=label_smoothing,
        )


def _per_image(image: ImageFeatures, boxes: Tensor | None) -> Tensor:
    """Boxes (P, 4) of all images as (B, M, 4)."""
    if boxes is None:
        raise UserError("this model pools features inside each region: give the boxes of the regions")
    return boxes.unflatten(0, (image.embedding.shape[0], -1))


def task_indices(tasks: Sequence[str]) -> Tensor:
    """Task names ("caption", "recognition") to indices (P,) int64. UserError for any other name."""
    unknown = sorted(set(tasks) - set(TASKS))
    if unknown:
        raise UserError(f"unknown task {unknown[0]!r}: use one of {', '.join(TASKS)}")
    return torch.tensor([TASKS.index(task) for task in tasks])
