"""Tracks between looks: found again by their own pixels, described from the nearest view."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from pipeline.perception.remembered import (
    Description,
    Remembered,
    TrackMemory,
    better_described,
    find_again,
    grey_of,
    is_recent,
    pixels_of,
)


def scene(x: int, y: int, seed: int = 1) -> np.ndarray:
    """A textured thing of 30 x 20 pixels at (x, y) before a dull wall, (200, 300) uint8."""
    rng = np.random.default_rng(0)
    grey = cv2.GaussianBlur(rng.integers(90, 130, (200, 300)).astype(np.uint8), (0, 0), 3)
    thing = np.random.default_rng(seed).integers(0, 255, (5, 8)).astype(np.uint8)
    grey[y : y + 20, x : x + 30] = cv2.resize(thing, (30, 20), interpolation=cv2.INTER_LINEAR)
    return grey


def patch_of(grey: np.ndarray, box: np.ndarray) -> np.ndarray | None:
    """What a track that was seen in `box` is known by."""
    description = Description(1, 1.0, np.zeros(4), np.zeros((2, 4)), 0.5)
    return Remembered(description, 1, 0, box, None, pixels_of(grey, box)).patch


@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (7, -5), (-9, 4)])
def test_a_thing_that_moved_a_little_is_found_where_it_is(dx: int, dy: int) -> None:
    box = np.array([100, 80, 130, 100], np.float32)
    patch = patch_of(scene(100, 80), box)
    assert patch is not None
    found = find_again(scene(100 + dx, 80 + dy), patch, box)
    assert found is not None
    assert np.abs(found[0] - np.add(box, (dx, dy, dx, dy))).max() <= 2
    assert found[1] > 0.7


def test_what_is_gone_or_another_thing_or_featureless_is_not_found() -> None:
    box = np.array([100, 80, 130, 100], np.float32)
    patch = patch_of(scene(100, 80), box)
    assert patch is not None
    assert find_again(scene(220, 20), patch, box) is None
    assert find_again(scene(100, 80, seed=2), patch, box) is None
    assert find_again(scene(100, 80), patch, np.array([290, 190, 320, 210], np.float32)) is None
    assert find_again(scene(100, 80), patch, np.array([-90, 80, -60, 100], np.float32)) is None
    assert patch_of(np.full((50, 50), 80, np.uint8), np.array([10, 10, 40, 40])) is None
    assert patch_of(scene(100, 80), np.array([10, 10, 12, 12])) is None


@pytest.mark.parametrize("width", [97, 113, 155, 190])
@pytest.mark.parametrize("moved", [0, 1, 3])
def test_a_thing_at_the_border_is_found_inside_the_picture(width: int, moved: int) -> None:
    """Its place is as fine as a cell of its patch, and a cell of a large thing is pixels wide."""
    coarse = np.random.default_rng(3).integers(0, 255, (20, 30)).astype(np.uint8)
    grey = cv2.resize(coarse, (300, 200), interpolation=cv2.INTER_LINEAR)
    box = np.array([300 - width, 200 - width, 300, 200], np.float32)
    patch = patch_of(grey, box)
    assert patch is not None
    found = find_again(grey, patch, box + moved)
    assert found is not None
    assert found[0].min() >= 0
    assert found[0][2] <= 300
    assert found[0][3] <= 200


def test_grey_pictures_are_bounded() -> None:
    assert grey_of(np.zeros((1080, 1920, 3), np.uint8)).shape == (360, 640)
    assert grey_of(np.zeros((100, 60, 3), np.uint8)).shape == (100, 60)


def test_a_nearer_description_stays_until_it_is_old() -> None:
    near = Description(10, 0.8, np.zeros(4), np.zeros((2, 4)), 0.5)
    assert better_described(None, 11, 0.4)
    assert not better_described(near, 11, 0.4)
    assert not better_described(near, 11, 0.8)
    assert better_described(near, 12, 0.8)
    assert better_described(near, 11, 1.0)
    assert not better_described(near, 30, 0.4)
    assert better_described(near, 60, 0.4)
    assert is_recent(near, 20)
    assert not is_recent(near, 30)
    memory = TrackMemory()
    memory.keep(1, Remembered(near, 10, 0, np.zeros(4), None, None))
    memory.keep(2, Remembered(near, 10, 0, np.zeros(4), None, None))
    memory.forget_all_but({2, 3})
    assert memory.get(1) is None
    assert memory.get(2) is not None
