"""What a predictor reads and gives: encoded images, segmented prompts, captions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from sca.model_pictures import Size

if TYPE_CHECKING:
    from torch import Tensor

Array: TypeAlias = Any
"""A tensor of torch, or an array of numpy where the model is computed without torch (`sca.compiled`)."""
Coordinates: TypeAlias = (
    "np.ndarray | Tensor | Sequence[Sequence[float]] | Sequence[Sequence[Sequence[float]]]"
)


class ImageFeatures(NamedTuple):
    """What is kept of B images: embedding (B, C, g, g) and, if the encoder has one, a finer map (B, Cr, h, h)."""

    embedding: Array
    region_map: Array | None


class TextDecoder(Protocol):
    """What a predictor needs of a tokenizer; both `tokenizers` and transformers have it."""

    def decode(self, ids: list[int], /, *, skip_special_tokens: bool = ...) -> str | list[str]: ...


class LaterMap:
    """The caption map (1, Cc, h, h) of an image, made when it is first asked for: where nothing is described none is needed.

    `is_expected`: somebody will ask for it, or has. Any thread may ask.
    """

    def __init__(self, encode: Callable[..., tuple[Array, ...]], pixels: Array) -> None:
        self._encode, self._pixels = encode, pixels
        self._made: Array | None = None
        self._lock = threading.Lock()
        self.is_expected = False

    def map(self) -> Array:
        """It is kept; the second time costs nothing."""
        self.is_expected = True
        with self._lock:
            if self._made is None:
                (self._made,) = self._encode(self._pixels)
            return self._made


@dataclass(frozen=True, slots=True)
class ImageEncoding:
    """One encoded image. `features`: of a batch of one; `original_size`, `input_size`: (height, width) of the image and
    of its place, top left, in the model's input square. `captions`: what is missing of `features.region_map`, if it is.
    """

    features: ImageFeatures
    original_size: Size
    input_size: Size
    captions: LaterMap | None = None


@dataclass(frozen=True, slots=True)
class PlacedMask:
    """A mask by its part that is not empty: bool pixels (h, w) from row `top` and column `left` on."""

    pixels: np.ndarray
    top: int = 0
    left: int = 0

    def whole(self, size: Size) -> np.ndarray:
        """The mask, bool (H, W), of a picture of this size."""
        mask = np.zeros(size, bool)
        height, width = self.pixels.shape
        mask[self.top : self.top + height, self.left : self.left + width] = self.pixels
        return mask


@dataclass(frozen=True, slots=True)
class Segmentation:
    """What P prompts gave on one image.

    `low_res_logits`: (P, K, 4g, 4g) over the whole input square; `iou`: (P, K) predicted IoU. `tokens` (P, T, C) and
    `image_features` (P, C, g, g) feed `Predictor.region_features`. `boxes`: (P, 4) box prompts xyxy in pixels of the
    original image, None if there were none.
    """

    low_res_logits: Array
    iou: Array
    tokens: Array
    image_features: Array
    boxes: Array | None

    def __len__(self) -> int:
        return len(self.iou)

    def select(self, indices: np.ndarray | Sequence[int] | Array) -> Segmentation:
        """The prompts at `indices` (ints or a boolean mask), as a copy: the rest can be freed."""
        index = (
            np.asarray(indices, None if len(indices) else np.int64)
            if isinstance(indices, Sequence)
            else indices
        )
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
    right, which is exp(logprob) for a model without a judge of captions. `token_ids`: with special tokens. `word_logprobs`: how
    likely the model held each word of `text`, between spaces; none where nobody has looked.
    """

    text: str
    logprob: float
    score: float
    token_ids: tuple[int, ...] = ()
    word_logprobs: tuple[float, ...] = ()


def worded(
    decoder: TextDecoder, ids: Sequence[int], logprobs: Sequence[float]
) -> tuple[str, tuple[float, ...]]:
    """The text of a caption's tokens without its end, and the natural log-probability of each of its words.

    logprobs: of the tokens, or none. A word's is the sum of its tokens'.
    """
    text = str(decoder.decode(list(ids), skip_special_tokens=True)).strip()
    if not logprobs:
        return text, ()
    words = [0.0] * len(text.split())
    for count, logprob in enumerate(logprobs[: len(ids)], start=1):
        begun = str(decoder.decode(list(ids[:count]), skip_special_tokens=True)).split()
        if begun and len(begun) <= len(words):
            words[len(begun) - 1] += logprob
    return text, tuple(words)
