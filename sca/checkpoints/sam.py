"""Parameter names: ours, which are `segment_anything`'s, against Hugging Face's (spec section 2)."""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor

from sca.checkpoints.strict_loading import check, fill, resize_position_tables
from sca.checkpoints.tensor_files import read_tensors, read_weights
from sca.config import ScaConfig
from sca.modeling import Sca

PROMPT_POSITIONS = "prompt_encoder.shared_embedding.positional_embedding"
IMAGE_POSITIONS = "shared_image_embedding.positional_embedding"

SAM_PARTS = ("image_encoder.", "prompt_encoder.", "mask_decoder.")

# Applied in this order to one of our names outside the language model.
_RULES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^mixer\.caption_tokens\.", "mask_decoder.caption_tokens."),
        (r"^mixer\.transformer\.", "mask_decoder.additional_transformer."),
        (r"^image_encoder\.", "vision_encoder."),
        (r"^vision_encoder\.blocks\.", "vision_encoder.layers."),
        (r"^vision_encoder\.patch_embed\.proj\.", "vision_encoder.patch_embed.projection."),
        (r"^vision_encoder\.neck\.0\.", "vision_encoder.neck.conv1."),
        (r"^vision_encoder\.neck\.1\.", "vision_encoder.neck.layer_norm1."),
        (r"^vision_encoder\.neck\.2\.", "vision_encoder.neck.conv2."),
        (r"^vision_encoder\.neck\.3\.", "vision_encoder.neck.layer_norm2."),
        (r"\.norm(\d|_final_attn)\.", r".layer_norm\1."),
        (r"^prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix$", PROMPT_POSITIONS),
        (r"^prompt_encoder\.point_embeddings\.", "prompt_encoder.point_embed."),
        (r"^prompt_encoder\.mask_downscaling\.0\.", "prompt_encoder.mask_embed.conv1."),
        (r"^prompt_encoder\.mask_downscaling\.1\.", "prompt_encoder.mask_embed.layer_norm1."),
        (r"^prompt_encoder\.mask_downscaling\.3\.", "prompt_encoder.mask_embed.conv2."),
        (r"^prompt_encoder\.mask_downscaling\.4\.", "prompt_encoder.mask_embed.layer_norm2."),
        (r"^prompt_encoder\.mask_downscaling\.6\.", "prompt_encoder.mask_embed.conv3."),
        (r"^mask_decoder\.output_upscaling\.0\.", "mask_decoder.upscale_conv1."),
        (r"^mask_decoder\.output_upscaling\.1\.", "mask_decoder.upscale_layer_norm."),
        (r"^mask_decoder\.output_upscaling\.3\.", "mask_decoder.upscale_conv2."),
    )
]
_HEAD = re.compile(
    r"^(mask_decoder\.(?:iou_prediction_head|output_hypernetworks_mlps\.\d+))\.layers\.(\d+)\.(.*)$"
)
_HYPERNETWORK_DEPTH = 3

# Buffers that old versions of transformers stored although they follow from the configuration.
_DERIVED_BUFFERS = re.compile(
    r"^language_model\.(model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq|transformer\.h\.\d+\.attn\.(masked_)?bias)$"
)


def hugging_face_name(name: str, config: ScaConfig) -> str:
    """Our name of a parameter or buffer, as a released SCA or a Hugging Face SAM file calls it."""
    if name.startswith("language_model."):
        return name
    head = _HEAD.match(name)
    if head:
        stem, index, rest = head[1], int(head[2]), head[3]
        depth = config.mask_decoder.iou_head_depth if "iou_prediction" in stem else _HYPERNETWORK_DEPTH
        if index == 0:
            layer = "proj_in"
        elif index == depth - 1:
            layer = "proj_out"
        else:
            layer = f"layers.{index - 1}"
        return f"{stem}.{layer}.{rest}"
    for pattern, replacement in _RULES:
        name = pattern.sub(replacement, name)
    return name


def is_derived_buffer(name: str) -> bool:
    """Whether a released file may hold this and nobody needs it."""
    return _DERIVED_BUFFERS.match(name) is not None


# SAM weights, from a segment-anything .pth or a Hugging Face SAM directory, into the SAM part of a model.

_REMEDY = "Use an unmodified SAM checkpoint of the size that the model's config names (vit_b, vit_l or vit_h)"
_PREPROCESSING = ("pixel_mean", "pixel_std")


def load_sam_weights(model: Sca, path: Path) -> None:
    """Fill image encoder, prompt encoder and mask decoder of `model`; the rest stays as it is.

    path: a segment-anything .pth file, or a directory in Hugging Face layout. Positions are interpolated if the model
    has another input side. UserError lists every tensor that is missing, unexpected or of the wrong shape.
    """
    given = read_weights(path) if path.is_dir() else read_tensors(path)
    fill(model, sam_to_our_names(model, given, origin=str(path)))


def sam_to_our_names(model: Sca, given: dict[str, Tensor], *, origin: str) -> dict[str, Tensor]:
    """SAM tensors of either origin under the names of our model, checked strictly."""
    wanted = {name: value for name, value in model.state_dict().items() if name.startswith(SAM_PARTS)}
    given = {name: value for name, value in given.items() if name not in _PREPROCESSING}
    if any(name.startswith("vision_encoder.") for name in given):
        if IMAGE_POSITIONS in given:
            positions = given.pop(IMAGE_POSITIONS)
            given.setdefault(PROMPT_POSITIONS, positions)
        ours = {hugging_face_name(name, model.config): name for name in wanted}
        given = {ours.get(name, name): value for name, value in given.items()}
    resize_position_tables(given, wanted)
    check(origin, wanted, given, remedy=_REMEDY)
    return given
