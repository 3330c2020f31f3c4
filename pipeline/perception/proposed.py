"""Boxes in which the model itself expects things, in all views of a keyframe: what is asked for by its box."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.core.regions import box_iou
from pipeline.core.stage_times import TimedStage, timed
from pipeline.perception.candidates import Candidates, Limits, View, distinct_boxes
from pipeline.perception.sightings import Group
from sca.lanes import Lanes

# Two views propose one thing from here on (IoU), as for regions.
_SAME_THING = 0.6
# A mask that fills less of the proposed box (IoU) is another thing, or a part of it. The one of a tracked box.
_LEAST_FIT = 0.5
# Proposed boxes come after what is known and beside what moves, before what points find.
_PLACE = 1


@dataclass(frozen=True, slots=True)
class Proposed:
    """N boxes of things in one keyframe, surest first: `boxes` (N, 4) float32 xyxy pixels of the picture, `scores` (N,) 0..1.

    `views`: (N,) the view that proposed each, an index.
    """

    boxes: np.ndarray
    scores: np.ndarray
    views: np.ndarray

    def keep(self, index: np.ndarray) -> Proposed:
        return Proposed(self.boxes[index], self.scores[index], self.views[index])

    def beside(self, taken: np.ndarray, least: float, most: int) -> Proposed:
        """Up to `most` of a score of `least` or more that are none of the boxes `taken` (M, 4)."""
        free = (self.scores >= least) & (box_iou(self.boxes, taken).max(axis=1, initial=0) <= _SAME_THING)
        return self.keep(np.flatnonzero(free)[:most])


def proposed_in(views: Sequence[View]) -> Proposed:
    """What the model has proposed in all views of a picture, each thing once; what a window's border cuts is none."""
    parts = [Proposed(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))]
    for number, view in enumerate(views):
        found = view.proposals
        boxes = np.asarray(found.boxes + view.window.corner, np.float32)
        whole = np.flatnonzero(view.window.holds(boxes, view.picture))
        parts.append(Proposed(boxes[whole], found.scores[whole], np.full(len(whole), number)))
    every = Proposed(
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.views for part in parts]),
    )
    return every.keep(distinct_boxes(every.boxes, every.scores, _SAME_THING))


def regions_in(
    proposed: Proposed,
    views: Sequence[View],
    prompt: Callable[[View, np.ndarray], Candidates],
    limits: Limits,
    lanes: Lanes,
) -> list[Group]:
    """What is in proposed boxes, by view; `prompt`: every mask of boxes (N, 4) in a view. None is a known track."""

    def ask(number: int) -> Group:
        boxes = proposed.boxes[proposed.views == number]
        found = prompt(views[number], boxes).one_each().passing(limits)
        found, _ = found.filling(np.full(len(boxes), _LEAST_FIT)).whole()
        return Group(found, np.full(len(found), -1), _PLACE)

    with timed(TimedStage.PROMPTS):
        return lanes.map(ask, range(len(views)))
