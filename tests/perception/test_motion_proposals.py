"""Boxes are proposed around what moves, and only then."""

from __future__ import annotations

import numpy as np

from pipeline.core.regions import box_iou
from pipeline.perception.motion_proposals import MotionProposals, moving_boxes


def scene(left: int | None, *, shift: int = 0, light: float = 1.0) -> np.ndarray:
    """A textured street, 640 x 360, with a dark thing 60 x 90 at `left`; panned by `shift`; `light` scales it."""
    rows, columns = np.mgrid[0:360, 0:640]
    grey = 120 + 50 * np.sin((columns + shift) / 17.0) * np.cos(rows / 13.0)
    if left is not None:
        grey[150:240, left : left + 60] = 15
    return np.repeat(np.clip(grey * light, 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def test_a_mover_is_boxed_wherever_it_goes() -> None:
    motion = MotionProposals()
    assert len(motion.propose(scene(None))) == 0
    assert len(motion.propose(scene(None))) == 0
    for left in range(20, 560, 70):
        boxes = motion.propose(scene(left))
        assert len(boxes) == 1
        assert box_iou(boxes, np.array([[left, 150, left + 60, 240]]))[0, 0] > 0.75


def test_a_changed_exposure_is_no_motion() -> None:
    motion = MotionProposals()
    for _ in range(3):
        motion.propose(scene(None))
    brighter = np.clip(scene(None).astype(int) + 40, 0, 255).astype(np.uint8)
    assert len(motion.propose(brighter)) == 0


def test_a_moving_camera_proposes_nothing() -> None:
    motion = MotionProposals()
    proposals = [motion.propose(scene(300, shift=step * 26)) for step in range(8)]
    assert sum(map(len, proposals)) == 0


def test_a_new_picture_size_starts_over() -> None:
    motion = MotionProposals()
    for _ in range(3):
        motion.propose(scene(None))
    assert len(motion.propose(scene(100)[:200])) == 0


def test_largest_part_comes_first_and_specks_are_left_out() -> None:
    moving = np.zeros((180, 320), bool)
    moving[10:20, 10:20] = True
    moving[100:140, 200:230] = True
    moving[60:62, 60:62] = True
    assert moving_boxes(moving).tolist() == [[200, 100, 230, 140], [10, 10, 20, 20]]
