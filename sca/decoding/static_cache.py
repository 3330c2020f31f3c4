"""A language model over a key-value cache of fixed shape, where every row stands at its own position.

Fixed shapes are what compilers and CUDA graphs want; rows at different positions are what lets a new caption join while
others are under way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

from sca.errors import UserError
from sca.modeling.language_model import embed_tokens


@dataclass(frozen=True)
class CacheShape:
    """Layers, key-value heads, positions and width of a head of a language model's cache."""

    layers: int
    heads: int
    length: int
    head_dim: int

    @classmethod
    def of(cls, model: PreTrainedModel, length: int) -> CacheShape:
        """The shape for `length` positions. UserError if the model has fewer."""
        config = model.config
        positions = getattr(config, "max_position_embeddings", None)
        if positions is not None and length > positions:
            raise UserError(
                f"the language model has {positions} positions, {length} were asked for: ask for fewer tokens"
            )
        heads = int(config.num_attention_heads)
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        kept = getattr(config, "num_key_value_heads", None) or heads
        return cls(int(config.num_hidden_layers), int(kept), length, int(head_dim))

    def empty(self, rows: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """A cache of zeros: (layers, 2, rows, heads, length, head_dim), keys before values."""
        return torch.zeros(
            (self.layers, 2, rows, self.heads, self.length, self.head_dim), dtype=dtype, device=device
        )


class RowCache(Cache):
    """Hands a model's layers their part of a fixed cache, and writes one new token per row into it.

    content (layers, 2, R, heads, length, head_dim); positions (R,): where each row's new keys and values go.
    """

    def __init__(self, content: Tensor, positions: Tensor) -> None:
        super().__init__(layers=[])
        self._content = content
        self._positions = positions.reshape(-1, 1, 1, 1)
        places = torch.arange(content.shape[-2], device=content.device)
        # Decides who sees what. A row attends to what it has written so far and to its new token.
        self.mask = (places <= positions.unsqueeze(1)).reshape(-1, 1, 1, content.shape[-2])

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """New keys and values (R, heads, 1, head_dim) in; those of all positions (R, heads, length, head_dim) out."""
        keys, values = self._content[layer_idx].unbind(0)
        where = self._positions.expand(-1, key_states.shape[1], 1, key_states.shape[-1])
        keys.scatter_(2, where, key_states)
        values.scatter_(2, where, value_states)
        return keys, values


class ReadOnlyCache(Cache):
    """Hands a model's layers their part of a fixed cache and collects what is new, as a graph without side effects.

    content: keys, then values, of each layer in turn, each (R, heads, length, head_dim); positions (R,): how many of
    the `length` places of each row are filled.
    """

    def __init__(self, content: Sequence[Tensor], positions: Tensor) -> None:
        super().__init__(layers=[])
        self.added: list[Tensor] = []
        self._content = content
        length = content[0].shape[-2]
        places = torch.arange(length + 1, device=positions.device)
        # A row attends to what is filled, and to its new token, which comes after the last place.
        mask = (places < positions.unsqueeze(1)) | (places == length)
        self.mask = mask.reshape(-1, 1, 1, length + 1)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """New keys and values (R, heads, 1, head_dim) in; those and the filled ones, (R, heads, length + 1, head_dim), out."""
        self.added.append(torch.stack([key_states.squeeze(2), value_states.squeeze(2)], dim=1))
        keys, values = self._content[2 * layer_idx], self._content[2 * layer_idx + 1]
        return torch.cat([keys, key_states], dim=2), torch.cat([values, value_states], dim=2)


class _PrefixCache(Cache):
    """Collects the keys and values of a prefix."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.collected: list[Tensor] = []

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        self.collected.append(torch.stack([key_states, value_states]))
        return key_states, value_states


def prefill(model: PreTrainedModel, prefix: Tensor) -> tuple[Tensor, Tensor]:
    """Prefixes (R, n, H) to logits (R, V) of the next token and the cache (layers, 2, R, heads, n, head_dim)."""
    cache = _PrefixCache()
    output = _read_prefix(model, prefix, cache)
    return output.logits[:, -1].float(), torch.stack(cache.collected)


def prefill_with_state(model: PreTrainedModel, prefix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same, and the last hidden state (R, H) that the logits were made of."""
    cache = _PrefixCache()
    output = _read_prefix(model, prefix, cache, output_hidden_states=True)
    return output.logits[:, -1].float(), torch.stack(cache.collected), _last_state(output)


def step(
    model: PreTrainedModel, token_ids: Tensor, cache: RowCache | ReadOnlyCache, positions: Tensor
) -> Tensor:
    """The tokens (R,) at `positions` (R,) to logits (R, V) of the next ones; `cache` takes in what they add."""
    return _read_token(model, token_ids, cache, positions).logits[:, -1].float()


def step_with_state(
    model: PreTrainedModel, token_ids: Tensor, cache: RowCache | ReadOnlyCache, positions: Tensor
) -> tuple[Tensor, Tensor]:
    """The same, and the last hidden state (R, H) that the logits were made of."""
    output = _read_token(model, token_ids, cache, positions, output_hidden_states=True)
    return output.logits[:, -1].float(), _last_state(output)


def _read_prefix(model: PreTrainedModel, prefix: Tensor, cache: _PrefixCache, **more: Any) -> Any:
    # All prefixes have one length, so no row needs padding: each place sees itself and what stands before it.
    length = prefix.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=prefix.device).tril()
    return model(
        inputs_embeds=prefix,
        attention_mask=causal[None, None],
        position_ids=torch.arange(length, device=prefix.device).unsqueeze(0),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
        **more,
    )


def _read_token(
    model: PreTrainedModel,
    token_ids: Tensor,
    cache: RowCache | ReadOnlyCache,
    positions: Tensor,
    **more: Any,
) -> Any:
    return model(
        inputs_embeds=embed_tokens(model, token_ids.unsqueeze(1)),
        attention_mask=cache.mask,
        position_ids=positions.unsqueeze(1),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
        **more,
    )


def _last_state(output: Any) -> Tensor:
    state: Tensor = output.hidden_states[-1][:, -1].float()
    return state


def end_mask(token_ids: Tensor, ends: Sequence[int]) -> Tensor:
    """Which of the tokens end a caption, by comparisons alone, as CUDA graphs and exporters take them."""
    found = torch.zeros_like(token_ids, dtype=torch.bool)
    for end in ends:
        found = found | (token_ids == end)
    return found
