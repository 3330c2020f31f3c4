"""When a file was made: which of the dates it carries can be believed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from dateutil.parser import isoparse

from pipeline.core.clock import NS, iso_text, to_ns

# Recorders whose clock was never set write the beginning of their calendar: 1904 (QuickTime), 1970 (Unix), 1980 (FAT).
# No file of video is older.
_FIRST_BELIEVED = to_ns(datetime(1980, 1, 2, tzinfo=UTC))
_AHEAD_NS = 24 * 3600 * NS
_DATES = ("creation_time", "com.apple.quicktime.creationdate", "date_time_original", "date")


@dataclass(frozen=True, slots=True)
class FilmStart:
    """Wall clock of PTS 0, ns UTC. `notices`: what was not believed, and what was taken in its place. `by_length`:
    whether it rests on how long the film is."""

    wall_ns: int
    notices: tuple[str, ...] = ()
    by_length: bool = False


def film_start(
    tags: Iterable[Mapping[str, str]], *, modified_ns: int, duration_ns: int | None, now_ns: int
) -> FilmStart:
    """The first date among `tags` that can be true, else the file's modification time less its length, else now less that.

    Not believed: a date before 1980 or a day and more ahead of `now_ns`, each of which is told. `modified_ns`: when the
    file was last written; `duration_ns`: None where the file does not say how long it is.
    """
    refused: list[str] = []
    for tag in tags:
        for name in _DATES:
            text = tag.get(name)
            if not text or (name == "date" and len(text) < len("2000-01-01T00:00")):
                continue
            moment = None
            with suppress(ValueError, OverflowError):
                moment = to_ns(isoparse(text.strip()))
            if moment is not None and _FIRST_BELIEVED <= moment <= now_ns + _AHEAD_NS:
                return FilmStart(moment, _told(refused, "taken", moment))
            said = f"{name} {text.strip()}"
            if said not in refused:
                refused.append(said)
    if modified_ns > now_ns + _AHEAD_NS:
        refused.append(f"time of its last change {iso_text(modified_ns)}")
        start = now_ns - (duration_ns or 0)
        return FilmStart(start, _told(refused, "now less its length, taken", start), by_length=True)
    start = modified_ns - (duration_ns or 0)
    told = _told(refused, "time of its last change less its length, taken", start)
    return FilmStart(start, told, by_length=True)


def _told(refused: list[str], what: str, wall_ns: int) -> tuple[str, ...]:
    if not refused:
        return ()
    return (
        f"its {' and '.join(refused)} cannot be true; {what}: {iso_text(wall_ns)}; --start says it better",
    )
