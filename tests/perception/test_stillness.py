"""What stands still is not looked at again and stays; whatever changes is seen at once."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.clock import NS
from pipeline.core.masks import RleMask, encode_masks
from pipeline.core.regions import Expected
from pipeline.perception.remembered import Description, Remembered, TrackMemory, pixels_of
from pipeline.perception.stillness import (
    Standing,
    StillPicture,
    is_due,
    same_picture,
    standing,
    stood_still,
)

PICTURE = (360, 640)
BOX = np.array([200, 120, 280, 200], np.float32)


PATTERN = 12 * np.sin(np.arange(360)[:, None] / 9) + 12 * np.cos(np.arange(640) / 13)


@cache
def noise_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(PICTURE).astype(np.float32)


def scene(
    thing: tuple[int, int] | None = (200, 120),
    *,
    level: int = 190,
    size: int = 80,
    noise: int = 0,
    seed: int = 0,
) -> np.ndarray:
    """A square thing before a wall with a soft pattern, (360, 640) uint8, with a camera's noise."""
    grey = (100 + PATTERN).astype(np.float32)
    if thing is not None:
        x, y = thing
        grey[y : y + size, x : x + size] = level
    if noise:
        grey += noise * noise_of(seed)
    return np.clip(grey, 0, 255).astype(np.uint8)


def remembered(grey: np.ndarray, box: np.ndarray = BOX) -> Remembered:
    description = Description(1, 0.5, np.zeros(4, np.float32), np.zeros((2, 4), np.float16), 0.9)
    return Remembered(description, 1, 0, box, None, pixels_of(grey, box))


def stands(then: np.ndarray, now: np.ndarray, box: np.ndarray = BOX) -> bool:
    memory = TrackMemory()
    memory.keep(7, remembered(then, box))
    return len(standing(Expected((7,), box[None]), memory, now, PICTURE)) == 1


@given(st.integers(0, 4), st.integers(0, 20))
def test_noise_is_no_change(noise: int, seed: int) -> None:
    then, now = scene(noise=noise // 2, seed=seed), scene(noise=noise // 2, seed=seed + 1)
    assert same_picture(then, now)
    assert stands(then, now)


@given(
    st.integers(-80, 80),
    st.integers(-80, 80),
    st.sampled_from([0, 1]),
)
def test_a_thing_that_moves_stands_no_more(dx: int, dy: int, noise: int) -> None:
    then, now = scene(noise=noise), scene((200 + dx, 120 + dy), noise=noise, seed=1)
    moved = max(abs(dx), abs(dy))
    if moved >= 8:  # a tenth of its size
        assert not stands(then, now)
    if moved >= 4:
        assert not same_picture(then, now)
    if moved == 0:
        assert stands(then, now)


@pytest.mark.parametrize(
    "now",
    [
        pytest.param(scene(None), id="gone"),
        pytest.param(scene(level=160), id="another colour"),
        pytest.param(cv2.rectangle(scene(), (230, 150), (250, 170), 60, -1), id="something before it"),
    ],
)
def test_what_changes_stands_no_more(now: np.ndarray) -> None:
    assert not stands(scene(), now)
    assert not same_picture(scene(), now)


@given(st.integers(0, 620), st.integers(0, 340), st.integers(30, 70))
def test_a_picture_is_another_once_anything_of_a_few_pixels_has_come(x: int, y: int, contrast: int) -> None:
    then, now = scene(None, noise=1), scene(None, noise=1, seed=1).astype(int)
    now[y : y + 12, x : x + 12] += contrast
    assert not same_picture(then, np.clip(now, 0, 255).astype(np.uint8))


def test_a_track_whose_box_is_expected_elsewhere_has_moved() -> None:
    memory = TrackMemory()
    memory.keep(7, remembered(scene()))
    assert len(standing(Expected((7,), BOX[None] + 30), memory, scene(), PICTURE)) == 0
    assert len(standing(Expected((8,), BOX[None]), memory, scene(), PICTURE)) == 0


@given(st.integers(0, 1000))
def test_each_track_is_looked_at_again_in_time_and_not_all_at_once(key: int) -> None:
    assert not is_due(key, 0, 20 * NS)
    assert not is_due(key, 10 * NS, 20 * NS)
    assert is_due(key, 20 * NS, 20 * NS)
    assert is_due(key, -1, 20 * NS)
    assert len({is_due(other, 15 * NS, 20 * NS) for other in range(8)}) == 2


def test_a_still_picture_is_looked_at_some_times_then_at_times() -> None:
    picture = StillPicture()
    looks = []
    for second in range(60):
        grey = scene(noise=1, seed=second)
        if picture.needs_look(grey, second * NS, 20 * NS):
            picture.looked(grey, second * NS)
            looks.append(second)
    assert looks == [0, 1, 2, 3, 4, 5, 25, 45]
    changed = scene((300, 120))
    assert picture.needs_look(changed, 60 * NS, 20 * NS)
    picture.looked(changed, 60 * NS)
    assert picture.needs_look(changed, 61 * NS, 20 * NS)


def test_light_that_creeps_is_seen_in_the_end() -> None:
    picture = StillPicture()
    for step in range(12):
        grey = np.clip(scene().astype(int) + step, 0, 255).astype(np.uint8)
        if step > 6 and picture.looks == 1:
            return
        if picture.needs_look(grey, step * NS, 10**6 * NS):
            picture.looked(grey, step * NS)
    raise AssertionError("twelve levels went unseen")


def test_small_things_settle_what_they_cover_and_large_ones_may_hide_others() -> None:
    mask = np.zeros((2, *PICTURE), bool)
    mask[0, 120:200, 200:280] = True
    mask[1, :, :500] = True
    masks: tuple[RleMask, ...]
    masks, boxes = encode_masks(mask, PICTURE)
    covered, hidden = np.zeros((36, 64), bool), np.zeros((36, 64), bool)
    known = tuple(
        Remembered(remembered(scene()).description, 1, 0, box, code, None)
        for box, code in zip(boxes, masks, strict=True)
    )
    Standing((1, 2), known).cover(covered, hidden, 0.2, PICTURE)
    assert covered[12:20, 20:28].all()
    assert covered.sum() == 64
    assert hidden[:, :50].all()
    assert not hidden[:, 51:].any()


def test_pictures_of_other_sizes_are_not_the_same() -> None:
    assert not same_picture(scene(), cv2.resize(scene(), (320, 180)))
    assert not stood_still(np.zeros((4, 4), np.uint8), np.zeros((5, 4), np.uint8))
