"""Names of streams: readable ones from any text, and which ones can name a directory everywhere."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.core.errors import UserError

MAX_BYTES = 100
"""Of a name in UTF-8: file systems take 255, encrypted ones 143, and `.zarr` or a temporary's ending comes on top."""

NAME_RULE = f"use up to {MAX_BYTES} bytes of letters (of any script), digits, '.', '_' or '-', beginning with neither '.' nor '-'"

# Joiners change how letters of several scripts are written; all other format characters are invisible or reorder text.
_JOINERS = "\u200c\u200d"
_HASH_DIGITS = 6


def is_stream_name(name: str) -> bool:
    """Whether `name` can name a stream: its directory, and what is typed after `--stream`.

    Normalised (NFC) text without separators, blanks, control characters, or what file systems and shells reserve.
    """
    return (
        bool(name)
        and len(name.encode(errors="surrogatepass")) <= MAX_BYTES
        and name[0] not in "-."
        and all(map(_kept, name))
        and unicodedata.is_normalized("NFC", name)
    )


def readable_name(text: str) -> str:
    """A stream name as like `text` as can be: what a name cannot hold becomes `-`. Too long text is cut in the end.

    Empty when nothing is left. Stable: a name that it gives comes back unchanged.
    """
    kept = "".join(char if _kept(char) else " " for char in unicodedata.normalize("NFC", text))
    return _tidy(_cut("-".join(kept.split()), MAX_BYTES))


@dataclass(frozen=True, slots=True)
class Nameable:
    """Something to name: `plain` is the name it gets alone, `qualifiers` tell it from others (ending, folder).

    `identity`: what is hashed where nothing else helps; without secrets, for a name is no place for them. `given`:
    the user chose `plain`.
    """

    plain: str
    qualifiers: tuple[str, ...]
    identity: str
    given: bool = False


def unique_names(things: Sequence[Nameable]) -> list[str]:
    """A name for each of `things`, no two alike, upper and lower case and their forms notwithstanding.

    Alone in its name, a thing keeps it. Of several, all take the first qualifier that tells them apart, so that the
    order of `things` does not matter. Raises `UserError` naming the first that cannot be told from another.
    """
    names = [thing.plain for thing in things]
    ways: list[Callable[[Nameable], str]] = [
        *(_with_qualifier(place) for place in range(max((len(t.qualifiers) for t in things), default=0))),
        lambda thing: _joined(thing.plain, _mark(thing.identity)),
    ]
    for group in _alike(names):
        members = [index for index in group if not things[index].given]
        if len(group) - len(members) > 1:
            raise _twice(names[group[0]])
        for way in ways:
            tried = list(names)
            for index in members:
                tried[index] = way(things[index])
            if not set(members) & {index for alike in _alike(tried) for index in alike}:
                names = tried
                break
        else:
            raise _twice(names[group[0]])
    return names


def _twice(name: str) -> UserError:
    return UserError(
        f"two inputs would both be stream {name!r}: leave out one that is given twice, or give each a name of its own "
        "in a YAML list of streams"
    )


def _with_qualifier(place: int) -> Callable[[Nameable], str]:
    def name(thing: Nameable) -> str:
        return _joined(thing.plain, thing.qualifiers[place]) if place < len(thing.qualifiers) else thing.plain

    return name


def _joined(name: str, more: str) -> str:
    more = readable_name(more)[: MAX_BYTES // 2]
    while len(more.encode()) > MAX_BYTES // 2:
        more = more[:-1]
    return _tidy(f"{_cut(name, MAX_BYTES - len(more.encode()) - 1).rstrip('-.')}-{more}")


def _alike(names: Sequence[str]) -> list[list[int]]:
    """Groups of places whose names some file system or reader would take for one, sorted by name."""
    folded = [_folded(name) for name in names]
    counts = Counter(folded)
    return [
        [index for index, other in enumerate(folded) if other == name]
        for name in sorted(counts)
        if counts[name] > 1
    ]


def _mark(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:_HASH_DIGITS]


def alike(one: str, other: str) -> bool:
    """Whether some file system or reader would take the two names for one."""
    return _folded(one) == _folded(other)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def _tidy(name: str) -> str:
    return unicodedata.normalize("NFC", name.lstrip("-.").rstrip("-."))


def _cut(name: str, length: int) -> str:
    """At most `length` bytes. A cut name ends in a hash of the whole, so that long names with one beginning differ."""
    if len(name.encode()) <= length:
        return name
    mark = _mark(name)
    head = name.encode()[: length - len(mark) - 1].decode(errors="ignore")
    # No letter loses its accents, no emoji its second half.
    while head and (unicodedata.combining(name[len(head)]) or head[-1] in _JOINERS):
        head = head[:-1]
    return f"{head.rstrip('-.')}-{mark}"


def _kept(char: str) -> bool:
    if char.isascii():
        return re.fullmatch(r"[A-Za-z0-9._-]", char) is not None
    # Other, separators, and the forms of / : * ? that some file systems map to them.
    return char in _JOINERS or unicodedata.category(char)[0] not in "CZ"
