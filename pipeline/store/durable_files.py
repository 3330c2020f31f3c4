"""Files that appear whole and stay: temporary file, fsync, rename, fsync of the directory."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pipeline.core.errors import StoreRefused

TEMPORARY = ".tmp"


def write_durably(path: Path, data: bytes) -> None:
    """Put `data` at `path` in one step. When this returns, the file survives a loss of power.

    Raises OSError; then `path` is as it was before, unless even removing it failed.
    """
    with writing_durably(path) as file:
        file.write(data)


@contextlib.contextmanager
def writing_durably(path: Path) -> Iterator[BinaryIO]:
    """A file to write to that appears at `path` in one step when the block ends, and not at all when it raises."""
    temporary = path.with_name(f"{path.name}{TEMPORARY}{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    fsync_directory(path.parent)


# Of what is read whole: descriptions of stores and streams, lists of checksums, metadata of a day.
MOST_BYTES = 256 << 20


def open_regular(path: Path) -> BinaryIO:
    """A regular file for reading. Raises OSError for anything else: a FIFO might never be written to, a device has no end."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        if path.is_symlink():  # it is there, and stays so: nobody may wait for it to go
            raise OSError(errno.ELOOP, "this is a link to nothing", str(path)) from None
        raise
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "this is not a regular file", str(path))
        return open(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_regular(path: Path, most: int = MOST_BYTES) -> bytes:
    """All bytes of a regular file. Raises OSError, for one that is larger than `most` too."""
    with open_regular(path) as file:
        # As much room as is asked for is taken before the first byte is read; a file that has grown meanwhile is read on.
        data = b""
        if os.fstat(file.fileno()).st_size <= most:
            while len(data) <= most and (more := file.read(min(os.fstat(file.fileno()).st_size, most) + 1)):
                data += more
            if len(data) <= most:
                return data
    raise OSError(errno.EINVAL, f"this is larger than {most >> 20} MiB", str(path))


def fsync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def raise_it(error: OSError) -> None:
    """For os.walk, to which a folder that cannot be listed is an empty one."""
    raise error


def files_below(folder: Path) -> list[str]:
    """All files below a folder, relative to it. Raises OSError."""
    return [
        Path(where, entry).relative_to(folder).as_posix()
        for where, _, entries in os.walk(folder, onerror=raise_it)
        for entry in entries
    ]


def fsync_tree(path: Path) -> None:
    """Make a folder, all that is in it and its names durable."""
    for folder, _, files in os.walk(path, topdown=False, onerror=raise_it):
        for file in files:
            handle = os.open(os.path.join(folder, file), os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        fsync_directory(Path(folder))


class FarPlaceRefused(OSError):
    """What lies behind a network was not reached, or refuses; `strerror` says why and what to do. Never damage: nothing is known of it."""


def is_full(error: Exception) -> bool:
    """Whether a disk, or what somebody may take of it, is used up."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def refusal(error: OSError, path: Path | str, doing: str) -> StoreRefused:
    """The operating system's refusal as an error that names the path and the remedy."""
    if isinstance(error, FarPlaceRefused):
        return StoreRefused(f"cannot {doing} {path}: {error.strerror}")
    remedies = {
        errno.ENOSPC: "the disk is full: free some space, then go on",
        errno.EDQUOT: "the disk quota is used up: free some space, then go on",
        errno.EROFS: "the file system is read-only: choose another place",
        errno.EACCES: "permission denied: choose a place that you may write to, or change its owner",
        errno.EPERM: "not permitted: choose a place that you may write to, or change its owner",
        errno.ENOTDIR: "a part of the path is a file: choose another place",
        errno.EEXIST: "a file of that name is in the way: choose another place",
        errno.EMFILE: "too many open files: raise the limit (ulimit -n)",
    }
    reason = remedies.get(error.errno or 0, f"{error.strerror or error}: check the disk and the path")
    return StoreRefused(f"cannot {doing} {path}: {reason}")
