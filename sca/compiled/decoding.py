"""Greedy captions from the compiled prefill and step of a language model: arrays in, token ids out.

The twin of `sca.decoding.reference.decode`, and of the forward pass by which `sca.modeling.caption_judge` reads a finished
caption's state: here the states come with the logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sca.compiled.essentials import CaptionLength

ArrayEngine = Callable[..., tuple[np.ndarray, ...]]
"""A compiled stage: arrays in by position, a tuple of float32 arrays out."""


@dataclass(frozen=True)
class WrittenCaptions:
    """P captions. `token_ids`: with their end; `token_logprobs`: natural log-probability of each; `logprobs` (P,): their mean;
    `states` (P, H) float32: what the language model knew when it wrote the last one.
    """

    token_ids: list[tuple[int, ...]]
    token_logprobs: list[tuple[float, ...]]
    logprobs: np.ndarray
    states: np.ndarray


def write_captions(
    prefix: np.ndarray, prefill: ArrayEngine, step: ArrayEngine, length: CaptionLength
) -> WrittenCaptions:
    """Captions of prefixes (P, n, H) float32, P > 0, all in one batch."""
    count, begun = prefix.shape[:2]
    logits, filled, state = prefill(prefix)
    parts = 2 * length.layers
    # Keys, then values, of each layer in turn, as the step takes them: (layers * 2, P, heads, positions, head_dim).
    cache = np.zeros((parts, count, length.heads, length.positions, length.head_dim), np.float32)
    cache[:, :, :, :begun] = filled.reshape(count, parts, length.heads, begun, length.head_dim).swapaxes(0, 1)
    best, token = _most_likely(logits)
    states = np.array(state, np.float32)
    written = [[int(one)] for one in token]
    sure = [[float(one)] for one in best]
    owner = np.arange(count)  # which caption each busy row of the cache is of
    for position in range(begun, begun + length.most_tokens - 1):
        going = ~np.isin(token, length.ends)
        busy = int(going.sum())
        if not busy:
            break
        # The busy rows stand in front, so that a step computes them and nothing else: the last fill the gaps.
        gaps = np.flatnonzero(~going[:busy])
        movers = busy + np.flatnonzero(going[busy:])
        owner[gaps], token[gaps] = owner[movers], token[movers]
        cache[:, gaps, :, :position] = cache[:, movers, :, :position]
        owner, token = owner[:busy], token[:busy]
        places = np.full(busy, position, np.int64)
        logits, added, state = step(token, places, *(part[:busy] for part in cache))
        cache[:, :busy, :, position] = added.reshape(busy, parts, length.heads, length.head_dim).swapaxes(
            0, 1
        )
        best, token = _most_likely(logits)
        states[owner] = state
        for caption, one, logprob in zip(owner, token, best, strict=True):
            written[caption].append(int(one))
            sure[caption].append(float(logprob))
    mean = np.array([sum(each) / len(each) for each in sure], np.float32)
    return WrittenCaptions(list(map(tuple, written)), list(map(tuple, sure)), mean, states)


def _most_likely(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The log-probability (R,) and the id (R,) int64 of the likeliest token of logits (R, V)."""
    token = logits.argmax(axis=1)
    most = logits.max(axis=1, keepdims=True)
    return -np.log(np.exp(logits - most).sum(axis=1)), token.astype(np.int64)
