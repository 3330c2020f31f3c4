"""Small regions are looked at in crops around them: which crops, and what they change."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.regions import Expected
from pipeline.perception.closer import crops_around
from pipeline.perception.perceiver import Perception
from pipeline.perception.probing import PerceptionOptions, ProbeOptions
from pipeline.perception.sightings import Sightings
from sca.config import AutomaticSettings
from sca.lanes import ONE_LANE
from sca.proposals import NO_PROPOSALS, Proposals
from sca.regions import ImageEncoding, ImageFeatures, PlacedMask, Segmentation
from tests.perception.test_perception import keyframe

SIDE = 320


@settings(deadline=None, max_examples=80)
@given(st.integers(20, 900), st.integers(20, 900), st.integers(0, 12), st.integers(0, 6), st.integers(0, 99))
def test_crops_lie_in_the_picture_and_show_each_box_whole_nearer_and_once(
    height: int, width: int, count: int, most: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 0.9, (count, 2)) * [width, height]
    end = np.minimum(corner + rng.uniform(0, 0.4, (count, 2)) * max(height, width), [width, height])
    boxes = np.concatenate([corner, end], axis=1).astype(np.float32)
    whole = SIDE / max(height, width)
    shown = whole * rng.choice([1.0, 1.7, np.inf], count)
    crops = crops_around(boxes, shown, (height, width), SIDE, most)
    assert len(crops) <= most
    rows = [row for _, rows in crops for row in rows.tolist()]
    assert len(rows) == len(set(rows))
    for window, inside in crops:
        assert len(inside)
        assert 0 <= window.x0 < window.x1 <= width
        assert 0 <= window.y0 < window.y1 <= height
        scale = SIDE / max(window.size)
        for x0, y0, x1, y1 in boxes[inside]:
            assert window.x0 <= x0
            assert window.y0 <= y0
            assert x1 <= window.x1
            assert y1 <= window.y1
        assert (scale >= 1.5 * shown[inside] * (1 - 1e-9)).all()


def test_one_crop_shows_neighbours_and_what_is_far_away_comes_next() -> None:
    boxes = np.array(
        [[100, 100, 120, 130], [125, 100, 145, 130], [700, 400, 720, 430], [0, 0, 400, 300]], np.float32
    )
    far = np.full(4, SIDE / 960)
    crops = crops_around(boxes, far, (540, 960), SIDE, 4)
    assert [rows.tolist() for _, rows in crops] == [[0, 1], [2]]
    # What was seen as near already needs no crop.
    seen = np.array([np.inf, np.inf, SIDE / 960, SIDE / 960])
    assert [rows.tolist() for _, rows in crops_around(boxes, seen, (540, 960), SIDE, 4)] == [[2]]
    assert crops_around(boxes, far, (540, 960), SIDE, 0) == []


class BoxModel:
    """A model that sees what its prompt says: the mask of a box is that box, and nothing is at points."""

    automatic = AutomaticSettings()
    lanes = ONE_LANE

    def encode_batch(self, images: Sequence[np.ndarray]) -> list[ImageEncoding]:
        sizes = [image.shape[:2] for image in images]
        scales = [SIDE / max(size) for size in sizes]
        return [
            ImageEncoding(
                ImageFeatures(np.zeros((1, 2, 4, 4), np.float32), None),
                (h, w),
                (round(h * scale), round(w * scale)),
            )
            for (h, w), scale in zip(sizes, scales, strict=True)
        ]

    def propose(self, encoding: ImageEncoding) -> Proposals:
        return NO_PROPOSALS

    def segment(
        self,
        encoding: ImageEncoding,
        *,
        points: np.ndarray | None = None,
        boxes: np.ndarray | None = None,
        multimask: bool = True,
    ) -> Segmentation:
        assert boxes is not None or points is not None
        count = len(boxes) if boxes is not None else len(points if points is not None else ())
        logits = np.full((count, 1, 80, 80), -9.0, np.float32)
        scale = 80 / SIDE * max(encoding.input_size) / max(encoding.original_size)
        for row, box in enumerate(() if boxes is None else boxes * scale):
            x0, y0, x1, y1 = np.floor(box[0]), np.floor(box[1]), np.ceil(box[2]), np.ceil(box[3])
            logits[row, 0, int(y0) : int(y1), int(x0) : int(x1)] = 9.0
        nothing = np.zeros((count, 1, 2), np.float32)
        return Segmentation(logits, np.ones((count, 1), np.float32), nothing, nothing[..., None], boxes)

    def placed_masks(self, encoding: ImageEncoding, segmentation: Segmentation) -> list[PlacedMask]:
        height, width = encoding.original_size
        scale = 80 / max(height, width)
        rows = np.minimum((np.arange(height) * scale).astype(int), 79)
        columns = np.minimum((np.arange(width) * scale).astype(int), 79)
        masks = segmentation.low_res_logits[:, 0][:, rows][:, :, columns] > 0
        return [PlacedMask(mask) for mask in masks]

    def region_features(
        self, encoding: ImageEncoding, segmentation: Segmentation, boxes: np.ndarray | None = None
    ) -> np.ndarray:
        # What a region is told by is how large its view is.
        return np.full((len(segmentation), 2, 2), max(encoding.original_size), np.float32)


def looked_at(closer: int, boxes: np.ndarray, keyframes: int = 1) -> list[Sightings]:
    options = PerceptionOptions(
        views=0,
        closer=closer,
        still_s=0,
        probing=ProbeOptions(budget=0, first_budget=0),
        min_predicted_iou=0,
        min_stability=0,
        min_area=0,
        max_area=1,
    )
    perception = Perception(BoxModel(), options)
    view = perception.new_view()
    found = []
    for index in range(keyframes):
        seen = perception.look(
            keyframe(index, 640, 360), Expected(tuple(range(len(boxes))), boxes.copy()), view
        )
        perception.remember(view, seen, seen.prompted_by)
        found.append(seen)
    return found


def test_small_tracks_are_described_from_crops_and_stay_where_they_are() -> None:
    boxes = np.array([[300, 100, 500, 290], [20, 20, 60, 50], [560, 300, 600, 340]], np.float32)
    (plain,), (near,) = looked_at(0, boxes), looked_at(8, boxes)
    assert {one.scale for one in plain.described} == {SIDE / 640}
    by_key = dict(zip(near.prompted_by, near.described, strict=True))
    assert by_key[0].scale == SIDE / 640  # large enough as it is
    for key in (1, 2):
        assert by_key[key].scale > 4 * SIDE / 640
        assert by_key[key].tokens.max() <= 128  # told by the crop, not by the picture
    for found in (plain, near):
        order = np.argsort(found.prompted_by)
        assert np.abs(found.boxes[order] - boxes).max() <= 8  # a cell of the whole picture's grid


def test_crops_take_turns_within_the_budget_and_what_they_told_is_kept() -> None:
    boxes = np.array([[20 + 200 * n, 30 + 90 * n, 50 + 200 * n, 60 + 90 * n] for n in range(3)], np.float32)
    found = looked_at(1, boxes, keyframes=5)
    near = [sum(one.scale > SIDE / 640 for one in seen.described) for seen in found]
    # Two in the first keyframe, then one in each: all three are known from near, and none is known less well again.
    assert near == [2, 3, 3, 3, 3]
