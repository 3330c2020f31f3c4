"""Where points of a keyframe went until the next one: what the source's process, which sees every frame, tells the tracker."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class MotionField:
    """Points of one frame, and where they are in a later frame of the same shot.

    `since`: index of the earlier frame in its stream. `before`, `after`: (N, 2) float32 xy, shares of the picture's
    width and height. `found`: (N,) bool, False for a point that was lost on the way (hidden, blurred, out of the
    picture), whose `after` means nothing.
    """

    since: int
    before: np.ndarray
    after: np.ndarray
    found: np.ndarray

    def __post_init__(self) -> None:
        assert self.before.shape == self.after.shape == (len(self.found), 2)

    def __len__(self) -> int:
        return len(self.found)


def motion_since(fields: tuple[MotionField, ...], frame: int) -> tuple[MotionField, ...]:
    """The successive `fields` from frame number `frame` on; none when the chain does not begin there or reach back so far.

    Keyframes may be dropped behind their source: what the field from the last one to this tells is then of a keyframe
    that nobody has looked at.
    """
    for place, field in enumerate(fields):
        if field.since == frame:
            return fields[place:]
    return ()
