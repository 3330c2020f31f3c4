"""Stored captions as plain rows, for printing and export."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipeline.core.clock import NS, iso_text
from pipeline.core.masks import RleMask
from pipeline.core.records import GapReason, known_reason

if TYPE_CHECKING:
    import pyarrow as pa

# Stored gaps and steps of effort as plain rows, for printing.


@dataclass(frozen=True, slots=True)
class GapRow:
    """A stretch that was not watched, wall ns UTC. `reason`: text where another version gave it a new one."""

    stream: str
    start_ns: int
    end_ns: int
    reason: GapReason | str
    frames: int

    def document(self) -> dict[str, object]:
        """What the line formats show: times in ISO 8601 UTC."""
        return {
            "stream": self.stream,
            "t_start": iso_text(self.start_ns),
            "t_end": iso_text(self.end_ns),
            "reason": str(self.reason),
            "frames": self.frames,
        }


@dataclass(frozen=True, slots=True)
class EffortRow:
    """From `start_ns` (wall ns UTC) on the stream got this much work; nothing is unwatched by it."""

    stream: str
    start_ns: int
    effort: str

    @property
    def reason(self) -> str:
        """How the step is shown among gaps."""
        return f"effort:{self.effort}"

    def document(self) -> dict[str, object]:
        """What the line formats show, among gaps: one without length."""
        moment = iso_text(self.start_ns)
        return {"stream": self.stream, "t_start": moment, "t_end": moment, "reason": self.reason, "frames": 0}


@dataclass(frozen=True, slots=True)
class CutRow:
    """At `start_ns` (wall ns UTC) a shot begins; nothing is unwatched by it."""

    stream: str
    start_ns: int
    reason: str = "cut"

    def document(self) -> dict[str, object]:
        """What the line formats show, among gaps: one without length."""
        moment = iso_text(self.start_ns)
        return {"stream": self.stream, "t_start": moment, "t_end": moment, "reason": self.reason, "frames": 0}


def cut_rows(table: pa.Table) -> list[CutRow]:
    """The rows of `CaptionStore.cuts(...)` in order."""
    times = table["t"].cast("int64").to_pylist()
    return [CutRow(stream, start) for stream, start in zip(table["stream"].to_pylist(), times, strict=True)]


def effort_rows(table: pa.Table) -> list[EffortRow]:
    """The rows of `CaptionStore.efforts(...)` in order."""
    times = table["t"].cast("int64").to_pylist()
    named = zip(table["stream"].to_pylist(), times, table["effort"].to_pylist(), strict=True)
    return [EffortRow(stream, start, effort) for stream, start, effort in named]


def gap_rows(table: pa.Table) -> list[GapRow]:
    """The rows of `CaptionStore.gaps(...)` in order."""
    columns = [table[name].to_pylist() for name in ("stream", "reason", "frames")]
    times = [table[name].cast("int64").to_pylist() for name in ("t_start", "t_end")]
    return [
        GapRow(stream, start, end, known_reason(reason), frames)
        for stream, reason, frames, start, end in zip(*columns, *times, strict=True)
    ]


COALESCE_NS = NS


@dataclass(frozen=True, slots=True)
class RowMask:
    """A caption's mask, of the keyframe in which the caption began. `picture`: (H, W) of the picture that its grid covers."""

    mask: RleMask
    picture: tuple[int, int]

    def document(self) -> dict[str, object]:
        """What pycocotools decodes (`size`: rows and columns of the grid, `counts`), and the `picture` that it covers."""
        return {
            "size": list(self.mask.size),
            "counts": self.mask.counts.decode("ascii"),
            "picture": list(self.picture),
        }


@dataclass(frozen=True, slots=True)
class CaptionRow:
    """One caption. Wall ns UTC, seconds of stream time, `box` xyxy in pixels, `score` 0..1, `shot` from 0.

    `mask`: None where it has none. Shown only if `masks` were asked for.
    """

    stream: str
    track: int
    start_ns: int
    end_ns: int
    start_s: float
    end_s: float
    text: str
    score: float
    box: tuple[float, float, float, float]
    shot: int = 0
    mask: RowMask | None = None
    masks: bool = False

    def document(self) -> dict[str, object]:
        """What the line formats show: times in ISO 8601 UTC, pixels to a hundredth."""
        document: dict[str, object] = {
            "stream": self.stream,
            "track": self.track,
            "t_start": iso_text(self.start_ns),
            "t_end": iso_text(self.end_ns),
            "start_s": round(self.start_s, 6),
            "end_s": round(self.end_s, 6),
            "text": self.text,
            "score": round(self.score, 4),
            "box": [round(edge, 2) for edge in self.box],
            "shot": self.shot,
        }
        if self.masks:
            document["mask"] = self.mask and self.mask.document()
        return document


def coalesce(rows: Iterable[CaptionRow], gap_ns: int = COALESCE_NS) -> list[CaptionRow]:
    """Join events of one track that say the same and follow within `gap_ns`. `rows`: ordered by start.

    The first event's box stays, and the best score.
    """
    joined: list[CaptionRow] = []
    latest: dict[tuple[str, int], int] = {}
    for row in rows:
        key = (row.stream, row.track)
        place = latest.get(key)
        before = joined[place] if place is not None else None
        if (
            place is not None
            and before is not None
            and before.text == row.text
            and row.start_ns <= before.end_ns + gap_ns
        ):
            joined[place] = replace(
                before,
                end_ns=max(before.end_ns, row.end_ns),
                end_s=max(before.end_s, row.end_s),
                score=max(before.score, row.score),
            )
        else:
            latest[key] = len(joined)
            joined.append(row)
    return joined


def coalesce_first(rows: Iterable[CaptionRow], limit: int | None) -> tuple[list[CaptionRow], bool]:
    """The first `limit` of `coalesce`, and whether there are more; no more rows are taken than tell that."""
    if limit is None:
        return coalesce(rows), False
    taken: list[CaptionRow] = []
    checked = 0
    for row in rows:
        taken.append(row)
        if len(taken) >= 2 * checked + limit + 1:
            checked = len(taken)
            found = coalesce(taken)
            # What follows can no longer make any of the first ones last longer.
            if len(found) > limit and all(row.start_ns > r.end_ns + COALESCE_NS for r in found[:limit]):
                return found[:limit], True
    found = coalesce(taken)
    return found[:limit], len(found) > limit
