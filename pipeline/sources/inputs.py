"""From what was typed to one input a stream: folders and patterns are looked through, and what is left out is told."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import SourceRefused
from pipeline.sources.addresses import is_webcam, plain_input
from pipeline.sources.kinds import file_endings
from pipeline.sources.media_kinds import FILM_SUFFIXES, PICTURE_SUFFIXES, Media, MediaKind, media_of
from pipeline.sources.patterns import matching

log = logging.getLogger(__name__)

_NAMED = 8


@dataclass(frozen=True, slots=True)
class FoundInput:
    """One input of one stream. `searched`: the folder or pattern in which it was found, None if it was named itself."""

    uri: str
    searched: str | None = None


def find_inputs(inputs: Sequence[str]) -> list[FoundInput]:
    """Folders and patterns become their films, one each, and all their still pictures as one; the rest stays as it is.

    What is left out is named once in the log, with the reason. Raises `SourceRefused` for an empty input, an unknown
    scheme, and where nothing that could be watched is found.
    """
    found: list[FoundInput] = []
    for given in inputs:
        uri = plain_input(given)
        if "://" in uri or is_webcam(uri) or not (os.path.isdir(uri) or _is_pattern(uri)):
            found.append(FoundInput(uri))
        else:
            found += _found_in(uri)
    return found


def expand_inputs(inputs: Sequence[str]) -> list[str]:
    """`find_inputs` without where each was found."""
    return [found.uri for found in find_inputs(inputs)]


def still_pictures(uri: str) -> list[Path]:
    """The pictures that a folder or a pattern stands for, `img2` before `img10`: those that neither move nor have pages."""
    return sorted(
        (path for path in _candidates(uri) if media_of(path).kind is MediaKind.PICTURE), key=_natural_key
    )


def _natural_key(path: Path) -> list[tuple[int, str]]:
    return [
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", str(path)) if part
    ]


def _is_pattern(uri: str) -> bool:
    return glob.has_magic(uri) and not os.path.lexists(uri)


def _candidates(uri: str) -> list[Path]:
    if os.path.isdir(uri):
        try:
            return sorted(Path(uri).iterdir())
        except PermissionError:
            raise SourceRefused(f"{uri}: no permission to read this folder; change its permissions") from None
    return [Path(match) for match in matching(os.path.expanduser(uri))]


def _found_in(uri: str) -> list[FoundInput]:
    paths = _candidates(uri)
    if not paths:
        what = (
            "this folder is empty" if os.path.isdir(uri) else "nothing matches this pattern; check the path"
        )
        raise SourceRefused(f"{uri}: {what}")
    # What an installed package opens counts as a film.
    theirs = file_endings()
    media = {
        path: Media(MediaKind.FILM) if path.suffix.lower() in theirs and path.is_file() else media_of(path)
        for path in paths
    }
    films = [path for path in paths if media[path].kind in (MediaKind.FILM, MediaKind.PAGES)]
    pictures = any(of.kind is MediaKind.PICTURE for of in media.values())
    left_out = {path: of for path, of in media.items() if of.kind is MediaKind.OTHER}
    if not films and not pictures:
        raise SourceRefused(
            f"{uri}: no film and no picture in it ({_listed(left_out)}); known endings: "
            + " ".join(sorted(FILM_SUFFIXES | PICTURE_SUFFIXES))
        )
    if left_out:
        log.warning("%s: left out: %s", uri, _listed(left_out))
    # A film's name may look like anything: what a search found is always a path.
    found = [FoundInput(plain_input(str(path)), uri) for path in films]
    return [*found, FoundInput(uri, uri)] if pictures else found


def _listed(left_out: dict[Path, Media]) -> str:
    shown = [f"{path.name} ({of.reason})" for path, of in list(left_out.items())[:_NAMED]]
    more = len(left_out) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
