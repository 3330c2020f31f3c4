"""A model whose stages are compiled for this processor: arrays in, arrays out, and no torch in the process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from sca.compiled.decoding import ArrayEngine, write_captions
from sca.compiled.essentials import Essentials
from sca.compiled.geometry import embed_boxes, embed_points, placed_masks, scaled
from sca.errors import UserError
from sca.lanes import ONE_LANE, Lanes, in_chunks, pieces
from sca.model_pictures import to_model_array
from sca.proposals import NO_PROPOSALS, USUAL_FIT, Proposals, distinct_proposals
from sca.regions import Caption, ImageEncoding, ImageFeatures, LaterMap, PlacedMask, Segmentation, worded

# Prompts that are worth a call of their own, side by side with others. Measured: 4.2 ms for one alone, 3.2 each of four, 2.9 of
# sixteen.
_LEAST_PROMPTS = 4


@dataclass(frozen=True)
class VisionEngines:
    """The compiled stages of `sca.stages.vision`; `encode_captions` and `propose` only of models that
    have such."""

    encode: ArrayEngine
    decode_masks: ArrayEngine
    mix: ArrayEngine
    encode_captions: ArrayEngine | None = None
    propose: ArrayEngine | None = None


@dataclass(frozen=True)
class LanguageEngines:
    """The compiled stages of `sca.stages.language`."""

    prefill: ArrayEngine
    step: ArrayEngine


@dataclass(frozen=True)
class Batches:
    """The most prompts or captions that a stage is given at a time, and how many calls it computes side by side."""

    prompts: int
    lanes: Lanes = ONE_LANE


class CompiledPredictor:
    """What a run needs of `sca.predictor.Predictor`, with the same answers up to rounding.

    `vision`, `language`: None where the process does not compute them. `origin` says in one line a stage what computes it.
    """

    def __init__(
        self,
        parts: Essentials,
        vision: VisionEngines | None,
        language: LanguageEngines | None,
        batches: Batches,
        origin: tuple[str, ...] = (),
    ) -> None:
        self._parts, self._batches, self.origin = parts, batches, origin
        self.lanes = batches.lanes
        self._vision, self._language = vision, language
        self.config, self.automatic = parts.config, parts.automatic
        self._tokenizer = None if language is None else Tokenizer.from_str(parts.tokenizer)
        grid = self.config.grid_size
        plain = np.broadcast_to(parts.no_mask[None, :, None, None], (1, self.config.width, grid, grid))
        self._dense = np.ascontiguousarray(plain)
        self._needs_boxes = self.config.mixer.region_grid > 0 or self.config.reader is not None

    def encode_batch(self, images: Sequence[np.ndarray]) -> list[ImageEncoding]:
        """Encode RGB images, uint8 (H, W, 3) of any sizes, each by itself: a processor gains nothing from batches of them."""
        return self.lanes.map(self._encode, images)

    def _encode(self, image: np.ndarray) -> ImageEncoding:
        assert self._vision is not None
        pixels, sizes = to_model_array([image], self.config)
        maps = self._vision.encode(pixels)
        captions = self._vision.encode_captions
        return ImageEncoding(
            ImageFeatures(maps[0], maps[1] if len(maps) > 1 else None),
            (image.shape[0], image.shape[1]),
            sizes[0],
            None if captions is None else LaterMap(captions, pixels),
        )

    def propose(self, encoding: ImageEncoding) -> Proposals:
        """Boxes where the model expects things in the image; none from a model without such a head."""
        assert self._vision is not None
        if self._vision.propose is None:
            return NO_PROPOSALS
        features = encoding.features
        assert features.region_map is not None
        boxes, scores = self._vision.propose(
            features.embedding, features.region_map[:, : self.config.encoder.region_channels]
        )
        return distinct_proposals(boxes[0], scores[0], encoding.input_size, encoding.original_size)

    def segment(
        self,
        encoding: ImageEncoding,
        *,
        points: np.ndarray | None = None,
        boxes: np.ndarray | None = None,
        multimask: bool = True,
    ) -> Segmentation:
        """Masks and scores for P foreground points (P, n, 2) xy or boxes (P, 4) xyxy, in pixels of the original image."""
        assert self._vision is not None
        if (points is None) == (boxes is None):
            raise UserError("give points or boxes")
        source, target = encoding.original_size, encoding.input_size
        given = np.asarray(points if boxes is None else boxes, np.float64)
        if not np.isfinite(given).all():
            raise UserError("prompts must be finite numbers: give pixels of the original image")
        if not len(given):
            return self._nothing(multimask, None if boxes is None else given.reshape(0, 4))
        inside = scaled(given, source, target)
        sparse = embed_points(self._parts, inside) if boxes is None else embed_boxes(self._parts, inside)
        shared = (encoding.features.embedding, self._dense)

        def decode(sparse: np.ndarray) -> tuple[np.ndarray, ...]:
            assert self._vision is not None
            return self._vision.decode_masks(shared[0], sparse, shared[1])

        masks, iou, tokens, features = in_chunks(
            decode, self._batches.prompts, (sparse,), self.lanes, _LEAST_PROMPTS
        )
        chosen = slice(1, None) if multimask else slice(0, 1)
        return Segmentation(
            masks[:, chosen], iou[:, chosen], tokens, features, None if boxes is None else given
        )

    def placed_masks(self, encoding: ImageEncoding, segmentation: Segmentation) -> list[PlacedMask]:
        """The best mask of each prompt by predicted IoU, in pixels of the original image."""
        best = segmentation.iou.argmax(axis=1)
        logits = segmentation.low_res_logits[np.arange(len(best)), best]
        return placed_masks(logits, self.config.image_size, encoding.input_size, encoding.original_size)

    def region_features(
        self, encoding: ImageEncoding, segmentation: Segmentation, boxes: np.ndarray | None = None
    ) -> np.ndarray:
        """Region tokens (P, Nr, C): what the language model is told about each region.

        boxes (P, 4) xyxy in original pixels: where features are pooled, by default the box prompts; UserError where a model
        that pools them has neither.
        """
        assert self._vision is not None
        if not len(segmentation):
            return np.zeros((0, self.config.num_region_tokens, self.config.width), np.float32)
        batched = [segmentation.tokens, segmentation.image_features]
        if not self._needs_boxes:
            return in_chunks(self._vision.mix, self._batches.prompts, batched, self.lanes, _LEAST_PROMPTS)[0]
        where = segmentation.boxes if boxes is None else np.asarray(boxes, np.float64)
        if where is None:
            raise UserError("this model pools features inside each region: give the boxes of the regions")
        maps = [one for one in encoding.features if one is not None]
        if encoding.captions is not None:
            maps[1] = np.concatenate([maps[1], encoding.captions.map()], axis=1)
        batched.append(scaled(where, encoding.original_size, encoding.input_size).astype(np.float32))

        def mix(tokens: np.ndarray, features: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, ...]:
            assert self._vision is not None
            return self._vision.mix(tokens, features, *maps, boxes)

        return in_chunks(mix, self._batches.prompts, batched, self.lanes, _LEAST_PROMPTS)[0]

    def caption(self, features: np.ndarray, *, fits: np.ndarray | None = None) -> list[Caption]:
        """Greedy captions of P regions from their region tokens (P, Nr, C); fits (P,): see `sca.predictor.Predictor.caption`."""
        told = np.full(len(features), USUAL_FIT, np.float32) if fits is None else fits
        parts = pieces(len(features), self._batches.prompts, self.lanes, _LEAST_PROMPTS)
        made = self.lanes.map(lambda part: self._caption(features[part], told[part]), parts)
        return [one for captions in made for one in captions]

    def _caption(self, features: np.ndarray, fits: np.ndarray) -> list[Caption]:
        assert self._language is not None
        assert self._tokenizer is not None
        parts = self._parts
        # Task tokens, then what is known of the region in the language model's own width.
        asked = np.broadcast_to(parts.task, (len(features), *parts.task.shape))
        told = features.astype(np.float32) @ parts.project_weight.T + parts.project_bias
        prefix = np.concatenate([asked, told], axis=1)
        made = write_captions(prefix, self._language.prefill, self._language.step, parts.captions)
        captions = []
        scores = self._scores(made.states, made.logprobs, fits)
        told_of = zip(made.token_ids, made.token_logprobs, made.logprobs.tolist(), scores, strict=True)
        for ids, sure, logprob, score in told_of:
            words = [one for one in ids if one not in parts.captions.ends]
            text, likely = worded(self._tokenizer, words, () if parts.judge_weight is None else sure)
            captions.append(Caption(text, logprob, score, ids, likely))
        return captions

    def _scores(self, states: np.ndarray, logprobs: np.ndarray, fits: np.ndarray) -> list[float]:
        """The probability that each caption is right."""
        weight, bias = self._parts.judge_weight, self._parts.judge_bias
        if weight is None or bias is None:
            return list(np.exp(np.minimum(logprobs, 0)).tolist())
        evidence = np.concatenate([states, logprobs[:, None]], axis=1)
        if len(weight) > evidence.shape[1]:
            evidence = np.concatenate([evidence, fits[:, None], fits[:, None] * evidence], axis=1)
        return list((1 / (1 + np.exp(-(evidence @ weight + bias)))).tolist())

    def _nothing(self, multimask: bool, boxes: np.ndarray | None) -> Segmentation:
        count = self.config.mask_decoder.num_multimask_outputs if multimask else 1
        grid, width = self.config.grid_size, self.config.width
        shapes = ((0, count, 4 * grid, 4 * grid), (0, count), (0, 0, width), (0, width, grid, grid))
        logits, iou, tokens, features = (np.zeros(shape, np.float32) for shape in shapes)
        return Segmentation(logits, iou, tokens, features, boxes)
