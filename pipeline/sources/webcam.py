"""Local cameras through OpenCV."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from pipeline.core.restarts import LossCause
from pipeline.sources.camera import ConnectionLost, Picture
from pipeline.sources.film_or_camera import FeedTiming
from pipeline.sources.source import SourceKind

_REMEDY = "check that it is plugged in and not used elsewhere"


class Webcam:
    """A camera by number (`0`) or device (`/dev/video0`)."""

    def __init__(self, device: str) -> None:
        self.kind = SourceKind.WEBCAM
        self.address = device
        self.fingerprint = f"webcam:{device}"

    def connect(self) -> Capture:
        return Capture(self.address)

    def answers(self) -> bool:
        """Whether the system knows the device."""
        return Path(f"/dev/video{self.address}" if self.address.isdigit() else self.address).exists()


class Capture:
    """An open device. Its pictures carry no time, so that the time of arrival counts.

    Raises `ConnectionLost` when it cannot be opened.
    """

    time_base = Fraction(1)
    nominal_fps = None
    timing = FeedTiming.INVENTED
    pixel_aspect = Fraction(1)

    def __init__(self, device: str) -> None:
        self._capture = cv2.VideoCapture(int(device) if device.isdigit() else device)
        if not self._capture.isOpened():
            self.close()
            raise ConnectionLost("it cannot be opened", LossCause.FAILED, _REMEDY)

    def pictures(self) -> Iterator[Picture]:
        """Pictures until the device gives none, which is told by `ConnectionLost`."""
        while True:
            ok, bgr = self._capture.read()
            if not ok:
                raise ConnectionLost("it gives no pictures", LossCause.FAILED, _REMEDY)
            frame = av.VideoFrame.from_ndarray(np.asarray(bgr, np.uint8), format="bgr24")
            yield Picture(frame, sender_ns=None, damaged=False)

    def close(self) -> None:
        self._capture.release()
