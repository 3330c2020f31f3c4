"""Tracks: the same thing keeps its number from keyframe to keyframe, over gaps, and when it comes back."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from pipeline.core.clock import NS
from pipeline.core.frame import FrameTime
from pipeline.core.masks import RleMask, decode_mask
from pipeline.core.motion import MotionField
from pipeline.core.regions import EndedTrack, Expected, box_area
from pipeline.tracking.association import Candidates, associate, recognise
from pipeline.tracking.carrying import carry
from pipeline.tracking.interface import TrackingOptions, TrackUpdate
from pipeline.tracking.motion import BoxMotion

# Weight of the past in a track's feature: about three sightings. One bad mask must not change what a thing looks like,
# a turn of a few keyframes must. A guess.
_FEATURE_MEMORY = 0.7
# Least share of a predicted box inside the picture: what has nearly left is not worth a prompt. A guess.
_MIN_VISIBLE = 0.25


# Least share of a thing's points that must still be found: most of what is hidden, or turns about, is lost.
_LEAST_KEPT = 0.3


class TrackState(StrEnum):
    """Tentative: seen, not numbered. Confirmed. Lost: looked for in its place. Dormant: known by its looks only."""

    TENTATIVE = "tentative"
    CONFIRMED = "confirmed"
    LOST = "lost"
    DORMANT = "dormant"


@dataclass(slots=True)
class _Track:
    key: int
    motion: BoxMotion
    box: np.ndarray
    feature: np.ndarray
    first: FrameTime
    last: FrameTime
    last_ns: int
    number: int = -1
    hits: int = 1
    state: TrackState = TrackState.TENTATIVE
    first_numbered: FrameTime | None = None
    observations: int = 0
    mask: RleMask | None = None
    carried: np.ndarray | None = None

    def expected(self, now: int) -> np.ndarray:
        """Where it should be, (4,) xyxy: where the points on it went, else where it was heading."""
        return self.motion.predict(now) if self.carried is None else self.carried


@dataclass(slots=True)
class PromptedTracker:
    """Tracks prompt the segmenter where they should be; who prompted whom, place and looks decide what continues what.

    `next_track`: the first number to give, so that a resumed stream never reuses one.
    """

    options: TrackingOptions
    next_track: int = 1
    _tracks: list[_Track] = field(default_factory=list)
    _next_key: int = 0
    _begun: bool = False
    _clock: _StreamTime = field(default_factory=lambda: _StreamTime())

    def moved(self, fields: tuple[MotionField, ...], frame_size: tuple[int, int]) -> None:
        """Take in how points of the (height, width) picture moved since the last keyframe."""
        for track in self._live():
            track.carried = _carried(track, fields, frame_size)
            # A mask is of the moment in which it was found.
            track.mask = None

    def expect(self, time: FrameTime, frame_size: tuple[int, int]) -> Expected:
        """Predicted boxes of all live tracks that should be inside a (height, width) picture at `time`."""
        now = self._clock.at(time)
        height, width = frame_size
        keys, boxes = [], []
        followed = set()
        for track in self._live():
            predicted = track.expected(now)
            inside = np.clip(predicted, 0, [width, height, width, height]).astype(np.float32)
            area = box_area(predicted[None])[0]
            if box_area(inside[None])[0] >= _MIN_VISIBLE * max(area, 1.0):
                keys.append(track.key)
                boxes.append(inside)
                if track.carried is not None:
                    followed.add(track.key)
        return Expected(tuple(keys), np.array(boxes, np.float32).reshape(-1, 4), frozenset(followed))

    def update(self, time: FrameTime, detections: Candidates, prompted_by: tuple[int, ...]) -> TrackUpdate:
        """Take in the detections of one keyframe; `prompted_by` holds the key of the track whose prompt found each.

        -1 where a detection came from elsewhere.
        """
        assert len(prompted_by) == len(detections)
        now = self._clock.at(time)
        # 1. Where every live track should be now, lost ones included: they are looked for in their place.
        live = self._live()
        index_of = {track.key: index for index, track in enumerate(live)}
        predicted = Candidates(
            np.array([track.expected(now) for track in live], np.float32).reshape(-1, 4),
            _stack(live, detections.features.shape[1]),
        )
        prompts = np.array([index_of.get(key, -1) for key in prompted_by], np.int64)
        # 2. Which region continues which of them, by place and looks together.
        owner: dict[int, _Track] = {}
        followed = np.array([track.carried is not None for track in live], bool)
        for row, column in associate(predicted, detections, prompts, self.options.association, followed):
            owner[column] = live[row]
        # 3. What is left may be something that comes back: by its looks alone, wherever it is. Tracks that are merely
        # lost take part, since what was hidden need not come out where it was expected.
        free = [column for column in range(len(detections)) if column not in owner]
        dormant = [track for track in self._tracks if track.state is TrackState.DORMANT]
        lost = [track for track in live if track.state is TrackState.LOST and track not in owner.values()]
        absent = dormant + lost
        known = Candidates(
            np.array([track.box for track in absent], np.float32).reshape(-1, 4),
            _stack(absent, detections.features.shape[1]),
        )
        returned = Candidates(detections.boxes[free], detections.features[free])
        for row, column in recognise(known, returned, self.options.association):
            owner[free[column]] = absent[row]
            # How it moved before says nothing about where it goes from here.
            absent[row].motion.restart(detections.boxes[free[column]], now)
        # 4. Every region belongs to a track now: an old one, or one that begins here.
        for column in range(len(detections)):
            if column in owner:
                self._hit(owner[column], time, now, detections.boxes[column], detections.features[column])
            else:
                owner[column] = self._start(time, now, detections.boxes[column], detections.features[column])
            owner[column].carried = None
            owner[column].mask = None if detections.masks is None else detections.masks[column]
        self._begun = True
        # 5. Who was not seen grows lost, then dormant, then ends.
        seen = {track.key for track in owner.values()}
        ended = self._age(now, seen)
        ids = np.array([owner[column].number for column in range(len(detections))], np.int64)
        keys = tuple(owner[column].key for column in range(len(detections)))
        return TrackUpdate(ids, ended, self.next_track, keys)

    def finish(self) -> tuple[EndedTrack, ...]:
        """End every track: the stream is over, or what it showed. What comes next is a first keyframe again."""
        ended = tuple(_ended(track) for track in self._tracks if track.number >= 0)
        self._tracks.clear()
        self._begun = False
        return ended

    def _live(self) -> list[_Track]:
        return [track for track in self._tracks if track.state is not TrackState.DORMANT]

    def _start(self, time: FrameTime, now: int, box: np.ndarray, feature: np.ndarray) -> _Track:
        track = _Track(self._next_key, BoxMotion(box, now), box, feature, time, time, now)
        self._next_key += 1
        self._tracks.append(track)
        self._confirm(track, time)
        return track

    def _hit(self, track: _Track, time: FrameTime, now: int, box: np.ndarray, feature: np.ndarray) -> None:
        track.motion.correct(box, now)
        track.box = box
        blended = _FEATURE_MEMORY * track.feature + (1 - _FEATURE_MEMORY) * feature
        track.feature = blended / max(float(np.linalg.norm(blended)), 1e-9)
        track.hits += 1
        track.last, track.last_ns = time, now
        self._confirm(track, time)

    def _confirm(self, track: _Track, time: FrameTime) -> None:
        # Numbers are given late, so that what flickers uses none up and is never stored. In the first keyframe at once:
        # nothing contradicts what is seen there, and a picture or a film of one frame has no second.
        if track.number < 0 and (track.hits >= self.options.confirm_hits or not self._begun):
            track.number, track.first_numbered = self.next_track, time
            self.next_track += 1
        if track.number >= 0:
            track.state = TrackState.CONFIRMED
            track.observations += 1

    def _age(self, now: int, seen: set[int]) -> tuple[EndedTrack, ...]:
        kept, ended = [], []
        for track in self._tracks:
            if track.key not in seen:
                # Lost: still looked for in its place. Dormant: only its looks are remembered.
                track.state = _state_when_missed(track.number, now - track.last_ns, self.options)
            # Not confirmed and not seen again: a mask that this keyframe cuts otherwise. It leaves no trace.
            if track.state is TrackState.TENTATIVE and track.key not in seen:
                continue
            if now - track.last_ns > (self.options.lost_s + self.options.reentry_s) * NS:
                ended.append(_ended(track))
                continue
            kept.append(track)
        self._tracks = kept
        return tuple(ended)


class _StreamTime:
    """One steady time in ns over the epochs of a stream: PTS inside an epoch, wall clock from one to the next."""

    def __init__(self) -> None:
        self._epoch = -1
        self._offset = 0
        self._last_ns = 0
        self._last_wall = 0

    def at(self, time: FrameTime) -> int:
        if time.epoch != self._epoch:
            # PTS begin anew: only the wall clock knows how long the stream was away. It never counts backwards.
            away = max(0, time.wall_ns - self._last_wall) if self._epoch >= 0 else 0
            self._offset = self._last_ns + away - time.pts_ns
            self._epoch = time.epoch
        self._last_ns = max(self._last_ns, time.pts_ns + self._offset)
        self._last_wall = time.wall_ns
        return time.pts_ns + self._offset


def _carried(
    track: _Track, fields: tuple[MotionField, ...], frame_size: tuple[int, int]
) -> np.ndarray | None:
    """The track's box after `fields`, (4,) xyxy; None where they do not tell."""
    # A track that was not seen goes on from where it was carried, and from nowhere else: at its old place is another thing.
    seen = track.carried is None and track.state is not TrackState.LOST
    box = track.box if seen else track.carried
    mask = None if track.mask is None else decode_mask(track.mask)
    for step in fields:
        result = None if box is None else carry(box, step, frame_size, mask)
        if result is None or result.kept < _LEAST_KEPT:
            return None
        box, mask = result.box, None
    return box if fields else None


def _state_when_missed(number: int, away_ns: int, options: TrackingOptions) -> TrackState:
    if number < 0:
        return TrackState.TENTATIVE
    return TrackState.LOST if away_ns <= options.lost_s * NS else TrackState.DORMANT


def _stack(tracks: list[_Track], width: int) -> np.ndarray:
    return np.array([track.feature for track in tracks], np.float32).reshape(-1, width)


def _ended(track: _Track) -> EndedTrack:
    assert track.first_numbered is not None
    return EndedTrack(track.number, track.first_numbered.wall_ns, track.last.wall_ns, track.observations)
