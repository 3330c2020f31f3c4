"""MOTChallenge's text of boxes by frame and track (https://motchallenge.net/instructions)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import BinaryIO

from pipeline.query.observed import ObservedRow


class MotChallenge:
    """A line for each track in each keyframe: frame, id, left, top, width, height, score, -1, -1, -1.

    Frames and pixels are counted from 1; an id is the track's number. Only keyframes are there, under the numbers that they have among
    all pictures of the stream.
    """

    one_stream = True

    def write_observed(self, rows: Iterable[ObservedRow], out: BinaryIO) -> None:
        for row in rows:
            x0, y0, x1, y1 = row.box
            edges = f"{x0 + 1:.2f},{y0 + 1:.2f},{x1 - x0:.2f},{y1 - y0:.2f}"
            out.write(f"{row.frame + 1},{row.track},{edges},{row.score:.4f},-1,-1,-1\n".encode())
