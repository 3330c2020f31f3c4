"""Boxes in which the model expects things become regions, once, and only where there is none yet."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.regions import Expected, box_iou
from pipeline.perception.perceiver import Perception
from pipeline.perception.probing import PerceptionOptions, ProbeOptions
from pipeline.perception.proposed import Proposed
from pipeline.perception.sightings import Sightings
from sca.proposals import Proposals
from sca.regions import ImageEncoding
from tests.perception.test_closer import BoxModel
from tests.perception.test_perception import NOBODY, keyframe

THING = (200.0, 60.0, 280.0, 180.0)


class Proposing(BoxModel):
    """Proposes one box in the whole picture of 640 x 360, and in any window one that its left border cuts."""

    def __init__(self, score: float = 0.8) -> None:
        self.score = score

    def propose(self, encoding: ImageEncoding) -> Proposals:
        height, width = encoding.original_size
        box = THING if (height, width) == (360, 640) else (0.0, 20.0, 60.0, 90.0)
        return Proposals(np.array([box], np.float32), np.array([self.score], np.float32))


def options(**changed: object) -> PerceptionOptions:
    values: dict[str, object] = {
        "views": 0, "closer": 0, "still_s": 0, "probing": ProbeOptions(budget=0, first_budget=0), "min_predicted_iou": 0,
        "min_stability": 0, "min_area": 0, "max_area": 1,
    }  # fmt: skip
    return PerceptionOptions.model_validate(values | changed)


def look(perception: Perception, expected: Expected = NOBODY, keyframes: int = 1) -> list[Sightings]:
    view, found = perception.new_view(), []
    for index in range(keyframes):
        seen = perception.look(keyframe(index, 640, 360), expected, view)
        perception.remember(view, seen, tuple(range(len(seen))))
        found.append(seen)
    return found


def test_a_proposed_box_is_found_as_a_region() -> None:
    (found,) = look(Perception(Proposing(), options()))
    assert len(found) == 1
    assert np.abs(found.boxes[0] - THING).max() <= 8  # a cell of the decoder's grid
    assert len(look(Perception(Proposing(), options(proposals=0)))[0]) == 0
    doubtful = Proposing(score=0.2)
    assert len(look(Perception(doubtful, options()))[0]) == 0
    assert len(look(Perception(doubtful, options(least_proposal=0.1)))[0]) == 1


def test_what_a_windows_border_cuts_is_no_thing() -> None:
    (found,) = look(Perception(Proposing(), options(views=4)))
    # Of the four windows two have the picture's own border on their left, where nothing is cut.
    assert len(found) == 3


def test_a_track_that_is_known_is_not_found_again() -> None:
    known = Expected((0,), np.array([THING], np.float32))
    found = look(Perception(Proposing(), options()), known, 2)
    assert [seen.prompted_by for seen in found] == [(0,), (0,)]


BOXES = st.lists(
    st.tuples(*[st.floats(0, 90)] * 4).map(lambda b: (b[0], b[1], b[0] + 1 + b[2], b[1] + 1 + b[3])),
    max_size=8,
)


@settings(max_examples=60)
@given(BOXES, BOXES, st.integers(0, 99), st.integers(0, 5))
def test_what_is_new_is_sure_enough_within_the_budget_and_none_of_what_is_taken(
    regions: list[tuple[float, ...]], things: list[tuple[float, ...]], seed: int, most: int
) -> None:
    taken = np.array(regions, np.float32).reshape(-1, 4)
    boxes = np.array(things, np.float32).reshape(-1, 4)
    scores = np.sort(np.random.default_rng(seed).uniform(0, 1, len(boxes)).astype(np.float32))[::-1]
    proposed = Proposed(boxes, scores, np.zeros(len(boxes), np.int64))
    new = proposed.beside(taken, 0.3, most)
    assert len(new.boxes) == len(new.scores) == len(new.views) <= most
    assert (new.scores >= 0.3).all()
    assert (box_iou(new.boxes, taken) <= 0.6).all()
    # Of what could have been chosen the surest was.
    free = (scores >= 0.3) & (box_iou(boxes, taken).max(axis=1, initial=0) <= 0.6)
    assert new.scores.tolist() == scores[free][:most].tolist()
