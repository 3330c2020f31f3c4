"""What a pattern such as `clips/**/*.mp4` matches: each folder is looked through once, and not without end."""

from __future__ import annotations

import fnmatch
import glob
import os
from collections.abc import Iterator

from pipeline.core.errors import SourceRefused

MOST_FOLDERS = 100_000
"""Some seconds of looking; an archive of one folder an hour is full after eleven years."""
MOST_MATCHES = 100_000
_ANY_DEPTH = "**"


def matching(pattern: str) -> list[str]:
    """As Python's `glob` with `recursive`, sorted; but links that lead around are not followed for ever.

    Raises `SourceRefused` where that is more than anybody can mean.
    """
    parts = pattern.split(os.sep)
    search = _Search(pattern)
    found = search.below(parts) if _ANY_DEPTH in parts else glob.iglob(pattern)
    matches: set[str] = set()
    for match in found:
        matches.add(match)
        if len(matches) > MOST_MATCHES:
            raise SourceRefused(f"{pattern}: more than {MOST_MATCHES} matches; write a narrower pattern")
    return sorted(matches)


class _Search:
    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._folders = 0

    def below(self, parts: list[str]) -> Iterator[str]:
        """Matches of a pattern that is cut at its slashes."""
        if _ANY_DEPTH not in parts:
            yield from glob.iglob(os.sep.join(parts))
            return
        at = parts.index(_ANY_DEPTH)
        begin, rest = os.sep.join(parts[:at]) or (os.sep if at else ""), parts[at + 1 :]
        while rest and rest[0] == _ANY_DEPTH:
            rest = rest[1:]
        for start in sorted(glob.iglob(begin)) if begin else [""]:
            for folder, names in self._walk(start):
                if len(rest) > 1:
                    yield from self.below([*glob.escape(folder).split(os.sep), *rest] if folder else rest)
                elif not rest or rest == [""]:
                    yield os.path.join(folder, "")
                    shown = () if rest else (name for name in names if not name.startswith("."))
                    yield from (os.path.join(folder, name) for name in shown)
                else:
                    hidden = rest[0].startswith(".")
                    kept = [name for name in names if hidden or not name.startswith(".")]
                    yield from (os.path.join(folder, name) for name in fnmatch.filter(kept, rest[0]))

    def _walk(self, start: str) -> Iterator[tuple[str, list[str]]]:
        """Each folder from `start` on, with the names in it; none twice, whatever links there are. Hidden ones are left out."""
        seen: set[tuple[int, int]] = set()
        waiting = [start]
        while waiting:
            folder = waiting.pop()
            try:
                found = os.stat(folder or os.curdir)
                names = sorted(os.listdir(folder or os.curdir))
            except OSError:  # as `glob`: what cannot be looked into matches nothing
                continue
            if (found.st_dev, found.st_ino) in seen:
                continue
            seen.add((found.st_dev, found.st_ino))
            self._folders += 1
            if self._folders > MOST_FOLDERS:
                raise SourceRefused(
                    f"{self._pattern}: more than {MOST_FOLDERS} folders to look through; write a narrower pattern, or name "
                    "the folders"
                )
            yield folder, names
            below = [os.path.join(folder, name) for name in names if not name.startswith(".")]
            waiting += [path for path in reversed(below) if os.path.isdir(path)]
