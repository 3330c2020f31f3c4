"""Rows found in a store as plain values, for who asks for a few and must not wait for Arrow to be imported."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.core.clock import TimeSpan
from pipeline.core.masks import RleMask
from pipeline.core.records import CaptionEvent, GapReason, known_reason
from pipeline.store.row_query import Selection, shots_at

_COLUMNS = ("track", "t_start", "t_end", "start_pts", "end_pts", "frame", "box", "score", "logprob")
_AT_ONCE = 4096


@dataclass(frozen=True, slots=True, eq=False)
class PlainCaptions:
    """Caption events and the numbers of their shots, by start, then track; columns until somebody goes through them.

    What would fill the memory are millions of rows made at once. `texts` are those of the rows before they were ordered,
    and `masks` theirs, empty where they were not asked for.
    """

    columns: tuple[np.ndarray, ...]
    texts: list[str]
    shots: np.ndarray
    order: np.ndarray
    masks: list[RleMask | None] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[tuple[CaptionEvent, int]]:
        for begin in range(0, len(self.order), _AT_ONCE):
            rows = self.order[begin : begin + _AT_ONCE]
            values = (column[rows].tolist() for column in (*self.columns, self.shots))
            for row, track, t0, t1, pts0, pts1, frame, box, score, logprob, shot in zip(
                rows.tolist(), *values, strict=True
            ):
                text, mask = self.texts[row], self.masks[row] if self.masks else None
                yield (
                    CaptionEvent(
                        track, t0, t1, pts0, pts1, frame, tuple(box), text, score, logprob, mask=mask
                    ),
                    shot,
                )


def plain_captions(
    found: Sequence[Selection], limit: int | None = None, masks: bool = False
) -> PlainCaptions:
    """What `find_captions` found, at most the first `limit`. Everything is read here, so damage shows here."""
    if not found:
        none = np.zeros(0, np.int64)
        return PlainCaptions((none,) * len(_COLUMNS), [], none, none)
    columns = tuple(np.concatenate([f.column(name) for f in found]) for name in _COLUMNS)
    texts = [text for f in found for text in f.strings("text")]
    shots = np.concatenate([shots_at(f.source, f.column("t_start")) for f in found])
    kept = [mask and RleMask(*mask) for f in found for mask in f.masks()] if masks else []
    return PlainCaptions(columns, texts, shots, np.lexsort((columns[0], columns[1]))[:limit], kept)


def plain_gaps(found: Sequence[Selection]) -> list[tuple[TimeSpan, GapReason | str]]:
    """What `find_gaps` found: when, and why."""
    gaps: list[tuple[TimeSpan, GapReason | str]] = []
    for f in found:
        columns = (f.column("t_start").tolist(), f.column("t_end").tolist(), f.strings("reason"))
        gaps += [(TimeSpan(a, b), known_reason(reason)) for a, b, reason in zip(*columns, strict=True)]
    return gaps
