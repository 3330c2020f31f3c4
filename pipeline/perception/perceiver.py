"""Finding the regions of a keyframe: known tracks are looked for where they should be, then what moves, then the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from pipeline.core.clock import NS
from pipeline.core.frame import Frame
from pipeline.core.regions import Expected, box_area, box_iou
from pipeline.core.stage_times import TimedStage, timed
from pipeline.core.thumbnail import changed_places, is_empty, thumbnail_of
from pipeline.perception.candidates import Candidates, Limits, View, coverage, distinct_boxes
from pipeline.perception.closer import look_closer, windows_for
from pipeline.perception.motion_proposals import MotionProposals
from pipeline.perception.probing import PerceptionOptions, ProbeSchedule
from pipeline.perception.proposed import proposed_in, regions_in
from pipeline.perception.remembered import (
    Remembered,
    TrackMemory,
    grey_of,
    is_nearer,
    pixels_of,
)
from pipeline.perception.sightings import (
    FRESH_SHARE,
    SAME_BOX_IOU,
    SAME_TRACK_IOU,
    Group,
    RegionModel,
    Sightings,
    describe,
    each_once,
    expect_words,
    quality,
    together,
)
from pipeline.perception.stillness import Standing, StillPicture, is_due, standing
from pipeline.perception.unseen import as_they_were, cover, found_again, recognised
from pipeline.perception.views import SMALL, ViewSchedule, view_for, whole_of
from sca.lanes import Begun
from sca.regions import ImageEncoding

# Above this share of changed pixels nothing of the last keyframe can be relied on. A guess.
_NEW_SCENE = 0.6
# A first look costs as much as several others. A camera that pans changes all of the picture in every keyframe, and is no
# new scene each time: so many keyframes lie between two first looks at least. A guess. Real cuts begin anew at once.
_SCENE_KEYFRAMES = 10
# Moving places tried in a keyframe at most, the largest first; each costs as much as a probe. A guess.
_MAX_MOTION_PROMPTS = 12
# Regions above this share of the picture may hide others: they are probed inside. A guess.
_LARGE_REGION = 0.2
# Masks of one view whose boxes agree better than this are told apart no further: three masks of a prompt, and those of its
# neighbours, mostly are. Only the better one is compared with what other views have found.
_TWIN_BOX_IOU = 0.75
# A mask that fills less of the box (IoU) in which a track was expected is another thing, or a part of it. A guess.
_LEAST_FIT = 0.5
# Crops in the first keyframe of a scene for each in another.
_FIRST_CROPS = 2
_WHOLE = -1


@dataclass(slots=True)
class StreamView:
    """What perception remembers of one stream: where it probed, what stood still, how the last keyframe looked.

    `windows`: which of them were looked at when; `window_probes`: where in each. `tracks`: what each looked like.
    `keyframe`: number of the last one; `scene`: of the last that was like a first one; `grey`: its picture, in which tracks are found again.
    `picture`: how often that was looked at; `prompts_avoided`: looks for tracks that stood still. `side`: of the model's input.
    """

    probes: dict[int, ProbeSchedule]
    motion: MotionProposals
    windows: ViewSchedule = field(default_factory=ViewSchedule)
    tracks: TrackMemory = field(default_factory=TrackMemory)
    thumbnail: np.ndarray | None = None
    keyframe: int = 0
    scene: int = 1
    grey: np.ndarray | None = None
    picture: StillPicture = field(default_factory=StillPicture)
    prompts_avoided: int = 0
    side: int = 0

    def new_scene(self) -> None:
        """Everything may be different now: this look is like a first one, unless there was one a moment ago."""
        if self.keyframe - self.scene < _SCENE_KEYFRAMES:
            return
        self.scene = self.keyframe
        self.windows.new_scene()
        for probes in self.probes.values():
            probes.new_scene()


class Perception:
    """Regions of keyframes, over any number of streams; each stream brings its own `StreamView`."""

    def __init__(self, model: RegionModel, options: PerceptionOptions) -> None:
        own = model.automatic
        self._model = model
        self._options = options
        self._stability_offset = own.stability_score_offset
        self._limits = Limits(
            own.pred_iou_thresh if options.min_predicted_iou is None else options.min_predicted_iou,
            own.stability_score_thresh if options.min_stability is None else options.min_stability,
            options.min_area,
            options.max_area,
        )
        self._still_ns = round(options.still_s * NS)

    def new_view(self) -> StreamView:
        """The memory for one more stream."""
        return StreamView({_WHOLE: ProbeSchedule(self._options.probing)}, MotionProposals())

    def needs_look(self, frame: Frame, view: StreamView) -> bool:
        """Whether there may be news in `frame`: a picture that stands has been looked at everywhere, in the end."""
        return view.picture.needs_look(grey_of(frame.rgb), frame.time.wall_ns, self._still_ns)

    def begin(self, frame: Frame) -> Begun[ImageEncoding] | None:
        """Encode the whole picture beside what has to be known before the look at it; None where it is encoded with its windows."""
        if self._model.lanes.count == 1:
            return None
        return self._model.lanes.later(lambda rgb: self._model.encode_batch([rgb])[0], frame.rgb)

    def look(
        self,
        frame: Frame,
        expected: Expected,
        view: StreamView,
        *,
        encoding: ImageEncoding | Begun[ImageEncoding] | None = None,
        probe_share: float = 1.0,
        view_share: float = 1.0,
    ) -> Sightings:
        """Find regions in `frame`, in the whole picture and in windows of it: expected tracks, what moves, then probes.

        Boxes of `expected` are xyxy pixels of the frame. `encoding`: of the frame, where it was encoded in a batch
        with others, or is begun. `probe_share`, `view_share`: of the budgets of probes and windows. Updates `view`.
        """
        size = (frame.height, frame.width)
        view.keyframe += 1
        view.tracks.forget_all_but(set(expected.keys))
        changed = self._changes(frame, view)
        view.grey = grey_of(frame.rgb)
        view.picture.looked(view.grey, frame.time.wall_ns)
        # A picture with nothing in it is not asked: every answer would be invented.
        empty = view.thumbnail is not None and is_empty(view.thumbnail, frame.rgb)
        proposed = view.motion.propose(frame.rgb)
        # 1. Where to look: the whole picture, and the windows that are most due.
        share = 0.0 if empty else view_share
        numbers, views = self._views(frame, expected, view, encoding, changed, proposed, share)
        # 2. What stands where it was looked at a moment ago is what it was.
        stand = Standing() if empty else self._standing(frame, expected, view, views)
        view.prompts_avoided += len(stand)
        expected = _without(expected, stand.keys)
        # 3. Any other track is looked for where it should be: one prompt in place of many, and the region keeps its track.
        limit = 0 if empty else self._options.max_track_prompts
        groups, torn = self._known(expected, view, views, limit)
        expect_words(self._model.lanes, groups, view.tracks, view.keyframe)
        nobody = _without(expected, expected.keys) if empty else expected
        keys, again = found_again(nobody, view.tracks, view.keyframe, view.grey, size, groups)
        # 4. What moves and belongs to no track: small fast things, which a raster of points misses.
        limit = 0 if empty else _MAX_MOTION_PROMPTS
        taken = np.concatenate([again, stand.boxes])
        groups += self._moving(proposed, taken, [group.found for group in groups], views, limit)
        # 5. Boxes in which the model expects things that nobody knows yet.
        things = proposed_in(views[: 0 if empty or not self._options.proposals else None])
        taken = np.concatenate([*(group.found.mask_boxes() for group in groups), again, stand.boxes])
        unknown = things.beside(taken, self._options.least_proposal, self._options.proposals)
        groups += regions_in(unknown, views, self._prompt_boxes, self._limits, self._model.lanes)
        expect_words(self._model.lanes, groups, view.tracks, view.keyframe)
        # 6. Points where nothing was found yet, as many as the budget allows, for what is new and stands still.
        covered, hidden = coverage([group.found for group in groups], _LARGE_REGION, size)
        cover(covered, again, size)
        stand.cover(covered, hidden, _LARGE_REGION, size)
        asked = []
        for number, one in zip(numbers, views, strict=False):  # nothing new is looked for in crops
            probes = view.probes.setdefault(number, ProbeSchedule(self._options.probing))
            some, large, new = (one.window.part(small, size) for small in (covered, hidden, changed))
            asked.append((one, probes.next_points(some, large, new, probe_share)[: 0 if empty else None]))
        with timed(TimedStage.PROMPTS):
            answers = self._model.lanes.map(lambda ask: self._probe(*ask), asked)
        groups += [found for found, _ in answers]
        torn += [cut for _, cut in answers]
        view.windows.note_cut(np.concatenate(torn))
        # 7. Each region once, with its mask at full size and what to say of it; at first small ones from nearer.
        groups = [recognised(_beside(group, stand.boxes), keys, again) for group in groups]
        kept = each_once(groups, self._options.same_region_iou, self._options.max_regions - len(stand))
        if view.keyframe == view.scene:
            most = 0 if empty else round(self._options.closer * _FIRST_CROPS * view_share)
            kept = look_closer(kept, frame.rgb, self._model, self._prompt_boxes, self._limits, most)
        parts = describe(self._model, kept, view.tracks, view.keyframe)
        looked = {int(key) for group in kept for key in group.keys}
        left = [row for row, key in enumerate(keys) if key not in looked]
        known = [view.tracks.get(keys[row]) for row in left]
        parts.append(as_they_were([keys[row] for row in left], known, again[left], parts[0]))
        parts.append(as_they_were(stand.keys, stand.known, stand.boxes, parts[0], masks=True))
        return together(parts)

    def remember(self, view: StreamView, found: Sightings, keys: Sequence[int]) -> None:
        """Take in which track each region of the last keyframe belongs to: the keys by which it will be expected.

        So a track is described from its nearest view and found again between looks; whoever tells no keys goes without.
        """
        assert view.grey is not None
        scale = view.grey.shape[1] / view.windows.picture[1]
        for row, key in enumerate(keys):
            before = view.tracks.get(key)
            if before is None or found.looked[row]:
                box = found.boxes[row]
                view.tracks.keep(
                    key,
                    Remembered(
                        found.described[row],
                        view.keyframe,
                        view.picture.looked_ns,
                        box,
                        found.masks[row],
                        pixels_of(view.grey, box * scale),
                    ),
                )

    # Where to look.

    def _views(
        self,
        frame: Frame,
        expected: Expected,
        view: StreamView,
        encoding: ImageEncoding | Begun[ImageEncoding] | None,
        changed: np.ndarray,
        moving: np.ndarray,
        share: float,
    ) -> tuple[list[int], list[View]]:
        """The whole picture, the windows that are due and crops, encoded in one batch; numbers of all but the crops."""
        size = (frame.height, frame.width)
        small = expected.boxes[box_area(expected.boxes) < SMALL * frame.height * frame.width]
        due = view.windows.due(size, round(self._options.views * share), changed, moving, small)
        # In the first of a scene nobody knows yet what is small.
        most = 0 if view.keyframe == view.scene else round(self._options.closer * share)
        crops = windows_for(expected, view.tracks, view.keyframe, size, view.side, most)
        windows = [whole_of(size), *(window for _, window in due), *crops]
        parts = [window.crop(frame.rgb) for window in windows[1:]]
        with timed(TimedStage.ENCODE):
            made = self._model.encode_batch(parts if encoding is not None else [frame.rgb, *parts])
            whole = encoding.results()[0] if isinstance(encoding, Begun) else encoding
            encodings = made if whole is None else [whole, *made]
            proposals = self._model.lanes.map(self._model.propose, encodings)
        view.side = max(encodings[0].input_size)
        views = [
            View(window, one, size, boxes)
            for window, one, boxes in zip(windows, encodings, proposals, strict=True)
        ]
        return [_WHOLE, *(number for number, _ in due)], views

    def _changes(self, frame: Frame, view: StreamView) -> np.ndarray:
        """Where the picture is another than in the last keyframe that was looked at, (h, 64), 0 or 1.

        The gate's own comparison will not do: keyframes that were dropped since then have changed the picture too.
        """
        now = frame.thumbnail
        if now is None:
            now = thumbnail_of(cv2.cvtColor(frame.rgb, cv2.COLOR_RGB2GRAY))
        before, view.thumbnail = view.thumbnail, now
        if before is None:
            return np.zeros(now.shape)
        changed = changed_places(before, now)
        if changed.mean() > _NEW_SCENE:
            view.new_scene()
        return changed.astype(np.float64)

    # What to ask there.

    def _standing(self, frame: Frame, expected: Expected, view: StreamView, views: list[View]) -> Standing:
        """The tracks that need no look: they stand, were looked at not long ago, and are seen no nearer now."""
        assert view.grey is not None
        if not self._still_ns:
            return Standing()
        stand = standing(expected, view.tracks, view.grey, views[0].picture)
        where = view_for(stand.boxes, [one.window for one in views], views[0].picture)
        rows = [
            row
            for row, (key, known, place) in enumerate(zip(stand.keys, stand.known, where, strict=True))
            if not is_due(key, frame.time.wall_ns - known.looked_ns, self._still_ns)
            and (place < 0 or not is_nearer(views[place].scale, known.description))
        ]
        # However much stands, there is room for what is new.
        return stand.keep(rows[: int((1 - FRESH_SHARE) * self._options.max_regions)])

    def _known(
        self, expected: Expected, view: StreamView, views: list[View], limit: int
    ) -> tuple[list[Group], list[np.ndarray]]:
        """The tracks that the model sees, by view, and boxes of what a window's border has cut."""
        where = view_for(expected.boxes, [one.window for one in views], views[0].picture)
        known = [view.tracks.get(key) for key in expected.keys]
        # A track of which nothing is known yet has nothing but the model; the others take turns.
        where[(where < 0) & np.array([one is None for one in known], bool)] = 0
        age = np.array([np.inf if one is None else view.keyframe - one.looked for one in known])
        order = np.argsort(-np.where(where >= 0, age, -1.0), kind="stable")[:limit]
        chosen = np.sort(order[where[order] >= 0])

        def ask(number: int) -> tuple[Group, np.ndarray]:
            own = chosen[where[chosen] == number]
            found = self._prompt(views[number], boxes=expected.boxes[own]).one_each().passing(self._limits)
            # Of a track of which nothing is known yet this is all there is.
            least = np.array([0.0 if known[row] is None else _LEAST_FIT for row in own])
            found, cut = found.filling(least).whole()
            return Group(found, np.array(expected.keys, np.int64)[own[found.prompts]], 0), cut

        with timed(TimedStage.PROMPTS):
            answers = self._model.lanes.map(ask, range(len(views)))
        groups, torn = [group for group, _ in answers], [cut for _, cut in answers]
        # Two tracks may have found the same; the other one may be found by its own pixels yet.
        apart = each_once(groups, SAME_TRACK_IOU, len(chosen), SAME_TRACK_IOU, told_apart=False)
        return apart, torn

    def _moving(
        self,
        proposed: np.ndarray,
        again: np.ndarray,
        known: Sequence[Candidates],
        views: list[View],
        limit: int,
    ) -> list[Group]:
        """What moves where no track was found: its mask, or its box where the mask is not good enough."""
        height, width = views[0].picture
        taken = np.concatenate([*(group.mask_boxes() for group in known), again])
        free = box_iou(proposed, taken).max(axis=1, initial=0) < self._options.same_region_iou
        boxes = proposed[free & (box_area(proposed) >= self._limits.min_area * height * width)][:limit]
        where = np.maximum(view_for(boxes, [one.window for one in views], (height, width)), 0)

        def ask(number: int) -> Group:
            found = self._prompt(views[number], boxes=boxes[where == number]).one_each()
            return Group(found.or_boxes(self._limits), np.full(len(found), -1), 1)

        with timed(TimedStage.PROMPTS):
            return self._model.lanes.map(ask, range(len(views)))

    def _probe(self, view: View, points: np.ndarray) -> tuple[Group, np.ndarray]:
        """What is at `points` (n, 2) xy in 0..1 of a view, every mask of a point, and boxes of what its border cuts."""
        height, width = view.window.size
        pixels = points * (width, height) + view.window.corner[:2]
        found, cut = self._prompt(view, points=pixels[:, None]).passing(self._limits).whole()
        found = found.supported()
        found = found.keep(distinct_boxes(found.mask_boxes(), quality(found), _TWIN_BOX_IOU)).compact()
        return Group(found, np.full(len(found), -1), 2), cut

    def _prompt_boxes(self, view: View, boxes: np.ndarray) -> Candidates:
        return self._prompt(view, boxes=boxes)

    def _prompt(
        self, view: View, *, points: np.ndarray | None = None, boxes: np.ndarray | None = None
    ) -> Candidates:
        """Every mask of each prompt in pixels of the picture, with its statistics on the decoder's grid."""
        segmentation = self._model.segment(
            view.encoding,
            points=None if points is None else points - view.window.corner[:2],
            boxes=None if boxes is None else boxes - view.window.corner,
            multimask=True,
        )
        return Candidates.of(view, segmentation, boxes, self._stability_offset)


def _without(expected: Expected, keys: Sequence[int]) -> Expected:
    """The other tracks."""
    rows = [row for row, key in enumerate(expected.keys) if key not in keys]
    return Expected(tuple(expected.keys[row] for row in rows), expected.boxes[rows], expected.followed)


def _beside(group: Group, boxes: np.ndarray) -> Group:
    """What was found anew, without the twins of what stands: that was told apart when it was looked at."""
    if group.place == 0 or not len(group.found) or not len(boxes):
        return group
    twins = box_iou(group.found.mask_boxes(), boxes).max(axis=1) > SAME_BOX_IOU
    return group.keep(np.flatnonzero(~twins))
