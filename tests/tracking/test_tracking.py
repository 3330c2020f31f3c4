"""Tracking: numbers stay with their objects through motion, occlusion, absence and noise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from pipeline.core.clock import NS
from pipeline.core.frame import FrameTime
from pipeline.core.regions import box_iou
from pipeline.testing.trackers import TrackerTests
from pipeline.tracking.association import AssociationOptions, Candidates, _assign, associate, recognise
from pipeline.tracking.interface import TrackingOptions
from pipeline.tracking.motion import BoxMotion
from pipeline.tracking.tracker import PromptedTracker

SIZE = (480, 640)


def look(seed: int, noise: float = 0.0, rng: np.random.Generator | None = None) -> np.ndarray:
    """The feature of object `seed`, with some noise."""
    vector = np.random.default_rng(1000 + seed).normal(size=32)
    vector /= np.linalg.norm(vector)
    if noise and rng is not None:
        vector = vector + rng.normal(size=32) * noise / np.sqrt(32)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def box(x: float, y: float, w: float = 60, h: float = 80) -> list[float]:
    return [x, y, x + w, y + h]


class Scene:
    """Feeds a tracker with boxes and looks, one keyframe each half second, and keeps the numbers it gives.

    `begun`: something else was seen before, so that what comes is no first keyframe.
    """

    def __init__(self, *, begun: bool = False, **options: float) -> None:
        self.tracker = PromptedTracker(TrackingOptions(**options))
        self.at_ns = 0
        self.ended: list[int] = []
        if begun:
            self.step()

    def step(
        self, *objects: tuple[int, list[float]], seconds: float = 0.5, epoch: int = 0, noise: float = 0.0
    ) -> list[int]:
        time = FrameTime(self.at_ns, self.at_ns, epoch)
        self.tracker.expect(time, SIZE)
        rng = np.random.default_rng(self.at_ns % 2**32)
        found = Candidates(
            np.array([b for _, b in objects], np.float32).reshape(-1, 4),
            np.array([look(o, noise, rng) for o, _ in objects], np.float32).reshape(-1, 32),
        )
        update = self.tracker.update(time, found, tuple(-1 for _ in objects))
        self.ended += [track.track for track in update.ended]
        self.at_ns += round(seconds * NS)
        return update.track_ids.tolist()


def test_what_the_first_keyframe_shows_is_numbered_at_once() -> None:
    scene = Scene()
    assert scene.step((0, box(10, 10)), (1, box(300, 200))) == [1, 2]
    assert scene.step((1, box(300, 200)), (0, box(14, 10)), (2, box(400, 10))) == [2, 1, -1]
    first, second = scene.tracker.finish()
    assert (first.track, first.observations, second.observations) == (1, 2, 2)
    # What comes after everything has ended, such as a cut, is a first keyframe too.
    assert scene.step((3, box(100, 100))) == [3]


def test_a_stream_of_one_picture_has_tracks() -> None:
    scene = Scene()
    assert scene.step((0, box(10, 10))) == [1]
    (ended,) = scene.tracker.finish()
    assert (ended.track, ended.first_ns, ended.last_ns, ended.observations) == (1, 0, 0, 1)


def test_later_tracks_are_numbered_on_their_second_sight() -> None:
    scene = Scene(begun=True)
    assert scene.step((0, box(10, 10))) == [-1]
    assert scene.step((0, box(14, 10))) == [1]
    assert scene.step((0, box(18, 10)), (1, box(300, 200))) == [1, -1]
    assert scene.step((1, box(300, 200)), (0, box(22, 10))) == [2, 1]


def test_a_region_seen_once_never_gets_a_number() -> None:
    scene = Scene(begun=True)
    scene.step((0, box(10, 10)))
    scene.step()
    assert scene.step((1, box(10, 10))) == [-1]
    assert scene.tracker.finish() == ()


def test_crossing_objects_keep_their_numbers() -> None:
    scene = Scene()
    seen = []
    for step in range(17):
        left, right = (0, box(20 + 30 * step, 200)), (1, box(520 - 30 * step, 210))
        seen.append(scene.step(left, right, noise=0.3))
    assert seen[1:] == [seen[1]] * 16


def test_look_alikes_are_told_apart_by_motion() -> None:
    scene = Scene()
    seen = [scene.step((0, box(20 + 25 * s, 100)), (0, box(20 + 25 * s, 300))) for s in range(12)]
    assert seen[1:] == [seen[1]] * 11


def test_occluded_object_keeps_its_number() -> None:
    scene = Scene()
    for step in range(5):
        number = scene.step((0, box(20 + 20 * step, 200)))
    for _ in range(3):
        stranger = scene.step((7, box(400, 20)))
        assert stranger != number
    assert stranger[0] > 0
    assert scene.step((0, box(20 + 20 * 8, 200))) == number


def test_object_that_leaves_and_comes_back_elsewhere_keeps_its_number() -> None:
    scene = Scene()
    for step in range(4):
        number = scene.step((0, box(500 + 40 * step, 100)))
    for _ in range(20):
        scene.step()
    assert scene.step((0, box(5, 300)), noise=0.2) == number


def test_stranger_in_the_same_place_gets_another_number() -> None:
    scene = Scene()
    for _ in range(4):
        first = scene.step((0, box(100, 100)))
    for _ in range(3):
        second = scene.step((1, box(102, 101)))
    assert first != second
    assert second[0] > 0


def test_track_ends_when_it_stays_away_and_its_number_is_not_reused() -> None:
    scene = Scene(lost_s=1, reentry_s=3)
    for _ in range(3):
        scene.step((0, box(100, 100)))
    for _ in range(12):
        scene.step()
    assert scene.ended == [1]
    for _ in range(2):
        again = scene.step((0, box(100, 100)))
    assert again == [2]


def test_numbers_survive_a_reconnect() -> None:
    scene = Scene()
    for _ in range(3):
        number = scene.step((0, box(100, 100)))
    restarted = FrameTime(0, scene.at_ns + 4 * NS, 1)
    scene.tracker.expect(restarted, SIZE)
    found = Candidates(np.array([box(105, 100)], np.float32), look(0)[None])
    assert scene.tracker.update(restarted, found, (-1,)).track_ids.tolist() == number


def test_resumed_tracker_never_reuses_numbers() -> None:
    tracker = PromptedTracker(TrackingOptions(), next_track=42)
    for step in range(2):
        time = FrameTime(step * NS, step * NS)
        update = tracker.update(time, Candidates(np.array([box(10, 10)], np.float32), look(0)[None]), (-1,))
    assert update.track_ids.tolist() == [42]
    assert update.next_track == 43


def test_prediction_follows_uneven_time() -> None:
    motion = BoxMotion(np.array(box(0, 100)), 0)
    for at in (0.1, 0.3, 0.6, 1.0, 1.1, 1.6, 2.0):
        motion.correct(np.array(box(50 * at, 100)), round(at * NS))
    predicted = motion.predict(3 * NS)
    assert box_iou(predicted[None], np.array([box(150, 100)]))[0, 0] > 0.8


def test_only_tracks_inside_the_picture_are_expected() -> None:
    scene = Scene()
    for step in range(4):
        scene.step((0, box(330 + 60 * step, 100)))
    assert scene.tracker.expect(FrameTime(scene.at_ns, scene.at_ns), SIZE).keys
    later = scene.at_ns + NS
    assert scene.tracker.expect(FrameTime(later, later), SIZE).keys == ()


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 8), st.integers(0, 10_000), st.floats(0, 0.4))
def test_separate_steady_objects_never_swap(count: int, seed: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    starts = [(40 + 70 * i, rng.uniform(0, 380)) for i in range(count)]
    speed = rng.uniform(-12, 12, size=count)
    scene = Scene()
    rows = []
    for step in range(8):
        order = rng.permutation(count)
        ids = scene.step(
            *[(int(i), box(starts[i][0], starts[i][1] + speed[i] * step, 50, 60)) for i in order], noise=noise
        )
        rows.append({int(i): number for i, number in zip(order, ids, strict=True)})
    assert all(row == rows[1] for row in rows[1:])
    assert len(set(rows[1].values())) == count


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 10_000))
def test_association_uses_everything_once_and_obeys_its_gates(tracks: int, found: int, seed: int) -> None:
    rng = np.random.default_rng(seed)

    def some(count: int) -> Candidates:
        corner = rng.uniform(0, 300, (count, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(5, 200, (count, 2))], 1).astype(np.float32)
        return Candidates(boxes, np.array([look(int(rng.integers(4))) for _ in range(count)]).reshape(-1, 32))

    left, right = some(tracks), some(found)
    options = AssociationOptions()
    pairs = associate(left, right, rng.integers(-1, max(tracks, 1), found), options)
    assert len({r for r, _ in pairs}) == len({c for _, c in pairs}) == len(pairs)
    for r, c in pairs:
        assert float(left.features[r] @ right.features[c]) >= options.min_similarity


@pytest.mark.parametrize("drop", [0.1, 0.3])
def test_flickering_detections_cause_no_new_numbers(drop: float) -> None:
    rng = np.random.default_rng(3)
    scene = Scene()
    numbers: set[int] = set()
    for step in range(60):
        objects = [
            (i, box(50 + 120 * i + 2 * step, 60 + 80 * i))
            for i in range(4)
            if step < 3 or rng.random() > drop
        ]
        numbers |= {n for n in scene.step(*objects, noise=0.2) if n > 0}
    assert numbers == {1, 2, 3, 4}


@pytest.mark.parametrize("hits", [1, 3])
def test_a_track_is_numbered_on_the_sight_that_the_settings_name(hits: int) -> None:
    scene = Scene(begun=True, confirm_hits=hits)
    numbers = [scene.step((0, box(10, 10)))[0] for _ in range(4)]
    assert numbers == [-1] * (hits - 1) + [1] * (5 - hits)


@pytest.mark.parametrize(("least", "same"), [(0.5, True), (0.99, False)])
def test_what_comes_back_elsewhere_is_known_if_it_looks_as_alike_as_told(least: float, same: bool) -> None:
    rng = np.random.default_rng(0)
    before = Candidates(np.array([box(10, 10)], np.float32), look(0)[None])
    after = Candidates(np.array([box(500, 300)], np.float32), look(0, 0.3, rng)[None])
    assert 0.5 < float(before.features[0] @ after.features[0]) < 0.99
    assert bool(recognise(before, after, AssociationOptions(reentry_similarity=least))) is same


class TestPromptedTracker(TrackerTests):
    def tracker(self, next_track: int) -> PromptedTracker:
        return PromptedTracker(TrackingOptions(), next_track)


@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 2**16))
def test_an_assignment_is_the_best_there_is(rows: int, columns: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    affinity, allowed = random.uniform(-1, 2, (rows, columns)), random.random((rows, columns)) < 0.6
    pairs = _assign(affinity, allowed)
    assert all(allowed[pair] for pair in pairs)
    assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == len(pairs)
    # The solver of scipy, which is given the pairs that the tracker may not make at a price that no others make up for.
    best = linear_sum_assignment(np.where(allowed, -affinity, 1e6))
    wanted = [pair for pair in zip(*best, strict=True) if allowed[pair]]
    assert len(pairs) == len(wanted)
    assert sum(affinity[pair] for pair in pairs) == pytest.approx(sum(affinity[pair] for pair in wanted))
