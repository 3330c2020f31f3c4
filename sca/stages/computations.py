"""The computations of a predictor, as callables whose place a compiled engine may take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from sca.decoding.reference import TextDecoding, decode
from sca.modeling import ImageFeatures, Sca
from sca.modeling.box_proposals import ProposedBoxes
from sca.modeling.mask_decoder import MaskDecoding


@dataclass(frozen=True)
class Stages:
    """What a predictor computes with. `origin` says in one line per stage what does the computing.

    `encode_image`: normalised pixels (B, 3, S, S) to image features. `decode_masks`: image embedding (1, C, g, g),
    sparse (P, k, C), dense (1 or P, C, g, g) and whether several masks are wanted. `mix`: image features, the mask
    decoder's tokens and image features, and boxes (P, 4) or None, to caption tokens (P, Nc, C). `decode_text`: prefixes
    to token ids. `propose`: image features to boxes of things, None of a model that proposes none.
    """

    encode_image: Callable[[Tensor], ImageFeatures]
    decode_masks: Callable[[Tensor, Tensor, Tensor, bool], MaskDecoding]
    mix: Callable[[ImageFeatures, Tensor, Tensor, Tensor | None], Tensor]
    decode_text: TextDecoding
    propose: Callable[[ImageFeatures], ProposedBoxes] | None = None
    origin: tuple[str, ...] = ("all stages: eager",)


def eager_stages(model: Sca) -> Stages:
    """The model's own modules."""

    def decode_masks(embedding: Tensor, sparse: Tensor, dense: Tensor, multimask: bool) -> MaskDecoding:
        return model.mask_decoder(embedding, model.image_pe(), sparse, dense, multimask)

    return Stages(
        encode_image=model.encode_image,
        decode_masks=decode_masks,
        mix=model.mix,
        decode_text=partial(decode, model.language_model),
        propose=None if model.box_proposals is None else model.propose,
    )
