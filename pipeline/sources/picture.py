"""A decoded frame whose pixels are converted only when somebody wants them."""

from __future__ import annotations

from collections.abc import Callable

import av
import cv2
import numpy as np

from pipeline.core.frame import Frame, FrameTime
from pipeline.core.thumbnail import thumbnail_of

_LUMA_FIRST = {"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "nv12", "nv21", "gray"}


class DecodedFrame:
    """One frame of a stream, still in the decoder's pixel format.

    Most frames are not keyframes of the pipeline, so the costly conversion to RGB waits for `to_frame`.
    """

    __slots__ = ("_luma", "_rgb", "_thumbnail", "index", "stream", "time")

    def __init__(
        self,
        stream: str,
        index: int,
        time: FrameTime,
        *,
        rgb: Callable[[], np.ndarray],
        luma: Callable[[], np.ndarray],
    ) -> None:
        self.stream = stream
        self.index = index
        self.time = time
        self._rgb = rgb
        self._luma = luma
        self._thumbnail: np.ndarray | None = None

    def thumbnail(self) -> np.ndarray:
        """A small grey picture, (h, 64) uint8, made when it is first asked for."""
        if self._thumbnail is None:
            self._thumbnail = thumbnail_of(self._luma())
        return self._thumbnail

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
    stream: str, index: int, time: FrameTime, picture: av.VideoFrame, size: tuple[int, int] | None = None
) -> DecodedFrame:
    """Wrap a PyAV frame; the display rotation of phone videos is applied to the pixels.

    `size`: (width, height) of the stream, for a frame that has another.
    """
    return DecodedFrame(
        stream,
        index,
        time,
        rgb=lambda: _sized(_upright(picture, _rgb(picture)), size),
        luma=lambda: _upright(picture, _luma(picture)),
    )


def from_array(stream: str, index: int, time: FrameTime, rgb: np.ndarray) -> DecodedFrame:
    """Wrap (H, W, 3) uint8 RGB pixels."""
    return DecodedFrame(
        stream, index, time, rgb=lambda: rgb, luma=lambda: np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY))
    )


def displayed_size(picture: av.VideoFrame) -> tuple[int, int]:
    """(width, height) in pixels after the display rotation."""
    turned = _quarter_turns(picture) % 2 == 1
    return (picture.height, picture.width) if turned else (picture.width, picture.height)


def _quarter_turns(picture: av.VideoFrame) -> int:
    return round(picture.rotation / 90) % 4


def _upright(picture: av.VideoFrame, pixels: np.ndarray) -> np.ndarray:
    turns = _quarter_turns(picture)
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


def _sized(pixels: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    if size is None or (pixels.shape[1], pixels.shape[0]) == size:
        return pixels
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))


def _rgb(picture: av.VideoFrame) -> np.ndarray:
    return picture.to_ndarray(format="rgb24")


def _luma(picture: av.VideoFrame) -> np.ndarray:
    if picture.format.name not in _LUMA_FIRST:
        return picture.to_ndarray(format="gray")
    plane = picture.planes[0]
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    return rows[: picture.height, : picture.width]
