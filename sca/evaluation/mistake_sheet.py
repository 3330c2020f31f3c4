"""A picture of the commonest mistakes: a row for each wrong head noun, with some of the regions that got it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from sca.data.annotations import AnnotatedImage
from sca.data.text import head_noun
from sca.errors import UserError
from sca.evaluation.captions import RegionCaption, frequent_mistakes, upright

_TILE = (208, 176)  # width, height in pixels
_TEXT = 36  # of which lines of text
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_MARGIN = 0.25  # around the region, as a share of its longer side


def write_mistakes(
    captions: Sequence[RegionCaption],
    images: Sequence[AnnotatedImage],
    path: Path,
    *,
    rows: int = 10,
    columns: int = 6,
) -> None:
    """Write a contact sheet of `rows` kinds of mistake, the surest of each first. UserError if it cannot be written.

    Each tile shows the region in its box with what was said (and its score) above what people say.
    """
    known = {image.id: image for image in images}
    lines = []
    for said, wanted, _ in frequent_mistakes(captions, rows):
        found = [
            c
            for c in captions
            if not c.head_right and head_noun(c.text) == said and head_noun(c.references[0]) == wanted
        ]
        chosen = sorted(found, key=lambda caption: -caption.score)[:columns]
        tiles = [_tile(caption, known[caption.image_id]) for caption in chosen]
        tiles += [np.zeros((_TILE[1], _TILE[0], 3), np.uint8)] * (columns - len(tiles))
        lines.append(np.concatenate(tiles, axis=1))
    sheet = np.concatenate(lines) if lines else np.zeros((_TILE[1], _TILE[0], 3), np.uint8)
    try:
        written = cv2.imwrite(str(path), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    except cv2.error:
        written = False
    if not written:
        raise UserError(
            f"cannot write {path}: name a .jpg or .png file in a folder that exists and can be written"
        )


def _tile(caption: RegionCaption, image: AnnotatedImage) -> np.ndarray:
    rgb, to_upright = upright(image)
    x0, y0, x1, y1 = to_upright([image.regions[caption.region].box])[0]
    width, height = _TILE[0], _TILE[1] - _TEXT
    scale = min(width / (x1 - x0), height / (y1 - y0)) / (1 + 2 * _MARGIN)
    middle = (x0 + x1) / 2, (y0 + y1) / 2
    move = np.array([[scale, 0, width / 2 - middle[0] * scale], [0, scale, height / 2 - middle[1] * scale]])
    tile = np.zeros((_TILE[1], width, 3), np.uint8)
    tile[:height] = cv2.warpAffine(rgb, move, (width, height))
    corners = (np.array([[x0, y0], [x1, y1]]) * scale + move[:, 2]).round().astype(int)
    cv2.rectangle(tile[:height], tuple(corners[0]), tuple(corners[1]), (255, 200, 0), 1)
    for row, (text, colour) in enumerate(
        (
            (f"{caption.text} {caption.score:.2f}", (255, 120, 120)),
            (caption.references[0], (150, 230, 150)),
        )
    ):
        place = (3, height + 14 + 16 * row)
        cv2.putText(tile, text[:34], place, _FONT, 0.38, colour, 1, cv2.LINE_AA)
    return tile
