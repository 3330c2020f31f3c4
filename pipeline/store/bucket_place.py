"""A store in an object store: the same names as on a disk, read in ranges, put in one request each."""

from __future__ import annotations

import contextlib
import errno
import io
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from typing import BinaryIO, cast
from zlib import crc32

from obstore.exceptions import GenericError, NotSupportedError
from obstore.store import ObjectStore

from pipeline.core.errors import StoreRefused
from pipeline.store.bucket_address import BucketAddress
from pipeline.store.bucket_errors import ERRORS, as_os_error
from pipeline.store.bucket_lease import take_lease
from pipeline.store.durable_files import MOST_BYTES
from pipeline.store.place import Hold, Stamp, StorePlace
from pipeline.store.range_file import TAIL, RangeFile

_SEC = 10**9
# What tells an object of ours from another of the same name: the answer to a request may be lost after it was done.
_TOKEN = "sca-put"
# Read and told to be of a folder before anything else of it, and deleted first: without it the folder is none.
_FIRST = ("zarr.json",)


@dataclass(frozen=True)
class BucketPlace:
    """A folder in a bucket. `root`: the address of the bucket; `prefix`: keys of this folder begin with it, and a slash."""

    root: BucketAddress
    prefix: str
    store: ObjectStore = field(compare=False, repr=False)

    @property
    def where(self) -> str:
        return str(BucketAddress(self.root.scheme, self.root.bucket, self.prefix))

    @property
    def folder(self) -> Path | None:
        return None

    @property
    def far(self) -> bool:
        return True

    def below(self, key: str) -> StorePlace:
        return BucketPlace(self.root, self._key(key), self.store)

    def for_writer(self, at_once: bool = False) -> StorePlace:
        """On a disk of this machine first, and here when the network lets it."""
        from pipeline.store.spool_place import spooled

        return spooled(self, at_once)

    def list(self, folder: str = "") -> list[str]:
        return list(self.stamps(folder))

    def stamps(self, folder: str = "") -> dict[str, Stamp]:
        prefix = self._key(folder)
        cut = len(prefix) + 1 if prefix else 0
        with self._told(folder):
            found = self.store.list_with_delimiter(f"{prefix}/" if prefix else None)
        stamps = {one["path"][cut:]: _stamp(one) for one in found["objects"] if one["path"][cut:]}
        return {**stamps, **{path.rstrip("/")[cut:]: Stamp(0, 0) for path in found["common_prefixes"]}}

    def exists(self, key: str = "") -> bool:
        with contextlib.suppress(FileNotFoundError):
            self.stamp(key)
            return True
        return bool(self.stamps(key))

    def stamp(self, key: str) -> Stamp:
        with self._told(key):
            return _stamp(self.store.head(self._object(key)))

    def read(self, key: str, most: int = MOST_BYTES) -> bytes:
        with self._told(key):
            found = self.store.get(self._object(key))
            if found.meta["size"] > most:
                raise OSError(errno.EFBIG, f"this is larger than {most} bytes", f"{self.where}/{key}")
            return bytes(found.bytes())

    def open(self, key: str) -> BinaryIO:
        path = self._object(key)
        with self._told(key):
            size, tag, tail = self._tail(path)

        def fetch(start: int, stop: int) -> bytes:
            with self._told(key):
                try:
                    asked = {"range": (start, stop), **({"if_match": tag} if tag else {})}
                    return bytes(self.store.get(path, options=asked).bytes())  # type: ignore[arg-type]
                except Exception as error:
                    if isinstance(as_os_error(error, ""), FileExistsError):  # another object by now
                        raise FileNotFoundError(2, "it was replaced while it was read", key) from None
                    raise

        if size == len(tail):
            return io.BytesIO(tail)
        return cast(BinaryIO, RangeFile(size, fetch, tail))

    def sizes(self, folder: str, paths: Iterable[str] | None = None) -> dict[str, int]:
        prefix, wanted = self._key(folder), None if paths is None else frozenset(paths)
        with self._told(folder):
            found = [one for block in self.store.list(f"{prefix}/", chunk_size=1000) for one in block]
        sizes = {one["path"][len(prefix) + 1 :]: one["size"] for one in found}
        return {path: size for path, size in sizes.items() if wanted is None or path in wanted}

    def put(self, key: str, data: bytes) -> None:
        with self._told(key):
            self.store.put(self._object(key), data, mode="overwrite", use_multipart=False)

    def create(self, key: str, data: bytes) -> None:
        """Put `data` under a key that nothing lies under. FileExistsError for a key that somebody else has put.

        An answer that is lost makes one try again and meet what oneself has put: then all is well.
        """
        token = secrets.token_hex(12)
        try:
            with self._told(key):
                self.store.put(self._object(key), data, mode="create", attributes={_TOKEN: token})
        except FileExistsError:
            with self._told(key):
                found = self.store.get(self._object(key))
                if found.attributes.get(_TOKEN) == token:
                    return
                if data and found.meta["size"] == len(data) and bytes(found.bytes()) == data:
                    return  # an earlier try, of a process that was killed
            raise

    def claim(self, key: str) -> None:
        self.create(key, b"")

    def delete(self, key: str) -> None:
        path = self._object(key)
        with contextlib.suppress(FileNotFoundError):
            self.stamp(key)
            with self._told(key):
                self.store.delete(path)
            return
        with self._told(key):
            inside = [one["path"] for block in self.store.list(f"{path}/") for one in block]
            if not inside:
                raise FileNotFoundError(2, "no such object", f"{self.where}/{key}")
            first = [one for one in inside if one.removeprefix(f"{path}/") in _FIRST]
            for group in (first, [one for one in inside if one not in first]):
                if group:
                    self.store.delete(group)

    def prepare(self, folder: str = "") -> None:
        """Nothing: folders of an object store are there when something is in them."""

    def settle(self, folder: str = "") -> None:
        """Nothing: what was answered is done."""

    def tidy(self, folder: str) -> None:
        """Nothing: what is put half is not there."""

    def hold(self, key: str) -> Hold:
        return take_lease(self, key)

    def check(self) -> None:
        """Raise `StoreRefused` unless the bucket is there and lets us in."""
        try:
            with self._told(""):
                self.store.list_with_delimiter(f"{self.prefix}/" if self.prefix else None)
        except OSError as error:
            raise StoreRefused(f"cannot open {self.where}: {error.strerror}") from None

    def _tail(self, path: str) -> tuple[int, str | None, bytes]:
        """Size, tag and last bytes of an object."""
        try:
            found = self.store.get(path, options={"range": {"suffix": TAIL}})
            return found.meta["size"], found.meta["e_tag"], bytes(found.bytes())
        except NotSupportedError:  # Azure knows no ranges from the end
            meta = self.store.head(path)
            start = max(0, meta["size"] - TAIL)
            data = bytes(self.store.get_range(path, start=start, end=meta["size"])) if meta["size"] else b""
            return meta["size"], meta["e_tag"], data
        except (GenericError, ValueError):  # an empty object has no range at all
            meta = self.store.head(path)
            if meta["size"]:
                raise
            return 0, meta["e_tag"], b""

    def _key(self, key: str) -> str:
        return "/".join(part for part in (self.prefix, key) if part)

    def _object(self, key: str) -> str:
        return self._key(key) or "."

    @contextlib.contextmanager
    def _told(self, key: str) -> Iterator[None]:
        """Errors of the library as those of the operating system."""
        try:
            yield
        except ERRORS as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise as_os_error(error, f"{self.where}/{key}" if key else self.where) from None


def _stamp(meta: object) -> Stamp:
    """Many stores tell time in whole seconds: what stands for the content goes where the rest of the second would."""
    known = cast("dict[str, object]", meta)
    modified = known["last_modified"]
    seconds = int(modified.astimezone(UTC).timestamp())  # type: ignore[attr-defined]
    return Stamp(int(cast(int, known["size"])), seconds * _SEC + crc32(str(known["e_tag"]).encode()) % _SEC)
