"""What an input names, by its text: a file or folder, a webcam, or an address and its scheme."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote, urlsplit

from pipeline.core.errors import SourceRefused
from pipeline.core.options import did_you_mean
from pipeline.core.redaction import BLANK, is_mistyped_address
from pipeline.core.shown_text import shown
from pipeline.sources.kinds import LIVE_SCHEMES, SOURCES, address_schemes

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(//)?")
_WEBCAM = re.compile(r"[0-9]{1,3}|/dev/video[0-9]+")


def is_webcam(uri: str) -> bool:
    """Whether `uri` is a camera of this machine: its number, or its device."""
    return _WEBCAM.fullmatch(uri) is not None


def plain_input(uri: str) -> str:
    """`uri` as the rest of the program reads it: a path, a webcam, or an address whose scheme is known and lower case.

    What exists under just this name is that, whatever it looks like: `10:30.mp4` names no protocol and `0` no webcam
    where there is such a file. `file:` addresses become paths, `%20` and the like decoded. Plain inputs come back
    unchanged. Raises `SourceRefused` for an empty input and an unknown scheme; it never repeats an address.
    """
    if not uri.strip():
        raise SourceRefused(
            "an input is empty: is a variable of your shell unset? Give a video file, a folder, an address or a "
            "camera number"
        )
    if "\0" in uri:
        raise SourceRefused("an input holds a NUL character, which no file's name can; check the list")
    if os.path.lexists(uri):
        return _as_path(uri)
    scheme = _SCHEME.match(uri)
    if "://" in uri and (scheme is None or scheme[2] is None):
        raise SourceRefused(
            "an input has :// in it and is no address: write SCHEME://HOST/..., such as rtsp://camera/1"
        )
    if is_mistyped_address(uri) and (scheme is None or scheme[1].lower() not in LIVE_SCHEMES):
        raise SourceRefused(
            "an input looks like an address without its beginning: write rtsp://USER:PASSWORD@HOST/... (or http://, and so "
            "on); a file of that name is written ./NAME"
        )
    if scheme is None:
        return uri
    name = scheme[1].lower()
    if name == "file":
        return _as_path(_file_path(uri[scheme.end() :], slashes=bool(scheme[2])))
    if scheme[2] is None:
        if name in LIVE_SCHEMES:
            raise SourceRefused(
                f"an input begins with {scheme[0]} and names no file: write {name}://HOST/..."
            )
        return uri
    if not SOURCES.knows(name):
        known = sorted({*address_schemes(), "file"})
        raise SourceRefused(
            f"{scheme[0]} is no address that can be read{did_you_mean(name, known)}; known: "
            + ", ".join(f"{one}://" for one in known)
        )
    if name in LIVE_SCHEMES:
        _check_host(name, uri[scheme.end() :])
    return f"{name}://{uri[scheme.end() :]}"


# These may listen, on any address of this machine.
_WITHOUT_HOST = frozenset({"udp", "rtp", "srt", "tcp"})


def _check_host(scheme: str, rest: str) -> None:
    """Raise `SourceRefused` where no connection could be tried at all. It repeats nothing: what is wrong may be a password."""
    login = "; in a user name or password write %2F for /, %3F for ?, %23 for #, %40 for @"
    try:
        # What is filled in later stands for a name, a number or a password: 1 is all of these.
        parts = urlsplit(f"{scheme}://{BLANK.sub('1', rest)}")
        port = parts.port
    except ValueError:
        raise SourceRefused(
            f"an input is an address of {scheme}:// whose host or port is none: a port is a number from 1 to 65535, an IPv6 "
            f"address stands in brackets{login}"
        ) from None
    if port == 0:
        raise SourceRefused(f"an input is an address of {scheme}:// with port 0: a port is from 1 to 65535")
    try:
        host = (parts.hostname or "").encode("idna")
    except UnicodeError:
        raise SourceRefused(
            f"an input is an address of {scheme}:// whose host no name server can know (an empty part, one of more than 63 "
            f"letters, or letters that no name may have); check it{login}"
        ) from None
    if not host and scheme not in _WITHOUT_HOST:
        raise SourceRefused(
            f"an input is an address of {scheme}:// without a host: write {scheme}://HOST/..."
        )


def _file_path(rest: str, *, slashes: bool) -> str:
    """The path of what stands behind `file:` or `file://`."""
    if slashes:
        host, slash, path = rest.partition("/")
        if host not in ("", "localhost") and not os.path.lexists(rest):
            raise SourceRefused(
                f"file://{shown(host.rpartition('@')[2])}/...: a file address names a file of this machine: write file:///PATH, with three "
                "slashes, or the path alone"
            )
        rest = slash + path if host in ("", "localhost") else rest
    decoded = unquote(rest, errors="surrogateescape")
    # A path that somebody put behind file:// as it was, with a % of its own.
    return rest if os.path.lexists(rest) and not os.path.lexists(decoded) else decoded


def _as_path(path: str) -> str:
    """`path` so that nobody takes it for anything else."""
    if "\0" in path or not path:
        raise SourceRefused("a file: address names no file: write file:///PATH")
    if "://" in path:
        path = os.path.normpath(path)
    return os.path.join(".", path) if is_webcam(path) and not path.startswith("/") else path
