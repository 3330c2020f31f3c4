"""Where Ray keeps its sockets, logs and spilled objects while a run lasts: a folder of this user's alone, gone afterwards.

It lies in the user's state directory. Ray's own choice is /tmp/ray: writable for everybody, shared by all runs, and never
cleared. The paths of sockets are limited to 107 bytes, so that Ray is mostly shown its folder by a short link, which lies in
a folder of this user's alone too.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from pipeline.core.errors import UserError

_PREFIX = "sca-ray-"
_LOCK = "lock"
_PLAIN_PLACE = "/tmp"
_STATE = "segment-caption-stream"
# What Ray makes itself, and opens to everybody: the folder around it is not open.
_RAYS = "r"

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


@dataclass(frozen=True, slots=True)
class RayFolder:
    """`path`: the folder (mode 0700). `shown`: how Ray is told of what is its own in there, short enough for its sockets."""

    path: Path
    shown: Path


@contextlib.contextmanager
def ray_folder(environment: Mapping[str, str] = os.environ) -> Iterator[RayFolder]:
    """A new folder for the length of the block, in the user's state directory ($XDG_STATE_HOME, or ~/.local/state), unless
    RAY_TMPDIR names another place. Where nobody may write, or make sockets, there, it lies in the temporary directory.

    What runs that were killed left behind goes first.
    """
    temporary = Path(temporary_directory(environment))
    with ExitStack() as during:
        state = None if environment.get("RAY_TMPDIR") else _state_directory(environment)
        if state is not None:
            try:
                found = during.enter_context(_in_state_directory(state, temporary))
            except OSError:  # a home without room, or on a file system that knows neither locks nor sockets
                during.close()
            else:
                yield found
                return
        path = during.enter_context(_private(temporary))
        yield RayFolder(path, path / _RAYS)


@contextlib.contextmanager
def _in_state_directory(state: Path, temporary: Path) -> Iterator[RayFolder]:
    with ExitStack() as during:
        path = during.enter_context(_private(state))
        shown = path / _RAYS
        shown.mkdir(mode=0o700)
        if _too_long(str(state)) > 0:
            link = during.enter_context(_private(temporary)) / _RAYS
            link.symlink_to(shown)
            shown = link
        else:
            _sweep(temporary)
        with socket.socket(socket.AF_UNIX) as probe:
            probe.bind(str(shown / "probe"))
        (shown / "probe").unlink()
        yield RayFolder(path, shown)


def _state_directory(environment: Mapping[str, str]) -> Path | None:
    """Where this program keeps what is this user's alone, made where it is missing; None where that cannot be.

    Of a home that is somebody else's (`sudo` leaves it so) nothing is taken: its owner could not write there any more.
    """
    base = environment.get("XDG_STATE_HOME", "")
    if not os.path.isabs(base):
        base = platformdirs.user_state_dir()
    place = Path(base) / _STATE
    try:
        above = next(path for path in (place, *place.parents) if path.exists())
        if os.geteuid() == 0 and above.stat().st_uid != 0:
            return None
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        ours = place.stat().st_uid == os.geteuid()
    except OSError:
        return None
    return place if ours and os.access(place, os.W_OK | os.X_OK) else None


@contextlib.contextmanager
def _private(place: Path) -> Iterator[Path]:
    """A new folder (mode 0700) in `place` for the length of the block, and a lock that says so."""
    place.mkdir(parents=True, exist_ok=True)
    _sweep(place)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
    lock = -1
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        # Held as long as this process lives, however it ends.
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock >= 0:
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
