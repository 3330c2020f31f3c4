"""A region has the colours of its own pixels, in any light that a person would call them so."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.perception.colours import COLOURS, colours_of

WHOLE = np.array([0, 0, 60, 40], np.float32)


@pytest.mark.parametrize(
    ("rgb", "called", "not_called"),
    [
        ((200, 20, 30), "red", {"green", "blue", "white", "black", "yellow"}),
        ((110, 15, 20), "red", {"green", "blue", "white", "yellow"}),
        ((240, 140, 20), "orange", {"green", "blue", "white", "black", "purple"}),
        ((250, 220, 40), "yellow", {"red", "blue", "black", "purple", "pink"}),
        ((40, 140, 50), "green", {"red", "blue", "white", "pink", "brown"}),
        ((40, 70, 190), "blue", {"red", "green", "yellow", "white", "brown"}),
        ((25, 35, 70), "blue", {"red", "green", "yellow", "white", "pink"}),
        ((130, 50, 160), "purple", {"green", "yellow", "white", "brown"}),
        ((245, 150, 180), "pink", {"green", "blue", "black", "brown"}),
        ((110, 70, 40), "brown", {"green", "blue", "white", "pink", "purple"}),
        ((20, 20, 22), "black", {"white", "red", "yellow", "green"}),
        ((235, 235, 230), "white", {"black", "red", "green", "brown"}),
        ((128, 128, 130), "gray", {"red", "green", "yellow", "pink"}),
    ],
)
def test_a_plain_region_is_called_by_its_colour_and_by_no_other(
    rgb: tuple[int, int, int], called: str, not_called: set[str]
) -> None:
    picture = np.full((40, 60, 3), rgb, np.uint8)
    seen = colours_of(picture, WHOLE, None)
    assert called in seen
    assert seen <= set(COLOURS)
    assert not seen & not_called


def test_only_the_pixels_inside_count() -> None:
    picture = np.full((80, 120, 3), (40, 140, 50), np.uint8)
    picture[20:60, 30:90] = (200, 20, 30)
    mask = np.zeros((8, 12), bool)
    mask[2:6, 3:9] = True
    whole = np.array([0, 0, 120, 80], np.float32)
    assert {"green", "red"} <= colours_of(picture, whole, None)
    assert "green" not in colours_of(picture, whole, mask)
    assert "green" not in colours_of(picture, np.array([30, 20, 90, 60], np.float32), None)
    # A mask that misses its box, and a box at the very edge, or outside, are no faults.
    assert "green" in colours_of(picture, np.array([0, 0, 20, 20], np.float32), mask)
    assert colours_of(picture, np.array([119.8, 79.9, 121, 81], np.float32), mask)
