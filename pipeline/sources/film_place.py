"""Where a film lies: what `VideoFile` must know of it, on this machine or behind an address."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import av
from av.codec.hwaccel import HWAccel

from pipeline.sources.container import open_container
from pipeline.sources.identity import file_fingerprint


class FilmPlace(Protocol):
    """`address`: for messages and the store, without credentials."""

    @property
    def address(self) -> str: ...

    def open(self, hwaccel: HWAccel | None) -> av.container.InputContainer:
        """A new reading from the beginning. `SourceRefused` with the remedy when that cannot work."""

    def fingerprint(self) -> str:
        """Tells two films apart."""

    def modified_ns(self) -> int:
        """When it was written last, ns since 1970 UTC."""

    def size_bytes(self) -> int | None:
        """How large it is; None where it lies in pieces."""


@dataclass(frozen=True, slots=True)
class LocalFilm:
    """A file of this machine."""

    path: Path

    @property
    def address(self) -> str:
        return str(self.path)

    def open(self, hwaccel: HWAccel | None) -> av.container.InputContainer:
        return open_container(self.path, hwaccel)

    def fingerprint(self) -> str:
        return file_fingerprint(self.path)

    def modified_ns(self) -> int:
        return self.path.stat().st_mtime_ns

    def size_bytes(self) -> int:
        return self.path.stat().st_size
