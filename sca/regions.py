"""What a predictor reads and gives: encoded images, segmented prompts, captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from sca.modeling import ImageFeatures
from sca.preprocessing import Size

Coordinates = np.ndarray | Tensor | Sequence[Sequence[float]] | Sequence[Sequence[Sequence[float]]]


class TextDecoder(Protocol):
    """What a predictor needs of a tokenizer; both `tokenizers` and transformers have it."""

    def decode(self, ids: list[int], /, *, skip_special_tokens: bool = ...) -> str | list[str]: ...


@dataclass(frozen=True, slots=True)
class ImageEncoding:
    """One encoded image. `features`: of a batch of one; `original_size`, `input_size`: (height, width) of the image and
    of its place, top left, in the model's input square.
    """

    features: ImageFeatures
    original_size: Size
    input_size: Size


@dataclass(frozen=True, slots=True)
class Segmentation:
    """What P prompts gave on one image.

    `low_res_logits`: (P, K, 4g, 4g) over the whole input square; `iou`: (P, K) predicted IoU. `tokens` (P, T, C) and
    `image_features` (P, C, g, g) feed `Predictor.region_features`. `boxes`: (P, 4) box prompts xyxy in pixels of the
    original image, None if there were none.
    """

    low_res_logits: Tensor
    iou: Tensor
    tokens: Tensor
    image_features: Tensor
    boxes: Tensor | None

    def __len__(self) -> int:
        return len(self.iou)

    def select(self, indices: Tensor | np.ndarray | Sequence[int]) -> Segmentation:
        """The prompts at `indices` (ints or a boolean mask), as a copy: the rest can be freed."""
        index = torch.as_tensor(np.asarray(indices) if isinstance(indices, Sequence) else indices)
        if index.dtype != torch.bool:
            index = index.to(torch.int64)
        index = index.to(self.iou.device)
        return Segmentation(
            self.low_res_logits[index],
            self.iou[index],
            self.tokens[index],
            self.image_features[index],
            None if self.boxes is None else self.boxes[index],
        )


@dataclass(frozen=True, slots=True)
class Caption:
    """A region's caption. `logprob`: mean natural log-probability per token; `score`: probability in 0..1 that it is
    right, which is exp(logprob) for a model without a judge of captions. `token_ids`: with special tokens.
    """

    text: str
    logprob: float
    score: float
    token_ids: tuple[int, ...] = ()
