"""One thing is shown once, and two things are shown twice."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


box = st.tuples(*[st.integers(0, 9)] * 4).map(lambda v: (v[0], v[1], v[0] + v[2] + 1, v[1] + v[3] + 1))


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(box, st.sampled_from(["a dog", "two dogs", "a cat"]), st.floats(0, 1)), max_size=8))
def test_every_name_and_place_stays_and_nothing_left_is_twice(
    regions: list[tuple[tuple[int, ...], str, float]],
) -> None:
    kept = once(*regions) if regions else []
    again = once(*(regions[index] for index in kept)) if kept else []
    assert sorted(again) == list(range(len(kept)))
    assert [regions[index][2] for index in kept] == sorted((regions[i][2] for i in kept), reverse=True)
    assert {name_of(text) for _, text, _ in regions} == {name_of(regions[index][1]) for index in kept}
