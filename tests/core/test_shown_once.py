"""One thing is shown once, and two things are shown twice."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.regions import box_iou
from pipeline.core.shown_once import name_of, shown_once


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a man in a red shirt", "man"),
        ("two red cars on the street", "car"),
        ("a car", "car"),
        ("the grass", "grass"),
        ("a t-shirt", "t-shirt"),
        ("in the water", "water"),
        ("", ""),
    ],
)
def test_the_name_is_the_head_of_the_phrase(text: str, name: str) -> None:
    assert name_of(text) == name


def once(*regions: tuple[tuple[int, ...], str, float]) -> list[int]:
    return shown_once(
        np.array([r[0] for r in regions], float), [r[1] for r in regions], [r[2] for r in regions]
    )


def test_of_nested_regions_of_one_name_the_whole_is_shown_unless_the_inner_is_much_surer() -> None:
    whole, part, beside = (0, 0, 40, 100), (5, 0, 35, 50), (30, 0, 70, 100)
    assert once((part, "a man", 0.6), (whole, "a man in black", 0.5)) == [1]
    assert once((part, "a man", 0.9), (whole, "a man in black", 0.5)) == [0]
    assert once((part, "a shirt", 0.6), (whole, "a man", 0.5)) == [0, 1]
    assert once((whole, "a man", 0.5), (beside, "a man", 0.6)) == [1, 0]
    apart = np.zeros((2, 2), bool)
    boxes = np.array([part, whole], float)
    assert shown_once(boxes, ["a man", "a man"], [0.6, 0.5], apart) == [0, 1]
    assert shown_once(np.zeros((0, 4)), [], []) == []


def test_of_several_boxes_of_one_thing_the_one_is_shown_on_which_most_agree() -> None:
    # Three boxes about a car, a sure one that takes in the wall behind it, and a sure wheel.
    car, tight, loose = (20, 20, 80, 60), (22, 22, 78, 60), (18, 20, 80, 64)
    wall, wheel = (0, 0, 90, 70), (24, 48, 36, 60)
    around = [(wall, "a car", 0.75), (tight, "a red car", 0.6), (loose, "a car", 0.6)]
    shown = once(*around, (car, "a car", 0.55), (wheel, "a car", 0.7))
    assert shown == [3]
    # Agreement is of one name and one place: other names and other cars say nothing.
    assert once((wall, "a car", 0.75), (car, "a car", 0.55)) == [0]
    assert once(
        (wall, "a car", 0.75), (car, "a car", 0.55), (tight, "a door", 0.9), (loose, "a man", 0.9)
    ) == [2, 3, 0]


class Masks:
    """Outlines of masks on one grid."""

    def __init__(self, boxes: np.ndarray, masks: list[np.ndarray | None]) -> None:
        self.boxes, self.masks = boxes, masks

    def covers(self, region: int, other: int) -> float | None:
        first, second = self.masks[region], self.masks[other]
        return None if first is None or second is None else float((first & second).sum() / second.sum())


box = st.tuples(*[st.integers(0, 9)] * 4).map(lambda v: (v[0], v[1], v[0] + v[2] + 1, v[1] + v[3] + 1))


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(box, st.sampled_from(["a dog", "two dogs", "a cat"]), st.floats(0, 1)), max_size=8))
def test_nothing_shown_is_twice_and_every_place_is_told(
    regions: list[tuple[tuple[int, ...], str, float]],
) -> None:
    kept = once(*regions) if regions else []
    assert [regions[index][2] for index in kept] == sorted((regions[i][2] for i in kept), reverse=True)
    boxes = np.array([region[0] for region in regions], float).reshape(-1, 4)
    names = [name_of(text) for _, text, _ in regions]
    iou = box_iou(boxes, boxes)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    inside = iou * (area[:, None] + area[None]) / (1 + iou) / np.minimum(area[:, None], area[None])
    namesake = (iou > 0.4) | (inside > 0.8)
    for index in kept:
        assert not any(
            namesake[index, other] and names[index] == names[other] for other in kept if other != index
        )
    # What is not shown is shown as a namesake about there, or its place has another name.
    told = set(kept)
    told |= {row for row in range(len(regions)) for shown in kept if iou[row, shown] > 0.6}
    for row in range(len(regions)):
        assert row in told or any(namesake[row, o] and names[row] == names[o] for o in told)


def test_of_two_names_in_one_place_that_is_shown_on_which_more_agree() -> None:
    place, near, beside = (0, 0, 40, 40), (2, 0, 40, 40), (60, 0, 90, 40)
    assert once((place, "a dog", 0.4), (near, "a cat", 0.9), (beside, "a dog", 0.8)) == [1, 2]
    assert once((place, "a dog", 0.7), (near, "a cat", 0.9)) == [1, 0]  # nobody knows which
    assert once((place, "a dog", 0.5), (near, "a dog", 0.5), (place, "a cat", 0.55)) == [0]
    # A thing and the ground around it have about one box and no pixel in common.
    thing, ground = np.zeros((40, 40), bool), np.zeros((40, 40), bool)
    thing[10:35, 5:35], ground[:10], ground[35:] = True, True, True
    boxes = np.array([place, near], float)
    both = shown_once(boxes, ["the road", "a car"], [0.4, 0.9], outlines=Masks(boxes, [ground, thing]))
    assert both == [1, 0]
