"""Finding the regions of a keyframe: known tracks are looked for where they should be, the rest is probed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import torch
from torch import Tensor

from pipeline.frame import Frame
from pipeline.perception_options import PerceptionOptions
from pipeline.probing import ProbeSchedule
from pipeline.region_filter import distinct, mask_statistics
from pipeline.regions import RleMask
from pipeline.run_lengths import encode_masks
from pipeline.tracking import Expected
from sca.automatic_settings import AutomaticSettings
from sca.predictor import Coordinates, ImageEncoding, Segmentation

# Above this share of changed pixels nothing of the last keyframe can be relied on.
_NEW_SCENE = 0.6
_CHANGED_LEVELS = 12
_SMALL = (64, 36)


class RegionModel(Protocol):
    """What perception needs of `sca.predictor.Predictor`. `automatic`: the thresholds that suit the model."""

    automatic: AutomaticSettings

    def encode(self, rgb: np.ndarray) -> ImageEncoding: ...

    def segment(
        self,
        encoding: ImageEncoding,
        *,
        points: Coordinates | None = None,
        boxes: Coordinates | None = None,
        multimask: bool = True,
    ) -> Segmentation: ...

    def mask_logits(
        self, encoding: ImageEncoding, low_res_logits: Tensor, size: tuple[int, int] | None = None
    ) -> Tensor: ...

    def region_features(
        self, encoding: ImageEncoding, segmentation: Segmentation, boxes: Coordinates | None = None
    ) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Sightings:
    """N regions found in one keyframe, before anybody knows which track they belong to.

    `boxes`: (N, 4) float32 xyxy pixels. `masks`: run lengths of the whole picture. `scores`: (N,) predicted IoU.
    `features`: (N, D) float32, L2-normalised. `caption_tokens`: (N, Nc, C) float16, what the captioner needs.
    `prompted_by`: key of the expected track whose prompt found the region, -1 for a probe.
    """

    boxes: np.ndarray
    masks: tuple[RleMask, ...]
    scores: np.ndarray
    features: np.ndarray
    caption_tokens: np.ndarray
    prompted_by: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(slots=True)
class StreamView:
    """What perception remembers of one stream: where it probed, and how the last keyframe looked."""

    probes: ProbeSchedule
    thumbnail: np.ndarray | None = None


class Perception:
    """Regions of keyframes, over any number of streams; each stream brings its own `StreamView`."""

    def __init__(self, model: RegionModel, options: PerceptionOptions) -> None:
        own = model.automatic
        self._model = model
        self._options = options
        self._stability_offset = own.stability_score_offset
        self._limits = _Limits(
            own.pred_iou_thresh if options.min_predicted_iou is None else options.min_predicted_iou,
            own.stability_score_thresh if options.min_stability is None else options.min_stability,
            options.min_area,
            options.max_area,
        )

    def new_view(self) -> StreamView:
        """The memory for one more stream."""
        return StreamView(ProbeSchedule(self._options.probing))

    @torch.inference_mode()
    def look(self, frame: Frame, expected: Expected, view: StreamView) -> Sightings:
        """Find regions in `frame`: one prompt for each expected track, then probes where none of them is.

        Boxes of `expected` are xyxy pixels of the frame. Updates `view`.
        """
        changed = self._changes(frame, view)
        encoding = self._model.encode(frame.rgb)
        limit = self._options.max_track_prompts
        keys, boxes = expected.keys[:limit], expected.boxes[:limit]
        known = self._candidates(encoding, self._model.segment(encoding, boxes=boxes, multimask=True))
        known = known.keep(known.passes(self._limits))
        covered, hidden = known.coverage(self._options.probing.large_region)
        points = view.probes.next_points(covered, hidden, changed) * (frame.width, frame.height)
        fresh = self._candidates(
            encoding, self._model.segment(encoding, points=points[:, None], multimask=True)
        )
        fresh = fresh.keep(fresh.passes(self._limits))
        return self._describe(frame, encoding, known, fresh, keys)

    def _changes(self, frame: Frame, view: StreamView) -> np.ndarray:
        grey = cv2.cvtColor(cv2.resize(frame.rgb, _SMALL, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
        before, view.thumbnail = view.thumbnail, grey
        if before is None:
            return np.zeros(grey.shape)
        changed = np.abs(grey.astype(np.int16) - before) > _CHANGED_LEVELS
        if changed.mean() > _NEW_SCENE:
            view.probes.new_scene()
        return changed.astype(np.float64)

    def _candidates(self, encoding: ImageEncoding, segmentation: Segmentation) -> _Candidates:
        """The best mask of each prompt, with its statistics on the decoder's grid."""
        count = len(segmentation)
        best = segmentation.iou.argmax(dim=1)
        rows = torch.arange(count, device=best.device)
        height, width = encoding.original_size
        side = segmentation.low_res_logits.shape[-1]
        scale = side / max(height, width)
        small = (max(1, round(height * scale)), max(1, round(width * scale)))
        logits = segmentation.low_res_logits[rows, best].unsqueeze(1)
        resized = (
            self._model.mask_logits(encoding, logits, small)[:, 0] if count else logits.new_zeros((0, *small))
        )
        area, stability = mask_statistics(resized, self._stability_offset)
        return _Candidates(
            prompts=rows.cpu().numpy(),
            segmentation=segmentation,
            best=best,
            logits=resized,
            iou=segmentation.iou[rows, best].float().cpu().numpy(),
            area=area,
            stability=stability,
        )

    def _describe(
        self,
        frame: Frame,
        encoding: ImageEncoding,
        known: _Candidates,
        fresh: _Candidates,
        keys: tuple[int, ...],
    ) -> Sightings:
        """Drop duplicates (tracks win over probes), then make boxes, run lengths and features of the rest."""
        masks = torch.cat([known.logits > 0, fresh.logits > 0])
        # A probe that finds what a track's prompt has found is the duplicate, however sure it is.
        rank = np.concatenate([known.iou + 1.0, fresh.iou])
        kept = distinct(masks, rank, self._options.same_region_iou)[: self._options.max_regions]
        of_known = np.sort(kept[kept < len(known)])
        of_fresh = np.sort(kept[kept >= len(known)]) - len(known)
        parts = [
            self._finish(frame, encoding, known.keep(of_known)),
            self._finish(frame, encoding, fresh.keep(of_fresh)),
        ]
        prompted = [keys[prompt] for prompt in known.prompts[of_known]] + [-1] * len(of_fresh)
        return Sightings(
            np.concatenate([part.boxes for part in parts]),
            parts[0].masks + parts[1].masks,
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.features for part in parts]),
            np.concatenate([part.caption_tokens for part in parts]),
            tuple(prompted),
        )

    def _finish(self, frame: Frame, encoding: ImageEncoding, found: _Candidates) -> Sightings:
        size = (frame.height, frame.width)
        segmentation = found.segmentation.select(found.prompts)
        rows = torch.arange(len(found), device=found.best.device)
        logits = segmentation.low_res_logits[rows, found.best[torch.as_tensor(found.prompts)]].unsqueeze(1)
        full = self._model.mask_logits(encoding, logits, size)[:, 0] > 0 if len(found) else found.logits > 0
        masks, boxes = encode_masks(full.cpu().numpy(), size)
        tokens = self._model.region_features(encoding, segmentation, boxes)
        return Sightings(
            boxes,
            masks,
            found.iou,
            _association_features(tokens),
            tokens.to(torch.float16).cpu().numpy(),
            (-1,) * len(found),
        )


@dataclass(frozen=True, slots=True)
class _Limits:
    """Least predicted IoU and stability, least and greatest share of the picture, that make a mask a region."""

    iou: float
    stability: float
    min_area: float
    max_area: float


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Masks on the decoder's grid, cut to the picture: `logits` (N, h, w); `prompts` (N,) index the segmentation."""

    prompts: np.ndarray
    segmentation: Segmentation
    best: Tensor
    logits: Tensor
    iou: np.ndarray
    area: np.ndarray
    stability: np.ndarray

    def __len__(self) -> int:
        return len(self.prompts)

    def passes(self, limits: _Limits) -> np.ndarray:
        good = (self.iou >= limits.iou) & (self.stability >= limits.stability)
        return np.flatnonzero(good & (self.area >= limits.min_area) & (self.area <= limits.max_area))

    def keep(self, index: np.ndarray) -> _Candidates:
        return _Candidates(
            self.prompts[index],
            self.segmentation,
            self.best,
            self.logits[torch.as_tensor(index, device=self.logits.device)],
            self.iou[index],
            self.area[index],
            self.stability[index],
        )

    def coverage(self, large: float) -> tuple[np.ndarray, np.ndarray]:
        """Bool pictures of what small regions and what large regions cover."""
        inside = (self.logits > 0).cpu().numpy()
        is_large = self.area > large
        shape = self.logits.shape[1:]
        small_cover = inside[~is_large].any(axis=0) if (~is_large).any() else np.zeros(shape, bool)
        large_cover = inside[is_large].any(axis=0) if is_large.any() else np.zeros(shape, bool)
        return np.asarray(small_cover), np.asarray(large_cover)


def _association_features(tokens: Tensor) -> np.ndarray:
    """(N, Nc, C) caption tokens to (N, C) L2-normalised float32: their mean says what the region looks like."""
    mean = tokens.float().mean(dim=1)
    return np.asarray(torch.nn.functional.normalize(mean, dim=-1).cpu().numpy(), np.float32)
