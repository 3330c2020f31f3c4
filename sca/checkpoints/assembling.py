"""A new model from a SAM and a causal language model, both with their own weights; what joins them is fresh."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from sca.checkpoint_files import read_json
from sca.checkpoints.released_tokenizer import ReleasedTokenizer, load_released_tokenizer
from sca.checkpoints.sam import sam_to_our_names
from sca.checkpoints.strict_loading import build_without_weights, fill, told_of
from sca.checkpoints.tensor_files import read_tensors, read_weights
from sca.config import (
    LanguageModelConfig,
    MaskDecoderConfig,
    MixerConfig,
    PromptEncoderConfig,
    ScaConfig,
    VitEncoderConfig,
)
from sca.errors import UserError
from sca.modeling import Sca

# What a configuration says about itself and not about its model.
_NOT_SETTINGS = (
    "model_type",
    "_name_or_path",
    "dtype",
    "torch_dtype",
    "transformers_version",
    "architectures",
)


def assemble(
    model_class: type[Sca],
    sam: Path,
    language_model: Path,
    *,
    dtype: torch.dtype = torch.float32,
    **changes: Any,
) -> tuple[Sca, ReleasedTokenizer]:
    """A model of SAM's encoder, prompt encoder and mask decoder, and of the language model, with the tokenizer of the latter.

    sam: a segment_anything .pth, or a directory in Hugging Face layout; language_model: a directory of transformers.
    changes: fields of `ScaConfig`, such as `num_task_tokens` or `mixer`. Mixer, caption tokens, projection and task
    tokens are fresh. UserError names the file that is missing, damaged or of another kind.
    """
    given = read_weights(sam) if sam.is_dir() else read_tensors(sam)
    text = language_configuration(language_model)
    with told_of(sam, "name a SAM such as facebook/sam-vit-base"):
        shape = sam_shape(given, sam)
    config = assembled_config(shape, text, name=str(language_model), **changes)
    with told_of(language_model, "name a SAM and a language model such as gpt2"):
        model = build_without_weights(config, model_class)
    fill(model, sam_to_our_names(model, given, origin=str(sam)), dtype=dtype)
    model.language_model = _language_model(language_model, text, dtype)
    _freshen(model, dtype)
    left = [name for name, value in model.named_parameters() if value.is_meta]
    assert not left, left
    return model, load_released_tokenizer(language_model, model.config)


def assembled_config(sam: ScaConfig, text: PreTrainedConfig, *, name: str, **changes: Any) -> ScaConfig:
    """The shape of a model of these two: as the released ones, unless `changes` says otherwise."""
    settings = json.loads(text.to_json_string(use_diff=False))
    language = LanguageModelConfig(
        model_type=text.model_type,
        settings={key: value for key, value in settings.items() if key not in _NOT_SETTINGS},
        name=name,
    )
    decoder = sam.mask_decoder
    mixer = MixerConfig(
        num_heads=decoder.num_heads,
        mlp_dim=decoder.mlp_dim,
        attention_downsample_rate=decoder.attention_downsample_rate,
        layer_norm_eps=decoder.layer_norm_eps,
    )
    values: dict[str, Any] = {
        "image_size": sam.image_size,
        "encoder": sam.encoder,
        "prompt_encoder": sam.prompt_encoder,
        "mask_decoder": decoder,
        "mixer": mixer,
        "language_model": language,
    }
    try:
        return ScaConfig(**values | changes)
    except TypeError as error:
        raise UserError(f"no such setting of a model ({error}): see ScaConfig") from error


def sam_shape(given: Mapping[str, Tensor], path: Path) -> ScaConfig:
    """The SAM part of a configuration, from the config.json of a directory, else from the shapes of the tensors."""
    if path.is_dir() and (path / "config.json").is_file():
        values = read_json(path / "config.json")
        if values.get("model_type") != "sam":
            raise UserError(
                f"{path / 'config.json'} is of a model of type {values.get('model_type')!r}: name a SAM (facebook/sam-vit-*)"
            )
        return _from_hugging_face(values)
    return _from_tensors(given, path)


def _from_hugging_face(values: Mapping[str, Any]) -> ScaConfig:
    from transformers import SamConfig

    sam: Any = SamConfig.from_dict(dict(values))
    vision, prompt, decoder = sam.vision_config, sam.prompt_encoder_config, sam.mask_decoder_config
    return ScaConfig(
        image_size=vision.image_size,
        encoder=VitEncoderConfig(
            embed_dim=vision.hidden_size,
            depth=vision.num_hidden_layers,
            num_heads=vision.num_attention_heads,
            mlp_dim=vision.mlp_dim or int(vision.hidden_size * vision.mlp_ratio),
            patch_size=vision.patch_size,
            window_size=vision.window_size,
            global_attn_indexes=tuple(vision.global_attn_indexes),
            out_channels=vision.output_channels,
            qkv_bias=vision.qkv_bias,
            use_abs_pos=vision.use_abs_pos,
            use_rel_pos=vision.use_rel_pos,
            layer_norm_eps=vision.layer_norm_eps,
        ),
        prompt_encoder=PromptEncoderConfig(mask_channels=prompt.mask_input_channels),
        mask_decoder=MaskDecoderConfig(
            depth=decoder.num_hidden_layers,
            num_heads=decoder.num_attention_heads,
            mlp_dim=decoder.mlp_dim,
            attention_downsample_rate=decoder.attention_downsample_rate,
            num_multimask_outputs=decoder.num_multimask_outputs,
            iou_head_depth=decoder.iou_head_depth,
            iou_head_hidden_dim=decoder.iou_head_hidden_dim,
            layer_norm_eps=decoder.layer_norm_eps,
        ),
    )


def _from_tensors(given: Mapping[str, Tensor], path: Path) -> ScaConfig:
    """The shape of a segment_anything checkpoint: everything but the number of heads of its decoder stands in its tensors."""
    try:
        positions = given["image_encoder.pos_embed"]
        patch = given["image_encoder.patch_embed.proj.weight"].shape[-1]
        width = positions.shape[-1]
        depth = 1 + max(_number(name, "image_encoder.blocks.") for name in given)
        tables = [given[f"image_encoder.blocks.{i}.attn.rel_pos_h"] for i in range(depth)]
        sides = [(table.shape[0] + 1) // 2 for table in tables]
        head_width = tables[0].shape[1]
        transformer = "mask_decoder.transformer.layers."
        inner = given[f"{transformer}0.cross_attn_token_to_image.q_proj.weight"]
        head = "mask_decoder.iou_prediction_head.layers."
        return ScaConfig(
            image_size=positions.shape[1] * patch,
            encoder=VitEncoderConfig(
                embed_dim=width,
                depth=depth,
                num_heads=width // head_width,
                mlp_dim=given["image_encoder.blocks.0.mlp.lin1.weight"].shape[0],
                patch_size=patch,
                window_size=min(sides),
                global_attn_indexes=tuple(
                    i for i, side in enumerate(sides) if side == positions.shape[1] and side != min(sides)
                ),
                out_channels=given["image_encoder.neck.0.weight"].shape[0],
            ),
            prompt_encoder=PromptEncoderConfig(
                mask_channels=given["prompt_encoder.mask_downscaling.3.weight"].shape[0]
            ),
            mask_decoder=MaskDecoderConfig(
                depth=1 + max(_number(name, transformer) for name in given),
                mlp_dim=given[f"{transformer}0.mlp.lin1.weight"].shape[0],
                attention_downsample_rate=inner.shape[1] // inner.shape[0],
                num_multimask_outputs=given["mask_decoder.mask_tokens.weight"].shape[0] - 1,
                iou_head_depth=1 + max(_number(name, head) for name in given),
                iou_head_hidden_dim=given[f"{head}0.weight"].shape[0],
            ),
        )
    except (KeyError, IndexError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{path} is no SAM checkpoint (it lacks {error}): name a segment_anything .pth, or a directory or hub "
            "repository such as facebook/sam-vit-base"
        ) from error


def _number(name: str, prefix: str) -> int:
    """The layer's number in a tensor's name, -1 if it is none of `prefix`."""
    return int(name.removeprefix(prefix).split(".")[0]) if name.startswith(prefix) else -1


def language_configuration(directory: Path) -> PreTrainedConfig:
    """The configuration of a causal language model's directory. UserError if it is none, or brings code of its own."""
    read_json(directory / "config.json")
    try:
        found: PreTrainedConfig = AutoConfig.from_pretrained(
            str(directory), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # its own checks of a configuration raise errors of many kinds
        raise UserError(
            f"{directory} is no causal language model of transformers ({' '.join(str(error).split())[:200]}): name one such as gpt2"
        ) from error
    if found.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UserError(
            f"{directory} cannot be loaded as a causal language model, its type is {found.model_type!r}: name one such as gpt2"
        )
    return found


def _language_model(directory: Path, text: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(directory),
            config=text,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise UserError(
            f"{directory} cannot be loaded as a causal language model ({' '.join(str(error).split())[:200]}): fetch it again"
        ) from error
    model, report = loaded
    lacks = sorted(report["missing_keys"])
    if lacks:
        raise UserError(
            f"{directory} lacks weights of its language model, such as {lacks[0]}: fetch it again"
        )
    found: PreTrainedModel = model.eval()
    return found


def _freshen(model: Sca, dtype: torch.dtype) -> None:
    """Real weights, as those of a new model, for what neither SAM nor the language model brings."""
    for part in (model.mixer, model.language_project, model.task_tokens):
        part.to_empty(device="cpu")
        for module in part.modules():
            if isinstance(module, nn.LayerNorm):
                module.reset_parameters()
    model.initialise_fresh_modules()
    for part in (model.mixer, model.language_project, model.task_tokens):
        part.to(dtype)
