"""The language model's two compilable stages: what a prefix says, and one more token on a static cache."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sca.decoding.reference import MAX_NEW_TOKENS
from sca.decoding.static_cache import CacheShape, ReadOnlyCache, prefill_with_state, step_with_state
from sca.modeling import Sca
from sca.stages.names import LANGUAGE_PREFILL, LANGUAGE_STEP
from sca.stages.spec import DynamicAxis, OutputKind, Stage, StageInput, StageOutput


class PrefillStage(nn.Module):
    """Prefixes (R, n, H) to logits (R, V), their keys and values (R, layers, 2, heads, n, head_dim) and the state (R, H).

    The state is what the logits were made of: a judge of captions reads it where a caption ends.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.language_model = model

    def forward(self, prefix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, cache, state = prefill_with_state(self.language_model, prefix)
        return logits, cache.permute(2, 0, 1, 3, 4, 5), state


class StepStage(nn.Module):
    """Tokens (R,), their positions (R,) and the cache to logits (R, V), what the tokens add to the cache, and the state (R, H).

    The cache is handed over as keys, then values, of each layer in turn, each (R, heads, length, head_dim); what is
    added is (R, layers, 2, heads, head_dim), and the caller writes it to the positions. So no step copies a cache.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.language_model = model

    def forward(self, token_ids: Tensor, positions: Tensor, *cache: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows = ReadOnlyCache(cache, positions)
        logits, state = step_with_state(self.language_model, token_ids, rows, positions)
        return logits, torch.stack(rows.added, dim=1), state


def prefix_length(model: Sca) -> int:
    """Vectors that the language model reads before it writes: task tokens and caption tokens."""
    return model.config.num_task_tokens + model.config.num_region_tokens


def cache_shape(model: Sca) -> CacheShape:
    """The cache for a prefix and a caption of the usual length. UserError if the model has too few positions."""
    return CacheShape.of(model.language_model, prefix_length(model) + MAX_NEW_TOKENS - 1)


def fits(model: Sca) -> bool:
    """Whether the model has the positions that its stages need."""
    try:
        cache_shape(model)
    except ValueError:
        return False
    return True


def language_stages(model: Sca, max_rows: int) -> tuple[Stage, Stage]:
    """Prefill and step for one to `max_rows` captions at a time. UserError if the model has too few positions."""
    return decoder_stages(model.language_model, prefix_length(model), max_rows)


def decoder_stages(model: PreTrainedModel, prefix: int, max_rows: int) -> tuple[Stage, Stage]:
    """The same for a language model alone that reads prefixes of `prefix` vectors."""
    shape = CacheShape.of(model, prefix + MAX_NEW_TOKENS - 1)
    rows = DynamicAxis("rows", 1, min(16, max_rows), max_rows)
    logits = StageOutput("logits", OutputKind.TOKEN_LOGITS)
    prefill = Stage(
        LANGUAGE_PREFILL,
        PrefillStage(model).eval(),
        (StageInput("prefix", (rows, prefix, int(model.config.hidden_size))),),
        (logits, StageOutput("cache"), StageOutput("prefix_state")),
    )
    part = (rows, shape.heads, shape.length, shape.head_dim)
    cache = [
        StageInput(f"{name}_{layer}", part) for layer in range(shape.layers) for name in ("keys", "values")
    ]
    step = Stage(
        LANGUAGE_STEP,
        StepStage(model).eval(),
        (
            StageInput("token_ids", (rows,), torch.int64),
            StageInput("positions", (rows,), torch.int64),
            *cache,
        ),
        (logits, StageOutput("added"), StageOutput("state")),
    )
    return prefill, step
