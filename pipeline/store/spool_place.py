"""A stream of an object store for the one who writes it: on a disk of this machine first, uploaded beside the commits.

A commit is durable when it is on the disk, so no network is waited for. What the bucket lacks is uploaded in order of commit; what
is uploaded stays here for a while, because it will be merged, and goes then. A writer that starts again finds both: what is here and
what is there.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from pipeline.core.errors import StoreRefused
from pipeline.store.bucket_lease import take_lease
from pipeline.store.durable_files import MOST_BYTES, refusal
from pipeline.store.place import FarPlace, Hold, LocalPlace, PlaceHeld, Stamp, StorePlace
from pipeline.store.stream_directory import FOLDERS, claimed_epoch
from pipeline.store.uploading import Uploader

_TOKEN = "this-machine"


class SpoolPlace:
    """`local`: where this machine keeps what is on its way. `remote`: the stream's folder in the bucket.

    Segments and archives are put on the disk; everything else, of which a writer puts little and before it records, goes to the
    bucket at once. Only for who holds the stream: what the bucket holds is listed when that begins.
    """

    def __init__(self, local: LocalPlace, remote: FarPlace, token: str, at_once: bool = False) -> None:
        self.local, self.remote, self._token, self._at_once = local, remote, token, at_once
        self.mutex = threading.Lock()
        self.uploaded: dict[str, dict[str, Stamp]] = {folder: {} for folder in FOLDERS}
        """What is known to lie in the bucket."""
        self.epochs: dict[str, Stamp] = {}
        self.going: dict[str, None] = {}
        """Keys that are deleted here, and have to be deleted there, in this order."""
        self.again: set[str] = set()
        """Keys that lie in the bucket with what they held before they were put again."""
        self._claims: dict[str, bytes] = {}
        self.own_epoch = -1
        self._uploader: Uploader | None = None

    @property
    def where(self) -> str:
        return self.remote.where

    @property
    def folder(self) -> Path | None:
        return self.local.folder

    @property
    def far(self) -> bool:
        return True

    def below(self, key: str) -> StorePlace:
        return self.remote.below(key)

    def for_writer(self, at_once: bool = False) -> StorePlace:
        return self

    def list(self, folder: str = "") -> list[str]:
        if folder == "epoch":
            return list(self.epochs)
        if folder not in FOLDERS:
            return self.remote.list(folder)
        here = self.local.list(folder)
        with self.mutex:
            there = [name for name in self.uploaded[folder] if f"{folder}/{name}" not in self.going]
        return list(dict.fromkeys((*here, *there)))

    def stamps(self, folder: str = "") -> dict[str, Stamp]:
        if folder == "epoch":
            return dict(self.epochs)
        if folder not in FOLDERS:
            return self.remote.stamps(folder)
        here = self.local.stamps(folder)
        with self.mutex:
            there = {n: s for n, s in self.uploaded[folder].items() if f"{folder}/{n}" not in self.going}
        return {**there, **here}

    def exists(self, key: str = "") -> bool:
        return (_spooled(key) and self.local.exists(key)) or self.remote.exists(key)

    def sizes(self, folder: str, paths: Iterable[str] | None = None) -> dict[str, int]:
        nearest = self.local if _spooled(folder) and self.local.exists(folder) else self.remote
        return nearest.sizes(folder, paths)

    def stamp(self, key: str) -> Stamp:
        folder, _, name = key.partition("/")
        if folder == "epoch" and name in self.epochs:
            return self.epochs[name]
        if _spooled(key):
            with contextlib.suppress(FileNotFoundError):
                return self.local.stamp(key)
            with self.mutex:
                known = self.uploaded[folder].get(name)
            if known is not None:
                return known
        return self.remote.stamp(key)

    def read(self, key: str, most: int = MOST_BYTES) -> bytes:
        if key in self._claims:
            return self._claims[key]
        if _spooled(key):
            with contextlib.suppress(FileNotFoundError):
                return self.local.read(key, most)
        return self.remote.read(key, most)

    def open(self, key: str) -> BinaryIO:
        if _spooled(key):
            with contextlib.suppress(FileNotFoundError):
                return self.local.open(key)
        return self.remote.open(key)

    def put(self, key: str, data: bytes) -> None:
        if not _spooled(key):
            self.remote.put(key, data)
            if key.startswith("epoch/"):
                self._claims[key] = data
                self.look_for_epochs()
            return
        folder, _, name = key.partition("/")
        self.local.put(key, data)
        with self.mutex:
            self.going.pop(key, None)
            if name in self.uploaded[folder]:
                self.again.add(key)
        if self._uploader is not None:
            self._uploader.put(key)

    def claim(self, key: str) -> None:
        self.remote.claim(key)
        self.own_epoch = claimed_epoch(key)
        self.look_for_epochs()

    def delete(self, key: str) -> None:
        if key.startswith("epoch/"):
            self.epochs.pop(key.removeprefix("epoch/"), None)
            with self.mutex:
                self.going[key] = None
            return
        if not _spooled(key):
            self.remote.delete(key)
            return
        folder, _, name = key.partition("/")
        with self.mutex:
            there = name in self.uploaded[folder] and key not in self.going
            if there:
                self.going[key] = None
        with contextlib.suppress(FileNotFoundError):
            self.local.delete(key)
            there = True
        if not there:
            raise FileNotFoundError(errno.ENOENT, "no such object", f"{self.where}/{key}")

    def prepare(self, folder: str = "") -> None:
        self.local.prepare(folder)

    def settle(self, folder: str = "") -> None:
        if (self.local.folder / folder).is_dir():
            self.local.settle(folder)

    def tidy(self, folder: str) -> None:
        if folder in FOLDERS:
            self.local.tidy(folder)

    def hold(self, key: str) -> Hold:
        """On this machine, and for all others. What is known of the bucket is listed now, and uploading begins."""
        here = self.local.hold(key)
        try:
            try:
                there = take_lease(self.remote, "lease", self._token)
            except PlaceHeld:
                self.look_for_epochs()  # for who tells whose it is
                raise
            try:
                for folder in FOLDERS:
                    self.uploaded[folder] = self.remote.stamps(folder)
                self.look_for_epochs()
            except BaseException:
                there.release()
                raise
        except BaseException:
            here.release()
            raise
        self._uploader = Uploader(self)
        return _SpoolHold(self._uploader, (there, here), self._at_once)

    def look_for_epochs(self) -> None:
        """See who has claimed the stream. Raises OSError."""
        found = self.remote.stamps("epoch")
        with self.mutex:
            self.epochs = {name: stamp for name, stamp in found.items() if f"epoch/{name}" not in self.going}


class _SpoolHold:
    """Given back when all is uploaded, or the network is found to be away."""

    def __init__(self, uploader: Uploader, holds: tuple[Hold, ...], at_once: bool) -> None:
        self._uploader, self._holds, self._at_once = uploader, holds, at_once

    def release(self) -> None:
        try:
            self._uploader.finish(self._at_once)
        finally:
            for hold in self._holds:
                hold.release()


def _spooled(key: str) -> bool:
    return key.partition("/")[0] in FOLDERS


def spool_root() -> Path:
    """The folder below which this machine keeps what is on its way to object stores."""
    chosen = os.environ.get("SCA_SPOOL")
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state")
    return Path(chosen) if chosen else state / "segment-caption-stream" / "spool"


def spooled(place: FarPlace, at_once: bool = False) -> SpoolPlace:
    """The place of a stream for its writer. Raises `StoreRefused` where this machine has no room for a spool."""
    store, _, stream = place.where.rpartition("/streams/")
    folder = spool_root() / hashlib.sha256(store.encode()).hexdigest()[:16]
    try:
        local = folder / "streams" / stream
        local.mkdir(parents=True, exist_ok=True, mode=0o700)
        address = folder / "address"
        if not address.exists():
            LocalPlace(folder).put("address", f"{store}\n".encode())
        return SpoolPlace(LocalPlace(local), place, _token(spool_root()), at_once)
    except OSError as error:
        raise refusal(error, folder, "keep what is on its way to an object store in") from error


def _token(root: Path) -> str:
    """Who this machine is, to itself: a writer that was killed goes on at once."""
    place = LocalPlace(root)
    for _ in range(2):
        with contextlib.suppress(FileNotFoundError):
            text = place.read(_TOKEN).decode(errors="replace").strip()
            if text:
                return text
        place.put(_TOKEN, secrets.token_hex(16).encode())
    raise StoreRefused(f"{root / _TOKEN} cannot be read: delete it")
