"""Masks live in the displayed picture, as boxes do, whatever its size, the grid, and how its pixels were stored."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from pipeline.core.masks import (
    GRID,
    MaskMalformed,
    RleMask,
    decode_mask,
    drawn,
    encode_masks,
    encode_placed,
    grid_of,
)
from pipeline.sources.geometry import Geometry
from sca.regions import PlacedMask

SIZES = st.one_of(st.sampled_from([1, 2, 3, GRID - 1, GRID, GRID + 1]), st.integers(1, 700))


def spans(length: int) -> st.SearchStrategy[tuple[int, int]]:
    """Parts [a, b) of `length` pixels, one at least."""
    return st.tuples(st.integers(0, length - 1), st.integers(1, length)).map(
        lambda cut: (cut[0], min(length, cut[0] + cut[1]))
    )


def box_on(cells: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The box of the set cells (h, w) in pixels of a picture of `size` (H, W)."""
    rows, columns = np.nonzero(cells)
    height, width = cells.shape
    box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], float)
    return box * np.array([size[1] / width, size[0] / height] * 2)


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 1000), st.sampled_from([0.0, 0.02, 0.5, 1.0]))
def test_small_masks_come_back_as_they_were_and_others_read_them(
    height: int, width: int, seed: int, share: float
) -> None:
    masks = np.random.default_rng(seed).random((3, height, width)) < share
    codes, boxes = encode_masks(masks, (height, width))
    for code, mask, box in zip(codes, masks, boxes, strict=True):
        assert (decode_mask(code) == mask).all()
        assert (coco.decode({"size": list(code.size), "counts": code.counts}) == mask).all()
        assert not mask.any() or (box_on(mask, (height, width)) == box).all()


@settings(deadline=None)
@given(
    st.sampled_from([(72, 128), (90, 160), (360, 640), (720, 1280), (100, 177), (5, 300), (640, 360)]),
    st.data(),
)
def test_a_mask_by_its_part_is_stored_as_the_whole_is(size: tuple[int, int], data: st.DataObject) -> None:
    (top, bottom), (left, right) = data.draw(spans(size[0])), data.draw(spans(size[1]))
    dense = data.draw(st.sampled_from([0.0, 0.01, 0.4, 1.0]))
    seed = data.draw(st.integers(0, 99))
    part = PlacedMask(np.random.default_rng(seed).random((bottom - top, right - left)) < dense, top, left)
    codes, boxes = encode_placed([part, PlacedMask(np.zeros((0, 0), bool))], size)
    (whole,), (box,) = encode_masks(part.whole(size)[None], size)
    assert codes[0] == whole
    assert boxes.tolist() == [box.tolist(), [0, 0, 0, 0]]
    assert not decode_mask(codes[1]).any()


@settings(deadline=None)
@given(SIZES, SIZES, st.data())
def test_on_its_grid_a_mask_lies_where_its_box_lies(height: int, width: int, data: st.DataObject) -> None:
    (top, bottom), (left, right) = data.draw(spans(height)), data.draw(spans(width))
    mask = np.zeros((1, height, width), bool)
    mask[0, top:bottom, left:right] = True
    (code,), boxes = encode_masks(mask, (height, width))
    assert boxes.tolist() == [[left, top, right, bottom]]
    assert code.size == grid_of((height, width))
    assert max(code.size) <= GRID
    cells = decode_mask(code)
    assert cells.any()  # even of a line that is thinner than a cell
    cell = np.array([width / code.size[1], height / code.size[0]] * 2)
    assert (np.abs(box_on(cells, (height, width)) - boxes[0]) <= cell + 1e-6).all()
    pixels = drawn(code, (height, width))
    assert pixels.shape == (height, width)
    if min(bottom - top, right - left) > 4 * cell.max():
        shared = (pixels & mask[0]).sum() / (pixels | mask[0]).sum()
        assert shared > 0.5
        assert (np.abs(box_on(pixels, (height, width)) - boxes[0]) <= cell + 1).all()


@settings(deadline=None, max_examples=40)
@given(
    st.integers(40, 300),
    st.integers(40, 300),
    st.sampled_from([Fraction(1), Fraction(16, 11), Fraction(8, 9), Fraction(1, 2)]),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
    st.data(),
)
def test_pixels_that_are_not_square_and_turned_films_keep_mask_and_box_together(
    width: int, height: int, aspect: Fraction, turns: tuple[bool, bool, bool], data: st.DataObject
) -> None:
    stored = Geometry(width, height, aspect, *turns)
    (top, bottom), (left, right) = data.draw(spans(height - 8)), data.draw(spans(width - 8))
    thing = np.zeros((height, width), np.uint8)
    thing[top : bottom + 8, left : right + 8] = 255
    shown = stored.shown(thing) > 127
    size = stored.display[1], stored.display[0]
    (code,), (box,) = encode_masks(shown[None], size)
    cell = np.array([size[1] / code.size[1], size[0] / code.size[0]] * 2)
    assert (np.abs(box_on(decode_mask(code), size) - box) <= cell + 1e-6).all()
    # The same corner of the thing in stored pixels, turned by hand.
    x, y = (
        np.array([left, right + 8]) * float(max(aspect, 1)),
        np.array([top, bottom + 8]) / float(min(aspect, 1)),
    )
    across, down = (y, x) if turns[0] else (x, y)
    across = np.sort(size[1] - across) if turns[1] else across
    down = np.sort(size[0] - down) if turns[2] else down
    assert (np.abs(box - [across[0], down[0], across[1], down[1]]) <= 2).all()


@pytest.mark.promise("masks-as-coco")
@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=12), st.integers(0, 5), st.integers(0, 5))
def test_whatever_is_stored_is_read_as_coco_reads_it_or_refused(
    counts: bytes, height: int, width: int
) -> None:
    try:
        cells = decode_mask(RleMask((height, width), counts))
    except MaskMalformed:
        return
    assert (coco.decode({"size": [height, width], "counts": counts}) == cells).all()


@pytest.mark.parametrize(
    "mask",
    [
        RleMask((4, 4), b""),
        RleMask((0, 4), b"0"),
        RleMask((2**31, 2**31), b"0"),
        RleMask((4, 4), b"@4"),  # sixteen and four more
        RleMask((4, 4), b"P"),  # a count that never ends
        RleMask((4, 4), b"PPPPPPPPPPPPPP0"),
        RleMask((4, 4), b"\xff0"),
    ],
)
def test_run_lengths_of_no_picture_are_refused(mask: RleMask) -> None:
    with pytest.raises(MaskMalformed):
        decode_mask(mask)


def test_run_lengths_cost_no_more_than_their_picture() -> None:
    whole = encode_masks(np.ones((1, 1080, 1920), bool), (1080, 1920))[0][0]
    assert whole.size == (72, 128)
    assert decode_mask(whole).all()
    assert len(whole.counts) < 10
