"""A decoded frame whose pixels are converted only when somebody wants them."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from pipeline.core.frame import Frame, FrameTime
from pipeline.core.thumbnail import small_size, thumbnail_of, thumbnail_size

if TYPE_CHECKING:
    import av

    from pipeline.sources.geometry import Orientations

_LUMA_FIRST = {"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "nv12", "nv21", "gray"}


class DecodedFrame:
    """One frame of a stream, still in the decoder's pixel format.

    Most frames are not keyframes of the pipeline, so the costly conversion to RGB waits for `to_frame`. `held`: the
    same picture as before, that is still shown at this later time. `lasts_ns`: how long its file says that it is shown,
    0 where it does not say. `size`: (width, height) as shown. `luma`: makes its grey picture of a given (width, height).
    `photo`: it is a picture by itself and none of a film.
    """

    __slots__ = (
        "_luma",
        "_rgb",
        "_size",
        "_thumbnail",
        "held",
        "index",
        "lasts_ns",
        "photo",
        "stream",
        "time",
    )

    def __init__(
        self,
        stream: str,
        index: int,
        time: FrameTime,
        *,
        rgb: Callable[[], np.ndarray],
        size: tuple[int, int],
        luma: Callable[[tuple[int, int]], np.ndarray],
        held: bool = False,
    ) -> None:
        self.stream = stream
        self.index = index
        self.time = time
        self._rgb = rgb
        self._size = size
        self._luma = luma
        self._thumbnail: np.ndarray | None = None
        self.held = held
        self.lasts_ns = 0
        self.photo = False

    def thumbnail(self) -> np.ndarray:
        """A small grey picture, (h, 64) uint8, made when it is first asked for."""
        if self._thumbnail is None:
            self._thumbnail = thumbnail_of(self._luma(thumbnail_size(*self._size)))
        return self._thumbnail

    def grey(self, side: int) -> np.ndarray:
        """A grey picture (h, w) uint8 whose longer side has `side` pixels, made at each call."""
        return self._luma(small_size(*self._size, side))

    def to_frame(self) -> Frame:
        """The frame with its RGB pixels, and with the thumbnail where somebody has asked for it."""
        return Frame(
            stream=self.stream,
            index=self.index,
            time=self.time,
            rgb=self._rgb(),
            thumbnail=self._thumbnail,
        )


def from_video_frame(
    stream: str,
    index: int,
    time: FrameTime,
    picture: av.VideoFrame,
    size: tuple[int, int] | None = None,
    aspect: Fraction = Fraction(1),
    orientations: Orientations | None = None,
) -> DecodedFrame:
    """Wrap a PyAV frame; its pixels come out as a player shows them: turned, mirrored, and square.

    `size`: (width, height) of the stream, for a frame that has another. `aspect`: of the stored pixels. `orientations`: of the
    stream's pictures, where there are more.
    """
    # Needs FFmpeg and OpenCV: whoever only reads settings does without.
    from pipeline.sources.geometry import geometry_of, without_combs

    geometry = geometry_of(picture, aspect, orientations)

    def rgb() -> np.ndarray:
        pixels = _rgb(picture)
        return geometry.shown(without_combs(pixels) if picture.interlaced_frame else pixels, size)

    return DecodedFrame(
        stream,
        index,
        time,
        rgb=rgb,
        size=size or geometry.display,
        luma=lambda small: geometry.shown(_luma(picture), small),
    )


def from_array(stream: str, index: int, time: FrameTime, rgb: np.ndarray) -> DecodedFrame:
    """Wrap (H, W, 3) uint8 RGB pixels."""
    import cv2

    def luma(small: tuple[int, int]) -> np.ndarray:
        return np.asarray(
            cv2.resize(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), small, interpolation=cv2.INTER_AREA)
        )

    return DecodedFrame(stream, index, time, rgb=lambda: rgb, size=(rgb.shape[1], rgb.shape[0]), luma=luma)


def still_shown(frame: DecodedFrame, time: FrameTime) -> DecodedFrame:
    """The same picture at a later time."""
    return DecodedFrame(
        frame.stream, frame.index, time, rgb=frame._rgb, size=frame._size, luma=frame._luma, held=True
    )


def _rgb(picture: av.VideoFrame) -> np.ndarray:
    # One thread: FFmpeg starts them anew for every picture, which costs more than they save.
    return picture.to_ndarray(format="rgb24", threads=1)


def _luma(picture: av.VideoFrame) -> np.ndarray:
    if picture.format.name not in _LUMA_FIRST:
        return picture.to_ndarray(format="gray", threads=1)
    plane = picture.planes[0]
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    return rows[: picture.height, : picture.width]
