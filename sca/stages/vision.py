"""A model's compilable stages: image encoder, mask decoder, mixer and the caption encoder of some, each a pure module of tensors in, tensors out.

Mask decoder and mixer are two stages and not one, because masks are made for every prompt and captions only for the
regions that survive filtering. The image is an input of batch one whatever the number of prompts: no stage holds a
copy of it per prompt before a prompt has changed it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from segment_anything.modeling import MaskDecoder
from torch import Tensor, nn
from torch.nn import functional as F

from sca.modeling import Sca
from sca.modeling.image_encoder import VitEncoder
from sca.stages.fused_vit import FusedVit
from sca.stages.names import (
    BOX_PROPOSER,
    CAPTION_ENCODER,
    IMAGE_ENCODER,
    MASK_DECODER,
    MAX_FRAMES,
    MIXER,
    has_caption_encoder,
)
from sca.stages.spec import DynamicAxis, OutputKind, Section, Stage, StageInput, StageOutput

# SAM's mask upscaling as matrix products over image tokens: the same masks without transposed convolutions.


class TokenUpscaling(nn.Module):
    """What `MaskDecoder.output_upscaling` and the product with the mask kernels give, from the same weights.

    A transposed convolution of kernel 2 and stride 2 is a linear map of each cell to its four sub-cells. So the cells
    stay a token axis through both of them, the norm and the activations, and only the finished logits are put in their
    places: K values per pixel to move instead of C / 8. Some compilers also lack transposed convolutions in bfloat16.
    Takes copies of the decoder's weights.
    """

    @torch.no_grad()
    def __init__(self, decoder: MaskDecoder) -> None:
        super().__init__()
        first, norm, _, second, _ = decoder.output_upscaling
        self.first = _sub_cells(first)
        self.norm = nn.LayerNorm(norm.weight.shape[0], eps=norm.eps, device=norm.weight.device)
        self.norm.load_state_dict({"weight": norm.weight, "bias": norm.bias})
        self.second = _sub_cells(second)

    def forward(self, image_tokens: Tensor, kernels: Tensor, side: int) -> Tensor:
        """image_tokens (P, g * g, C) and kernels (P, K, C / 8) to mask logits (P, K, 4g, 4g), g = side."""
        cells = F.gelu(self.norm(self.first(image_tokens).unflatten(-1, (4, -1))))
        pixels = F.gelu(self.second(cells).unflatten(-1, (4, -1))).flatten(1, 3)
        logits = kernels @ pixels.transpose(1, 2)
        # (row, column, sub-row, sub-column, its sub-row, its sub-column) of every value
        placed = logits.unflatten(2, (side, side, 2, 2, 2, 2)).permute(0, 1, 2, 4, 6, 3, 5, 7)
        return placed.flatten(5, 7).flatten(2, 4)


def _sub_cells(conv: nn.ConvTranspose2d) -> nn.Linear:
    """A transposed convolution, kernel 2 and stride 2, as a linear map to (sub-row, sub-column, channel)."""
    assert conv.kernel_size == (2, 2)
    assert conv.stride == (2, 2)
    assert conv.bias is not None
    linear = nn.Linear(conv.in_channels, 4 * conv.out_channels, device=conv.weight.device)
    linear.weight.copy_(conv.weight.permute(2, 3, 1, 0).flatten(0, 2))
    linear.bias.copy_(conv.bias.repeat(4))
    return linear


MAX_PROMPT_TOKENS = 12


class ImageEncoderStage(nn.Module):
    """Pixels (B, 3, S, S) to the image embedding and, where the mixer reads it, the region map."""

    def __init__(self, model: Sca) -> None:
        super().__init__()
        encoder = model.image_encoder
        self.image_encoder = (
            FusedVit(encoder, model.config.image_size) if isinstance(encoder, VitEncoder) else encoder
        )
        self._with_region_map = model.needs_boxes and bool(model.config.region_map_channels)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        if self._with_region_map:
            return tuple(self.image_encoder.forward_with_region_map(pixels))  # type: ignore[operator]
        return (self.image_encoder(pixels),)


class BoxProposerStage(nn.Module):
    """The maps of one image to boxes (1, N, 4) of things, xyxy pixels of the input, and the score (1, N) of each."""

    def __init__(self, model: Sca) -> None:
        super().__init__()
        assert model.box_proposals is not None
        self.box_proposals = model.box_proposals

    def forward(self, embedding: Tensor, fine: Tensor) -> tuple[Tensor, Tensor]:
        boxes, scores = self.box_proposals(embedding, fine)
        return boxes, scores


class MaskDecoderStage(nn.Module):
    """Prompt embeddings to the logits and scores of all masks, the single one first, and what the mixer reads."""

    image_pe: Tensor

    def __init__(self, model: Sca) -> None:
        super().__init__()
        self.mask_decoder = model.mask_decoder
        self.upscaling = TokenUpscaling(model.mask_decoder)
        self.register_buffer("image_pe", model.image_pe().detach().clone(), persistent=False)

    def forward(
        self, embedding: Tensor, sparse: Tensor, dense: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        decoder = self.mask_decoder
        tokens, features = decoder.fuse(embedding, self.image_pe, sparse, dense)
        kernels = torch.stack(
            [mlp(tokens[:, 1 + index]) for index, mlp in enumerate(decoder.output_hypernetworks_mlps)], dim=1
        )
        masks = self.upscaling(features.flatten(2).transpose(1, 2), kernels, embedding.shape[-1])
        return masks, decoder.iou_prediction_head(tokens[:, 0]), tokens, features


class MixerStage(nn.Module):
    """`Sca.mix` on one image: its maps and the boxes are inputs only where features are pooled inside regions."""

    image_pe: Tensor

    def __init__(self, model: Sca) -> None:
        super().__init__()
        self.mixer = model.mixer
        self.region_pooler = model.region_pooler
        self.region_reader = model.region_reader
        self._channels = [model.config.encoder.region_channels, model.config.encoder.caption_channels]
        self.register_buffer("image_pe", model.image_pe().detach().clone(), persistent=False)

    def forward(self, tokens: Tensor, image_features: Tensor, *image_and_boxes: Tensor) -> tuple[Tensor]:
        if not image_and_boxes:
            return (self.mixer(tokens, image_features, self.image_pe),)
        embedding, *maps, boxes = image_and_boxes
        boxes = boxes.unsqueeze(0)
        finer = maps[0] if maps else None
        region_tokens = readings = None
        if self.region_reader is not None:
            finer, caption_map = maps[0].split(self._channels, dim=1)
            readings = self.region_reader.read(caption_map, boxes)
        if self.region_pooler is not None:
            region_tokens = self.region_pooler(embedding, finer, boxes)
        mixed = self.mixer(tokens, image_features, self.image_pe, region_tokens)
        if self.region_reader is None:
            return (mixed,)
        return (self.region_reader(mixed, readings),)


@torch.no_grad()
def image_encoder_stage(model: Sca, max_frames: int = MAX_FRAMES) -> Stage:
    """The image encoder for one to `max_frames` frames at a time; without the caption map where that is a stage of its own."""
    outputs = [StageOutput("image_embedding")]
    if model.needs_boxes and model.config.region_map_channels:
        outputs.append(StageOutput("region_map"))
    if not has_caption_encoder(model.config):
        return _encoder_stage(IMAGE_ENCODER, model, ImageEncoderStage(model), outputs, max_frames)
    from sca.stages.pyramid_sections import Chain, mask_sections

    sections = mask_sections(model.image_encoder)  # type: ignore[arg-type]
    module = Chain(section.module for section in sections)
    return _encoder_stage(IMAGE_ENCODER, model, module, outputs, max_frames, sections)


@torch.no_grad()
def caption_encoder_stage(model: Sca, max_frames: int = MAX_FRAMES) -> Stage:
    """The caption backbone and what is made of it, for one to `max_frames` frames at a time. Only of a model that has one."""
    from sca.stages.pyramid_sections import Chain, caption_sections

    encoder = model.image_encoder
    fine = model.config.image_size // region_stride(model)
    sections = caption_sections(encoder.caption_backbone, encoder.caption_map, fine)  # type: ignore[arg-type]
    module = Chain(section.module for section in sections)
    return _encoder_stage(CAPTION_ENCODER, model, module, [StageOutput("caption_map")], max_frames, sections)


def _encoder_stage(
    name: str,
    model: Sca,
    module: nn.Module,
    outputs: Sequence[StageOutput],
    max_frames: int,
    sections: tuple[Section, ...] = (),
) -> Stage:
    side = model.config.image_size
    frames = DynamicAxis("frames", 1, 1, max_frames) if max_frames > 1 else 1
    pixels = StageInput("pixels", (frames, 3, side, side))
    return Stage(name, module.eval(), (pixels,), tuple(outputs), sections)


@torch.no_grad()
def box_proposer_stage(model: Sca) -> Stage:
    """The maps of one image to boxes of things. Only of a model that proposes them."""
    config, side = model.config, model.config.image_size
    fine = side // region_stride(model)
    return Stage(
        BOX_PROPOSER,
        BoxProposerStage(model).eval(),
        (
            StageInput("embedding", (1, config.width, config.grid_size, config.grid_size)),
            StageInput("fine", (1, config.encoder.region_channels, fine, fine)),
        ),
        (StageOutput("boxes"), StageOutput("scores", OutputKind.SCORES)),
    )


@torch.no_grad()
def mask_decoder_stage(model: Sca, max_prompts: int) -> Stage:
    """Prompt embeddings of one image to masks, scores and tokens, for one to `max_prompts` prompts."""
    width, grid = model.config.width, model.config.grid_size
    prompts = prompts_axis(max_prompts)
    prompt_tokens = DynamicAxis("prompt_tokens", 2, 2, MAX_PROMPT_TOKENS)
    return Stage(
        MASK_DECODER,
        MaskDecoderStage(model).eval(),
        (
            StageInput("embedding", (1, width, grid, grid)),
            StageInput("sparse", (prompts, prompt_tokens, width)),
            StageInput("dense", (1, width, grid, grid)),
        ),
        (
            StageOutput("mask_logits", OutputKind.MASK_LOGITS),
            StageOutput("iou", OutputKind.SCORES),
            StageOutput("decoded_tokens"),
            StageOutput("decoded_image"),
        ),
    )


@torch.no_grad()
def mixer_stage(model: Sca, max_prompts: int) -> Stage:
    """The mask decoder's tokens and image features of one image to what the language model reads of each region."""
    config = model.config
    width, grid = config.width, config.grid_size
    prompts = prompts_axis(max_prompts)
    fewest, most = mixer_tokens(model)
    tokens = DynamicAxis("tokens_per_prompt", fewest, fewest, most)
    inputs = [
        StageInput("tokens", (prompts, tokens, width)),
        StageInput("image_features", (prompts, width, grid, grid)),
    ]
    if model.needs_boxes:
        inputs.append(StageInput("embedding", (1, width, grid, grid)))
        if config.region_map_channels:
            fine = config.image_size // region_stride(model)
            inputs.append(StageInput("region_map", (1, config.region_map_channels, fine, fine)))
        inputs.append(StageInput("boxes", (prompts, 4)))
    return Stage(MIXER, MixerStage(model).eval(), tuple(inputs), (StageOutput("caption_tokens"),))


def mixer_tokens(model: Sca) -> tuple[int, int]:
    """The fewest and the most decoder tokens per prompt that the mixer's stage takes."""
    own = 2 + model.config.mask_decoder.num_multimask_outputs
    return own + 2, own + MAX_PROMPT_TOKENS


def prompts_axis(max_prompts: int) -> DynamicAxis:
    """The axis of prompts, planned for batches of sixteen."""
    return DynamicAxis("prompts", 1, min(16, max_prompts), max_prompts)


def region_stride(model: Sca) -> int:
    """Input pixels per cell of the region map."""
    return int(getattr(model.config.encoder, "region_stride", model.config.encoder.grid_stride))


def model_stages(model: Sca, max_prompts: int) -> tuple[Stage, ...]:
    """All compilable stages of a model, in the order of `sca.stages.names.VISION`."""
    stages = [
        image_encoder_stage(model),
        mask_decoder_stage(model, max_prompts),
        mixer_stage(model, max_prompts),
    ]
    if has_caption_encoder(model.config):
        stages.append(caption_encoder_stage(model))
    if model.box_proposals is not None:
        stages.append(box_proposer_stage(model))
    return tuple(stages)
