"""Encode an image once, prompt it many times: masks, scores, region features, captions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, overload

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sca.config import AutomaticSettings, ScaConfig
from sca.decoding.reference import MAX_NEW_TOKENS, end_of_text_ids
from sca.errors import UserError
from sca.lanes import ONE_LANE
from sca.model_pictures import Size
from sca.modeling import ImageFeatures, Sca, task_indices
from sca.modeling.caption_judge import CaptionJudge, read_again
from sca.preprocessing import scale_boxes, scale_points, to_model_input, to_model_input_on
from sca.prompts import Prompts, prompts_of_each
from sca.proposals import NO_PROPOSALS, Proposals, distinct_proposals
from sca.regions import Caption, Coordinates, ImageEncoding, PlacedMask, Segmentation, TextDecoder, worded
from sca.stages.computations import Stages, eager_stages

# Full-resolution mask logits made at a time, in values of float32. A processor is fastest on what its caches hold, and
# blocks of this size are used again instead of being asked of the kernel each time; a GPU wants much at once.
_MASK_VALUES = {"cpu": 1 << 22, "cuda": 1 << 26}
# What `describe` computes at a time. Each prompt has image features of its own (16 MiB with what the mixer makes of them, at
# 1024 pixels), each sequence a cache (12 MiB for GPT-2 large): more at once fills the memory and gains a processor nothing.
_PROMPTS = {"cpu": 16, "cuda": 64}
_IMAGES = {"cpu": 1, "cuda": 8}
_SEQUENCES = 64


class Predictor:
    """A model ready to use. Prompts and results are in pixels of the original image; nothing is remembered between calls.

    Safe to share between threads for reading. `Caption.score` is the `judge`'s, if there is one; `automatic` are
    the model's thresholds for anything mode. `exact_pixels`: pictures are prepared as the reference does, on the CPU; else
    a GPU resizes them itself, which differs by one grey level on up to 15 % of the values.
    """

    exact_pixels: bool = False
    lanes = ONE_LANE  # torch shares out each call over all cores

    def __init__(
        self,
        model: Sca,
        tokenizer: TextDecoder,
        *,
        device: torch.device | str = "cpu",
        judge: CaptionJudge | None = None,
        stages: Stages | None = None,
        automatic: AutomaticSettings | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.model = model.eval().to(self.device)
        self.tokenizer = tokenizer
        self.judge = None if judge is None else judge.eval().to(self.device)
        self.stages = stages or eager_stages(self.model)
        self.automatic = automatic or AutomaticSettings()

    def with_stages(self, stages: Stages) -> Predictor:
        """The same model, computed by these stages."""
        return Predictor(
            self.model,
            self.tokenizer,
            device=self.device,
            judge=self.judge,
            stages=stages,
            automatic=self.automatic,
        )

    @property
    def config(self) -> ScaConfig:
        """The shape of the model."""
        return self.model.config

    @property
    def dtype(self) -> torch.dtype:
        """What the model computes in. Coordinates and their phases stay float32 or finer, scores and mask logits float32."""
        return self.model.language_project.weight.dtype

    @torch.inference_mode()
    def encode_batch(self, images: Sequence[np.ndarray]) -> list[ImageEncoding]:
        """Encode RGB images, uint8 (H, W, 3) of any sizes, in one batch."""
        if not images:
            return []
        on_device = self.device.type == "cuda" and not self.exact_pixels
        prepare = to_model_input_on if on_device else to_model_input
        pixels, sizes = prepare(images, self.config, self.device)
        exact = next(self.model.image_encoder.parameters()).dtype
        embedding, region_map = self.stages.encode_image(pixels.to(exact))
        embedding = embedding.to(self.dtype)
        region_map = None if region_map is None else region_map.to(self.dtype)
        return [
            ImageEncoding(
                ImageFeatures(embedding[i : i + 1], None if region_map is None else region_map[i : i + 1]),
                (image.shape[0], image.shape[1]),
                sizes[i],
            )
            for i, image in enumerate(images)
        ]

    def encode(self, rgb: np.ndarray) -> ImageEncoding:
        """Encode one RGB image, uint8 (H, W, 3)."""
        return self.encode_batch([rgb])[0]

    @torch.inference_mode()
    def propose(self, encoding: ImageEncoding) -> Proposals:
        """Boxes where the model expects things in the image; none from a model without such a head."""
        if self.stages.propose is None:
            return NO_PROPOSALS
        boxes, scores = self.stages.propose(encoding.features)
        found = boxes[0].float().cpu().numpy(), scores[0].float().cpu().numpy()
        return distinct_proposals(*found, encoding.input_size, encoding.original_size)

    @torch.inference_mode()
    def segment(
        self,
        encoding: ImageEncoding,
        *,
        points: Coordinates | None = None,
        labels: np.ndarray | Tensor | Sequence[Sequence[int]] | None = None,
        boxes: Coordinates | None = None,
        mask_input: Tensor | None = None,
        multimask: bool = True,
    ) -> Segmentation:
        """Masks and scores for P prompts.

        points (P, n, 2) xy and boxes (P, 4) xyxy in original pixels; labels (P, n): 1 foreground (default),
        0 background, -1 padding; mask_input (1 or P, 1, 4g, 4g) logits. K = 3 masks per prompt, or 1 without
        `multimask`. UserError for missing or misshapen prompts.
        """
        if points is None and boxes is None:
            raise UserError("no prompt: give points, boxes or both")
        point_prompts = None if points is None else self._coordinates("points", points, (-1, -1, 2))
        box_prompts = None if boxes is None else self._coordinates("boxes", boxes, (-1, 4))
        label_prompts = None
        if labels is not None:
            if point_prompts is None:
                raise UserError("labels without points: give the points that they belong to")
            label_prompts = torch.as_tensor(labels, device=self.device)
            if label_prompts.shape != point_prompts.shape[:2]:
                raise UserError(
                    f"labels have shape {tuple(label_prompts.shape)}, points {tuple(point_prompts.shape)}: "
                    "give one label per point"
                )
        if point_prompts is not None and box_prompts is not None and len(point_prompts) != len(box_prompts):
            raise UserError(
                f"{len(point_prompts)} point prompts but {len(box_prompts)} boxes: give one group per box"
            )
        source, target = encoding.original_size, encoding.input_size
        count = len(box_prompts) if box_prompts is not None else len(point_prompts)  # type: ignore[arg-type]
        if count == 0:
            return self._nothing(multimask, box_prompts)
        sparse, dense = self.model.prompt_encoder(
            None if point_prompts is None else (scale_points(point_prompts, source, target), label_prompts),
            None if box_prompts is None else scale_boxes(box_prompts, source, target),
            None if mask_input is None else mask_input.to(self.device, self.dtype),
        )
        decoding = self.stages.decode_masks(encoding.features.embedding, sparse, dense, multimask)
        return Segmentation(
            decoding.mask_logits.float(),
            decoding.iou.float(),
            decoding.tokens,
            decoding.image_features,
            box_prompts,
        )

    def placed_masks(self, encoding: ImageEncoding, segmentation: Segmentation) -> list[PlacedMask]:
        """The best mask of each prompt by predicted IoU, in pixels of the original image."""
        return [PlacedMask(mask) for mask in self.masks(encoding, segmentation).cpu().numpy()]

    @torch.inference_mode()
    def mask_logits(
        self, encoding: ImageEncoding, low_res_logits: Tensor, size: Size | None = None
    ) -> Tensor:
        """Logits (P, K, 4g, 4g) to (P, K, H, W) of the original image, or of `size` (spec section 3)."""
        square, (height, width) = (self.config.image_size,) * 2, encoding.input_size
        full = F.interpolate(low_res_logits, square, mode="bilinear", align_corners=False)
        inside, shown = full[..., :height, :width], size or encoding.original_size
        return F.interpolate(inside, shown, mode="bilinear", align_corners=False)

    @torch.inference_mode()
    def masks(
        self,
        encoding: ImageEncoding,
        segmentation: Segmentation,
        which: Literal["best"] | int = "best",
        *,
        size: Size | None = None,
    ) -> Tensor:
        """One binary mask per prompt: bool (P, H, W) of the original image, or of `size`.

        which: "best" by predicted IoU, or the index of one of the K masks.
        """
        count = len(segmentation)
        height, width = size or encoding.original_size
        chosen = segmentation.iou.argmax(dim=1) if which == "best" else torch.full((count,), which)
        logits = segmentation.low_res_logits[torch.arange(count), chosen.to(self.device)].unsqueeze(1)
        out = torch.empty((count, height, width), dtype=torch.bool, device=self.device)
        values = _MASK_VALUES.get(self.device.type, _MASK_VALUES["cpu"])
        step = max(values // max(height * width, self.config.image_size**2), 1)
        for start in range(0, count, step):
            block = slice(start, start + step)
            out[block] = self.mask_logits(encoding, logits[block], size)[:, 0] > 0
        return out

    @torch.inference_mode()
    def region_features(
        self,
        encoding: ImageEncoding,
        segmentation: Segmentation,
        boxes: Coordinates | None = None,
    ) -> Tensor:
        """Region tokens (P, Nr, C): what the language model is told about each region.

        boxes (P, 4) xyxy in original pixels: where a model with region tokens pools its features; by default the box
        prompts, else the boxes of the best masks. Other models do not look at them.
        """
        if len(segmentation) == 0:
            return torch.zeros((0, self.config.num_region_tokens, self.config.width), device=self.device)
        where = None
        if self.model.needs_boxes:
            given = segmentation.boxes if boxes is None else self._coordinates("boxes", boxes, (-1, 4))
            if given is None:
                where = self._mask_boxes(segmentation)
            elif len(given) != len(segmentation):
                raise UserError(f"{len(given)} boxes for {len(segmentation)} regions: give one box each")
            else:
                where = scale_boxes(given, encoding.original_size, encoding.input_size)
        return self.stages.mix(encoding.features, segmentation.tokens, segmentation.image_features, where)

    @torch.inference_mode()
    def caption(
        self,
        features: Tensor | np.ndarray,
        *,
        task: str = "caption",
        beams: int = 1,
        max_new_tokens: int = MAX_NEW_TOKENS,
        fits: np.ndarray | None = None,
    ) -> list[Caption]:
        """Caption P regions from their region tokens (P, Nr, C), in one batch. task: "caption" or "recognition".

        fits (P,): how much each box looks like a thing's own (`Proposals.fits`); None for boxes that somebody chose.
        """
        if len(features) == 0:
            return []
        tasks = None if task == "caption" else task_indices([task] * len(features)).to(self.device)
        prefix = self.model.language_prefix(torch.as_tensor(features).to(self.device), tasks)
        decoded = self.stages.decode_text(prefix, beams=beams, max_new_tokens=max_new_tokens)
        ends = end_of_text_ids(self.model.language_model)
        sequences, logprobs = decoded.sequences(), decoded.logprobs.tolist()
        scores, sure = self._judged(prefix, sequences, logprobs, fits)
        captions = []
        for ids, each, logprob, score in zip(sequences, sure, logprobs, scores, strict=True):
            text, likely = worded(self.tokenizer, [i for i in ids if i not in ends], each)
            captions.append(Caption(text, logprob, score, tuple(ids), likely))
        return captions

    def _judged(
        self,
        prefix: Tensor,
        sequences: Sequence[Sequence[int]],
        logprobs: Sequence[float],
        fits: np.ndarray | None,
    ) -> tuple[list[float], list[tuple[float, ...]]]:
        """The probability that each caption is right, and those of its tokens where a judge has read it."""
        if self.judge is None:
            return [math.exp(min(logprob, 0.0)) for logprob in logprobs], [()] * len(logprobs)
        evidence, sure = read_again(self.model.language_model, prefix, sequences, logprobs)
        given = None if fits is None else torch.from_numpy(fits).to(evidence)
        return self.judge(evidence, given).sigmoid().tolist(), sure

    @overload
    def describe(
        self,
        images: np.ndarray,
        boxes: Any = ...,
        *,
        points: Any = ...,
        labels: Any = ...,
        masks: Any = ...,
        task: str = ...,
        beams: int = ...,
    ) -> list[Caption]: ...

    @overload
    def describe(
        self,
        images: Sequence[np.ndarray],
        boxes: Any = ...,
        *,
        points: Any = ...,
        labels: Any = ...,
        masks: Any = ...,
        task: str = ...,
        beams: int = ...,
    ) -> list[list[Caption]]: ...

    def describe(
        self,
        images: np.ndarray | Sequence[np.ndarray],
        boxes: Any = None,
        *,
        points: Any = None,
        labels: Any = None,
        masks: Any = None,
        task: str = "caption",
        beams: int = 1,
    ) -> Any:
        """Caption regions of an image, uint8 (H, W, 3), or of each of several images.

        boxes (P, 4) xyxy, points (P, n, 2) with labels (P, n), or masks bool (P, H, W), in pixels of the image; of
        several images one entry an image. task: "caption" or "recognition". beams: 1 is greedy. Prompts are computed
        some at a time, so that memory does not grow with their number. Returns the captions of the image's prompts, or
        a list of them for each of several images. UserError for missing or misshapen prompts.
        """
        given = {"boxes": boxes, "points": points, "labels": labels, "masks": masks}
        if isinstance(images, np.ndarray):
            return self._describe([images], [Prompts(**given)], task, beams)[0]
        return self._describe(images, prompts_of_each(len(images), **given), task, beams)

    def _describe(
        self, images: Sequence[np.ndarray], prompts: Sequence[Prompts], task: str, beams: int
    ) -> list[list[Caption]]:
        features: list[Tensor] = []
        counts = []
        together = _IMAGES.get(self.device.type, 1)
        for start in range(0, len(images), together):
            encodings = self.encode_batch(images[start : start + together])
            for encoding, wanted in zip(encodings, prompts[start : start + together], strict=True):
                found = [part for _, part in self.prompted(encoding, wanted)]
                counts.append(sum(map(len, found)))
                features += found
        flat = self.caption_all(torch.cat(features), task=task, beams=beams) if sum(counts) else []
        ends = np.cumsum(counts)
        return [flat[end - count : end] for end, count in zip(ends, counts, strict=True)]

    def prompted(self, encoding: ImageEncoding, prompts: Prompts) -> Iterator[tuple[Segmentation, Tensor]]:
        """Masks and region tokens of the prompts, some prompts at a time, in their order."""
        for part in prompts.parts(_PROMPTS.get(self.device.type, _PROMPTS["cpu"])):
            asked = part.to_segment(
                encoding.original_size, encoding.input_size, self.config.image_size, self.config.grid_size
            )
            segmentation = self.segment(encoding, **asked)
            yield segmentation, self.region_features(encoding, segmentation)

    def caption_all(self, features: Tensor, *, task: str = "caption", beams: int = 1) -> list[Caption]:
        """`caption` of any number of regions, some at a time."""
        parts = features.split(max(_SEQUENCES // max(beams, 1), 1))
        return [caption for part in parts for caption in self.caption(part, task=task, beams=beams)]

    def _coordinates(self, name: str, values: Coordinates, shape: tuple[int, ...]) -> Tensor:
        """Prompts as float64, as the released processor has them; UserError if misshapen or not finite."""
        if not isinstance(values, Tensor):
            values = torch.from_numpy(np.array(values, dtype=np.float64))
        coordinates = values.to(self.device, torch.float64)
        if coordinates.shape[:1] == (0,):
            return coordinates.new_zeros((0, *(max(extent, 1) for extent in shape[1:])))
        wanted = "(P, 4)" if shape[-1] == 4 else "(P, n, 2)"
        matches = coordinates.ndim == len(shape) and coordinates.shape[-1] == shape[-1]
        if not matches or not bool(coordinates.isfinite().all()):
            raise UserError(
                f"{name} must be finite numbers of shape {wanted}, got shape {tuple(coordinates.shape)}: "
                "give pixels of the original image"
            )
        return coordinates

    def _nothing(self, multimask: bool, boxes: Tensor | None) -> Segmentation:
        config = self.config
        count = config.mask_decoder.num_multimask_outputs if multimask else 1
        grid, width = config.grid_size, config.width
        return Segmentation(
            torch.zeros((0, count, 4 * grid, 4 * grid), device=self.device),
            torch.zeros((0, count), device=self.device),
            torch.zeros((0, 0, width), device=self.device),
            torch.zeros((0, width, grid, grid), device=self.device),
            boxes,
        )

    def _mask_boxes(self, segmentation: Segmentation) -> Tensor:
        """Boxes (P, 4) xyxy in the input square around each best mask; around its peak where the mask is empty."""
        best = segmentation.iou.argmax(dim=1)
        logits = segmentation.low_res_logits[torch.arange(len(best), device=best.device), best]
        peak = logits.flatten(1).amax(1)[:, None, None]
        inside = (logits > 0) | (logits == peak)
        columns, rows = inside.any(dim=1), inside.any(dim=2)
        side = logits.shape[-1]
        edges = [
            columns.float().argmax(1),
            rows.float().argmax(1),
            side - columns.flip(1).float().argmax(1),
            side - rows.flip(1).float().argmax(1),
        ]
        return torch.stack(edges, dim=1).to(torch.float32) * (self.config.image_size / side)
