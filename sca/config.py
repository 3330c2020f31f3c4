"""The shape of a model: everything needed to build its modules, and nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from sca.encoder_config import TimmEncoderConfig as TimmEncoderConfig
from sca.encoder_config import VitEncoderConfig as VitEncoderConfig
from sca.errors import UserError
from sca.setting_errors import explain_settings

# The least and the most, for a file may say anything: four crop layers are 341 pictures, 256 points a side 65,536 prompts of each.
_AUTOMATIC_COUNTS = {
    "points_per_side": (1, 256),
    "points_per_batch": (1, 65_536),
    "crop_layers": (0, 4),
    "crop_points_downscale": (1, 64),
    "min_mask_region_area": (0, 1 << 30),
}

# Thresholds of anything mode. They belong to a model: its predicted IoU and the sharpness of its masks set their scale.


@dataclass(frozen=True)
class AutomaticSettings:
    """Thresholds of anything mode; the defaults are the released ones.

    `points_per_side`: grid points along a side of the image; a crop of layer n has
    `crop_points_downscale ** n` times fewer. `points_per_batch`: prompts decoded at a time. `pred_iou_thresh`
    (exceeded) and `stability_score_thresh` (reached) keep a mask, stability being the IoU of the mask at logits
    +-`stability_score_offset`. `box_nms_thresh`, `crop_nms_thresh`: IoU above which the lower-scored box goes, within
    and between crops. `crop_layers`: layer n adds (2 ** n) ** 2 crops that overlap by `crop_overlap_ratio`.
    `min_mask_region_area`: holes and islands below so many pixels are removed; 0 leaves masks as they are.
    """

    points_per_side: int = 32
    points_per_batch: int = 64
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    box_nms_thresh: float = 0.7
    crop_layers: int = 0
    crop_nms_thresh: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_points_downscale: int = 1
    min_mask_region_area: int = 0

    def __post_init__(self) -> None:
        for field_ in dataclasses.fields(self):
            name, value = field_.name, getattr(self, field_.name)
            least, most = _AUTOMATIC_COUNTS.get(name, (-1e6, 1e6))
            counted = name in _AUTOMATIC_COUNTS
            fits = isinstance(value, int if counted else int | float) and not isinstance(value, bool)
            if not fits or not least <= value <= most:
                raise UserError(
                    f"{name} {value!r} must be a {'whole ' if counted else ''}number from {least:g} to {most:g}: give one"
                )

    def to_dict(self) -> dict[str, float]:
        """Plain values, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AutomaticSettings:
        """Read `to_dict`'s layout; UserError for an unknown entry."""
        try:
            return cls(**values)
        except TypeError as error:
            raise UserError(f"bad settings of anything mode ({error}): see AutomaticSettings") from error


RELEASED_ARCHITECTURE = "ScaMultitaskV2Model"

_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class PromptEncoderConfig:
    """SAM's prompt encoder."""

    __pydantic_config__ = _STRICT

    mask_channels: int = 16


@dataclass(frozen=True)
class MaskDecoderConfig:
    """SAM's two-way mask decoder. The final norm keeps the default eps, as in the released models."""

    __pydantic_config__ = _STRICT

    depth: int = 2
    num_heads: int = 8
    mlp_dim: int = 2048
    attention_downsample_rate: int = 2
    num_multimask_outputs: int = 3
    iou_head_depth: int = 3
    iou_head_hidden_dim: int = 256
    layer_norm_eps: float = 1e-6
    final_layer_norm_eps: float = 1e-5


@dataclass(frozen=True)
class MixerConfig:
    """The text feature mixer (paper section 3.2).

    `region_grid`: r > 0 adds r*r tokens pooled from the image features inside the region's box; 0 is the released
    architecture.
    """

    __pydantic_config__ = _STRICT

    depth: int = 12
    num_heads: int = 8
    mlp_dim: int = 2048
    attention_downsample_rate: int = 2
    num_caption_tokens: int = 8
    region_grid: int = 0
    layer_norm_eps: float = 1e-6
    final_layer_norm_eps: float = 1e-5


@dataclass(frozen=True)
class RegionReaderConfig:
    """Region tokens beside the mixer's, see `RegionReader`: grid * grid cells, `depth` attention blocks."""

    __pydantic_config__ = _STRICT

    grid: int = 3
    depth: int = 1
    num_heads: int = 4
    mlp_dim: int = 1024
    dropout: float = 0.1


@dataclass(frozen=True)
class BoxProposalsConfig:
    """A head that proposes boxes of things, see `BoxProposals`: `width` channels of its pyramid."""

    __pydantic_config__ = _STRICT

    width: int = 128


@dataclass(frozen=True)
class LanguageModelConfig:
    """A causal language model of transformers: its `model_type`, the settings of its configuration, and its origin."""

    __pydantic_config__ = _STRICT

    model_type: str = "gpt2"
    settings: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""


@dataclass(frozen=True)
class ScaConfig:
    """A whole Segment-and-Caption-Anything model.

    `image_size`: side of the square input in pixels. `resize`: how an image is brought to that side; "pil-bilinear"
    (antialiased) is what the released models expect, "area" averages source pixels and is faster.
    `pixel_mean`, `pixel_std`: per channel, for RGB in 0..1. `initializer_range`: deviation of fresh weights.
    """

    __pydantic_config__ = _STRICT

    image_size: int = 1024
    encoder: VitEncoderConfig | TimmEncoderConfig = field(default_factory=VitEncoderConfig)
    prompt_encoder: PromptEncoderConfig = field(default_factory=PromptEncoderConfig)
    mask_decoder: MaskDecoderConfig = field(default_factory=MaskDecoderConfig)
    mixer: MixerConfig = field(default_factory=MixerConfig)
    reader: RegionReaderConfig | None = None
    proposals: BoxProposalsConfig | None = None
    language_model: LanguageModelConfig = field(default_factory=LanguageModelConfig)
    num_task_tokens: int = 6
    resize: Literal["pil-bilinear", "area"] = "pil-bilinear"
    pixel_mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    pixel_std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        multiple = self.encoder.size_multiple
        if self.image_size <= 0 or self.image_size % multiple:
            raise UserError(
                f"image_size {self.image_size} is not a positive multiple of {multiple}: choose one"
            )
        if (self.reader is not None) != (self.encoder.caption_channels > 0):
            raise UserError(
                "a region reader and encoder.caption_channels belong together: set both, or neither"
            )
        if self.proposals is not None and (
            not self.encoder.region_channels or self.image_size % 32 or self.proposals.width < 1
        ):
            raise UserError(
                "proposals need an encoder with a finer map (encoder.kind: timm), an image_size that is a multiple of 32 and "
                "a width: set them, or no proposals"
            )
        if isinstance(self.encoder, TimmEncoderConfig):
            own, size = bool(self.encoder.caption_backbone), self.encoder.caption_size
            if own != (size > 0) or size % 32 or (own and not self.encoder.caption_channels):
                raise UserError(
                    "encoder.caption_backbone, caption_size (a multiple of 32) and caption_channels belong together: "
                    "set all three, or no caption_backbone and no caption_size"
                )

    @property
    def grid_size(self) -> int:
        """Side of the image embedding in cells."""
        return self.image_size // self.encoder.grid_stride

    @property
    def width(self) -> int:
        """Channels of the image embedding, the prompts and every decoder token."""
        return self.encoder.out_channels

    @property
    def region_map_channels(self) -> int:
        """Channels of the finer map as a whole: what region tokens are pooled from, then the caption map."""
        return self.encoder.region_channels + self.encoder.caption_channels

    @property
    def num_region_tokens(self) -> int:
        """Tokens that the language model reads of a region: the mixer's caption tokens, then the reader's."""
        read = 0 if self.reader is None else self.reader.grid**2 + 3
        return self.mixer.num_caption_tokens + read

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; `from_dict` is its inverse."""
        return TypeAdapter(ScaConfig).dump_python(self, mode="json")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ScaConfig:
        """Read `to_dict`'s layout. UserError names every unknown or ill-typed entry."""
        try:
            return TypeAdapter(cls).validate_python(values)
        except ValidationError as error:
            raise UserError(
                f"bad model configuration ({explain_settings(error, cls)}): compare it with ScaConfig in sca/config.py"
            ) from None

    @classmethod
    def from_released(cls, values: Mapping[str, Any]) -> ScaConfig:
        """Read the config.json of a released SCA checkpoint.

        UserError when its architecture is another one than `ScaMultitaskV2Model` (variants share every key and shape
        with it, so the name is the only guard), or when it asks for something that this code does not build.
        """
        architectures = list(values.get("architectures") or [])
        if architectures != [RELEASED_ARCHITECTURE]:
            raise UserError(
                f"config.json names architectures {architectures}, expected ['{RELEASED_ARCHITECTURE}']: other "
                "variants of the SCA code compute something else from the same weights; use a released checkpoint"
            )
        try:
            vision, prompt = values["vision_config"], values["prompt_encoder_config"]
            decoder, text = values["mask_caption_decoder_config"], values["text_config"]
            if decoder.get("num_caption_heads", 1) != 1:
                raise UserError("num_caption_heads other than 1 is not supported: use a released checkpoint")
            if values.get("vl_projector_type", "linear") != "linear":
                raise UserError(
                    f"vl_projector_type {values['vl_projector_type']!r} is not supported: use a released checkpoint"
                )
            two_way: dict[str, Any] = {
                "num_heads": decoder["num_attention_heads"],
                "mlp_dim": decoder["mlp_dim"],
                "attention_downsample_rate": decoder["attention_downsample_rate"],
                "layer_norm_eps": decoder["layer_norm_eps"],
            }
            built = cls(
                image_size=vision["image_size"],
                encoder=VitEncoderConfig(
                    embed_dim=vision["hidden_size"],
                    depth=vision["num_hidden_layers"],
                    num_heads=vision["num_attention_heads"],
                    mlp_dim=vision.get("mlp_dim") or int(vision["hidden_size"] * vision["mlp_ratio"]),
                    patch_size=vision["patch_size"],
                    window_size=vision["window_size"],
                    global_attn_indexes=tuple(vision["global_attn_indexes"]),
                    out_channels=vision["output_channels"],
                    qkv_bias=vision["qkv_bias"],
                    use_abs_pos=vision["use_abs_pos"],
                    use_rel_pos=vision["use_rel_pos"],
                    layer_norm_eps=vision["layer_norm_eps"],
                ),
                prompt_encoder=PromptEncoderConfig(mask_channels=prompt["mask_input_channels"]),
                mask_decoder=MaskDecoderConfig(
                    depth=decoder["num_hidden_layers"],
                    num_multimask_outputs=decoder["num_multimask_outputs"],
                    iou_head_depth=decoder["iou_head_depth"],
                    iou_head_hidden_dim=decoder["iou_head_hidden_dim"],
                    **two_way,
                ),
                mixer=MixerConfig(
                    depth=decoder["additional_num_hidden_layers"],
                    num_caption_tokens=decoder["num_caption_tokens"],
                    **two_way,
                ),
                language_model=LanguageModelConfig(
                    model_type=text["model_type"],
                    settings={k: v for k, v in text.items() if k not in ("model_type", "_name_or_path")},
                    name=str(text.get("_name_or_path") or ""),
                ),
                num_task_tokens=values["num_task_tokens"],
                initializer_range=values.get("initializer_range", 0.02),
            )
            # Checked as our own configurations are: a file may say anything.
            return cls.from_dict(dataclasses.asdict(built))
        except KeyError as error:
            raise UserError(
                f"config.json lacks {error}: it is not the config of a released SCA checkpoint"
            ) from error
        except (TypeError, ValueError, AttributeError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"config.json holds what no released SCA checkpoint has ({error}): fetch it again from its origin"
            ) from error


def with_image_size(config: ScaConfig, image_size: int) -> ScaConfig:
    """The same model for another square input side (pixels)."""
    return dataclasses.replace(config, image_size=image_size)
