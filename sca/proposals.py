"""Which of a model's proposed boxes are kept: the surest first, each thing once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# Boxes that overlap by more (IoU) are of one thing, as usual for detectors.
_SAME_THING = 0.6
# The dense head has thousands of cells: what nobody would want is not compared.
_LEAST = 0.05
_MOST = 200
# Between what `fits` says in the middle of regions that are rightly (.34) and wrongly named (.26), on validation pictures: of a
# box that somebody chose it is taken to say nothing for or against.
USUAL_FIT = 0.3


class Proposals(NamedTuple):
    """Boxes where a thing is expected, surest first: `boxes` (N, 4) float32 xyxy pixels of the image, `scores` (N,) 0..1.

    A score is the IoU with a thing's own box that the model expects of its box.
    """

    boxes: np.ndarray
    scores: np.ndarray

    def fits(self, boxes: np.ndarray) -> np.ndarray:
        """How much each of `boxes` (N, 4) xyxy looks like a thing's own box, (N,) float32 0..1.

        That is the best proposal's score, times its IoU with the box: what is expected and where agree.
        """
        low = np.maximum(boxes[:, None, :2], self.boxes[None, :, :2])
        high = np.minimum(boxes[:, None, 2:], self.boxes[None, :, 2:])
        shared = np.prod(np.clip(high - low, 0, None), axis=2)
        areas = (np.prod(one[:, 2:] - one[:, :2], axis=1) for one in (boxes, self.boxes))
        own, theirs = areas
        together = np.maximum(own[:, None] + theirs[None] - shared, 1e-9)
        return np.asarray((self.scores * shared / together).max(axis=1, initial=0.0), np.float32)


NO_PROPOSALS = Proposals(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))


def distinct_proposals(
    boxes: np.ndarray, scores: np.ndarray, inner: tuple[int, int], size: tuple[int, int]
) -> Proposals:
    """The boxes (N, 4) xyxy of the model's input that stay, in pixels of an image of `size` (H, W) at `inner` (H, W) in it.

    scores (N,). Cut to the image; what lies beside it, in the padding, goes.
    """
    order = np.argsort(-scores, kind="stable")[:_MOST]
    order = order[scores[order] >= _LEAST]
    limit = np.array([inner[1], inner[0]] * 2, np.float32)
    cut = np.clip(boxes[order], 0, limit).astype(np.float32)
    area = np.prod(cut[:, 2:] - cut[:, :2], axis=1)
    # Who overlaps whom, of all pairs at once; each axis by itself, for numpy is slow along an axis of two.
    wide, high = (
        np.minimum(cut[:, None, axis + 2], cut[None, :, axis + 2])
        - np.maximum(cut[:, None, axis], cut[None, :, axis])
        for axis in (0, 1)
    )
    shared = np.clip(wide, 0, None) * np.clip(high, 0, None)
    same = shared > _SAME_THING * (area[:, None] + area[None] - shared)
    free = area > 1.0
    kept: list[int] = []
    for row in range(len(cut)):
        if free[row]:
            kept.append(row)
            free &= ~same[row]
    scale = np.array([size[1] / inner[1], size[0] / inner[0]] * 2, np.float32)
    return Proposals(cut[kept] * scale, scores[order[kept]].astype(np.float32))
