"""Boxes go where the points on the thing went, and stay with it over moves that no guess from its speed would find."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.frame import FrameTime
from pipeline.core.masks import encode_masks
from pipeline.core.motion import MotionField
from pipeline.tracking.association import Candidates
from pipeline.tracking.carrying import carry
from pipeline.tracking.interface import TrackingOptions
from pipeline.tracking.tracker import PromptedTracker

SIZE = (480, 640)
BOX = np.array([200.0, 150, 320, 290])
THING = np.zeros(SIZE, bool)
THING[180:260, 230:290] = True  # a quarter of its box: the rest is background


def field(
    thing: tuple[float, float], growth: float = 1.0, camera: tuple[float, float] = (0, 0)
) -> MotionField:
    """Points every 12 pixels; those of THING go by `thing` and grow from its middle, all others with the camera."""
    y, x = np.mgrid[6:480:12, 6:640:12]
    before = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)
    on = THING[before[:, 1].astype(int), before[:, 0].astype(int)]
    middle = before[on].mean(axis=0)
    after = before + np.float32(camera)
    after[on] = middle + growth * (before[on] - middle) + thing
    return MotionField(0, before / [640, 480], after / [640, 480], np.ones(len(before), bool))


moves = st.tuples(st.floats(-150, 150), st.floats(-100, 100))


@given(thing=moves, camera=moves, growth=st.floats(0.7, 1.5))
def test_a_box_goes_with_the_thing_in_its_mask(thing, camera, growth) -> None:
    found = carry(BOX, field(thing, growth, camera), SIZE, THING)
    assert found is not None
    assert found.kept == 1
    width, height = found.box[2:] - found.box[:2]
    assert (width, height) == pytest.approx((growth * 120, growth * 140), rel=0.02)
    # The middle of the points that are on it went by `thing`.
    middle = np.array([259.5, 221.5])
    expected = middle + thing + growth * ((BOX[:2] + BOX[2:]) / 2 - middle)
    assert (found.box[:2] + found.box[2:]) / 2 == pytest.approx(expected, abs=4)


@given(thing=moves)
def test_without_a_mask_what_moves_otherwise_than_its_surroundings_speaks(thing) -> None:
    found = carry(BOX, field(thing, camera=(30, 0)), SIZE)
    assert found is not None
    own = np.abs(np.array(thing) - (30, 0)).max() > 5
    assert found.box[:2] - BOX[:2] == pytest.approx(thing if own else (30, 0), abs=0.5 if own else 6)


def test_too_few_points_tell_nothing() -> None:
    hidden = field((40, 0))
    lost = MotionField(0, hidden.before, hidden.after, np.zeros(len(hidden), bool))
    assert carry(BOX, lost, SIZE, THING) is None
    assert carry(np.array([200.0, 150, 206, 156]), hidden, SIZE) is None


def test_half_of_the_points_may_be_wrong() -> None:
    good = field((40, 10))
    wrong = good.after.copy()
    on = np.flatnonzero(np.abs(good.after - good.before).max(axis=1) > 0)
    wrong[on[::3]] = 0.5
    found = carry(BOX, MotionField(0, good.before, wrong, good.found), SIZE, THING)
    assert found is not None
    assert found.box[:2] - BOX[:2] == pytest.approx((40, 10), abs=3)


def seen(offset: float) -> Candidates:
    masks, boxes = encode_masks(np.roll(THING, round(offset), axis=1)[None], SIZE)
    return Candidates(boxes, np.ones((1, 1), np.float32), np.ones(1, np.float32), masks)


def time(half_seconds: int) -> FrameTime:
    return FrameTime(half_seconds * 500_000_000, half_seconds * 500_000_000)


def test_a_prompt_arrives_where_a_fast_thing_went_and_not_where_it_was_heading() -> None:
    tracker = PromptedTracker(TrackingOptions())
    tracker.expect(time(0), SIZE)
    tracker.update(time(0), seen(0), (-1,))
    tracker.moved((field((200, 0)),), SIZE)
    (moved,) = tracker.expect(time(1), SIZE).boxes
    assert moved == pytest.approx([430, 180, 490, 260], abs=2)
    update = tracker.update(time(1), seen(200), (-1,))
    assert update.track_ids.tolist() == [1]
    # Motion is not known this time: it is expected to go on.
    tracker.moved((), SIZE)
    keys = tracker.expect(time(2), SIZE).keys
    assert keys == () or tracker.expect(time(2), SIZE).boxes[0][0] > 470


def test_a_track_is_carried_on_while_it_is_not_found() -> None:
    tracker = PromptedTracker(TrackingOptions())
    tracker.update(time(0), seen(0), (-1,))
    nothing = Candidates(np.zeros((0, 4), np.float32), np.zeros((0, 1), np.float32))
    tracker.moved((field((60, 0)),), SIZE)
    tracker.update(time(1), nothing, ())
    tracker.moved((field((0, 0), camera=(0, 0)),), SIZE)
    (still_there,) = tracker.expect(time(2), SIZE).boxes
    assert still_there == pytest.approx([290, 180, 350, 260], abs=2)


def test_what_was_lost_before_anybody_followed_it_is_not_carried_by_what_hides_it() -> None:
    tracker = PromptedTracker(TrackingOptions())
    tracker.update(time(0), seen(0), (-1,))
    nothing = Candidates(np.zeros((0, 4), np.float32), np.zeros((0, 1), np.float32))
    tracker.moved((), SIZE)
    tracker.update(time(1), nothing, ())
    tracker.moved((field((90, 0)),), SIZE)
    (expected,) = tracker.expect(time(2), SIZE).boxes
    assert expected == pytest.approx([230, 180, 290, 260], abs=2)


def test_a_track_that_was_followed_does_not_become_a_part_of_itself() -> None:
    """The thing is where its points went; what lies there and is much smaller is a part of it, and begins a track."""
    part = seen(60)
    small = Candidates(part.boxes + np.array([0, 0, -20, -35], np.float32), part.features, part.scores, None)
    followed, guessed = PromptedTracker(TrackingOptions()), PromptedTracker(TrackingOptions())
    for tracker, fields in ((followed, (field((60, 0)),)), (guessed, ())):
        tracker.expect(time(0), SIZE)
        tracker.update(time(0), seen(0), (-1,))
        tracker.moved(fields, SIZE)
    (key,) = followed.expect(time(1), SIZE).keys
    assert followed.expect(time(1), SIZE).followed == {key}
    assert guessed.expect(time(1), SIZE).followed == frozenset()
    assert followed.update(time(1), small, (-1,)).track_ids.tolist() == [-1]
    assert guessed.update(time(1), small, (-1,)).track_ids.tolist() == [1]  # the nearest there is
