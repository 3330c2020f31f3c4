"""Hard cuts are found where a film shows another place, and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import pytest

from pipeline.keyframes.cuts import ShotState, end_of_stream, look_at, next_shot_state

RATE = 25
SIZE = (64, 36)


def place(seed: int) -> np.ndarray:
    """A wide grey picture of a place that is like no other: blobs of many sizes, (72, 320) uint8."""
    rng = np.random.default_rng(seed)
    picture = np.full((72, 320), rng.integers(60, 190), np.uint8)
    for _ in range(60):
        x, y = int(rng.integers(0, 320)), int(rng.integers(0, 72))
        w, h = (int(side) for side in rng.integers(4, 40, 2))
        cv2.rectangle(picture, (x, y), (x + w, y + h), int(rng.integers(0, 256)), -1)
    return picture


def shot(seed: int, count: int, *, pan: float = 0.5, noise: int = 3) -> list[np.ndarray]:
    """`count` pictures of a place, panned by so many pixels a picture, with a thing that moves and sensor noise."""
    wide, rng = place(seed), np.random.default_rng(seed + 1000)
    pictures = []
    for index in range(count):
        x = int(index * pan) % (320 - SIZE[0])
        picture = wide[18 : 18 + SIZE[1], x : x + SIZE[0]].astype(np.int16)
        at = abs((2 * index) % 100 - 50)  # to and fro
        picture[14:20, at : at + 6] = 240
        pictures.append(
            np.clip(picture + rng.integers(-noise, noise + 1, picture.shape), 0, 255).astype(np.uint8)
        )
    return pictures


def cuts_in(pictures: Sequence[np.ndarray], rate: float = RATE) -> list[int]:
    """Numbers of the pictures at which shots are said to begin."""
    state, found = ShotState(), []
    for index, picture in enumerate(pictures):
        state, cuts = next_shot_state(state, look_at(picture), round(index * 1e9 / rate), 0)
        found += [round(cut.pts_ns * rate / 1e9) for cut in cuts]
    last = end_of_stream(state)
    return found if last is None else [*found, round(last.pts_ns * rate / 1e9)]


def test_joins_of_two_places_are_found_and_nothing_else() -> None:
    """Places that chance has drawn alike cannot be told apart by anybody: two in a hundred may be missed, none invented."""
    rng, joins, hits, invented = np.random.default_rng(1), 0, 0, 0
    for _ in range(60):
        lengths = rng.integers(5, 30, rng.integers(2, 5)).tolist()
        seed, pan = int(rng.integers(1 << 30)), float(rng.uniform(0, 4))
        pictures = [p for n, length in enumerate(lengths) for p in shot(seed + n, length, pan=pan)]
        expected = {sum(lengths[:n]) for n in range(1, len(lengths))}
        found = set(cuts_in(pictures))
        joins, hits, invented = (
            joins + len(expected),
            hits + len(found & expected),
            invented + len(found - expected),
        )
    assert invented == 0
    assert hits >= 0.98 * joins


def test_a_flash_is_no_cut() -> None:
    rng, told = np.random.default_rng(2), 0
    for _ in range(60):
        pictures = shot(int(rng.integers(1 << 30)), 30)
        begin, brighter = int(rng.integers(8, 20)), int(rng.integers(60, 255))
        for index in range(begin, begin + int(rng.integers(1, 3))):
            pictures[index] = np.clip(pictures[index].astype(int) + brighter, 0, 255).astype(np.uint8)
        told += bool(cuts_in(pictures))
    assert told <= 1


def faded(pictures: list[np.ndarray], level: int, length: int) -> list[np.ndarray]:
    """Pictures that come out of plain grey of `level` within `length` of them."""
    weights = [min(1.0, (index + 1) / length) for index in range(len(pictures))]
    return [
        (level + (p.astype(float) - level) * weight).astype(np.uint8)
        for p, weight in zip(pictures, weights, strict=True)
    ]


@pytest.mark.parametrize("level", [0, 255])
def test_through_black_or_white_into_another_place_is_one_cut_and_back_is_none(level: int) -> None:
    rng, right, wrong = np.random.default_rng(3), 0, 0
    for _ in range(50):
        seed, length, away = int(rng.integers(1 << 30)), int(rng.integers(1, 9)), int(rng.integers(1, 11))
        empty = [np.full(SIZE[::-1], level, np.uint8)] * away
        there = faded(shot(seed, 25, pan=0), level, length)[::-1] + empty
        wrong += bool(cuts_in(there + faded(shot(seed, 25, pan=0), level, length)))
        found = cuts_in(there + faded(shot(seed + 1, 25, pan=0), level, length))
        right += len(found) == 1 and len(there) <= found[0] <= len(there) + length + 1
    assert wrong <= 1
    assert right >= 47


def test_pictures_that_come_rarely_are_decided_at_once() -> None:
    assert cuts_in(shot(1, 6, pan=0) + shot(2, 6, pan=0), rate=1) == [6]


def test_where_pictures_stand_each_may_be_of_another_place() -> None:
    photos = [shot(seed, 1)[0] for seed in range(20, 32)]
    assert cuts_in(photos, rate=1) == list(range(1, 12))
    black = np.zeros(SIZE[::-1], np.uint8)
    assert cuts_in([photos[0], black, photos[1], photos[2], black, photos[2]], rate=1) == [2, 3]
    # Twice the same view of a camera with a picture a second.
    assert cuts_in(shot(40, 12, pan=2), rate=1) == []


def test_a_slow_camera_may_show_another_place_with_every_picture() -> None:
    photos = [shot(seed, 1)[0] for seed in range(20, 32)]
    assert cuts_in(photos, rate=4) == list(range(1, 12))
    flash = shot(41, 12, pan=0)
    flash[5] = np.clip(flash[5].astype(int) + 150, 0, 255).astype(np.uint8)
    assert cuts_in(flash, rate=4) == []


def test_a_film_that_ends_right_after_a_cut_tells_it() -> None:
    assert cuts_in([*shot(1, 20), shot(2, 1)[0]]) == [20]


def test_black_and_white_alone_have_no_shots() -> None:
    black, white = np.zeros(SIZE[::-1], np.uint8), np.full(SIZE[::-1], 255, np.uint8)
    assert cuts_in([black] * 5 + [white] * 5 + [black] * 5) == []
