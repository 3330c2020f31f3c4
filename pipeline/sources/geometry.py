"""The one geometry of a stream: how what a decoder gives becomes the picture that a player shows."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, cast

import av
import cv2
import numpy as np

if TYPE_CHECKING:
    from typing_extensions import Buffer

# Pictures of a stream after which a key picture is looked at again for how it is turned. A guess.
_LOOKED_UP = 250
_SQUARE = Fraction(1)
# Pixels are never farther from square than in any format of film or television; a header that says so is broken.
_MOST_ASPECT = 8
# Grey levels by which a row sticks out when it belongs to another moment: well above noise and compression.
_TOOTH = 12
# Rows of a field and pixels that movement fills at least.
_GROUP = np.ones((3, 3), np.uint8)
# AVFrameSideData of a display matrix: nine 32-bit numbers, a b u c d v x y w, of which a, b, c, d turn and mirror.
_MATRIX = struct.Struct("=9i")


@dataclass(frozen=True, slots=True)
class Geometry:
    """From stored pixels to the displayed picture.

    `width`, `height`: stored pixels. `aspect`: width over height of one stored pixel. `transposed`: rows become
    columns; then `flip_x`, `flip_y` mirror the result.
    """

    width: int
    height: int
    aspect: Fraction = _SQUARE
    transposed: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @property
    def display(self) -> tuple[int, int]:
        """(width, height) of the displayed picture in square pixels; no stored pixel is given up."""
        width, height = self.width, self.height
        if self.aspect > 1:
            width = max(1, round(width * self.aspect))
        elif self.aspect < 1:
            height = max(1, round(height / self.aspect))
        return (height, width) if self.transposed else (width, height)

    def upright(self, pixels: np.ndarray) -> np.ndarray:
        """Stored pixels, (height, width[, 3]), turned and mirrored; their aspect is not applied yet."""
        if self.transposed:
            pixels = pixels.swapaxes(0, 1)
        if self.flip_x:
            pixels = pixels[:, ::-1]
        if self.flip_y:
            pixels = pixels[::-1]
        return np.ascontiguousarray(pixels)

    def shown(self, pixels: np.ndarray, size: tuple[int, int] | None = None) -> np.ndarray:
        """Stored pixels as displayed; `size`: (width, height) of the stream, into which the whole picture is fitted.

        A picture of another shape keeps its own and stands between black bars.
        """
        display = self.display
        return _fitted(self.upright(pixels), display, size or display)


class Orientations:
    """How the pictures of one stream are turned and mirrored, looked up in few of them.

    Looking up what PyAV calls a picture's side data leaves some 340 bytes behind, and keeps the picture, pixels and all, until
    Python looks for cycles: at 30 pictures a second 35 MiB an hour. Its `rotation` costs nothing and tells every change but one, of a
    picture that is mirrored top to bottom only: that is looked for in a key picture now and then.
    """

    def __init__(self) -> None:
        self._known: tuple[bool, bool, bool] | None = None
        self._rotation = 0
        self._left = 0

    def of(self, picture: av.VideoFrame) -> tuple[bool, bool, bool]:
        """(transposed, mirrored left to right, mirrored top to bottom)."""
        self._left -= 1
        again = self._left <= 0 and picture.key_frame
        if self._known is None or picture.rotation != self._rotation or again:
            self._known, self._rotation, self._left = _orientation(picture), picture.rotation, _LOOKED_UP
        return self._known


def geometry_of(
    picture: av.VideoFrame, aspect: Fraction = _SQUARE, orientations: Orientations | None = None
) -> Geometry:
    """How `picture` is displayed. `aspect`: of its pixels, from its container or its codec. `orientations`: of its stream."""
    transposed, flip_x, flip_y = (orientations or Orientations()).of(picture)
    return Geometry(picture.width, picture.height, aspect, transposed, flip_x, flip_y)


def pixel_aspect(stated: Fraction | None) -> Fraction:
    """What a header says of its pixels, or square where it says nothing that can be true."""
    if not stated or not 1 <= _MOST_ASPECT * stated <= _MOST_ASPECT**2:
        return _SQUARE
    return stated


def fitted(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture of square pixels, (H, W, 3), whole within `size` (width, height), between black bars where it must."""
    return _fitted(pixels, (pixels.shape[1], pixels.shape[0]), size)


def without_combs(pixels: np.ndarray) -> np.ndarray:
    """A picture of two fields, (H, W, 3), shown as one: where things moved between them, as the upper field saw them.

    Rows that stick out from both neighbours the same way, as the teeth of a comb do, are replaced by what lies between these;
    what stood still keeps every row. One picture is enough for that: only those that are looked at cost anything.
    """
    height = pixels.shape[0] - (1 - pixels.shape[0] % 2)
    if height < 3:
        return pixels
    above, teeth, below = pixels[0 : height - 2 : 2], pixels[1 : height - 1 : 2], pixels[2:height:2]
    up, down = teeth.astype(np.int16) - above, teeth.astype(np.int16) - below
    combed = ((up * np.sign(down) > _TOOTH) & (down * np.sign(up) > _TOOTH)).any(-1).astype(np.uint8)
    # Edges that the two fields share by chance lie among the teeth; single rows of a fine texture stand alone.
    combed = cv2.morphologyEx(combed, cv2.MORPH_CLOSE, _GROUP)
    combed = cv2.morphologyEx(combed, cv2.MORPH_OPEN, _GROUP)
    out = pixels.copy()
    between = ((above.astype(np.uint16) + below + 1) // 2).astype(np.uint8)
    np.copyto(out[1 : height - 1 : 2], between, where=combed.astype(bool)[..., None])
    return out


def _fitted(pixels: np.ndarray, display: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    width, height = display
    scale = min(size[0] / width, size[1] / height)
    # A row or column of rounding is no reason for a bar.
    inner = (max(1, round(width * scale)), max(1, round(height * scale)))
    if abs(inner[0] - size[0]) <= 1 and abs(inner[1] - size[1]) <= 1:
        inner = size
    if (pixels.shape[1], pixels.shape[0]) != inner:
        shrinks = inner[0] <= pixels.shape[1] and inner[1] <= pixels.shape[0]
        pixels = np.asarray(
            cv2.resize(pixels, inner, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        )
    if inner == size:
        return pixels
    whole = np.zeros((size[1], size[0], *pixels.shape[2:]), pixels.dtype)
    left, top = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    whole[top : top + inner[1], left : left + inner[0]] = pixels
    return whole


def _orientation(picture: av.VideoFrame) -> tuple[bool, bool, bool]:
    """(transposed, mirrored left to right, mirrored top to bottom), from the display matrix."""
    matrix = picture.side_data.get("DISPLAYMATRIX")
    raw = b"" if matrix is None else bytes(memoryview(cast("Buffer", matrix)))
    if len(raw) < _MATRIX.size:
        return False, False, False
    a, b, _, c, d, *_ = _MATRIX.unpack_from(raw)
    # A point (x, y) is shown at (a x + c y, b x + d y).
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, a < 0, d < 0
    return True, c < 0, b < 0
