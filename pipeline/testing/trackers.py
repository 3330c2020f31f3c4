"""What every tracker keeps: see `pipeline.tracking.interface.Tracker`."""

from __future__ import annotations

import numpy as np

from pipeline.core.clock import NS
from pipeline.core.frame import FrameTime
from pipeline.core.motion import MotionField
from pipeline.tracking.association import Candidates
from pipeline.tracking.interface import FollowsMotion, Tracker, TrackUpdate

SIZE = (480, 640)
_WIDTH = 16


def scene_time(seconds: float, epoch: int = 0, wall_s: float | None = None) -> FrameTime:
    """A moment of a stream that began at wall time 1000 s."""
    wall_ns = round((1000 + (seconds if wall_s is None else wall_s)) * NS)
    return FrameTime(round(seconds * NS), wall_ns, epoch)


def thing(number: int, left: float, top: float) -> tuple[list[float], np.ndarray]:
    """Box and feature of one thing of a scene, 60 x 80 pixels; each number has looks of its own."""
    feature = np.zeros(_WIDTH, np.float32)
    feature[number % _WIDTH] = 1
    return [left, top, left + 60, top + 80], feature


def found(*things: tuple[list[float], np.ndarray]) -> Candidates:
    """What perception found in a keyframe."""
    return Candidates(
        np.array([box for box, _ in things], np.float32).reshape(-1, 4),
        np.array([feature for _, feature in things], np.float32).reshape(-1, _WIDTH),
    )


class TrackerTests:
    """Subclass it and say `tracker`."""

    def tracker(self, next_track: int) -> Tracker:
        """A new tracker of one stream; `next_track` is the first number that it may give."""
        raise NotImplementedError

    def look(self, tracker: Tracker, time: FrameTime, seen: Candidates) -> TrackUpdate:
        """One keyframe, as the pipeline does it; checks what holds for each."""
        expected = tracker.expect(time, SIZE)
        assert expected.boxes.shape == (len(expected.keys), 4)
        assert len(set(expected.keys)) == len(expected.keys)
        assert (expected.boxes[:, :2] <= expected.boxes[:, 2:]).all()
        assert (expected.boxes >= 0).all()
        assert (expected.boxes <= [SIZE[1], SIZE[0], SIZE[1], SIZE[0]]).all()
        update = tracker.update(time, seen, (-1,) * len(seen))
        ids = update.track_ids
        assert ids.shape == (len(seen),)
        assert ids.dtype == np.int64
        numbered = ids[ids >= 0]
        assert len(np.unique(numbered)) == len(numbered), "two regions of one keyframe are not one thing"
        assert (numbered < update.next_track).all()
        return update

    def test_things_that_stay_get_numbers_and_keep_them(self) -> None:
        tracker = self.tracker(1)
        history = []
        for step in range(8):
            seen = found(thing(0, 20, 20), thing(1, 300 + 5 * step, 200), thing(2, 500, 20))
            history.append(self.look(tracker, scene_time(step / 2), seen).track_ids)
        numbers = np.array(history)
        assert (numbers[-1] >= 0).all(), "what was seen eight times in its place has a number"
        for column in numbers.T:
            first = int(np.argmax(column >= 0))
            assert (column[first:] == column[-1]).all(), "a thing keeps its number"

    def test_numbers_begin_where_an_earlier_run_ended(self) -> None:
        tracker = self.tracker(42)
        for step in range(6):
            update = self.look(tracker, scene_time(step / 2), found(thing(0, 20, 20)))
        assert update.track_ids[0] == 42
        assert update.next_track == 43

    def test_a_keyframe_may_hold_nothing(self) -> None:
        tracker = self.tracker(1)
        for step in range(3):
            update = self.look(tracker, scene_time(step / 2), found())
            assert update.ended == ()
        assert tracker.finish() == ()

    def test_prompts_name_tracks_that_are_still_expected(self) -> None:
        tracker = self.tracker(1)
        for step in range(6):
            time = scene_time(step / 2)
            expected = tracker.expect(time, SIZE)
            key = expected.keys[0] if expected.keys else -1
            update = tracker.update(time, found(thing(0, 20, 20)), (key,))
        assert update.track_ids[0] >= 0

    def test_every_numbered_track_ends_once_and_its_number_never_comes_again(self) -> None:
        tracker = self.tracker(1)
        given: set[int] = set()
        ended: list[int] = []
        draw = np.random.default_rng(0)
        for step in range(60):
            # Things come and go, some for longer than any tracker remembers.
            here = [number for number in range(6) if (step // (4 + number)) % 3 == 0]
            seen = found(*(thing(n, 20 + 90 * n, 20 + draw.uniform(0, 5)) for n in here))
            update = self.look(tracker, scene_time(20.0 * step), seen)
            numbers = set(update.track_ids[update.track_ids >= 0].tolist())
            assert not numbers & set(ended), "a number that has ended came again"
            given |= numbers
            ended += [track.track for track in update.ended]
        last = tracker.finish()
        ended += [track.track for track in last]
        assert sorted(ended) == sorted(given)
        for track in last:
            assert track.first_ns <= track.last_ns
            assert track.observations >= 1

    def test_motion_may_be_known_or_not(self) -> None:
        tracker = self.tracker(1)
        if not isinstance(tracker, FollowsMotion):
            return
        points = np.random.default_rng(0).uniform(size=(200, 2)).astype(np.float32)
        for step in range(8):
            after = points + np.array([20 / SIZE[1], 0], np.float32)
            known = MotionField(step - 1, points, after, np.asarray((after < 1).all(axis=1)))
            unknown = MotionField(step - 1, points, points * np.nan, np.zeros(len(points), bool))
            tracker.moved([(), (known,), (known, known), (unknown,)][step % 4], SIZE)
            update = self.look(tracker, scene_time(step / 2), found(thing(0, 20 + 20 * step, 20)))
        assert update.track_ids[0] >= 0
        tracker.moved((), SIZE)
        assert len(tracker.finish()) >= 1

    def test_time_stamps_may_begin_anew(self) -> None:
        tracker = self.tracker(1)
        before = after = None
        for step in range(6):
            before = self.look(tracker, scene_time(step / 2), found(thing(0, 20, 20)))
        for step in range(6):
            moment = scene_time(step / 2, epoch=1, wall_s=4 + step / 2)
            after = self.look(tracker, moment, found(thing(0, 20, 20)))
        assert before is not None
        assert after is not None
        assert after.track_ids[0] >= 0
        assert after.next_track >= before.next_track
