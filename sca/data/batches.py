"""Training batches: pictures with a fixed number of regions each, reproducible from (seed, step) alone."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sca.data.annotations import decode_mask
from sca.data.image_cache import ImageCache
from sca.data.targets import RegionTarget, TrainingImage, repeat_factors
from sca.data.views import View, degrade, plain_view, random_view

Made = TypeVar("Made")

_MIN_SIDE = 4.0  # input pixels: smaller regions teach nothing
_PADDING = 127.5  # what inference pads with: zero after normalisation by mean and deviation .5
_MIN_KEPT = 0.6  # share of a box that must stay inside the view


@dataclass(frozen=True)
class Batch:
    """B pictures with M regions each, prompts in pixels of the S x S input.

    pixels uint8 (B, S, S, 3) RGB; boxes (B * M, 4) true, prompt_boxes jittered; phrases: one text per region;
    points (B * M, 2): a click inside the region; mask_rows: indices into B * M of the regions with a known mask,
    masks (R, S/4, S/4) float in 0..1; references: all phrases of each region.
    """

    pixels: Tensor
    boxes: Tensor
    prompt_boxes: Tensor
    points: Tensor
    phrases: list[str]
    mask_rows: Tensor
    masks: Tensor
    references: list[tuple[str, ...]]

    def to(self, device: torch.device) -> Batch:
        """The same batch with its tensors on `device`."""
        moved: dict[str, Any] = {
            field.name: value.to(device)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **moved)


class BatchMaker:
    """Batches of augmented pictures. `make(step)` is a pure function of the seed and the step.

    size: input side S; images, regions: B and M; zoom: range of `random_view`; box_jitter: noise of
    `prompt_boxes` as a share of the sides; rare_threshold, rare_cap: see `repeat_factors`; shares: how often a
    collection's pictures are shown, by its name, relative to once.
    """

    def __init__(
        self,
        data: Sequence[TrainingImage],
        pictures: ImageCache,
        *,
        seed: int,
        size: int,
        images: int,
        regions: int,
        zoom: tuple[float, float],
        rare_threshold: float = 0.004,
        rare_cap: float = 2.0,
        box_jitter: float = 0.08,
        shares: Mapping[str, float] | None = None,
    ) -> None:
        self.data = data
        self.pictures = pictures
        self.seed, self.size, self.images, self.regions = seed, size, images, regions
        self.zoom, self.box_jitter = zoom, box_jitter
        wanted = [(shares or {}).get(entry.image.source, 1.0) for entry in data]
        self._factors = np.array(repeat_factors(data, rare_threshold, rare_cap)) * wanted
        self._epoch_orders: dict[int, np.ndarray] = {}

    @property
    def steps_per_epoch(self) -> float:
        return float(self._factors.sum()) / self.images

    def make(self, step: int) -> Batch:
        rng = np.random.default_rng((self.seed, step))
        count, size = self.images * self.regions, self.size
        pixels = np.zeros((self.images, size, size, 3), np.uint8)
        boxes, prompts = np.zeros((count, 4), np.float32), np.zeros((count, 4), np.float32)
        points = np.zeros((count, 2), np.float32)
        phrases: list[str] = []
        references: list[tuple[str, ...]] = []
        mask_rows: list[int] = []
        masks: list[np.ndarray] = []
        for row, index in enumerate(self._indices(step)):
            entry = self.data[index]
            view, candidates = self.view(rng, entry)
            picture = degrade(rng, self.pictures[entry.image.id])
            pixels[row] = view.warp(picture, fill=_PADDING)
            for slot, (target, box) in enumerate(self._draw(rng, candidates)):
                at = row * self.regions + slot
                box = loosened(rng, box) if target.loose else box
                boxes[at] = box
                prompts[at] = jitter_box(rng, box, self.box_jitter, size)
                phrases.append(str(rng.choice(np.array(target.phrases, dtype=object))))
                references.append(target.phrases)
                mask = self._mask(view, entry, target)
                if mask is not None:
                    mask_rows.append(at)
                    masks.append(mask)
                points[at] = click(rng, box, mask, size)
        side = size // 4
        stacked = np.stack(masks) if masks else np.zeros((0, side, side), np.float32)
        return Batch(
            pixels=torch.from_numpy(pixels),
            boxes=torch.from_numpy(boxes),
            prompt_boxes=torch.from_numpy(prompts),
            points=torch.from_numpy(points),
            phrases=phrases,
            mask_rows=torch.tensor(mask_rows, dtype=torch.int64),
            masks=torch.from_numpy(stacked.astype(np.float32)),
            references=references,
        )

    def _indices(self, step: int) -> np.ndarray:
        """The images of a step: consecutive in an endless sequence of shuffled epochs."""
        first, wanted, epoch = step * self.images, [], 0
        # Every epoch has the same length, so that a step finds its epoch without replaying the earlier ones.
        length = round(self._factors.sum())
        for position in range(first, first + self.images):
            epoch, offset = divmod(position, length)
            wanted.append(self._order(epoch, length)[offset])
        return np.array(wanted)

    def _order(self, epoch: int, length: int) -> np.ndarray:
        if epoch not in self._epoch_orders:
            rng = np.random.default_rng((self.seed, 7919, epoch))
            whole = np.floor(self._factors).astype(int)
            order = np.repeat(np.arange(len(whole)), whole)
            left = length - len(order)
            share = self._factors - whole
            if left > 0:
                extra = rng.choice(len(whole), size=left, replace=False, p=share / share.sum())
                order = np.concatenate([order, extra])
            rng.shuffle(order)
            self._epoch_orders = {epoch: order[:length]} | {
                k: v for k, v in self._epoch_orders.items() if k >= epoch - 1
            }
        return self._epoch_orders[epoch]

    def view(
        self, rng: np.random.Generator, entry: TrainingImage
    ) -> tuple[View, list[tuple[RegionTarget, np.ndarray]]]:
        """A random view of an image, and the targets in it with their boxes xyxy in input pixels."""
        image = entry.image
        raw = np.array([target.box for target in entry.targets], dtype=np.float64)
        for attempt in range(4):
            if attempt < 3:
                view = random_view(rng, image.width, image.height, image.aspect, self.size, self.zoom)
            else:
                view = plain_view(image.width, image.height, image.aspect, self.size)
            moved = view.boxes(raw)
            clipped = moved.clip(0, self.size)
            sides = clipped[:, 2:] - clipped[:, :2]
            kept = sides.prod(1) / np.maximum((moved[:, 2:] - moved[:, :2]).prod(1), 1e-6)
            good = (kept >= _MIN_KEPT) & (sides.min(1) >= _MIN_SIDE)
            if good.any():
                break
        else:
            good = sides.prod(1) >= sides.prod(1).max()  # the plain view of tiny regions only
        return view, [(entry.targets[i], clipped[i]) for i in np.flatnonzero(good)]

    def _draw(
        self, rng: np.random.Generator, candidates: list[tuple[RegionTarget, np.ndarray]]
    ) -> list[tuple[RegionTarget, np.ndarray]]:
        weights = np.array([target.weight for target, _ in candidates])
        weights = weights / weights.sum()
        count = min(self.regions, len(candidates))
        chosen = list(rng.choice(len(candidates), size=count, replace=False, p=weights))
        if count < self.regions:  # fewer than M: show some again, with another phrase and jitter
            chosen += list(rng.choice(len(candidates), size=self.regions - count, p=weights))
        return [candidates[i] for i in chosen]

    def _mask(self, view: View, entry: TrainingImage, target: RegionTarget) -> np.ndarray | None:
        if target.counts is None:
            return None
        whole = decode_mask(target.counts, entry.image.height, entry.image.width)
        mask = view.warp(whole.astype(np.float32), side=self.size // 4)
        return mask if (mask > 0.5).sum() >= 4 else None


def jitter_box(rng: np.random.Generator, box: np.ndarray, share: float, size: int) -> np.ndarray:
    """Corners moved by normal noise of `share` of the sides (as SAM: at most 20 px), half of the time by none."""
    if rng.random() < 0.4:
        return box
    sides = np.tile(box[2:] - box[:2], 2)
    moved = (box + np.clip(rng.normal(0, share, 4) * sides, -20, 20)).clip(0, size)
    return moved if (moved[2:] - moved[:2] >= 2).all() else box


def loosened(rng: np.random.Generator, box: np.ndarray) -> np.ndarray:
    """A box (4,) somewhere in one that is known to be too large: up to a fifth off each side."""
    sides = box[2:] - box[:2]
    low, high = rng.uniform(0, 0.2, 2) * sides, rng.uniform(0, 0.2, 2) * sides
    return np.concatenate([box[:2] + low, box[2:] - high])


def click(rng: np.random.Generator, box: np.ndarray, mask: np.ndarray | None, size: int) -> np.ndarray:
    """A foreground point (x, y) in input pixels: in the mask where it is known, else near the middle of the box."""
    if mask is not None:
        rows, columns = np.nonzero(mask > 0.5)
        pick = int(rng.integers(len(rows)))
        cell = size / mask.shape[0]
        return (np.array([columns[pick], rows[pick]]) + 0.5) * cell
    return box[:2] + (box[2:] - box[:2]) * np.clip(rng.normal(0.5, 0.12, 2), 0.1, 0.9)


class _Steps(Dataset[Made]):
    def __init__(self, make: Callable[[int], Made], first: int, last: int) -> None:
        self._make, self._first, self._last = make, first, last

    def __len__(self) -> int:
        return self._last - self._first

    def __getitem__(self, index: int) -> Made:
        torch.set_num_threads(1)
        return self._make(self._first + index)


def ahead(make: Callable[[int], Made], first: int, last: int, processes: int = 0) -> Iterator[Made]:
    """`make(step)` for the steps first .. last - 1, made a little ahead of time by a thread, or by `processes`."""
    if processes:
        # Forked, because what makes batches holds the pictures: nothing of it is copied.
        yield from DataLoader(
            _Steps(make, first, last),
            batch_size=None,
            num_workers=processes,
            prefetch_factor=3,
            multiprocessing_context="fork",
        )
        return
    ready: queue.Queue[Made | BaseException] = queue.Queue(maxsize=3)
    stop = threading.Event()

    def put(item: Made | BaseException) -> None:
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.5)
            except queue.Full:
                continue

    def produce() -> None:
        try:
            for step in range(first, last):
                put(make(step))
                if stop.is_set():
                    return
        except BaseException as error:  # raised again where the batches are used
            put(error)

    thread = threading.Thread(target=produce, name="batches", daemon=True)
    thread.start()
    try:
        for _ in range(first, last):
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()
