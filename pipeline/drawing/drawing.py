"""Masks, boxes and readable captions on a picture."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from pydantic import Field

from pipeline.core.options import Options
from pipeline.drawing.moving_masks import PlacedMask


class Drawn(StrEnum):
    """What is drawn of a region beside its caption. A region without a mask is drawn as a box, whatever is said here."""

    BOXES = "boxes"
    MASKS = "masks"
    BOTH = "both"


class DisplayOptions(Options):
    """What is shown. Everything is stored, whatever is said here."""

    # The shipped judge on 36 annotated pictures: of what is shown from .3 on 81 % are right, of what has .4 or more 85 %, and
    # an eighth less is named. See docs/performance.md.
    min_score: float = Field(
        default=0.3, ge=0, le=1, description="captions less sure than this are not shown"
    )
    sure_score: float = Field(
        default=0.5, ge=0, le=1, description="captions less sure than this are shown with a question mark"
    )

    draw: Drawn = Field(
        default=Drawn.MASKS,
        description="what annotated videos show of a region: its box, its mask (its box where there is none), or both",
    )

    def words(self, text: str, score: float) -> str:
        """A caption as it is shown."""
        return text if score >= self.sure_score else f"{text}?"


_GOLDEN = 0.61803398875
_PAD = 3
# Share of the track's colour over its mask: enough to see which pixels are meant, little enough to see what they show.
_TINT = 0.35
# The more of the picture it fills (grass, a wall), the thinner, down to this at that share: all the rest is seen through it.
_LARGE_TINT, _LARGE = 0.18, 0.3

Rectangle = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Label:
    """A region to draw: its track, box xyxy pixels, caption and the caption's score, and its mask where that is known."""

    track: int
    box: tuple[float, ...]
    text: str
    score: float
    mask: PlacedMask | None = None


def track_colour(track: int) -> tuple[int, int, int]:
    """An RGB colour for a track; neighbours in number get distant hues."""
    red, green, blue = colorsys.hsv_to_rgb(track * _GOLDEN % 1.0, 0.75, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_labels(rgb: np.ndarray, labels: Sequence[Label], drawn: Drawn = Drawn.BOTH) -> None:
    """Draw masks, boxes and captions into (H, W, 3) uint8 `rgb`, in place; earlier labels get the better places.

    Large masks come first, so that small ones stay visible on them. A caption goes above its box, below it, or inside, wherever
    it covers no other caption; where there is no room, only the region is drawn.
    """
    import cv2  # whoever only reads settings does without

    font = cv2.FONT_HERSHEY_SIMPLEX
    height, width = rgb.shape[:2]
    scale = max(0.4, height / 1100)
    thickness = max(1, round(height / 500))
    if drawn is not Drawn.BOXES:
        for label in sorted(labels, key=lambda label: -_area(label.box)):
            if label.mask is not None:
                draw_mask(rgb, label.mask, track_colour(label.track), thickness)
    for label in labels:
        if drawn is Drawn.MASKS and label.mask is not None:
            continue
        x1, y1, x2, y2 = (round(value) for value in label.box)
        cv2.rectangle(rgb, (x1, y1), (x2, y2), track_colour(label.track), thickness, cv2.LINE_AA)
    taken: list[Rectangle] = []
    for label in labels:
        text = f"{label.track} {label.text}"
        (text_width, text_height), baseline = cv2.getTextSize(text, font, scale, thickness)
        size = (text_width + 2 * _PAD, text_height + baseline + 2 * _PAD)
        place = place_text(_ground(label, drawn), size, (width, height), taken)
        if place is None:
            continue
        taken.append(place)
        left, top, right, bottom = place
        colour = track_colour(label.track)
        cv2.rectangle(rgb, (left, top), (right, bottom), colour, cv2.FILLED)
        ink = (0, 0, 0) if sum(colour) > 330 else (255, 255, 255)
        cv2.putText(
            rgb,
            text,
            (left + _PAD, bottom - _PAD - baseline),
            font,
            scale,
            ink,
            max(1, thickness // 2),
            cv2.LINE_AA,
        )


def draw_mask(rgb: np.ndarray, mask: PlacedMask, colour: tuple[int, int, int], thickness: int) -> None:
    """Tint what is inside a mask and draw its outline, in place."""
    import cv2

    height, width = mask.inside.shape
    large = min(1.0, float(mask.inside.sum()) / (_LARGE * rgb.shape[0] * rgb.shape[1]))
    tint = _TINT + (_LARGE_TINT - _TINT) * large
    part = rgb[mask.top : mask.top + height, mask.left : mask.left + width]
    table = np.arange(256)[:, None] * (1 - tint) + np.array(colour) * tint
    tinted = cv2.LUT(part, table.round().astype(np.uint8)[:, None])
    cells = mask.inside.view(np.uint8)
    cv2.copyTo(tinted, cells, part)
    outlines, _ = cv2.findContours(cells, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(part, outlines, -1, colour, thickness, cv2.LINE_AA)


def _ground(label: Label, drawn: Drawn) -> tuple[float, ...]:
    """The box at which a caption is read as the region's: where no box is drawn, that of the largest part of its mask."""
    if drawn is not Drawn.MASKS or label.mask is None:
        return label.box
    import cv2

    # Where it is to a few pixels is enough.
    step = max(1, min(label.mask.inside.shape) // 64)
    cells = np.ascontiguousarray(label.mask.inside[::step, ::step]).view(np.uint8)
    _, _, parts, _ = cv2.connectedComponentsWithStats(cells)
    if len(parts) < 2:
        return label.box
    largest = parts[1 + parts[1:, cv2.CC_STAT_AREA].argmax()] * step
    left, top, width, height, _ = (int(value) for value in largest)
    x, y = label.mask.left + left, label.mask.top + top
    return x, y, x + width, y + height


def _area(box: tuple[float, ...]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def place_text(
    box: tuple[float, ...], size: tuple[int, int], picture: tuple[int, int], taken: list[Rectangle]
) -> Rectangle | None:
    """Where a text of `size` (w, h) for `box` fits into a picture (w, h) without covering a `taken` place."""
    text_width, text_height = size
    width, height = picture
    x1, y1, x2, y2 = (round(value) for value in box)
    middle = (y1 + y2 - text_height) // 2
    for left, top in (
        (x1, y1 - text_height),
        (x1, y1),
        (x1, y2),
        (x2 - text_width, y1 - text_height),
        (x1, y2 - text_height),
        (x2 - text_width, y2),
        (x1, middle),
    ):
        left = min(max(left, 0), max(0, width - text_width))
        if top < 0 or top + text_height > height:
            continue
        place = (left, top, left + text_width, top + text_height)
        if not any(_overlap(place, other) for other in taken):
            return place
    return None


def _overlap(first: Rectangle, second: Rectangle) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]
