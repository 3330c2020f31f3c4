"""The causal language model that turns the prefix of a region into its caption."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from sca.config import LanguageModelConfig
from sca.errors import UserError
from sca.parts import Registry, registry

# Old configurations name these differently from the class's own defaults, and transformers converts them.
_RENAMED_SETTINGS = frozenset({"rope_theta", "rope_scaling"})
# Weights are always built in float32; a config's stored dtype says how somebody once saved them.
_IGNORED_SETTINGS = frozenset({"dtype", "torch_dtype", "transformers_version", "architectures", "model_type"})


@dataclass(frozen=True)
class LanguageSize:
    """How large a language model is to be that is trained from nothing. `positions`: longest text with its prefix.

    Id 0 of its vocabulary ends a text, begins one and fills up.
    """

    width: int
    layers: int
    heads: int
    positions: int
    vocabulary: int
    dropout: float


class LanguageFamily(Protocol):
    """One kind of causal language model. It reads embeddings and keeps a cache as those of transformers do."""

    def configuration(self, settings: Mapping[str, Any]) -> PreTrainedConfig:
        """The model's configuration; `hidden_size` is the width of the embeddings that it reads."""
        ...

    def build(self, configuration: PreTrainedConfig) -> PreTrainedModel:
        """A model with fresh float32 weights."""
        ...

    def small(self, size: LanguageSize) -> Mapping[str, Any]:
        """Settings for `configuration` of a model of this size, to be trained."""
        ...


class TransformersFamily:
    """Any causal language model that transformers has, by its model type."""

    def __init__(self, model_type: str) -> None:
        self._model_type = model_type

    def configuration(self, settings: Mapping[str, Any]) -> PreTrainedConfig:
        """Settings that the class does not know (generation defaults that old versions stored there) are left out."""
        config_class = CONFIG_MAPPING[self._model_type]
        known = (set(config_class().to_dict()) | _RENAMED_SETTINGS) - _IGNORED_SETTINGS
        return config_class(**{key: value for key, value in settings.items() if key in known})

    def build(self, configuration: PreTrainedConfig) -> PreTrainedModel:
        return AutoModelForCausalLM.from_config(configuration, dtype=torch.float32, trust_remote_code=False)

    def small(self, size: LanguageSize) -> Mapping[str, Any]:
        return {
            "vocab_size": size.vocabulary,
            "max_position_embeddings": size.positions,
            "hidden_size": size.width,
            "intermediate_size": 4 * size.width,
            "num_hidden_layers": size.layers,
            "num_attention_heads": size.heads,
            "num_key_value_heads": size.heads,
            "attention_dropout": size.dropout,
            **_ENDS,
        }


_ENDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}


class Gpt2Family(TransformersFamily):
    """GPT-2, whose configuration has names of its own."""

    def __init__(self) -> None:
        super().__init__("gpt2")

    def small(self, size: LanguageSize) -> Mapping[str, Any]:
        return {
            "vocab_size": size.vocabulary,
            "n_positions": size.positions,
            "n_embd": size.width,
            "n_layer": size.layers,
            "n_head": size.heads,
            "resid_pdrop": size.dropout,
            "embd_pdrop": size.dropout,
            "attn_pdrop": size.dropout,
            **_ENDS,
        }


LANGUAGE_MODELS: Registry[Callable[[], LanguageFamily]] = registry(
    "language model", "language_models", {"gpt2": "sca.modeling.language_model:Gpt2Family"}
)
"""Parts are called without arguments. Their names are model types; transformers' own need no part."""


def language_family(model_type: str) -> LanguageFamily:
    """The family of this model type: ours, one of transformers, or one of an installed package.

    UserError for an unknown one.
    """
    if model_type not in LANGUAGE_MODELS.own and model_type in CONFIG_MAPPING:
        return TransformersFamily(model_type)
    if not LANGUAGE_MODELS.knows(model_type):
        raise UserError(
            f"unknown language model type {model_type!r}: use one that transformers has, such as gpt2 or llama, or "
            "install the package that brings it"
        )
    return LANGUAGE_MODELS.get(model_type)()


def transformers_config(config: LanguageModelConfig) -> PreTrainedConfig:
    """The configuration of this language model. UserError for an unknown model type."""
    return language_family(config.model_type).configuration(config.settings)


def build_language_model(config: LanguageModelConfig) -> PreTrainedModel:
    """The language model with fresh float32 weights."""
    family = language_family(config.model_type)
    return family.build(family.configuration(config.settings))


def hidden_size(config: LanguageModelConfig) -> int:
    """Width of the embeddings that the language model reads."""
    return int(transformers_config(config).hidden_size)


def embed_tokens(model: PreTrainedModel, token_ids: Tensor) -> Tensor:
    """Token ids (..., L) to input embeddings (..., L, H)."""
    embedding = model.get_input_embeddings()
    assert isinstance(embedding, nn.Module)
    return embedding(token_ids)
