"""Finding the regions of a keyframe: known tracks are looked for where they should be, then what moves, then the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import torch
from torch import Tensor

from pipeline.core.frame import Frame
from pipeline.core.masks import RleMask, encode_masks
from pipeline.core.regions import Expected, box_area, box_iou
from pipeline.core.thumbnail import changed_places, is_empty, thumbnail_of
from pipeline.perception.candidates import Candidates, Limits, coverage, distinct, mask_statistics
from pipeline.perception.motion_proposals import MotionProposals
from pipeline.perception.probing import PerceptionOptions, ProbeSchedule
from sca.config import AutomaticSettings
from sca.predictor import Coordinates, ImageEncoding, Segmentation

# Above this share of changed pixels nothing of the last keyframe can be relied on. A guess.
_NEW_SCENE = 0.6
# Moving places tried in a keyframe at most, the largest first; each costs as much as a probe. A guess.
_MAX_MOTION_PROMPTS = 12
# Masks whose boxes agree better than this are one region, however their edges run. A guess: without
# it, one thing was captioned twice.
_SAME_BOX_IOU = 0.8
# Regions above this share of the picture may hide others: they are probed inside. A guess.
_LARGE_REGION = 0.2


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

    def masks(self, encoding: ImageEncoding, segmentation: Segmentation) -> Tensor: ...

    def region_features(
        self, encoding: ImageEncoding, segmentation: Segmentation, boxes: Coordinates | None = None
    ) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Sightings:
    """N regions found in one keyframe, before anybody knows which track they belong to.

    `boxes`: (N, 4) float32 xyxy pixels. `masks`: run lengths of the whole picture, None where the mask is not good
    enough and the region is the box around something that moves. `scores`: (N,) predicted IoU. `features`: (N, D)
    float32, L2-normalised. `caption_tokens`: (N, Nc, C) float16, what the captioner needs. `prompted_by`: key of the
    expected track whose prompt found the region, -1 for others.
    """

    boxes: np.ndarray
    masks: tuple[RleMask | None, ...]
    scores: np.ndarray
    features: np.ndarray
    caption_tokens: np.ndarray
    prompted_by: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(slots=True)
class StreamView:
    """What perception remembers of one stream: where it probed, what stood still, how the last keyframe looked."""

    probes: ProbeSchedule
    motion: MotionProposals
    thumbnail: np.ndarray | None = None


class Perception:
    """Regions of keyframes, over any number of streams; each stream brings its own `StreamView`."""

    def __init__(self, model: RegionModel, options: PerceptionOptions) -> None:
        own = model.automatic
        self._model = model
        self._options = options
        self._stability_offset = own.stability_score_offset
        self._limits = Limits(
            own.pred_iou_thresh if options.min_predicted_iou is None else options.min_predicted_iou,
            own.stability_score_thresh if options.min_stability is None else options.min_stability,
            options.min_area,
            options.max_area,
        )

    def new_view(self) -> StreamView:
        """The memory for one more stream."""
        return StreamView(ProbeSchedule(self._options.probing), MotionProposals())

    @torch.inference_mode()
    def look(
        self,
        frame: Frame,
        expected: Expected,
        view: StreamView,
        *,
        encoding: ImageEncoding | None = None,
        probe_share: float = 1.0,
    ) -> Sightings:
        """Find regions in `frame`: one prompt for each expected track, boxes around what moves, then probes elsewhere.

        Boxes of `expected` are xyxy pixels of the frame. `encoding`: of the frame, where it was encoded in a batch
        with others. `probe_share`: of the budget of probes. Updates `view`.
        """
        # 1. Each track is looked for where it should be: one prompt in place of many, and the region keeps its track.
        changed = self._changes(frame, view)
        encoding = encoding or self._model.encode(frame.rgb)
        # A picture with nothing in it is not asked: every answer would be invented.
        empty = view.thumbnail is not None and is_empty(view.thumbnail, frame.rgb)
        limit = 0 if empty else self._options.max_track_prompts
        known = self._prompt(encoding, boxes=expected.boxes[:limit]).passing(self._limits)
        # 2. What moves and belongs to no track: small fast things, which a raster of points misses.
        moving = self._moving(frame, encoding, known, view, most=0 if empty else _MAX_MOTION_PROMPTS)
        # 3. Points where neither has found anything, as many as the budget allows, for what is new and stands still.
        covered, hidden = coverage([known, moving], _LARGE_REGION)
        points = view.probes.next_points(covered, hidden, changed, probe_share) * (frame.width, frame.height)
        fresh = self._prompt(encoding, points=points[: 0 if empty else None, None]).passing(self._limits)
        return self._describe(frame, encoding, [known, moving, fresh], expected.keys)

    def _moving(
        self, frame: Frame, encoding: ImageEncoding, known: Candidates, view: StreamView, most: int
    ) -> Candidates:
        """What moves where no track was found: its mask, or its box where the mask is not good enough."""
        proposed = view.motion.propose(frame.rgb)
        size = (frame.height, frame.width)
        free = (
            box_iou(proposed, known.mask_boxes(size)).max(axis=1, initial=0) < self._options.same_region_iou
        )
        boxes = proposed[free & (box_area(proposed) >= self._limits.min_area * frame.height * frame.width)]
        return self._prompt(encoding, boxes=boxes[:most]).or_boxes(self._limits, size)

    def _changes(self, frame: Frame, view: StreamView) -> np.ndarray:
        """Where the picture is another than in the last keyframe that was looked at, (h, 64), 0 or 1.

        The gate's own comparison will not do: keyframes that were dropped since then have changed the picture too.
        """
        now = frame.thumbnail
        if now is None:
            now = thumbnail_of(cv2.cvtColor(frame.rgb, cv2.COLOR_RGB2GRAY))
        before, view.thumbnail = view.thumbnail, now
        if before is None:
            return np.zeros(now.shape)
        changed = changed_places(before, now)
        if changed.mean() > _NEW_SCENE:
            view.probes.new_scene()
        return changed.astype(np.float64)

    def _prompt(
        self, encoding: ImageEncoding, *, points: np.ndarray | None = None, boxes: np.ndarray | None = None
    ) -> Candidates:
        """The best mask of each prompt, with its statistics on the decoder's grid."""
        segmentation = self._model.segment(encoding, points=points, boxes=boxes, multimask=True)
        count = len(segmentation)
        best = segmentation.iou.argmax(dim=1)
        rows = torch.arange(count, device=best.device)
        height, width = encoding.original_size
        scale = segmentation.low_res_logits.shape[-1] / max(height, width)
        small = (max(1, round(height * scale)), max(1, round(width * scale)))
        logits = segmentation.low_res_logits[rows, best].unsqueeze(1)
        resized = (
            self._model.mask_logits(encoding, logits, small)[:, 0] if count else logits.new_zeros((0, *small))
        )
        area, stability = mask_statistics(resized, self._stability_offset)
        return Candidates(
            prompts=np.arange(count),
            boxes=boxes,
            by_box=np.zeros(count, bool),
            segmentation=segmentation,
            best=best,
            masks=resized > 0,
            iou=segmentation.iou[rows, best].float().cpu().numpy(),
            area=area,
            stability=stability,
        )

    def _describe(
        self, frame: Frame, encoding: ImageEncoding, groups: list[Candidates], keys: tuple[int, ...]
    ) -> Sightings:
        """Drop duplicates (tracks win over movers, movers over probes), then make masks, boxes and features."""
        masks = torch.cat([group.masks for group in groups])
        # What an earlier group has found is the original, however sure a later one is.
        rank = np.concatenate([group.iou - 2.0 * place for place, group in enumerate(groups)])
        options = self._options
        kept = distinct(masks, rank, options.same_region_iou, _SAME_BOX_IOU)[: options.max_regions]
        parts: list[Sightings] = []
        start = 0
        for place, group in enumerate(groups):
            own = np.sort(kept[(kept >= start) & (kept < start + len(group))]) - start
            start += len(group)
            chosen = group.keep(own)
            prompted = tuple(keys[prompt] for prompt in chosen.prompts) if place == 0 else (-1,) * len(chosen)
            parts.append(self._finish(frame, encoding, chosen, prompted))
        return Sightings(
            np.concatenate([part.boxes for part in parts]),
            tuple(mask for part in parts for mask in part.masks),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.features for part in parts]),
            np.concatenate([part.caption_tokens for part in parts]),
            tuple(key for part in parts for key in part.prompted_by),
        )

    def _finish(
        self, frame: Frame, encoding: ImageEncoding, found: Candidates, prompted_by: tuple[int, ...]
    ) -> Sightings:
        size = (frame.height, frame.width)
        segmentation = found.segmentation.select(found.prompts)
        codes, boxes = encode_masks(self._model.masks(encoding, segmentation).cpu().numpy(), size)
        if found.boxes is not None:
            boxes[found.by_box] = found.boxes[found.prompts[found.by_box]]
        masks = tuple(None if box else code for box, code in zip(found.by_box, codes, strict=True))
        tokens = self._model.region_features(encoding, segmentation, boxes)
        return Sightings(
            boxes,
            masks,
            found.iou,
            _association_features(tokens),
            tokens.to(torch.float16).cpu().numpy(),
            prompted_by,
        )


def _association_features(tokens: Tensor) -> np.ndarray:
    """(N, Nc, C) caption tokens to (N, C) L2-normalised float32: their mean says what the region looks like."""
    mean = tokens.float().mean(dim=1)
    return np.asarray(torch.nn.functional.normalize(mean, dim=-1).cpu().numpy(), np.float32)
