"""The causal language model that turns the prefix of a region into its caption."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from sca.config import LanguageModelConfig
from sca.errors import UserError

# Old configurations name these differently from the class's own defaults, and transformers converts them.
_RENAMED_SETTINGS = frozenset({"rope_theta", "rope_scaling"})
# Weights are always built in float32; a config's stored dtype says how somebody once saved them.
_IGNORED_SETTINGS = frozenset({"dtype", "torch_dtype", "transformers_version", "architectures", "model_type"})


def transformers_config(config: LanguageModelConfig) -> PreTrainedConfig:
    """transformers' configuration of this language model.

    Settings that its class does not know (generation defaults that old versions stored there) are left out.
    UserError for an unknown model type.
    """
    if config.model_type not in CONFIG_MAPPING:
        raise UserError(
            f"unknown language model type {config.model_type!r}: use one that transformers has, such as gpt2 or llama"
        )
    config_class = CONFIG_MAPPING[config.model_type]
    known = (set(config_class().to_dict()) | _RENAMED_SETTINGS) - _IGNORED_SETTINGS
    return config_class(**{key: value for key, value in config.settings.items() if key in known})


def build_language_model(config: LanguageModelConfig) -> PreTrainedModel:
    """The language model with fresh float32 weights."""
    return AutoModelForCausalLM.from_config(transformers_config(config), dtype=torch.float32)


def hidden_size(config: LanguageModelConfig) -> int:
    """Width of the embeddings that the language model reads."""
    return int(transformers_config(config).hidden_size)


def embed_tokens(model: PreTrainedModel, token_ids: Tensor) -> Tensor:
    """Token ids (..., L) to input embeddings (..., L, H)."""
    embedding = model.get_input_embeddings()
    assert isinstance(embedding, nn.Module)
    return embedding(token_ids)
