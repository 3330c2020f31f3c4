"""Masks go where their boxes go, from keyframe to keyframe, and are drawn nowhere else."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.masks import RleMask, drawn, encode_masks
from pipeline.core.records import Batch, CaptionEvent, Cut, Observation, ResumePoint
from pipeline.drawing.annotate import TrackPath, labels_at, track_paths
from pipeline.drawing.drawing import DisplayOptions, Drawn, Label, draw_labels, track_colour
from pipeline.drawing.moving_masks import PlacedMask, SeenMask, moved, whole_mask
from pipeline.store import CaptionStore
from tests.store_samples import INFO, T0

NS = 1_000_000_000
SIZE = (120, 200)


def ellipse(box: tuple[float, float, float, float], size: tuple[int, int] = SIZE) -> np.ndarray:
    """Pixels (H, W) of the ellipse in `box`."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    middle, half = (
        ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2),
        ((box[2] - box[0]) / 2, (box[3] - box[1]) / 2),
    )
    return np.asarray(((x - middle[0]) / half[0]) ** 2 + ((y - middle[1]) / half[1]) ** 2 <= 1)


def seen(pixels: np.ndarray, weight: float = 1.0) -> SeenMask:
    (code,), (box,) = encode_masks(pixels[None], pixels.shape)
    return SeenMask(code, tuple(box.tolist()), weight)


def on_picture(mask: PlacedMask | None, size: tuple[int, int] = SIZE) -> np.ndarray:
    whole = np.zeros(size, bool)
    if mask is not None:
        height, width = mask.inside.shape
        part = whole[mask.top : mask.top + height, mask.left : mask.left + width]
        assert part.shape == mask.inside.shape  # nothing reaches out of the picture
        part[...] = mask.inside
    return whole


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / max(1, (one | other).sum()))


@settings(deadline=None)
@given(
    st.integers(1, 400),
    st.integers(1, 400),
    st.data(),
)
def test_in_its_keyframe_a_mask_is_where_it_was_seen(height: int, width: int, data: st.DataObject) -> None:
    pixels = np.zeros((height, width), bool)
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    pixels[top : top + data.draw(st.integers(1, height)), left : left + data.draw(st.integers(1, width))] = (
        True
    )
    one = seen(pixels)
    placed = on_picture(moved((one,), one.box, (height, width)), (height, width))
    assert placed.any()
    wanted = drawn(one.mask, (height, width))
    assert (placed != wanted).sum() <= 0.05 * wanted.sum() + 6 * max(height, width) / 128 + 2


def test_a_thing_of_a_pixel_or_two_is_drawn() -> None:
    pixels = np.zeros((4, 147), bool)
    pixels[1:2, 2:4] = True
    one = seen(pixels)
    assert on_picture(moved((one,), one.box, (4, 147)), (4, 147)).any()


@settings(deadline=None)
@given(st.integers(-150, 250), st.integers(-90, 150), st.floats(0.5, 2), st.floats(0.5, 2))
def test_it_moves_and_grows_with_the_box_and_stays_in_the_picture(
    right: int, down: int, wider: float, higher: float
) -> None:
    one = seen(ellipse((60, 30, 120, 90)))
    box = (60 + right, 30 + down, 60 + right + 60 * wider, 30 + down + 60 * higher)
    placed, wanted = on_picture(moved((one,), box, SIZE)), ellipse(box)
    assert (placed != wanted).sum() <= 4 * 60 * max(wider, higher)
    if wanted.sum() > 400:
        assert overlap(placed, wanted) > 0.8


def test_between_keyframes_one_outline_becomes_the_other() -> None:
    wide, high = seen(ellipse((20, 50, 100, 70)), 0.5), seen(ellipse((80, 20, 100, 100)), 0.5)
    assert overlap(on_picture(moved((wide, high), (50, 35, 100, 85), SIZE)), ellipse((50, 35, 100, 85))) > 0.9
    # Halves that do not meet leave the nearer one, not nothing.
    left, right = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
    left[20:100, 40:60] = left[20, 40:160] = right[20:100, 140:160] = right[99, 40:160] = True
    both = (seen(left, 0.3), seen(right, 0.7))
    assert on_picture(moved(both, both[0].box, SIZE))[:, 120:].sum() > 800


@given(st.integers(0, 90), st.integers(0, 50), st.integers(0, 90), st.integers(0, 50))
def test_what_two_masks_share_are_the_pixels_of_both(x: int, y: int, other_x: int, other_y: int) -> None:
    pixels = np.random.default_rng(x + 100 * y).random((40, 50)) < 0.5
    first, second = PlacedMask(x, y, pixels), PlacedMask(other_x, other_y, ~pixels[:30, :60])
    size = (120, 160)
    shared = (on_picture(first, size) & on_picture(second, size)).sum()
    assert first.shared_with(second) == second.shared_with(first) == shared


def path(times: list[float], masks: list[RleMask | None], shots: list[int] | None = None) -> TrackPath:
    count = len(times)
    return TrackPath(
        1,
        np.array([round(at * NS) for at in times]),
        np.array([[40, 30, 100, 90]] * count, float),
        np.array([0]),
        np.array([NS]),
        ("a dog",),
        np.array([0.9]),
        tuple(masks),
        np.array(shots or [0] * count),
    )


MASK = seen(ellipse((40, 30, 100, 90))).mask
GAP = round(1.5 * NS)


@pytest.mark.parametrize(
    ("at", "weights"),
    [
        (0.0, [1.0]),
        (0.25, [0.75, 0.25]),
        (1.0, [1.0]),
        (1.5, [1.0]),  # the next one has no mask of its own
        (2.0, [1.0]),
        (3.0, []),  # seen, and longer without a mask than an outline holds
        (4.9, []),  # lost
        (6.0, [1.0]),
        (6.2, []),  # behind the last one
        (-1.0, []),
    ],
)
def test_masks_are_carried_while_the_track_is_followed_and_no_further(
    at: float, weights: list[float]
) -> None:
    one = path([0, 1, 2, 3, 6], [MASK, MASK, None, None, MASK])
    found = one.masks_at(round(at * NS), GAP) if one.box_at(round(at * NS), GAP) is not None else ()
    assert [each.weight for each in found] == weights


def test_nothing_is_drawn_from_one_shot_to_the_next() -> None:
    one = path([0, 1], [MASK, MASK], [0, 1])
    assert labels_at([one], NS // 2, GAP, DisplayOptions(), SIZE) == []
    (label,) = labels_at([one], NS, GAP, DisplayOptions(), SIZE)
    assert overlap(on_picture(label.mask), ellipse((40, 30, 100, 90))) > 0.9


@pytest.mark.parametrize("draw", list(Drawn))
def test_what_is_asked_for_is_drawn_and_the_rest_of_the_picture_is_left_alone(draw: Drawn) -> None:
    (label,) = labels_at([path([0, 1], [MASK, MASK])], 0, GAP, DisplayOptions(draw=draw), SIZE)
    picture = np.full((*SIZE, 3), 90, np.uint8)
    draw_labels(picture, [label], draw)
    inside = ellipse((50, 40, 90, 80))
    tinted = np.abs(picture[inside].astype(int) - 90).max()
    assert (tinted > 20) == (draw is not Drawn.BOXES)
    corner = np.abs(picture[88:91, 98:101].astype(int) - track_colour(1)).max(axis=2).min()
    assert (corner < 40) == (draw is not Drawn.MASKS)
    assert (picture[95:, :] == 90).all()


def test_a_region_without_a_mask_is_drawn_as_a_box_and_small_ones_lie_on_large_ones() -> None:
    picture = np.zeros((*SIZE, 3), np.uint8)
    draw_labels(picture, [Label(1, (10, 40, 60, 100), "a dog", 0.9)], Drawn.MASKS)
    assert np.abs(picture[100, 20].astype(int) - track_colour(1)).max() < 40
    large, small = np.ones(SIZE, bool), ellipse((80, 50, 120, 90))
    for order in (1, -1):
        picture = np.zeros((*SIZE, 3), np.uint8)
        labels = [
            Label(2, (80, 50, 120, 90), "a dog", 0.9, whole_mask(small)),
            Label(3, (0, 0, 200, 120), "the grass", 0.9, whole_mask(large)),
        ][::order]
        draw_labels(picture, labels, Drawn.MASKS)
        on_top, below = np.array(track_colour(2)), np.array(track_colour(3))
        likeness = [
            float(np.abs(picture[70, 100] - tint * 255).sum()) for tint in (on_top / 255, below / 255)
        ]
        alone = np.zeros((*SIZE, 3), np.uint8)
        draw_labels(alone, [label for label in labels if label.track == 3], Drawn.MASKS)
        assert likeness[0] < likeness[1]
        assert 0 < alone[70, 100].sum() < 0.25 * below.sum()  # what fills the picture hides little of it


@pytest.fixture
def store(tmp_path: Path) -> CaptionStore:
    """Track 1 with masks of its observations, 2 with that of its event, 3 with one that is none; then a cut."""
    store = CaptionStore.create(tmp_path / "a.zarr")
    broken = RleMask((36, 60), b"zzz")
    kept = {1: (MASK, MASK), 2: (None, MASK), 3: (broken, broken)}
    seconds = []
    for second in range(3):
        wall = T0 + second * NS
        box = (128.0, 120.0, 320.0, 360.0)  # the same place in a larger picture
        shot = int(second == 2)
        seconds.append(
            Batch(
                tuple(
                    Observation(wall, second * NS, second, track + 10 * shot, box, 0.9, observed)
                    for track, (observed, _) in kept.items()
                ),
                tuple(
                    CaptionEvent(
                        track + 10 * shot, wall, wall + NS, 0, NS, second, box, f"thing {track}", 0.9, -0.1, mask=told
                    )
                    for track, (_, told) in kept.items()
                )
                if second != 1
                else (),
                cuts=(Cut(wall, second * NS),) if shot else (),
                resume=ResumePoint(second * NS, second, 0, wall, 20, shot),
            )
        )  # fmt: skip
    with store.writer("cam", INFO) as writer:
        for batch in seconds:
            writer.commit(batch)
    return store


@pytest.mark.promise("damaged-masks")
def test_stored_masks_are_drawn_and_damaged_ones_are_told(
    store: CaptionStore, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        paths = track_paths(store, "cam")
    assert "3 stored masks are damaged and not drawn, the first at 0.0 s of track 3" in caplog.text
    shown = {
        label.track: label.mask for label in labels_at(paths, NS // 2, GAP, DisplayOptions(), (480, 640))
    }
    assert shown.keys() == {1, 2, 3}
    assert shown[1] is not None
    assert shown[2] is not None  # of the event that began here
    assert shown[3] is None
    later = {label.track: label.mask for label in labels_at(paths, NS, 0, DisplayOptions(), (480, 640))}
    assert later[2] is None  # there is none of this keyframe, and nothing may be carried
    assert labels_at(paths, 3 * NS // 2, GAP, DisplayOptions(), (480, 640)) == []  # before the cut
