"""HLS playlists before FFmpeg reads them: those that name others without end are refused.

FFmpeg follows a playlist that names itself, or playlists that name each other, until memory is used up, and keeps ten
kilobytes for each that is named.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

from pipeline.core.errors import MalformedFile

MOST_BYTES = 8 << 20
"""A day of two-second segments is a third of it."""
MOST_PLAYLISTS = 64
"""Named by one: sizes, languages and sound tracks together are a dozen or two."""

_BEGINS = b"#EXTM3U"
_BOM = b"\xef\xbb\xbf"
# As FFmpeg ends a line.
_LINE_ENDS = re.compile(rb"[\r\n\0]")
_VARIANT = b"#EXT-X-STREAM-INF:"
_RENDITION = b"#EXT-X-MEDIA:"
_RENDITION_ADDRESS = re.compile(rb'URI="([^"]*)"')
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.,-]*:")


def is_hls(head: bytes) -> bool:
    """Whether a file that begins with `head` is a playlist of HLS."""
    return head.removeprefix(_BOM).lstrip().startswith(_BEGINS)


def named_playlists(text: bytes) -> list[str]:
    """Addresses of the playlists that a playlist names: variants and renditions, in order. Those of segments are none."""
    found: list[bytes] = []
    variant = False
    for line in _LINE_ENDS.split(text):
        if line.startswith(_VARIANT):
            variant = True
        elif line.startswith(_RENDITION):
            found += _RENDITION_ADDRESS.findall(line)
        elif line and not line.startswith(b"#") and variant:
            found.append(line.rstrip())
            variant = False
    return [address.decode("utf-8", "surrogateescape") for address in found]


def check_playlist(name: str, text: bytes, read: Callable[[str], bytes | None]) -> None:
    """Raise `MalformedFile` that names `name` where its text is too long, or names more playlists than one step down.

    `read`: at most `MOST_BYTES + 1` of the playlist at such an address; None where it cannot be read, which FFmpeg will find too.
    """
    if len(text) > MOST_BYTES:
        raise MalformedFile(
            f"{name}: this playlist is longer than {MOST_BYTES >> 20} MiB; cut it into several"
        )
    named = named_playlists(text)
    if len(named) > MOST_PLAYLISTS:
        raise MalformedFile(
            f"{name}: this playlist names {len(named)} others, more than {MOST_PLAYLISTS}; name one of them"
        )
    for address in dict.fromkeys(named):
        below = read(address)
        if below is not None and (len(below) > MOST_BYTES or named_playlists(below)):
            raise MalformedFile(
                f"{name}: a playlist that this one names is longer than {MOST_BYTES >> 20} MiB or names further ones, and "
                "such may never end; name the playlist of one size"
            )


def check_local_playlist(path: Path) -> bool:
    """`check_playlist` for a file that may be one; returns whether it is. Raises OSError too."""
    text = _text(path)
    if text is None or not is_hls(text[:64]):
        return False

    def read(address: str) -> bytes | None:
        scheme = _SCHEME.match(address)
        if scheme is not None and scheme.group().lower() not in ("file:", "http:", "https:"):
            # Of what FFmpeg lets a file name: the text of a further playlist itself, or one that is encrypted.
            raise MalformedFile(f"{path}: a playlist that this one names is no file; name the film itself")
        if scheme is not None and scheme.group().lower() != "file:":
            return None  # which FFmpeg lets no file on disk name
        plain = address.partition(":")[2] if scheme is not None else address
        plain = re.sub("^//+", "/", plain) if scheme is not None else plain
        for name in dict.fromkeys((plain, unquote(plain), plain.split("?")[0])):
            try:
                return _text(Path(os.path.join(path.parent, name)))
            except (OSError, ValueError):
                continue
        return None

    check_playlist(str(path), text, read)
    return True


def _text(path: Path) -> bytes | None:
    """The beginning of a regular file; None for another kind of thing. Raises OSError."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with open(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return None
        head = file.read(64)
        # Of a film no more than its first bytes.
        return head + file.read(MOST_BYTES + 1 - len(head)) if is_hls(head) else head
