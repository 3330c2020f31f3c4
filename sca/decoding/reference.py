"""Decoding captions: a prefix of embeddings in, token ids out, over the language model's key-value cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from sca.errors import UserError
from sca.modeling.language_model import embed_tokens

# 18 text tokens and EOS, which is what the released models were trained on (spec section 3).
MAX_NEW_TOKENS = 19
# The width of the beam search with which the released models' scores were measured (spec section 3).
RELEASED_BEAMS = 3
# Each beam has a cache of its own, and ten gain nothing over three: what is asked beyond this is a slip.
MOST_BEAMS = 100


@dataclass(frozen=True, slots=True)
class DecodedCaptions:
    """P token sequences. `token_ids`: (P, T) int64, EOS kept, and repeated after the end; `lengths`: (P,) int64 tokens including
    EOS; `logprobs`: (P,) float32, mean natural log-probability of those tokens.
    """

    token_ids: Tensor
    lengths: Tensor
    logprobs: Tensor

    def sequences(self) -> list[list[int]]:
        """The ids of each sequence without its padding."""
        pairs = zip(self.token_ids.tolist(), self.lengths.tolist(), strict=True)
        return [ids[:length] for ids, length in pairs]


class TextDecoding(Protocol):
    """Prefixes (P, n, H) to token ids, as `sca.decoding.reference.decode` does for its language model."""

    def __call__(
        self, prefix: Tensor, *, beams: int = 1, max_new_tokens: int = MAX_NEW_TOKENS
    ) -> DecodedCaptions: ...


def decode(
    model: PreTrainedModel, prefix: Tensor, *, beams: int = 1, max_new_tokens: int = MAX_NEW_TOKENS
) -> DecodedCaptions:
    """Continue each prefix (P, n, H) until EOS or `max_new_tokens` tokens, all P in one batch.

    beams: 1 is greedy; more is beam search with length penalty 1, without early stopping, as the released models are
    evaluated. UserError for counts below 1, more beams than `MOST_BEAMS` or words, and more tokens than the model has
    positions for.
    """
    if beams < 1 or max_new_tokens < 1:
        raise UserError(
            f"beams ({beams}) and max_new_tokens ({max_new_tokens}) must be at least 1: give positive counts"
        )
    if beams > (most := min(MOST_BEAMS, int(model.config.vocab_size))):
        raise UserError(f"{beams} beams are too many for this model: give {most} at most; the paper has 3")
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is not None and prefix.shape[1] + max_new_tokens > positions + 1:
        raise UserError(
            f"max_new_tokens {max_new_tokens} after a prefix of {prefix.shape[1]} exceeds the language model's "
            f"{positions} positions: ask for at most {positions + 1 - prefix.shape[1]}"
        )
    if prefix.shape[0] == 0:
        empty = torch.zeros(0, dtype=torch.int64, device=prefix.device)
        return DecodedCaptions(empty.reshape(0, 0), empty, torch.zeros_like(empty, dtype=torch.float32))
    if beams == 1:
        return _greedy(model, prefix, max_new_tokens)
    return _beam_search(model, prefix, beams, max_new_tokens)


def end_of_text_ids(model: PreTrainedModel) -> list[int]:
    """The ids that end a caption, from the language model's configuration; empty if it names none."""
    ids = model.config.eos_token_id
    if ids is None:
        return []
    return list(ids) if isinstance(ids, Sequence) else [int(ids)]


class _CachedModel:
    """The language model with its cache: a prefix first, then one token per sequence and call."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.cache = DynamicCache(config=model.config)

    def prefill(self, prefix: Tensor) -> Tensor:
        """Log-probabilities (P, V) of the token after each prefix (P, n, H)."""
        return self._forward(prefix)

    def step(self, token_ids: Tensor) -> Tensor:
        """Log-probabilities (P, V) of the token after `token_ids` (P,)."""
        embeds = embed_tokens(self.model, token_ids.unsqueeze(1))
        return self._forward(embeds)

    def _forward(self, embeds: Tensor) -> Tensor:
        output = self.model(
            inputs_embeds=embeds, past_key_values=self.cache, use_cache=True, logits_to_keep=1
        )
        return torch.log_softmax(output.logits[:, -1].float(), dim=-1)


def _special_ids(model: PreTrainedModel, device: torch.device) -> tuple[Tensor, int]:
    """The ids that end a caption (n,), and the one that fills the places after the end: the first of them."""
    ends = end_of_text_ids(model)
    return torch.tensor(ends, dtype=torch.int64, device=device), ends[0] if ends else 0


def _greedy(model: PreTrainedModel, prefix: Tensor, max_new_tokens: int) -> DecodedCaptions:
    ends, pad = _special_ids(model, prefix.device)
    cached = _CachedModel(model)
    count = prefix.shape[0]
    running = torch.ones(count, dtype=torch.bool, device=prefix.device)
    lengths = torch.zeros(count, dtype=torch.int64, device=prefix.device)
    total = torch.zeros(count, dtype=torch.float32, device=prefix.device)
    chosen: list[Tensor] = []
    logprobs = cached.prefill(prefix)
    # Finished rows go along, for a batch of one shape is cheaper than cutting it: they add no token, no score, no length.
    while True:
        best, token = logprobs.max(dim=-1)
        chosen.append(torch.where(running, token, pad))
        # EOS itself counts, in the mean as in the length: that a caption ends here is said like its words.
        total += torch.where(running, best, 0.0)
        lengths += running
        running = running & ~torch.isin(token, ends)
        if len(chosen) == max_new_tokens or not bool(running.any()):
            return DecodedCaptions(torch.stack(chosen, dim=1), lengths, total / lengths)
        logprobs = cached.step(chosen[-1])


def _beam_search(model: PreTrainedModel, prefix: Tensor, beams: int, max_new_tokens: int) -> DecodedCaptions:
    """Beam search for P prefixes at once.

    Each round takes the 2 * beams best continuations: those that end compete for the finished pool by their mean
    log-probability, if they are among the best `beams`; the best others stay alive. A prefix is settled once its pool
    is full and its best live beam has a mean no better than the pool's worst.
    """
    ends, pad = _special_ids(model, prefix.device)
    cached = _CachedModel(model)
    count, device = prefix.shape[0], prefix.device
    worst = torch.finfo(torch.float32).min
    rows = torch.arange(count, device=device).unsqueeze(1)

    pool_ids = torch.full((count, beams, max_new_tokens), pad, dtype=torch.int64, device=device)
    pool_lengths = torch.zeros((count, beams), dtype=torch.int64, device=device)
    pool_means = torch.full((count, beams), worst, device=device)
    # All beams of a prefix are the same at first: begin with one, or the same sequence would be kept `beams` times.
    live_ids = pool_ids[:, :1].clone()
    live_scores = torch.zeros((count, 1), device=device)
    unsettled = torch.ones((count, 1), dtype=torch.bool, device=device)

    logprobs = cached.prefill(prefix)
    for length in range(1, max_new_tokens + 1):
        # 1. Continue every live beam by every token. 2 * beams candidates, for at worst half of them end at once.
        vocabulary = logprobs.shape[-1]
        scores = (live_scores.unsqueeze(-1) + logprobs.unflatten(0, (count, -1))).flatten(1)
        candidates, flat = scores.topk(min(2 * beams, scores.shape[1]), dim=1)
        parent, token = flat // vocabulary, flat % vocabulary
        ids = live_ids[rows, parent]
        ids[:, :, length - 1] = token
        ended = (
            torch.isin(token, ends) if length < max_new_tokens else torch.ones_like(token, dtype=torch.bool)
        )

        # 2. What ended joins the pool, if it would have stayed alive; means make long and short ones comparable. At the last
        # length everything counts as ended.
        eligible = ended & unsettled
        eligible[:, beams:] = False
        means = torch.cat([pool_means, (candidates / length).masked_fill(~eligible, worst)], dim=1)
        pool_means, kept = means.topk(beams, dim=1)
        pool_ids = torch.cat([pool_ids, ids], dim=1)[rows, kept]
        pool_lengths = torch.cat([pool_lengths, torch.full_like(token, length)], dim=1)[rows, kept]

        # 3. The best that go on stay alive. A live beam's mean is what it would have if it ended now: once even the best is
        # no better than the worst of a full pool, the prefix is settled.
        live_scores, kept = candidates.masked_fill(ended, worst).topk(beams, dim=1)
        pool_full = pool_means[:, -1:] > worst
        unsettled = unsettled & ~(pool_full & (live_scores[:, :1] / length <= pool_means[:, -1:]))
        if length == max_new_tokens or not bool(unsettled.any()):
            break
        # 4. The cache follows its beams: each survivor takes the keys and values of the beam that it continues.
        live_ids = ids[rows, kept]
        live = parent[rows, kept] + rows * (logprobs.shape[0] // count)
        cached.cache.batch_select_indices(live.flatten())
        logprobs = cached.step(live_ids[:, :, length - 1].flatten())

    lengths = pool_lengths[:, 0]
    token_ids = pool_ids[:, 0, : int(lengths.max())]
    return DecodedCaptions(token_ids, lengths, pool_means[:, 0])
