"""A linear probe that predicts a phrase's words from a region's tokens: an auxiliary loss, dropped after training.

A language model that starts from nothing first learns to ignore its prefix, because the prefix means nothing yet; the
mixer then learns nothing from it. The probe breaks this tie by making the tokens carry words from the start.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

_FUNCTION_WORDS = (
    "a",
    "an",
    "the",
    "of",
    "in",
    "on",
    "with",
    "and",
    "his",
    "her",
    "their",
    "its",
    "some",
    "at",
    "to",
)


class WordProbe(nn.Module):
    """Softmax over the vocabulary from one vector per region; the targets are the phrase's content tokens.

    The bias starts at the tokens' log-frequency in `phrases`, so that nothing but the picture is left to learn.
    """

    def __init__(self, width: int, tokenizer: Tokenizer, phrases: Sequence[str]) -> None:
        super().__init__()
        size = tokenizer.get_vocab_size()
        self.linear = nn.Linear(width, size)
        ignored = torch.zeros(size, dtype=torch.bool)
        ignored[0] = True  # the end mark, which is also the padding
        for word in _FUNCTION_WORDS:
            ignored[tokenizer.encode(word).ids[:-1]] = True
        self.ignored: Tensor
        self.register_buffer("ignored", ignored, persistent=False)
        counts = torch.full((size,), 0.1)
        for encoding in tokenizer.encode_batch(list(phrases)):
            counts[encoding.ids] += 1
        with torch.no_grad():
            self.linear.bias.copy_((counts.masked_fill(ignored, 0.1) / counts.sum()).log())

    def forward(self, features: Tensor, token_ids: Tensor) -> Tensor:
        """Mean cross-entropy of vectors (P, C) against the content tokens of token_ids (P, L), equally weighted."""
        wanted = torch.zeros(len(token_ids), self.linear.out_features, device=token_ids.device)
        wanted.scatter_(1, token_ids, 1.0)
        wanted = wanted.masked_fill(self.ignored, 0.0)
        count = wanted.sum(1)
        scores = F.log_softmax(self.linear(features), dim=-1)
        each = -(wanted * scores).sum(1) / count.clamp(min=1)
        return each.sum() / (count > 0).sum().clamp(min=1)
