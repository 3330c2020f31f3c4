"""Where the bytes of a store lie: everything that the store asks of a disk, and the local disk's answer."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from pipeline.core.errors import StoreRefused
from pipeline.store.durable_files import (
    MOST_BYTES,
    TEMPORARY,
    files_below,
    fsync_directory,
    open_regular,
    read_regular,
    write_durably,
)
from sca.parts import Registry, registry


class PlaceHeld(Exception):
    """Somebody else holds what was to be held."""


class Hold(Protocol):
    """What nobody else has until it is released, or this process ends."""

    def release(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Stamp:
    """Size in bytes and time of the last change, wall ns. They change whenever the content does."""

    size: int
    modified_ns: int


class StorePlace(Protocol):
    """A folder of bytes. Keys are relative to it, with slashes; a key that is read was put whole, or not at all.

    What cannot be done raises OSError, FileNotFoundError where a key is missing. Safe to use from several threads and
    processes. `where`: for messages. `folder`: the local folder in which day archives can be built, each as a folder of files in one step;
    None where none are. `far`: whether reading means a network, so that no more is read than a question needs.
    """

    @property
    def where(self) -> str: ...

    @property
    def folder(self) -> Path | None: ...

    @property
    def far(self) -> bool: ...

    def __hash__(self) -> int: ...

    def below(self, key: str) -> StorePlace:
        """The folder `key` as a place of its own; it need not exist."""
        ...

    def for_writer(self, at_once: bool = False) -> StorePlace:
        """The folder of a stream for the one who writes it: where puts must not wait for a network, another place than this.

        `at_once`: what was put there must be here when its hold is released, which raises OSError where it is not.
        """
        ...

    def list(self, folder: str = "") -> list[str]:
        """Names directly in a folder, in any order; none where there is no such folder."""
        ...

    def stamps(self, folder: str = "") -> dict[str, Stamp]:
        """What `list` gives, each with its stamp; what goes away meanwhile is left out. Stamps of folders mean nothing."""
        ...

    def exists(self, key: str = "") -> bool:
        """Whether there is something under the key."""
        ...

    def sizes(self, folder: str, paths: Iterable[str] | None = None) -> dict[str, int]:
        """Bytes of those of the files `paths`, relative to a folder, that are there; by default of all below it."""
        ...

    def stamp(self, key: str) -> Stamp:
        """Size and time of change of what lies under a key."""
        ...

    def read(self, key: str, most: int = MOST_BYTES) -> bytes:
        """All bytes of a key. OSError where there are more than `most`."""
        ...

    def open(self, key: str) -> BinaryIO:
        """A key for reading in ranges (`seek`, `read`). When it is deleted meanwhile, it goes on to be readable or raises
        FileNotFoundError."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Put `data` under a key in one step, in place of what was there. When this returns, it survives a loss of power."""
        ...

    def claim(self, key: str) -> None:
        """Make an empty key that is not there yet. Of several who try one succeeds, the others get FileExistsError."""
        ...

    def delete(self, key: str) -> None:
        """Remove a key, or a folder with all that is in it."""
        ...

    def prepare(self, folder: str = "") -> None:
        """See to it that keys can be put below a folder."""
        ...

    def settle(self, folder: str = "") -> None:
        """Make what was deleted from a folder, or prepared in it, survive a loss of power."""
        ...

    def tidy(self, folder: str) -> None:
        """Remove what a writer that was killed has left half written in a folder. Nobody else writes there now."""
        ...

    def hold(self, key: str) -> Hold:
        """Become the only one who holds `key`. Raises `PlaceHeld` at once where somebody does."""
        ...


class FarPlace(StorePlace, Protocol):
    """A place behind a network, in which a key can be put for the first time by one only."""

    def create(self, key: str, data: bytes) -> None:
        """Put `data` under a key that nothing lies under. Raises FileExistsError where there is something else than that."""
        ...


@dataclass(frozen=True)
class LocalPlace:
    """A folder on a local disk."""

    folder: Path

    @property
    def where(self) -> str:
        return str(self.folder)

    @property
    def far(self) -> bool:
        return False

    def below(self, key: str) -> StorePlace:
        return LocalPlace(self.folder / key)

    def for_writer(self, at_once: bool = False) -> StorePlace:
        return self

    def stamps(self, folder: str = "") -> dict[str, Stamp]:
        found = {}
        for name in self.list(folder):
            with contextlib.suppress(FileNotFoundError):
                found[name] = self.stamp(f"{folder}/{name}" if folder else name)
        return found

    def list(self, folder: str = "") -> list[str]:
        try:
            return os.listdir(self.folder / folder)
        except FileNotFoundError:
            return []

    def exists(self, key: str = "") -> bool:
        return (self.folder / key).exists()

    def sizes(self, folder: str, paths: Iterable[str] | None = None) -> dict[str, int]:
        found = {}
        for path in files_below(self.folder / folder) if paths is None else paths:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                found[path] = os.stat(self.folder / folder / path).st_size
        return found

    def stamp(self, key: str) -> Stamp:
        stat = os.stat(self.folder / key)
        return Stamp(stat.st_size, stat.st_mtime_ns)

    def read(self, key: str, most: int = MOST_BYTES) -> bytes:
        return read_regular(self.folder / key, most)

    def open(self, key: str) -> BinaryIO:
        return open_regular(self.folder / key)

    def put(self, key: str, data: bytes) -> None:
        write_durably(self.folder / key, data)

    def claim(self, key: str) -> None:
        os.close(os.open(self.folder / key, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))

    def delete(self, key: str) -> None:
        path = self.folder / key
        if path.is_dir():
            # In one step, so that nobody finds a half of it; if the disk refuses even that, file by file.
            going = path.with_name(f"{path.name}{TEMPORARY}{os.getpid()}")
            with contextlib.suppress(OSError):
                path = path.rename(going)
            shutil.rmtree(path)
        else:
            os.unlink(path)

    def prepare(self, folder: str = "") -> None:
        (self.folder / folder).mkdir(parents=True, exist_ok=True)

    def settle(self, folder: str = "") -> None:
        fsync_directory(self.folder / folder)

    def tidy(self, folder: str) -> None:
        for name in self.list(folder):
            if TEMPORARY in name:
                self.delete(f"{folder}/{name}")

    def hold(self, key: str) -> Hold:
        from filelock import FileLock, Timeout

        lock = FileLock(self.folder / key, timeout=0, thread_local=False)
        try:
            lock.acquire()
        except Timeout:
            raise PlaceHeld(key) from None
        return lock


PLACES: Registry[Callable[[str], StorePlace]] = registry(
    "place of a store",
    "places",
    {
        "file": "pipeline.store.place:local_place",
        "s3": "pipeline.store.bucket_opening:bucket_place",
        "gs": "pipeline.store.bucket_opening:bucket_place",
        "az": "pipeline.store.bucket_opening:bucket_place",
    },
)
"""Parts are called with an address and named by its scheme ("s3" for s3://...), in lower case."""


def local_place(address: str) -> LocalPlace:
    """The folder that a path, or an address that begins with file://, names."""
    return LocalPlace(Path(address.removeprefix("file://")))


def typed_address(text: str) -> Path | str:
    """What somebody typed as a store: a path, or an address with a scheme. Raises `StoreRefused` for nothing."""
    _check_name(text)
    return text if "://" in text else Path(text)


def _check_name(text: str) -> None:
    """An empty name would be the folder that somebody is in."""
    if not text.strip():
        raise StoreRefused(
            "the name of the store is empty: is a variable of your shell unset? Name a .zarr directory"
        )


def place_of(address: str | Path) -> StorePlace:
    """The place that an address or path names. `UserError` for an unknown scheme."""
    text = str(address)
    _check_name(text)
    if isinstance(address, Path) or "://" not in text:
        return LocalPlace(Path(address))
    return PLACES.get(text.split("://", 1)[0].lower())(text)
