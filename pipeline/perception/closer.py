"""Small regions seen nearer: crops of the picture around what no view has shown large yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pipeline.core.regions import Expected, box_area
from pipeline.core.stage_times import TimedStage, timed
from pipeline.perception.candidates import Candidates, Limits, View
from pipeline.perception.remembered import TrackMemory, is_recent
from pipeline.perception.sightings import Group, RegionModel
from pipeline.perception.views import Window

# A region whose longer side is shown by fewer pixels of the model's input than this is small there. Of 363 things in 36
# annotated pictures, told by their true boxes, the whole picture named .51 of those under 1 % of it and .53 of those under
# 5 %, a crop .65 and .63; of larger ones .62 and .63.
_SMALL = 72
# A crop's side, in longer sides of the region in its middle: 1.5 and 2 named as much on those pictures (.63, .64), 4 and 6
# less (.62, .59), and what is wider shows others as well.
_ROOM = 2.5
# No crop is smaller than this, in pixels of the picture: there is nothing more to see in so few.
_LEAST_SIDE = 64
# A crop must show a region this much larger than its own view does: less names no better.
_LARGER = 1.5
# A mask in the crop is another thing if its box overlaps that of the region by less (IoU). The one of a tracked box.
_LEAST_FIT = 0.5


def windows_for(
    expected: Expected, memory: TrackMemory, keyframe: int, picture: tuple[int, int], side: int, most: int
) -> list[Window]:
    """Up to `most` crops of a picture of size (H, W) in which to look for small tracks that were not seen near lately.

    `side`: of the model's input.
    """
    if most <= 0 or not len(expected.keys):
        return []
    shown = np.full(len(expected.keys), side / max(picture))
    for row, key in enumerate(expected.keys):
        track = memory.get(key)
        if track is not None and is_recent(track.description, keyframe):
            shown[row] = max(shown[row], track.description.scale)
    return [window for window, _ in crops_around(expected.boxes, shown, picture, side, most)]


def look_closer(
    groups: Sequence[Group],
    rgb: np.ndarray,
    model: RegionModel,
    prompt: Callable[[View, np.ndarray], Candidates],
    limits: Limits,
    most: int,
) -> list[Group]:
    """The regions of `groups`, small ones as up to `most` crops of the picture (H, W, 3) show them, where those do.

    `prompt`: every mask of boxes (N, 4) in a view.
    """
    # 1. Which regions are small where they were found.
    boxes = np.concatenate([group.found.mask_boxes() for group in groups])
    shown = np.concatenate([np.full(len(group.found), group.found.view.scale) for group in groups])
    # 2. Crops that show the most of them, and what the model makes of each there.
    height, width = rgb.shape[0], rgb.shape[1]
    side = max(groups[0].found.view.encoding.input_size)
    crops = crops_around(boxes, shown, (height, width), side, most)
    if not crops:
        return list(groups)
    with timed(TimedStage.ENCODE):
        encodings = model.encode_batch([window.crop(rgb) for window, _ in crops])
    keys = np.concatenate([group.keys for group in groups])
    places = np.concatenate([np.full(len(group.found), group.place) for group in groups])
    nearer: list[Group] = []
    replaced = np.zeros(len(boxes), bool)

    def ask(number: int) -> Candidates:
        window, rows = crops[number]
        view = View(window, encodings[number], (height, width), model.propose(encodings[number]))
        found = prompt(view, boxes[rows]).one_each().passing(limits)
        return found.filling(np.full(len(rows), _LEAST_FIT)).whole()[0]

    with timed(TimedStage.PROMPTS):
        seen = model.lanes.map(ask, range(len(crops)))
    for (_, rows), found in zip(crops, seen, strict=True):
        own = rows[found.prompts]
        replaced[own] = True
        for place in np.unique(places[own]):
            of_place = np.flatnonzero(places[own] == place)
            nearer.append(Group(found.keep(of_place), keys[own[of_place]], int(place)))
    # 3. What no crop has shown stays as it was.
    out, start = [], 0
    for group in groups:
        end = start + len(group.found)
        out.append(group.keep(np.flatnonzero(~replaced[start:end])))
        start = end
    return out + nearer


def crops_around(
    boxes: np.ndarray, shown: np.ndarray, picture: tuple[int, int], side: int, most: int
) -> list[tuple[Window, np.ndarray]]:
    """Up to `most` square windows of a picture of size (H, W), each with the rows of `boxes` that it shows nearer.

    `boxes` (N, 4) xyxy pixels; `shown` (N,): input pixels a pixel of the picture in the best view of each so far, infinite
    for what needs none. `side`: of the model's input. Each window is the one that gains most (doublings of scale).
    """
    longest = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0)
    left = (longest * shown < _SMALL) & (box_area(boxes) > 0)
    windows = [_around(box, size, picture) for box, size in zip(boxes, longest, strict=True)]
    # What each window would show how much nearer, for all pairs at once: few boxes, so few windows.
    scales = np.array([side / max(window.size) for window in windows])
    gain = np.log2(scales)[:, None] - np.log2(shown)[None]
    held = np.array([window.holds(boxes, picture) for window in windows], bool).reshape(gain.shape)
    gain = np.where(held & (gain >= np.log2(_LARGER)), gain, 0.0)
    chosen: list[tuple[Window, np.ndarray]] = []
    while len(chosen) < most and left.any():
        total = np.where(left, (gain * left).sum(axis=1), -1.0)
        best = int(total.argmax())
        if total[best] <= 0:
            break
        rows = np.flatnonzero(left & (gain[best] > 0))
        chosen.append((windows[best], rows))
        left[rows] = False
    return chosen


def _around(box: np.ndarray, longest: float, picture: tuple[int, int]) -> Window:
    """The square around a box (4,) xyxy pixels, moved into the picture where it would lie across its border."""
    height, width = picture
    side = round(max(_ROOM * float(longest), _LEAST_SIDE))
    wide, high = min(side, width), min(side, height)
    middle = (box[:2] + box[2:]) / 2
    x0 = int(np.clip(round(float(middle[0]) - wide / 2), 0, width - wide))
    y0 = int(np.clip(round(float(middle[1]) - high / 2), 0, height - high))
    return Window(x0, y0, x0 + wide, y0 + high)
