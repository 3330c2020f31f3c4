"""The language model's two compilable stages: what a prefix says, and one more token on a static cache."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from sca.decoding import MAX_NEW_TOKENS
from sca.export_stages import DynamicAxis, OutputKind, Stage, StageInput, StageOutput
from sca.modeling import Sca
from sca.static_cache import CacheShape, PrefillStage, StepStage

LANGUAGE_PREFILL = "language-prefill"
LANGUAGE_STEP = "language-step"


def prefix_length(model: Sca) -> int:
    """Vectors that the language model reads before it writes: task tokens and caption tokens."""
    return model.config.num_task_tokens + model.config.num_region_tokens


def cache_shape(model: Sca) -> CacheShape:
    """The cache for a prefix and a caption of the usual length. ValueError if the model has too few positions."""
    return CacheShape.of(model.language_model, prefix_length(model) + MAX_NEW_TOKENS - 1)


def fits(model: Sca) -> bool:
    """Whether the model has the positions that its stages need."""
    try:
        cache_shape(model)
    except ValueError:
        return False
    return True


def language_stages(model: Sca, max_rows: int) -> tuple[Stage, Stage]:
    """Prefill and step for one to `max_rows` captions at a time. ValueError if the model has too few positions."""
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
        (logits, StageOutput("cache")),
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
        (logits, StageOutput("added")),
    )
    return prefill, step
