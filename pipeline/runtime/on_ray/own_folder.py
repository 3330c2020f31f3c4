"""Where Ray keeps its sockets, logs and spilled objects while a run lasts: a folder of this user's alone, gone afterwards.

Ray's own choice is /tmp/ray: writable for everybody, shared by all runs, and never cleared.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipeline.core.errors import UserError

_PREFIX = "sca-ray-"
_LOCK = "lock"
_PLAIN_PLACE = "/tmp"

# Below its temporary directory, Ray makes sockets, whose paths Unix limits.
_LONGEST_SOCKET_PATH = 107
_SOCKET = _PREFIX + "12345678/r/session_2026-01-01_00-00-00_000000_{pid}/sockets/plasma_store"


def temporary_directory(environment: Mapping[str, str] = os.environ) -> str:
    """Where the folder of a Ray on this machine is made: RAY_TMPDIR, TMPDIR, or /tmp where the path of TMPDIR is too long.

    Raises `UserError` where Ray could not start there.
    """
    asked = environment.get("RAY_TMPDIR")
    usual = environment.get("TMPDIR") or _PLAIN_PLACE
    name, directory = ("RAY_TMPDIR", asked) if asked else ("TMPDIR", usual)
    if not asked and _too_long(directory) > 0:
        # Nobody who sets TMPDIR thinks of sockets.
        directory = _PLAIN_PLACE
    if (over := _too_long(directory)) > 0:
        raise UserError(
            f"{name}={directory}: this path is {over} bytes too long for the sockets that Ray makes below it; set {name} to "
            "a shorter one, such as /tmp, or use --runtime inline"
        )
    if os.path.lexists(directory) and not os.access(directory, os.W_OK | os.X_OK):
        raise UserError(
            f"{name}={directory}: Ray cannot write there; set {name} to a directory that can be written"
        )
    return directory


def _too_long(directory: str) -> int:
    socket = os.path.join(os.path.abspath(directory), _SOCKET.format(pid=os.getpid()))
    return len(os.fsencode(socket)) - _LONGEST_SOCKET_PATH


@contextlib.contextmanager
def ray_folder(environment: Mapping[str, str] = os.environ) -> Iterator[Path]:
    """A new folder (mode 0700) for the length of the block. What runs that were killed left behind goes first."""
    place = Path(temporary_directory(environment))
    place.mkdir(parents=True, exist_ok=True)
    _sweep(place)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        # Held as long as this process lives, however it ends.
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def new_token(folder: Path) -> Path:
    """A file with a password for this Ray alone, which its processes read: nobody else need find one in a home directory."""
    path = folder / "token"
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    return path


def _sweep(place: Path) -> None:
    for folder in place.glob(_PREFIX + "*"):
        with contextlib.suppress(OSError):
            found = folder.lstat()
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and _is_left_behind(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _is_left_behind(folder: Path) -> bool:
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(lock)
    return True
