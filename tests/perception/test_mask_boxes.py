"""Tight boxes of many masks at once, beside looking at each."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from pipeline.perception.candidates import masks_to_boxes


@settings(max_examples=60)
@given(arrays(np.bool_, array_shapes(min_dims=3, max_dims=3, max_side=6), elements=st.booleans()))
def test_a_box_holds_its_mask_and_nothing_more(masks: np.ndarray) -> None:
    for mask, box in zip(masks, masks_to_boxes(masks), strict=True):
        y, x = np.nonzero(mask)
        assert box.tolist() == ([x.min(), y.min(), x.max() + 1, y.max() + 1] if len(x) else [0, 0, 0, 0])


def test_of_no_masks_there_are_no_boxes() -> None:
    assert masks_to_boxes(np.zeros((0, 4, 4), bool)).shape == (0, 4)
