"""The small model's own tokenizer: byte-pair encoding of words, learnt from the phrases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor

END_OF_TEXT = "<|endoftext|>"


def train_tokenizer(phrases: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-pair encoding with a word-start mark; every text ends in `END_OF_TEXT` (id 0), which is also the padding."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(phrases, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END_OF_TEXT}", special_tokens=[(END_OF_TEXT, 0)]
    )
    return tokenizer


def token_batch(tokenizer: Tokenizer, texts: Sequence[str], max_tokens: int) -> tuple[Tensor, Tensor]:
    """Ids and attention mask, both int64 (N, L), right-padded; L is at most `max_tokens`, the end mark included."""
    rows = []
    for encoding in tokenizer.encode_batch(list(texts)):
        pieces: list[int] = encoding.ids
        rows.append(pieces if len(pieces) <= max_tokens else [*pieces[: max_tokens - 1], 0])
    length = max(map(len, rows))
    ids = torch.zeros(len(rows), length, dtype=torch.int64)
    mask = torch.zeros(len(rows), length, dtype=torch.int64)
    for row, values in enumerate(rows):
        ids[row, : len(values)] = torch.tensor(values)
        mask[row, : len(values)] = 1
    return ids, mask
