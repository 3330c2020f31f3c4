"""Points are followed through the frames between keyframes, and nothing is told where the chain of frames is broken."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from pipeline.core.frame import Frame, FrameTime
from pipeline.core.motion import MotionField, motion_since
from pipeline.core.records import Gap, GapReason
from pipeline.keyframes.buffer import chained
from pipeline.keyframes.gate import KeyframeOptions
from pipeline.keyframes.reader import KeyframeReader
from pipeline.sources import DecodedFrame, SourceCounts
from pipeline.sources.picture import from_array

MS = 1_000_000


def texture(seed: int, rows: int, columns: int) -> np.ndarray:
    """Grey patches of 72 pixels, mottled in patches of 8."""
    draw = np.random.default_rng(seed)
    coarse = draw.integers(0, 180, (rows // 72 + 1, columns // 72 + 1)).repeat(72, axis=0).repeat(72, axis=1)
    fine = draw.integers(0, 75, (rows // 8, columns // 8)).repeat(8, axis=0).repeat(8, axis=1)
    return (coarse[:rows, :columns] + fine).astype(np.uint8)


PLACE, OTHER_PLACE, THING = texture(3, 216, 720), texture(5, 216, 720), texture(4, 120, 120)


def frame(
    index: int, *, pan: int = 0, thing: int | None = None, epoch: int = 0, other: bool = False
) -> DecodedFrame:
    """A textured place of 384 x 216, seen `pan` pixels to the right, with a thing 120 pixels wide at `thing`."""
    grey = (OTHER_PLACE if other else PLACE)[:, pan : pan + 384].copy()
    if thing is not None:
        grey[50:170, thing : thing + 120] = THING
    return from_array(
        "s", index, FrameTime(40 * MS * index, 40 * MS * index, epoch), np.stack([grey] * 3, axis=2)
    )


class Played:
    """A source that shows what it is given."""

    counts = SourceCounts()

    def __init__(self, items: Sequence[DecodedFrame | Gap]) -> None:
        self._items = items

    def __iter__(self):
        return iter(self._items)

    def close(self) -> None: ...


def keyframes(items: Sequence[DecodedFrame | Gap], **options: float) -> list[Frame]:
    reader = KeyframeReader(Played(items), KeyframeOptions(interval_s=0.4, **options))
    found = []
    while True:
        step, seen = reader.step()
        if step.ended:
            return found
        if seen is not None:
            found.append(seen)


def moves(field: MotionField, left: float, right: float) -> np.ndarray:
    """Median move in pixels of 384 x 216 of the points that began between two columns, at mid height."""
    place = field.before * [384, 216]
    there = (
        (place[:, 0] > left) & (place[:, 0] < right) & (place[:, 1] > 60) & (place[:, 1] < 160) & field.found
    )
    assert there.sum() >= 4
    return np.median((field.after - field.before)[there] * [384, 216], axis=0)


def test_a_thing_is_followed_to_the_next_keyframe_while_its_background_stays() -> None:
    found = keyframes([frame(index, thing=20 + 6 * index) for index in range(21)])
    assert [seen.index for seen in found] == [0, 10, 20]
    assert found[0].motion == ()
    (first,), (second,) = found[1].motion, found[2].motion
    assert (first.since, second.since) == (0, 10)
    assert moves(first, 20, 140) == pytest.approx([60, 0], abs=2)
    assert moves(second, 80, 200) == pytest.approx([60, 0], abs=2)
    assert moves(first, 280, 384) == pytest.approx([0, 0], abs=0.5)


def test_a_pan_moves_everything() -> None:
    _, seen = keyframes([frame(index, pan=5 * index) for index in range(11)])
    assert moves(seen.motion[0], 150, 380) == pytest.approx([-50, 0], abs=2)
    lost = ~seen.motion[0].found
    assert lost[seen.motion[0].before[:, 0] < 40 / 384].all(), "what has left the picture is not found"


@pytest.mark.parametrize(
    "between",
    [
        [Gap(0, 40 * MS, GapReason.CORRUPT, 1)],
        [frame(index, other=True) for index in range(5, 9)],
    ],
    ids=["gap", "cut"],
)
def test_nothing_is_told_over_a_break(between: list[DecodedFrame | Gap]) -> None:
    before = [frame(index) for index in range(5)]
    after = [frame(index, other=any(isinstance(b, DecodedFrame) for b in between)) for index in range(9, 24)]
    found = keyframes([*before, *between, *after], change=0)
    broken = next(seen for seen in found if seen.index >= 5)
    assert broken.motion == ()
    assert found[found.index(broken) + 1].motion[0].since == broken.index


def test_nothing_is_told_into_another_epoch() -> None:
    found = keyframes([frame(index, epoch=int(index > 4)) for index in range(20)], change=0)
    assert [seen.motion == () for seen in found] == [True, True, False, False]


def test_a_flash_is_passed_over() -> None:
    items = [frame(index, thing=20 + 6 * index) for index in range(11)]
    white = np.full((216, 384, 3), 255, np.uint8)
    items[5] = from_array("s", 5, items[5].time, white)
    _, seen = keyframes(items)
    assert moves(seen.motion[0], 20, 140) == pytest.approx([60, 0], abs=2)


def test_following_can_be_switched_off() -> None:
    assert all(seen.motion == () for seen in keyframes([frame(i, pan=i) for i in range(21)], follow=False))


def field(since: int) -> MotionField:
    return MotionField(since, np.zeros((1, 2), np.float32), np.zeros((1, 2), np.float32), np.ones(1, bool))


def test_steps_over_dropped_keyframes_are_told_from_the_one_that_was_looked_at() -> None:
    first, second, third = field(0), field(10), field(20)
    chain = chained(chained((first,), (second,)), (third,))
    assert motion_since(chain, 0) == (first, second, third)
    assert motion_since(chain, 10) == (second, third)
    # A keyframe was dropped where nobody told of it, or the chain was broken on the way.
    assert motion_since(chain, 5) == ()
    assert motion_since(chained((first,), ()), 0) == ()
    assert motion_since(chained((), (third,)), 0) == ()
    long: tuple[MotionField, ...] = ()
    for since in range(100):
        long = chained(long, (field(since),))
    assert len(long) <= 8
    assert motion_since(long, 0) == ()
