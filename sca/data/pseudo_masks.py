"""Masks for annotated boxes where no true masks exist: by a saliency network for things, by GrabCut for clothing."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np

from sca.data.annotations import AnnotatedImage, Box, RegionAnnotation, encode_mask
from sca.data.image_cache import read_rgb
from sca.data.saliency_teacher import SaliencyTeacher
from sca.small_files import parsed_json

_CLOTHING = "clothing"
_THINGS = {"people", "animals", "vehicles", "instruments", "other", _CLOTHING}
_WORK_SIDE = 72  # longest side of the box in work pixels: GrabCut's time grows with area
_CONTEXT = 0.3  # margin around the box, as a share of its sides, that serves as known background


def wants_mask(region: RegionAnnotation, image: AnnotatedImage) -> bool:
    """Whether a teacher has a chance: a single thing, neither tiny nor the whole picture."""
    x0, y0, x1, y1 = region.box
    share = (x1 - x0) * (y1 - y0) / (image.width * image.height)
    # Clothing is part of a person: keep only pieces that are large enough to have an outline of their own.
    smallest, largest = (0.03, 0.6) if is_clothing(region) else (0.012, 0.85)
    return bool(
        region.boxes_of_phrase == 1
        and smallest < share < largest
        and region.types
        and region.types[0] in _THINGS
    )


def is_clothing(region: RegionAnnotation) -> bool:
    """Whether a region is a part of what stands out in it, which needs the other teacher."""
    return bool(region.types and region.types[0] == _CLOTHING)


def box_mask(rgb: np.ndarray, box: Box, aspect: float, iterations: int = 3) -> np.ndarray | None:
    """Foreground of `box` in `rgb` (H, W, 3) uint8, or None if the result is implausible.

    `aspect` is width / height of the unsquashed picture. Returns a uint8 mask (H, W) of 0 and 1, empty outside the
    box. Plausible: 15 to 95 % of the box, and reaching near all four sides, as an annotator's tight box demands.
    """
    height, width = rgb.shape[:2]
    x0, y0, x1, y1 = box
    pad_x, pad_y = _CONTEXT * (x1 - x0), _CONTEXT * (y1 - y0)
    left, top = max(int(x0 - pad_x), 0), max(int(y0 - pad_y), 0)
    right, bottom = min(int(np.ceil(x1 + pad_x)), width), min(int(np.ceil(y1 + pad_y)), height)
    crop = rgb[top:bottom, left:right]
    stretch = aspect * height / width  # width of a stored pixel over its height
    scale = _WORK_SIDE / max((x1 - x0) * stretch, y1 - y0, 1.0)
    size = max(round((right - left) * stretch * scale), 8), max(round((bottom - top) * scale), 8)
    work = cv2.resize(crop, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    sx, sy = size[0] / (right - left), size[1] / (bottom - top)
    bx0, by0, bx1, by1 = (x0 - left) * sx, (y0 - top) * sy, (x1 - left) * sx, (y1 - top) * sy

    labels = np.full(size[::-1], cv2.GC_BGD, np.uint8)
    inside = np.s_[max(round(by0), 0) : round(by1), max(round(bx0), 0) : round(bx1)]
    labels[inside] = cv2.GC_PR_BGD
    rows, columns = np.mgrid[: size[1], : size[0]]
    ellipse = ((columns + 0.5 - (bx0 + bx1) / 2) / max((bx1 - bx0) / 2, 1)) ** 2
    ellipse = ellipse + ((rows + 0.5 - (by0 + by1) / 2) / max((by1 - by0) / 2, 1)) ** 2
    labels[(ellipse < 1.0) & (labels == cv2.GC_PR_BGD)] = cv2.GC_PR_FGD
    if not (labels == cv2.GC_BGD).sum() > 30 or not (labels == cv2.GC_PR_FGD).sum() > 30:
        return None
    background, foreground = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)
    try:
        cv2.grabCut(work, labels, (0, 0, 1, 1), background, foreground, iterations, cv2.GC_INIT_WITH_MASK)
    except cv2.error:  # too few distinct colours for the mixture model
        return None
    found = _clean(np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8))
    if not _plausible(found, (bx0, by0, bx1, by1)):
        return None
    mask = np.zeros((height, width), np.uint8)
    mask[top:bottom, left:right] = (
        cv2.resize(found.astype(np.float32), (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
        >= 0.5
    )
    return mask


def _clean(mask: np.ndarray) -> np.ndarray:
    """Smooth, keep components of at least a quarter of the largest, fill small holes."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, kernel)
    mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, kernel, iterations=2)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    if count <= 1:
        return mask
    areas = stats[1:, cv2.CC_STAT_AREA]
    kept = np.isin(labels, 1 + np.flatnonzero(areas >= 0.25 * areas.max())).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(1 - kept, connectivity=4)
    for hole in range(1, count):
        if stats[hole, cv2.CC_STAT_AREA] < 0.03 * kept.sum():
            kept[labels == hole] = 1
    return kept


def _plausible(mask: np.ndarray, box: Box) -> bool:
    x0, y0, x1, y1 = box
    area = float(mask.sum())
    if not 0.15 < area / max((x1 - x0) * (y1 - y0), 1.0) < 0.95:
        return False
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    slack_x, slack_y = 0.2 * (x1 - x0) + 1, 0.2 * (y1 - y0) + 1
    return bool(
        columns[0] - x0 < slack_x
        and x1 - columns[-1] - 1 < slack_x
        and rows[0] - y0 < slack_y
        and y1 - rows[-1] - 1 < slack_y
    )


def grow_pseudo_masks(images: Iterable[AnnotatedImage], path: Path) -> int:
    """Compute masks for all suitable boxes of `images` that lack one and append them to `path` (JSON lines, gzip).

    Resumable: images already in the file are skipped. Returns how many masks were added.
    """
    cv2.setNumThreads(1)
    done = {image_id for image_id, _, _ in _read(path)} if path.exists() else set()
    left = [image for image in images if image.id not in done]
    things = any(not is_clothing(region) for image in left for _, region in _wanted(image))
    teacher, added = SaliencyTeacher() if things else None, 0
    with gzip.open(path, "at", encoding="utf-8") as stream:
        for image in left:
            masks = _masks_of(image, teacher)
            added += len(masks)
            stream.write(json.dumps({"id": image.id, "masks": masks}) + "\n")
    return added


def _wanted(image: AnnotatedImage) -> list[tuple[int, RegionAnnotation]]:
    return [
        (index, region)
        for index, region in enumerate(image.regions)
        if region.counts is None and wants_mask(region, image)
    ]


def _masks_of(image: AnnotatedImage, teacher: SaliencyTeacher | None) -> dict[int, str]:
    """RLE counts by region index."""
    wanted = _wanted(image)
    if not wanted:
        return {}
    rgb = read_rgb(image.path)
    masks: dict[int, np.ndarray | None] = {
        index: box_mask(rgb, region.box, image.aspect) for index, region in wanted if is_clothing(region)
    }
    things = {index: region.box for index, region in wanted if not is_clothing(region)}
    if things:
        assert teacher is not None
        masks |= zip(things, teacher.masks(rgb, list(things.values()), image.aspect), strict=True)
    return {index: encode_mask(mask) for index, mask in masks.items() if mask is not None and mask.any()}


def _read(path: Path) -> Iterator[tuple[str, int, str]]:
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        try:
            for line in stream:
                row = parsed_json(line)
                yield row["id"], -1, ""
                for index, counts in row["masks"].items():
                    yield row["id"], int(index), counts
        except (EOFError, ValueError):
            return  # a job cut while writing: what came before is whole


def read_pseudo_masks(path: Path) -> dict[tuple[str, int], str]:
    """RLE counts by (image id, region index), as `grow_pseudo_masks` wrote them."""
    return {(image_id, index): counts for image_id, index, counts in _read(path) if index >= 0}
