"""Files that a user names as outputs: a regular file is replaced in one step, anything else is written to as what it is.

A device, a FIFO and a socket stay what they are. Of a symbolic link the target is replaced, and the link stays. What is
replaced hands its mode on and, where the system lets us, its owner. Other names of the same file (hard links) keep what it
held before.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pipeline.core.errors import UserError

STANDARD_OUTPUT = "-"
_DESCRIPTORS = re.compile(r"/proc/[^/]+/(task/[^/]+/)?fd|/dev/fd")
_LINKS = 40


@dataclass(frozen=True, slots=True)
class OutputTarget:
    """Where an output goes. `before`: the regular file that is replaced, None for a new one.

    `descriptor`: of this process, where the name stands for one, such as /dev/stdout. `kept`: it is no regular file and
    is written to as it is.
    """

    path: Path
    before: os.stat_result | None = None
    descriptor: int | None = None
    kept: bool = False


def check_output(
    path: Path, *, source: str | None = None, store: Path | str | None = None, makes_folders: bool = False
) -> None:
    """Raise `UserError` unless `path` can be an output: neither the input `source` nor inside the folder `store`, and in a folder
    that is there, unless who writes it `makes_folders`.
    """
    target = output_target(path)
    above = target.path.parent
    if target.before is None and not target.kept and not makes_folders and not above.is_dir():
        raise UserError(f"cannot write {path}: there is no folder {above}; make it first")
    if source is not None and os.path.exists(source) and not target.kept and _same(target.path, source):
        raise UserError(f"{path}: that is the input itself; choose another name")
    if store is not None and "://" not in str(store) and target.path.is_relative_to(os.path.realpath(store)):
        raise UserError(
            f"{path}: this lies inside the store {store}, which holds nothing else; choose another place"
        )


def output_target(path: Path) -> OutputTarget:
    """What writing to `path` means. Raises `UserError` for a folder and for a disk."""
    if str(path) == STANDARD_OUTPUT:
        if getattr(sys.stdout, "name", None) == os.devnull:  # as `cli.py` opens it in place of a closed one
            raise UserError("cannot write to standard output: it is closed; name a file")
        return OutputTarget(path, descriptor=1, kept=True)
    descriptor = _descriptor(path)
    if descriptor is not None:
        return OutputTarget(path, descriptor=descriptor, kept=True)
    real = Path(os.path.realpath(path))
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return OutputTarget(real)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; choose another place") from None
    if stat.S_ISDIR(found.st_mode):
        raise UserError(f"cannot write {path}: this is a folder; name a file in it")
    if stat.S_ISBLK(found.st_mode):
        raise UserError(f"cannot write {path}: this is a disk; name a file")
    if not stat.S_ISREG(found.st_mode):
        return OutputTarget(path.absolute(), kept=True)
    if not os.access(real, os.W_OK):
        raise UserError(
            f"cannot write {path}: this file may not be written to; change its permissions, or choose another"
        )
    return OutputTarget(real, found)


@contextlib.contextmanager
def writing_output(path: Path) -> Iterator[BinaryIO]:
    """A file to write to. A regular file appears in one step when the block ends, and not at all when it raises.

    Raises `UserError` as `output_target`, and OSError.
    """
    target = output_target(path)
    if target.descriptor == 1:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    elif target.descriptor is not None:
        with os.fdopen(os.dup(target.descriptor), "wb") as file:
            yield file
    elif target.kept:
        with _opened(target.path) as file:
            yield file
    else:
        with _replacing(target) as temporary, open(temporary, "r+b") as file:
            yield file


@contextlib.contextmanager
def output_by_name(path: Path) -> Iterator[tuple[Path, bool]]:
    """For a library that opens files itself: the path that it is to write, and whether it can go back in it.

    What it wrote appears at `path` when the block ends, and not at all when it raises. Errors: as `writing_output`.
    """
    target = output_target(path)
    if target.kept:
        yield target.path, False
    else:
        with _replacing(target) as temporary:
            yield temporary, True


@contextlib.contextmanager
def _replacing(target: OutputTarget) -> Iterator[Path]:
    # In the same folder, for a rename does not cross file systems; its name cannot be guessed, for the folder may be shared.
    temporary = target.path.with_name(f".{secrets.token_hex(8)}.tmp")
    created = os.open(
        temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if target.before is None else 0o600
    )
    try:
        try:
            if target.before is not None:
                with contextlib.suppress(OSError):  # only root gives files away
                    os.chown(created, target.before.st_uid, target.before.st_gid)
                os.chmod(created, stat.S_IMODE(target.before.st_mode) & 0o777)
        finally:
            os.close(created)
        yield temporary
        written = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(written)
        finally:
            os.close(written)
        os.replace(temporary, target.path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    if stat.S_ISSOCK(os.stat(path).st_mode):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            with connection.makefile("wb") as stream:
                yield stream
    else:
        with os.fdopen(os.open(path, os.O_WRONLY | getattr(os, "O_NOCTTY", 0)), "wb") as file:
            yield file


def _descriptor(path: Path) -> int | None:
    """The number of the open file of this process that `path` names, through any links; None where it names none."""
    current = os.path.abspath(path)
    for _ in range(_LINKS):
        folder = os.path.realpath(os.path.dirname(current))
        name = os.path.basename(current)
        if _DESCRIPTORS.fullmatch(folder) and name.isdigit() and f"/{os.getpid()}/" in f"{folder}/":
            return int(name)
        if not os.path.islink(current):
            return None
        current = os.path.normpath(os.path.join(folder, os.readlink(current)))
    return None


def _same(one: Path, other: str) -> bool:
    return one.exists() and os.path.samefile(one, other)
