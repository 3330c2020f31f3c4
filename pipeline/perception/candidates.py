"""Masks that prompts gave, on their way to becoming regions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from pipeline.core.regions import box_iou
from pipeline.perception.views import Window
from sca.proposals import NO_PROPOSALS, Proposals
from sca.regions import Array, ImageEncoding, Segmentation

# Masks are worked on where the model left them: arrays of numpy on a processor, tensors of torch on a GPU. Few numbers of each
# region leave it; those are numpy from then on.

# Which masks are regions, and which are the same region twice.

# Boxes of two prompts' masks that agree better than this are of one thing. A guess.
_SAME_THING = 0.7
# The picture's grid on which masks of several views are compared: cells along its longer side. As fine as the decoder's.
_GRID = 80


def array_namespace(array: Array) -> Any:
    """The functions of the array API for this array: of numpy itself, or for a tensor of torch."""
    if isinstance(array, np.ndarray):
        return np  # which speaks it since 2.0; the package would import half of numpy's tools to say so
    import array_api_compat

    return array_api_compat.array_namespace(array)


def on_host(array: Array) -> np.ndarray:
    """The same values as an array of numpy."""
    return array if isinstance(array, np.ndarray) else np.asarray(array.cpu().numpy())


def mask_statistics(logits: Array, offset: float) -> tuple[np.ndarray, np.ndarray]:
    """Of mask logits (N, h, w): area as a share of the grid, and stability, both (N,) float32.

    Stability (segment-anything): IoU of the masks at thresholds `+offset` and `-offset`; 0 for an empty mask.
    """
    # A mask whose size hangs on the exact threshold has no edge of its own: it is a guess of the decoder.
    xp = array_namespace(logits)
    cells = logits.shape[1] * logits.shape[2]
    positive, strict, loose = (
        on_host(xp.sum(logits > least, axis=(1, 2), dtype=xp.int32)).astype(np.float32)
        for least in (0, offset, -offset)
    )
    return positive / np.float32(cells), strict / np.maximum(loose, 1)


def masks_to_boxes(masks: Array) -> np.ndarray:
    """Tight boxes (N, 4) float32 xyxy, in cells, of masks (N, h, w) bool; zeros for an empty mask."""
    xp = array_namespace(masks)
    if not len(masks):
        return np.zeros((0, 4), np.float32)
    rows, columns = on_host(xp.any(masks, axis=2)), on_host(xp.any(masks, axis=1))
    ends = [used.shape[1] - used[:, ::-1].argmax(axis=1) for used in (columns, rows)]
    boxes = np.stack([columns.argmax(axis=1), rows.argmax(axis=1), *ends], axis=1).astype(np.float32)
    boxes[~rows.any(axis=1)] = 0
    return boxes


def distinct_boxes(boxes: np.ndarray, rank: np.ndarray, same_iou: float) -> np.ndarray:
    """Indices of `boxes` (N, 4) whose IoU with every better-ranked one that stays is at most `same_iou`, best first."""
    return _distinct(box_iou(boxes, boxes) > same_iou, rank)


def distinct(
    masks: Array,
    rank: np.ndarray,
    same_iou: float,
    same_box_iou: float = 1.0,
    boxes: np.ndarray | None = None,
    told_apart: np.ndarray | None = None,
) -> np.ndarray:
    """Indices of `masks` (N, h, w) bool that differ from every better-ranked one, best first.

    Two masks are the same region when their IoU exceeds `same_iou`, or that of their boxes `same_box_iou`. `boxes`:
    (N, 4) xyxy where they are known more finely than by the masks. `told_apart`: (N,) bool, those that are no twins of
    each other.
    """
    if not len(masks):
        return np.zeros(0, np.int64)
    # Intersections of all pairs as one matrix product of the flattened masks.
    xp = array_namespace(masks)
    flat = xp.reshape(xp.astype(masks, xp.float32), (len(masks), -1))
    shared = on_host(flat @ flat.T)
    area = np.diagonal(shared)
    iou = shared / np.maximum(area[:, None] + area[None] - shared, 1)
    # Ragged or holed masks of one thing may overlap badly and still fill one box.
    boxes = masks_to_boxes(masks) if boxes is None else boxes
    same = (iou > same_iou) | (box_iou(boxes, boxes) > same_box_iou)
    if told_apart is not None:
        same &= ~(told_apart[:, None] & told_apart[None])
    return _distinct(same, rank)


def _distinct(same: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """Greedy, best first: one goes only if a better one that stays says the same."""
    kept: list[int] = []
    for index in np.argsort(-rank, kind="stable"):
        if not same[index, kept].any():
            kept.append(int(index))
    return np.array(kept, np.int64)


@dataclass(frozen=True, slots=True)
class Limits:
    """Least predicted IoU and stability, least and greatest share of the picture, that make a mask a region."""

    iou: float
    stability: float
    min_area: float
    max_area: float


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A window of a picture of size `picture` (H, W), encoded by itself. Its pixels are those of the picture.

    `proposals`: where the model expects things in it, in pixels of the window.
    """

    window: Window
    encoding: ImageEncoding
    picture: tuple[int, int]
    proposals: Proposals = NO_PROPOSALS

    @property
    def scale(self) -> float:
        """Pixels of the model's input to a pixel of the picture."""
        return max(self.encoding.input_size) / max(self.window.size)

    @property
    def share(self) -> float:
        """Of the picture that it shows."""
        return float(np.prod(self.window.size) / np.prod(self.picture))


@dataclass(frozen=True, slots=True)
class Candidates:
    """N masks of one batch of prompts in one view: several of a prompt may be candidates.

    `prompts`: (N,) rows of `segmentation`; `which`: (N,) the mask of it. `boxes`: (P, 4) box prompts xyxy pixels of the
    picture, None for points. `by_box`: (N,) bool, the region is the prompt's box and not the mask. `masks`: (N, h, w)
    bool on the decoder's grid, cut to the view. `iou`, `area` (share of the picture), `stability`: (N,). `support`: (N,),
    how many masks of other prompts say the same.
    """

    view: View
    prompts: np.ndarray
    which: np.ndarray
    boxes: np.ndarray | None
    by_box: np.ndarray
    segmentation: Segmentation
    masks: Array
    iou: np.ndarray
    area: np.ndarray
    stability: np.ndarray
    support: np.ndarray

    def __len__(self) -> int:
        return len(self.prompts)

    @classmethod
    def of(
        cls, view: View, segmentation: Segmentation, boxes: np.ndarray | None, offset: float
    ) -> Candidates:
        """Every mask of every prompt; `offset`: of the logits, for stability."""
        count, kinds = segmentation.iou.shape
        # The grid covers the square input; the picture lies in its top left corner.
        logits = segmentation.low_res_logits
        side = logits.shape[-1]
        cells = side / max(view.encoding.input_size)
        rows, columns = (min(side, max(1, int(np.ceil(n * cells)))) for n in view.encoding.input_size)
        xp = array_namespace(logits)
        cut = xp.reshape(logits[:, :, :rows, :columns], (count * kinds, rows, columns))
        area, stability = mask_statistics(cut, offset)
        return cls(
            view,
            prompts=np.repeat(np.arange(count), kinds),
            which=np.tile(np.arange(kinds), count),
            boxes=boxes,
            by_box=np.zeros(count * kinds, bool),
            segmentation=segmentation,
            masks=cut > 0,
            iou=on_host(segmentation.iou).reshape(-1).astype(np.float32),
            area=area * np.float32(view.share),
            stability=stability,
            support=np.zeros(count * kinds, np.float32),
        )

    def keep(self, index: np.ndarray) -> Candidates:
        """The candidates at `index` (ints)."""
        return replace(
            self,
            prompts=self.prompts[index],
            which=self.which[index],
            by_box=self.by_box[index],
            masks=self.masks[index],
            iou=self.iou[index],
            area=self.area[index],
            stability=self.stability[index],
            support=self.support[index],
        )

    def supported(self) -> Candidates:
        """The same, knowing how many prompts say each: a point that many neighbours agree with lies in a thing."""
        boxes = self.mask_boxes()
        same = (box_iou(boxes, boxes) > _SAME_THING) & (self.prompts[:, None] != self.prompts[None])
        return replace(self, support=same.sum(axis=1).astype(np.float32))

    def compact(self) -> Candidates:
        """The same without the prompts that none of them is of: what a batch of prompts gave is large."""
        used, rows = np.unique(self.prompts, return_inverse=True)
        return replace(
            self,
            prompts=rows.astype(np.int64),
            segmentation=self.segmentation.select(used),
            boxes=None if self.boxes is None else self.boxes[used],
        )

    def one_each(self) -> Candidates:
        """The mask of each prompt that fits best: by the model's word, and for a box by how well it fills that."""
        fit = self.iou.astype(np.float64)
        if self.boxes is not None and len(self):
            own = self.boxes[self.prompts]
            fit = fit + np.diagonal(box_iou(self.mask_boxes(), own))
        kinds = self.segmentation.iou.shape[1]
        best = fit.reshape(-1, kinds).argmax(1) if len(self) else np.zeros(0, np.int64)
        return self.keep(np.arange(len(best)) * kinds + best)

    def filling(self, least: np.ndarray) -> Candidates:
        """Those whose masks fill the box that asked for them: IoU of the boxes at least that of the prompt, (P,)."""
        assert self.boxes is not None
        fit = np.diagonal(box_iou(self.mask_boxes(), self.boxes[self.prompts]))
        return self.keep(np.flatnonzero(fit >= least[self.prompts]))

    def passing(self, limits: Limits) -> Candidates:
        """Those whose masks are good enough."""
        return self.keep(np.flatnonzero(self._good(limits)))

    def or_boxes(self, limits: Limits) -> Candidates:
        """All of them: where the mask is not good enough, the prompt's box takes its place."""
        assert self.boxes is not None
        bad = ~self._good(limits)
        if not bad.any():
            return self
        masks = array_namespace(self.masks).asarray(self.masks, copy=True)
        area = self.area.copy()
        # Something moves there, whatever the decoder makes of it: the box is a region without a mask.
        for row in np.flatnonzero(bad):
            masks[row] = False
            x1, y1, x2, y2 = self._grid_box(self.boxes[self.prompts[row]])
            masks[row, y1:y2, x1:x2] = True
            area[row] = (y2 - y1) * (x2 - x1) / (masks.shape[1] * masks.shape[2]) * self.view.share
        return replace(self, masks=masks, by_box=bad, area=area)

    def whole(self) -> tuple[Candidates, np.ndarray]:
        """Those that the view's inner borders do not cut, and the boxes (M, 4) of those that they do."""
        boxes = self.mask_boxes()
        cut = self.view.window.cuts(boxes, self.view.picture)
        if not cut.any():
            return self, np.zeros((0, 4), np.float32)
        return self.keep(np.flatnonzero(~cut)), boxes[cut]

    def mask_boxes(self) -> np.ndarray:
        """Tight boxes (N, 4) float32 xyxy of the masks, in pixels of the picture."""
        grid_height, grid_width = self.masks.shape[1:]
        height, width = self.view.window.size
        scale = np.array([width / grid_width, height / grid_height] * 2, np.float32)
        return np.asarray(masks_to_boxes(self.masks) * scale + self.view.window.corner, np.float32)

    def on_picture(self, grid: tuple[int, int]) -> Array:
        """The masks (N, h, w) bool on a `grid` (h, w) of the whole picture."""
        height, width = self.view.picture
        window = self.view.window
        y0, y1 = (round(y * grid[0] / height) for y in (window.y0, window.y1))
        x0, x1 = (round(x * grid[1] / width) for x in (window.x0, window.x1))
        y0, x0 = min(y0, grid[0] - 1), min(x0, grid[1] - 1)
        xp, where = array_namespace(self.masks), self.masks.device
        out = xp.zeros((len(self), *grid), dtype=xp.bool, device=where)
        if len(self):
            size = (max(y1 - y0, 1), max(x1 - x0, 1))
            down, across = (
                xp.asarray(_averaged(own, wanted), device=where)
                for own, wanted in zip(self.masks.shape[1:], size, strict=True)
            )
            shares = down @ xp.astype(self.masks, xp.float32) @ across.T
            out[:, y0 : y0 + size[0], x0 : x0 + size[1]] = shares > 0.3
        return out

    def chosen(self) -> Segmentation:
        """The prompts of the candidates with the one mask that each is."""
        part = self.segmentation.select(self.prompts)
        row = np.arange(len(self))
        return replace(
            part,
            low_res_logits=part.low_res_logits[row, self.which][:, None],
            iou=part.iou[row, self.which][:, None],
        )

    def _good(self, limits: Limits) -> np.ndarray:
        """Which masks (N,) the model trusts, by its own word and by their stability, and which are of a sane size."""
        sure = (self.iou >= limits.iou) & (self.stability >= limits.stability)
        return np.asarray(sure & (self.area >= limits.min_area) & (self.area <= limits.max_area))

    def _grid_box(self, box: np.ndarray) -> tuple[int, int, int, int]:
        """A box (4,) in pixels of the picture as cells of the masks' grid: one cell at least."""
        grid_height, grid_width = self.masks.shape[1:]
        height, width = self.view.window.size
        scale = np.array([grid_width / width, grid_height / height] * 2)
        x1, y1, x2, y2 = (box - self.view.window.corner) * scale
        left, top = min(max(int(x1), 0), grid_width - 1), min(max(int(y1), 0), grid_height - 1)
        return left, top, max(left + 1, round(float(x2))), max(top + 1, round(float(y2)))


def joined(parts: Sequence[Segmentation]) -> Segmentation:
    """What several batches of prompts gave on one image, without their boxes."""
    parts = [part for part in parts if len(part)] or parts[:1]
    if len(parts) == 1:
        return parts[0]
    xp = array_namespace(parts[0].iou)
    logits, iou, tokens, features = (
        xp.concat(values)
        for values in zip(
            *((one.low_res_logits, one.iou, one.tokens, one.image_features) for one in parts), strict=True
        )
    )
    return Segmentation(logits, iou, tokens, features, None)


@lru_cache(maxsize=256)
def _averaged(source: int, target: int) -> Any:
    """(target, source) float32 weights: each target cell is the mean of all source cells that it touches."""
    weights = np.zeros((target, source), np.float32)
    for cell in range(target):
        first, end = cell * source // target, -(-(cell + 1) * source // target)
        weights[cell, first:end] = 1 / (end - first)
    return weights


def picture_grid(picture: tuple[int, int]) -> tuple[int, int]:
    """(h, w) of the grid on which masks of several views of a picture (H, W) are compared."""
    longer = max(picture)
    return max(1, round(_GRID * picture[0] / longer)), max(1, round(_GRID * picture[1] / longer))


def coverage(
    groups: Sequence[Candidates], large: float, picture: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Bool pictures (h, w) of what regions cover: those up to a share `large` of the picture, and the larger ones."""
    # Small regions settle what they cover. Large ones (a street, a wall) have things on them that are still to be found.
    grid = picture_grid(picture)
    small_cover, large_cover = np.zeros(grid, bool), np.zeros(grid, bool)
    for group in groups:
        masks = on_host(group.on_picture(grid))
        is_large = group.area > large
        small_cover |= masks[~is_large].any(axis=0)
        large_cover |= masks[is_large].any(axis=0)
    return small_cover, large_cover
