"""Perception on a real, tiny model: what comes out is consistent, unique and within budget."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.frame import Frame, FrameTime
from pipeline.core.masks import decode_mask, grid_of
from pipeline.core.regions import Expected
from pipeline.perception.candidates import Candidates, View, distinct, mask_statistics
from pipeline.perception.perceiver import Perception
from pipeline.perception.probing import PerceptionOptions, ProbeOptions
from pipeline.perception.sightings import Group, each_once, quality
from pipeline.perception.views import whole_of, windows_of
from pipeline.sources.picture import from_array
from sca.lanes import Lanes
from sca.modeling import ImageFeatures
from sca.predictor import ImageEncoding, Predictor, Segmentation
from tests.tiny_models import region_token_config, tiny_model, word_tokenizer
from tests.videos import picture

NOBODY = Expected((), np.zeros((0, 4), np.float32))
OPTIONS = PerceptionOptions(
    min_predicted_iou=0,
    min_stability=0,
    min_area=0,
    max_area=1,
    probing=ProbeOptions(grid=6, budget=5, first_budget=20),
)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(tiny_model(region_token_config()), word_tokenizer())


def keyframe(index: int, width: int = 160, height: int = 96) -> Frame:
    return Frame(
        "s", index, FrameTime(index * 500_000_000, index * 500_000_000), picture(index, width, height)
    )


def test_regions_are_consistent(predictor: Predictor) -> None:
    perception = Perception(predictor, OPTIONS)
    found = perception.look(keyframe(0), NOBODY, perception.new_view())
    assert 0 < len(found) <= 20
    assert found.prompted_by == (-1,) * len(found)
    assert np.allclose(np.linalg.norm(found.features, axis=1), 1, atol=1e-5)
    tokens = predictor.config.num_region_tokens
    assert found.caption_tokens.shape == (len(found), tokens, predictor.config.width)
    for box, mask in zip(found.boxes, found.masks, strict=True):
        rows, columns = np.nonzero(decode_mask(mask))
        assert mask.size == grid_of((96, 160)) == (77, 128)
        cells = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert np.abs(cells * 1.25 - box).max() <= 1.25


def test_no_two_regions_are_the_same(predictor: Predictor) -> None:
    perception = Perception(predictor, OPTIONS)
    found = perception.look(keyframe(0), NOBODY, perception.new_view())
    masks = np.array([decode_mask(mask).ravel() for mask in found.masks])
    shared = masks.astype(int) @ masks.T.astype(int)
    union = masks.sum(1)[:, None] + masks.sum(1)[None] - shared
    iou = shared / union - np.eye(len(masks))
    # Judged on the decoder's coarser grid, so a little more may be left at full size.
    assert iou.max(initial=0) <= OPTIONS.same_region_iou + 0.1


def test_a_track_is_found_through_its_own_prompt(predictor: Predictor) -> None:
    perception = Perception(predictor, OPTIONS)
    view = perception.new_view()
    box = np.array([[30, 20, 90, 80]], np.float32)
    found = perception.look(keyframe(0), Expected((7,), box), view)
    assert set(found.prompted_by) <= {7, -1}
    assert 7 in found.prompted_by


def test_region_and_prompt_limits_hold(predictor: Predictor) -> None:
    options = OPTIONS.model_copy(update={"max_regions": 3, "max_track_prompts": 2})
    perception = Perception(predictor, options)
    corners = np.array([[i * 20, 10, i * 20 + 30, 50] for i in range(5)], np.float32)
    found = perception.look(keyframe(0), Expected((1, 2, 3, 4, 5), corners), perception.new_view())
    assert len(found) <= 3
    assert set(found.prompted_by) <= {1, 2, -1}


def test_nothing_expected_and_no_probes_finds_nothing(predictor: Predictor) -> None:
    options = PerceptionOptions(probing=ProbeOptions(budget=0, first_budget=0))
    perception = Perception(predictor, options)
    found = perception.look(keyframe(0), NOBODY, perception.new_view())
    assert len(found) == 0
    assert found.caption_tokens.shape[0] == 0


def test_a_tall_picture_works_like_a_wide_one(predictor: Predictor) -> None:
    perception = Perception(predictor, OPTIONS)
    found = perception.look(keyframe(0, 90, 200), NOBODY, perception.new_view())
    assert len(found) > 0
    assert (found.boxes[:, 2] <= 90).all()
    assert (found.boxes[:, 3] <= 200).all()


def test_statistics_of_known_masks() -> None:
    logits = torch.full((2, 4, 4), -5.0)
    logits[0, :2] = 5.0
    logits[1, :2, :2] = 0.5
    area, stability = mask_statistics(logits, 1.0)
    assert area.tolist() == [0.5, 0.25]
    assert stability.tolist() == [1.0, 0.0]


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 12), st.integers(0, 1000), st.floats(0.2, 0.95))
def test_kept_masks_differ_and_dropped_ones_have_a_better_twin(count: int, seed: int, same: float) -> None:
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, 8, 8), bool)
    for mask in masks:
        x, y = rng.integers(0, 5, 2)
        mask[y : y + rng.integers(2, 5), x : x + rng.integers(2, 5)] = True
    rank = rng.random(count)
    kept = distinct(torch.from_numpy(masks), rank, same)

    def iou(a: int, b: int) -> float:
        return float((masks[a] & masks[b]).sum() / (masks[a] | masks[b]).sum())

    assert all(iou(a, b) <= same + 1e-6 for a in kept for b in kept if a != b)
    for dropped in set(range(count)) - set(kept.tolist()):
        assert any(iou(dropped, k) > same - 1e-6 and rank[k] >= rank[dropped] for k in kept)


def test_a_mover_is_a_region_even_where_the_model_is_unsure_of_its_mask(predictor: Predictor) -> None:
    """The square of the test picture moves; the model accepts no mask at all."""
    options = PerceptionOptions(
        min_predicted_iou=1, min_stability=1, probing=ProbeOptions(budget=0, first_budget=0)
    )
    perception = Perception(predictor, options)
    view = perception.new_view()
    for index in range(0, 200, 40):
        frame = keyframe(index, 320, 192)
        found = perception.look(frame, NOBODY, view)
    left = (160 * 2) % (320 - 64)
    assert len(found) > 0
    assert set(found.masks) == {None}
    # The square is patterned, so parts of it may be boxes of their own; the largest is the square.
    assert np.abs(found.boxes[0] - [left, 64, left + 64, 128]).max() <= 8
    outside = np.concatenate(
        [found.boxes[:, :2] < [left - 8, 56], found.boxes[:, 2:] > [left + 72, 136]], axis=1
    )
    assert not outside.any()


def test_masks_of_nearly_one_box_are_one_region() -> None:
    rows = torch.arange(16).reshape(16, 1).expand(16, 16)
    combs = torch.stack([(rows % 2 == 0), (rows % 2 == 1), torch.zeros(16, 16) > 0])
    combs[2, 2:6, 2:6] = True
    assert distinct(combs, np.array([0.9, 0.8, 0.7]), 0.5).tolist() == [0, 1, 2]
    assert distinct(combs, np.array([0.9, 0.8, 0.7]), 0.5, 0.8).tolist() == [0, 2]


def test_a_change_is_judged_by_the_thumbnail_that_the_gate_made(predictor: Predictor) -> None:
    """And by that of the keyframe which was looked at last: what came in between and was dropped has changed it too."""
    decoded = [from_array("s", index, FrameTime(index, index), picture(index, 160, 96)) for index in (0, 9)]
    made = [one.thumbnail() for one in decoded]
    frames = [one.to_frame() for one in decoded]
    assert all(frame.thumbnail is one for frame, one in zip(frames, made, strict=True))
    perception = Perception(predictor, OPTIONS)
    view = perception.new_view()
    perception.look(frames[0], NOBODY, view)
    assert view.thumbnail is frames[0].thumbnail
    unseen = Perception(predictor, OPTIONS).new_view()
    perception.look(keyframe(0), NOBODY, unseen)
    np.testing.assert_array_equal(unseen.thumbnail, view.thumbnail)
    perception.look(frames[1], NOBODY, view)
    assert view.thumbnail is frames[1].thumbnail


@pytest.mark.parametrize("level", [0, 30, 255])
@pytest.mark.parametrize("noise", [0, 20])
def test_a_picture_with_nothing_in_it_has_no_regions(predictor: Predictor, level: int, noise: int) -> None:
    rng = np.random.default_rng(level + noise)
    rgb = np.clip(rng.normal(level, noise, (240, 320, 3)), 0, 255).astype(np.uint8)
    perception = Perception(predictor, OPTIONS)
    view = perception.new_view()
    assert len(perception.look(keyframe(0, 320, 240), NOBODY, view)) > 0
    covered = replace(keyframe(1), rgb=rgb)
    box = np.array([[30, 20, 90, 80]], np.float32)
    assert len(perception.look(covered, Expected((7,), box), view)) == 0
    assert len(perception.look(keyframe(2, 320, 240), NOBODY, view)) > 0


def test_colours_of_one_brightness_are_something(predictor: Predictor) -> None:
    rgb = np.full((96, 160, 3), 90, np.uint8)
    rgb[20:70, 30:110] = (200, 43, 43)  # as bright as the ground
    perception = Perception(predictor, OPTIONS)
    assert len(perception.look(replace(keyframe(0), rgb=rgb), NOBODY, perception.new_view())) > 0


def test_all_windows_are_encoded_in_one_batch_at_first_and_one_later(predictor: Predictor) -> None:
    view = Perception(predictor, OPTIONS).new_view()
    batches: list[int] = []
    encode = predictor.encode_batch

    class Counting:
        automatic = predictor.automatic
        lanes = predictor.lanes
        segment = predictor.segment
        placed_masks = predictor.placed_masks
        region_features = predictor.region_features
        propose = predictor.propose

        def encode_batch(self, images: list[np.ndarray]) -> list[ImageEncoding]:
            batches.append(len(images))
            return encode(images)

    perception = Perception(Counting(), OPTIONS.model_copy(update={"closer": 0, "views": 1}))
    for index in range(3):
        found = perception.look(keyframe(index), NOBODY, view)
        assert (found.boxes >= 0).all()
        assert (found.boxes <= [160, 96, 160, 96]).all()
    assert batches == [5, 2, 2]
    perception.look(keyframe(3), NOBODY, view, view_share=0.0)
    assert batches[-1] == 1
    perception.look(keyframe(4), NOBODY, view, encoding=encode([keyframe(4).rgb])[0])
    assert batches[-1] == 1  # the window alone


def test_views_that_are_looked_at_side_by_side_show_what_they_show_one_after_the_other(
    predictor: Predictor,
) -> None:
    class SideBySide:
        automatic = predictor.automatic
        lanes = Lanes(3)
        encode_batch = predictor.encode_batch
        segment = predictor.segment
        placed_masks = predictor.placed_masks
        region_features = predictor.region_features
        propose = predictor.propose

    options = OPTIONS.model_copy(update={"closer": 2, "views": 3})
    kinds = (Perception(predictor, options), Perception(SideBySide(), options))
    views = [one.new_view() for one in kinds]
    expected = NOBODY
    for index in range(4):
        frame = keyframe(index)
        alone, beside = (
            kinds[0].look(frame, expected, views[0]),
            kinds[1].look(frame, expected, views[1], encoding=kinds[1].begin(frame)),
        )
        np.testing.assert_allclose(beside.boxes, alone.boxes, atol=1e-4)
        np.testing.assert_allclose(beside.features, alone.features, atol=1e-4)
        assert beside.masks == alone.masks
        assert beside.prompted_by == alone.prompted_by
        keys = tuple(range(len(alone)))
        for kind, view, found in zip(kinds, views, (alone, beside), strict=True):
            kind.remember(view, found, keys)
        expected = Expected(keys, alone.boxes)
    assert len(alone)


def test_a_region_of_a_window_is_told_in_pixels_of_the_picture(predictor: Predictor) -> None:
    """The same crop as a picture of its own gives the same masks, moved by its corner."""
    frame = keyframe(0, 320, 240)
    window = windows_of((240, 320))[3]
    (encoding,) = predictor.encode_batch([window.crop(frame.rgb)])
    points = np.array([[[40.0, 50.0]], [[150.0, 100.0]]])
    segmentation = predictor.segment(encoding, points=points)
    inside = Candidates.of(View(window, encoding, (240, 320)), segmentation, None, 1.0)
    alone = Candidates.of(View(whole_of(window.size), encoding, window.size), segmentation, None, 1.0)
    assert len(inside) == 2 * segmentation.iou.shape[1]
    np.testing.assert_allclose(inside.mask_boxes(), alone.mask_boxes() + window.corner)
    np.testing.assert_allclose(inside.area, alone.area * 0.36, rtol=1e-5)
    one = inside.keep(np.array([3])).chosen()
    np.testing.assert_array_equal(one.low_res_logits[0, 0], segmentation.low_res_logits[1, 0])
    cells = inside.on_picture((24, 32))
    assert not cells[:, :9].any()
    assert not cells[:, :, :12].any()


def test_a_known_track_is_found_by_its_own_pixels_while_the_model_looks_elsewhere(
    predictor: Predictor,
) -> None:
    options = OPTIONS.model_copy(update={"probing": ProbeOptions(budget=0, first_budget=40), "still_s": 0})
    perception = Perception(predictor, options)
    view = perception.new_view()
    first = perception.look(keyframe(0), NOBODY, view)
    keys = tuple(range(len(first)))
    perception.remember(view, first, keys)
    blind = Perception(predictor, options.model_copy(update={"max_track_prompts": 0}))
    second = blind.look(keyframe(0), Expected(keys, first.boxes), view)
    assert len(second) > 0
    assert not second.looked.any()
    for row, key in enumerate(second.prompted_by):
        assert np.abs(second.boxes[row] - first.boxes[key]).max() <= 3
        np.testing.assert_array_equal(second.caption_tokens[row], first.caption_tokens[key])
    # Nothing of it is where it was, but its points were followed there, so that is where it is.
    black = replace(keyframe(0), rgb=np.where(keyframe(0).rgb > 127, 0, 255).astype(np.uint8))
    lost = blind.look(black, Expected(keys, first.boxes), view)
    turned = blind.look(black, Expected(keys, first.boxes, frozenset(keys)), view)
    assert len(lost) < len(turned) == len(keys)
    # Not for ever: the model must have seen it again.
    for _ in range(6):
        last = blind.look(keyframe(0), Expected(keys, first.boxes), view)
    assert len(last) == 0


def test_tracks_leave_room_for_what_is_new_and_are_not_merged_once_told_apart() -> None:
    view = View(
        whole_of((16, 16)), ImageEncoding(ImageFeatures(torch.zeros(1), None), (16, 16), (16, 16)), (16, 16)
    )

    def group(place: int, boxes: list[tuple[int, int, int, int]]) -> Group:
        logits = torch.full((len(boxes), 1, 16, 16), -5.0)
        for row, (x0, y0, x1, y1) in enumerate(boxes):
            logits[row, 0, y0:y1, x0:x1] = 5.0
        iou = torch.linspace(0.9, 0.5, len(boxes))[:, None]
        found = Candidates.of(view, Segmentation(logits, iou, logits, logits, None), None, 1.0)
        return Group(found, np.full(len(found), -1), place)

    known = group(0, [(0, 0, 8, 8), (0, 0, 8, 6), (8, 8, 16, 16)])
    new = group(2, [(0, 0, 8, 7), (8, 0, 16, 8), (0, 8, 8, 16)])
    kept = each_once([known, new], 0.55, 10)
    assert [len(one.found) for one in kept] == [3, 2]
    assert [len(one.found) for one in each_once([known], 0.55, 10, told_apart=False)] == [2]
    kept = each_once([known, new], 0.55, 3)
    assert [len(one.found) for one in kept] == [3, 0]
    kept = each_once([known, new], 0.55, 4)
    assert [len(one.found) for one in kept] == [3, 1]


def test_of_twins_the_one_that_most_prompts_agree_on_stays() -> None:
    view = View(
        whole_of((16, 16)), ImageEncoding(ImageFeatures(torch.zeros(1), None), (16, 16), (16, 16)), (16, 16)
    )
    # Four points say one thing; the surest, by a little, says half of it, and so does its own second mask.
    boxes = [[(0, 0, 8, 4), (0, 0, 8, 4)], *([[(0, 0, 8, 8), (12, 12, 14, 14)]] * 4)]
    logits = torch.full((5, 2, 16, 16), -5.0)
    for row, kinds in enumerate(boxes):
        for kind, (x0, y0, x1, y1) in enumerate(kinds):
            logits[row, kind, y0:y1, x0:x1] = 5.0
    iou = torch.tensor([[0.9, 0.8], *[[0.8, 0.1]] * 4])
    found = Candidates.of(view, Segmentation(logits, iou, logits, logits, None), None, 1.0).supported()
    assert found.support.tolist() == [0, 0, *[3, 3] * 4]  # a mask of the same prompt is no second opinion
    best = found.keep(np.array([int(np.argmax(quality(found)))]))
    assert best.mask_boxes().tolist() == [[0, 0, 8, 8]]
    # A track that is known comes before what everybody agrees on.
    known = Group(found.keep(np.array([0])), np.array([7]), 0)
    new = Group(found, np.full(len(found), -1), 2)
    first, _ = each_once([known, new], 0.4, 10, 0.4)
    assert first.keys.tolist() == [7]
