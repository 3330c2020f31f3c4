"""What a live stream can watch, and how it is reached."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import av

from pipeline.core.restarts import LossCause
from pipeline.sources.film_or_camera import FeedTiming
from pipeline.sources.source import SourceKind


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture. `sender_ns`: the sender's wall clock, ns since 1970, where it told. `damaged`: do not show."""

    frame: av.VideoFrame
    sender_ns: int | None
    damaged: bool


class ConnectionLost(Exception):
    """A connection ended or could not be made. The text says why in the user's words, without credentials."""

    def __init__(
        self, reason: str, ending: LossCause, remedy: str = "check the address, the network and the camera"
    ) -> None:
        super().__init__(reason)
        self.ending = ending
        self.remedy = remedy


class Feed(Protocol):
    """An open connection to a camera. `time_base`: seconds in a tick of its time stamps; `timing`: their worth."""

    @property
    def time_base(self) -> Fraction: ...

    @property
    def timing(self) -> FeedTiming: ...

    @property
    def nominal_fps(self) -> float | None: ...

    @property
    def pixel_aspect(self) -> Fraction:
        """Width over height of a stored pixel."""

    def pictures(self) -> Iterator[Picture]:
        """Pictures until the connection ends, which is always told by `ConnectionLost`."""

    def close(self) -> None: ...


class Camera(Protocol):
    """A camera that may be connected to again and again. `address`: without credentials."""

    kind: SourceKind
    address: str
    fingerprint: str

    def connect(self) -> Feed:
        """Raises `ConnectionLost` when it cannot be reached."""

    def answers(self) -> bool | None:
        """Whether it seems to be there now, asked at no cost to it; None where that cannot be told."""
