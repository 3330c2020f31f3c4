"""Writing the layout of the released checkpoints: their config.json, the names of their tensors, a tokenizer beside them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sca.checkpoints.released_tokenizer import PIECES, SentencePieceTokenizer
from sca.checkpoints.sam import IMAGE_POSITIONS, PROMPT_POSITIONS, hugging_face_name
from sca.config import RELEASED_ARCHITECTURE, ScaConfig, VitEncoderConfig
from sca.errors import UserError
from sca.modeling import Sca

AnyTokenizer = Tokenizer | PreTrainedTokenizerBase | SentencePieceTokenizer


def save_released(
    model: Sca,
    directory: Path | str,
    *,
    tokenizer: AnyTokenizer | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write config.json, model.safetensors and the tokenizer's files in the released layout; `load_released` reads them.

    dtype: of the stored tensors; None stores their own bits. UserError for a model of another architecture.
    """
    directory = Path(directory)
    config = released_config(model.config)
    state = released_state(model)
    directory.mkdir(parents=True, exist_ok=True)
    stored: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in state.items():
        value = value.detach().cpu()
        if dtype is not None and value.is_floating_point() and "positional_embedding" not in name:
            value = value.to(dtype)
        # The layout holds tied tensors twice, which safetensors takes as two tensors only.
        if value.data_ptr() in seen:
            value = value.clone()
        seen.add(value.data_ptr())
        stored[name] = value.contiguous()
    save_file(stored, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if tokenizer is not None:
        save_tokenizer(tokenizer, directory)


def save_tokenizer(tokenizer: AnyTokenizer, directory: Path) -> None:
    """Write a tokenizer's own files."""
    if isinstance(tokenizer, SentencePieceTokenizer):
        if tokenizer.path.resolve() != (directory / PIECES).resolve():
            shutil.copyfile(tokenizer.path, directory / PIECES)
        settings = {
            "tokenizer_class": "LlamaTokenizer",
            "add_bos_token": tokenizer.add_bos,
            "add_eos_token": tokenizer.add_eos,
        }
    elif isinstance(tokenizer, Tokenizer):
        tokenizer.save(str(directory / "tokenizer.json"))
        settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
    else:
        tokenizer.save_pretrained(str(directory))
        return
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def released_state(model: Sca) -> dict[str, Tensor]:
    """The model's tensors under the released names, each in every place where the layout holds it. Copies nothing."""
    state = {hugging_face_name(name, model.config): value for name, value in model.state_dict().items()}
    state[IMAGE_POSITIONS] = state[PROMPT_POSITIONS]
    return state


def released_config(config: ScaConfig) -> dict[str, Any]:
    """The config.json of a released checkpoint of this shape; `ScaConfig.from_released` is its inverse.

    UserError for what the released architecture does not have.
    """
    encoder, decoder, mixer = config.encoder, config.mask_decoder, config.mixer
    if not isinstance(encoder, VitEncoderConfig) or mixer.region_grid or config.reader is not None:
        raise UserError(
            "the released layout knows a ViT encoder and a mixer without region tokens: save this model with save_shipped"
        )
    heads = (mixer.num_heads, mixer.mlp_dim, mixer.attention_downsample_rate, mixer.layer_norm_eps)
    if heads != (
        decoder.num_heads,
        decoder.mlp_dim,
        decoder.attention_downsample_rate,
        decoder.layer_norm_eps,
    ):
        raise UserError(
            "the released layout has one width, number of heads and eps for mask decoder and mixer: save this model "
            "with save_shipped"
        )
    language = config.language_model
    return {
        "architectures": [RELEASED_ARCHITECTURE],
        "model_type": "sca",
        "num_task_tokens": config.num_task_tokens,
        "vl_projector_type": "linear",
        "vl_projector_norm_type": "none",
        "use_decoder_only_language_model": True,
        "tie_word_embeddings": bool(language.settings.get("tie_word_embeddings", True)),
        "initializer_range": config.initializer_range,
        "vision_config": {
            "hidden_size": encoder.embed_dim,
            "output_channels": encoder.out_channels,
            "num_hidden_layers": encoder.depth,
            "num_attention_heads": encoder.num_heads,
            "num_channels": 3,
            "image_size": config.image_size,
            "patch_size": encoder.patch_size,
            "hidden_act": "gelu",
            "layer_norm_eps": encoder.layer_norm_eps,
            "attention_dropout": 0.0,
            "qkv_bias": encoder.qkv_bias,
            "mlp_ratio": encoder.mlp_dim / encoder.embed_dim,
            "use_abs_pos": encoder.use_abs_pos,
            "use_rel_pos": encoder.use_rel_pos,
            "window_size": encoder.window_size,
            "global_attn_indexes": list(encoder.global_attn_indexes),
            "num_pos_feats": encoder.out_channels // 2,
            "mlp_dim": encoder.mlp_dim,
        },
        "prompt_encoder_config": {
            "hidden_size": encoder.out_channels,
            "image_size": config.image_size,
            "patch_size": encoder.patch_size,
            "image_embedding_size": config.grid_size,
            "mask_input_channels": config.prompt_encoder.mask_channels,
            "num_point_embeddings": 4,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-6,
        },
        "mask_caption_decoder_config": {
            "hidden_size": encoder.out_channels,
            "hidden_act": "relu",
            "mlp_dim": decoder.mlp_dim,
            "num_hidden_layers": decoder.depth,
            "num_attention_heads": decoder.num_heads,
            "attention_downsample_rate": decoder.attention_downsample_rate,
            "num_multimask_outputs": decoder.num_multimask_outputs,
            "iou_head_depth": decoder.iou_head_depth,
            "iou_head_hidden_dim": decoder.iou_head_hidden_dim,
            "layer_norm_eps": decoder.layer_norm_eps,
            "additional_num_hidden_layers": mixer.depth,
            "num_caption_tokens": mixer.num_caption_tokens,
            "num_caption_heads": 1,
        },
        "text_config": {
            **language.settings,
            "model_type": language.model_type,
            "_name_or_path": language.name,
        },
    }
