"""Models small enough for a test, with random weights large enough that every path matters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn

from sca.config import (
    BoxProposalsConfig,
    LanguageModelConfig,
    MaskDecoderConfig,
    MixerConfig,
    PromptEncoderConfig,
    RegionReaderConfig,
    ScaConfig,
    TimmEncoderConfig,
    VitEncoderConfig,
)
from sca.modeling import Sca, build

VOCABULARY = 61
EOS = 60

GPT2 = LanguageModelConfig(
    "gpt2",
    {
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 48,
        "vocab_size": VOCABULARY,
        "bos_token_id": EOS,
        "eos_token_id": EOS,
        "pad_token_id": EOS,
    },
)
# A head width that is no power of two, and grouped keys.
LLAMA = LanguageModelConfig(
    "llama",
    {
        "hidden_size": 40,
        "intermediate_size": 72,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "vocab_size": VOCABULARY,
        "bos_token_id": 1,
        "eos_token_id": EOS,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
    },
)


def tiny_config(language_model: LanguageModelConfig = GPT2, **changes: Any) -> ScaConfig:
    """A whole model of the released architecture, 128 px, with a window that does not divide the grid."""
    values: Mapping[str, Any] = {
        "image_size": 128,
        "encoder": VitEncoderConfig(
            embed_dim=32,
            depth=2,
            num_heads=2,
            mlp_dim=72,
            window_size=3,
            global_attn_indexes=(1,),
            out_channels=32,
        ),
        "prompt_encoder": PromptEncoderConfig(mask_channels=16),
        "mask_decoder": MaskDecoderConfig(num_heads=4, mlp_dim=40, iou_head_hidden_dim=24),
        "mixer": MixerConfig(depth=2, num_heads=4, mlp_dim=40, num_caption_tokens=3),
        "language_model": language_model,
        "num_task_tokens": 2,
    }
    return ScaConfig(**{**values, **changes})


def region_token_config(proposals: bool = False) -> ScaConfig:
    """The architecture with region tokens on a convolutional encoder, with a head that proposes boxes if asked."""
    return tiny_config(
        encoder=TimmEncoderConfig(out_channels=32, region_channels=16),
        mixer=MixerConfig(depth=2, num_heads=4, mlp_dim=40, num_caption_tokens=3, region_grid=2),
        proposals=BoxProposalsConfig(width=16) if proposals else None,
    )


def region_reader_config(own_backbone: bool = True) -> ScaConfig:
    """The shipped model's architecture: region tokens, and a reader of a caption map, by default of its own backbone."""
    own = {"caption_backbone": "tf_efficientnet_lite1", "caption_size": 160} if own_backbone else {}
    return tiny_config(
        encoder=TimmEncoderConfig(out_channels=32, region_channels=16, caption_channels=24, **own),
        mixer=MixerConfig(depth=2, num_heads=4, mlp_dim=40, num_caption_tokens=3, region_grid=2),
        reader=RegionReaderConfig(grid=2, num_heads=4, mlp_dim=40),
    )


def tiny_model(config: ScaConfig | None = None, seed: int = 0) -> Sca:
    """Built at random, then stirred: fresh initialisation is near-constant and would hide mistakes."""
    torch.manual_seed(seed)
    model = build(config or tiny_config())
    stir(model)
    return model


def stir(module: nn.Module, scale: float = 0.15) -> None:
    """Add noise to every parameter, in place."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * scale)


def word_tokenizer() -> Tokenizer:
    """A tokenizer whose id i is the word "wi", and EOS."""
    words = {f"w{i}": i for i in range(VOCABULARY - 1)} | {"<eos>": EOS}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["<eos>"])
    return tokenizer
