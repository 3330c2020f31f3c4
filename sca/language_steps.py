"""What decoding asks of a language model: a prefix first, then one token per row and step, over a cache of fixed shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sca.static_cache import RowCache, prefill, step


class LanguageSteps(Protocol):
    """The two computations of a decoder; a compiled engine may take their place."""

    def prefill(self, prefix: Tensor) -> tuple[Tensor, Tensor]:
        """Prefixes (R, n, H) to logits (R, V) and the cache (layers, 2, R, heads, n, head_dim)."""
        ...

    def step(self, token_ids: Tensor, positions: Tensor, cache: Tensor) -> Tensor:
        """Tokens (R,) at positions (R,) to logits (R, V); their keys and values are written into `cache`.

        cache: (layers, 2, R, heads, length, head_dim), possibly a part of a larger tensor.
        """
        ...


class EagerSteps:
    """The model itself."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model

    def prefill(self, prefix: Tensor) -> tuple[Tensor, Tensor]:
        return prefill(self._model, prefix.to(self._model.dtype))

    def step(self, token_ids: Tensor, positions: Tensor, cache: Tensor) -> Tensor:
        return step(self._model, token_ids, RowCache(cache, positions), positions)


class StagedSteps:
    """The exported stages `PrefillStage` and `StepStage` (see `sca.static_cache`), run by engines."""

    def __init__(
        self,
        prefill_engine: Callable[..., tuple[Tensor, ...]],
        step_engine: Callable[..., tuple[Tensor, ...]],
    ) -> None:
        self._prefill, self._step = prefill_engine, step_engine

    def prefill(self, prefix: Tensor) -> tuple[Tensor, Tensor]:
        logits, cache = self._prefill(prefix)
        return logits, cache.permute(1, 2, 0, 3, 4, 5)

    def step(self, token_ids: Tensor, positions: Tensor, cache: Tensor) -> Tensor:
        logits, added = self._step(token_ids, positions, *cache.flatten(0, 1).unbind(0))
        rows = torch.arange(len(token_ids), device=cache.device)
        cache[:, :, rows, :, positions] = added.to(cache.dtype)
        return logits
