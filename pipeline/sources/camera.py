"""What a live stream can watch, and how it is reached."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Protocol

from pipeline.sources.connection import Connection, ConnectionLost, Deadlines, Picture
from pipeline.sources.identity import address_fingerprint
from pipeline.sources.knock import answers
from pipeline.sources.options import SourceOptions
from pipeline.sources.reconnect import Ending
from pipeline.sources.redact import redact_url
from pipeline.sources.secrets import fill_in
from pipeline.sources.source import SourceKind


class Feed(Protocol):
    """An open connection to a camera. `time_base`: seconds in a tick of its time stamps."""

    @property
    def time_base(self) -> Fraction: ...

    @property
    def nominal_fps(self) -> float | None: ...

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


class NetworkCamera:
    """A stream at an address, which may hold credentials or blanks for them (`secrets.py`)."""

    def __init__(self, uri: str, options: SourceOptions) -> None:
        self._uri = uri
        self._options = options
        self.kind = SourceKind.LIVE
        self.address = redact_url(uri)
        self.fingerprint = address_fingerprint(uri)

    def connect(self) -> Connection:
        try:
            url = fill_in(self._uri)
        except ValueError as error:
            raise ConnectionLost(str(error), Ending.FAILED, "then start again") from None
        deadlines = Deadlines(self._options.open_timeout_s, self._options.stall_timeout_s)
        return Connection(url, transport=self._options.rtsp_transport, deadlines=deadlines)

    def answers(self) -> bool | None:
        return answers(self._uri)
