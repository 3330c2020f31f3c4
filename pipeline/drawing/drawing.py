"""Boxes and readable captions on a picture."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from pipeline.core.options import Options


class DisplayOptions(Options):
    """What is shown. Everything is stored, whatever is said here."""

    min_score: float = Field(
        default=0.4, ge=0, le=1, description="captions less sure than this are not shown"
    )
    sure_score: float = Field(
        default=0.5, ge=0, le=1, description="captions less sure than this are shown with a question mark"
    )

    def words(self, text: str, score: float) -> str:
        """A caption as it is shown."""
        return text if score >= self.sure_score else f"{text}?"


_GOLDEN = 0.61803398875
_PAD = 3

Rectangle = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Label:
    """A region to draw: its track, box xyxy pixels, caption and the caption's score."""

    track: int
    box: tuple[float, ...]
    text: str
    score: float


def track_colour(track: int) -> tuple[int, int, int]:
    """An RGB colour for a track; neighbours in number get distant hues."""
    red, green, blue = colorsys.hsv_to_rgb(track * _GOLDEN % 1.0, 0.75, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_labels(rgb: np.ndarray, labels: list[Label]) -> None:
    """Draw boxes and captions into (H, W, 3) uint8 `rgb`, in place; earlier labels get the better places.

    A caption goes above its box, below it, or inside, wherever it covers no other caption; where there is no room,
    only the box is drawn.
    """
    import cv2  # whoever only reads settings does without

    font = cv2.FONT_HERSHEY_SIMPLEX
    height, width = rgb.shape[:2]
    scale = max(0.4, height / 1100)
    thickness = max(1, round(height / 500))
    for label in labels:
        x1, y1, x2, y2 = (round(value) for value in label.box)
        cv2.rectangle(rgb, (x1, y1), (x2, y2), track_colour(label.track), thickness, cv2.LINE_AA)
    taken: list[Rectangle] = []
    for label in labels:
        text = f"{label.track} {label.text}"
        (text_width, text_height), baseline = cv2.getTextSize(text, font, scale, thickness)
        size = (text_width + 2 * _PAD, text_height + baseline + 2 * _PAD)
        place = place_text(label.box, size, (width, height), taken)
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
