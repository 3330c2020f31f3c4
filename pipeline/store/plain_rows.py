"""Rows found in a store as plain values, for who asks for a few and must not wait for Arrow to be imported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pipeline.core.clock import TimeSpan
from pipeline.core.masks import RleMask
from pipeline.core.records import CaptionEvent, GapReason, known_reason
from pipeline.store.ordered_scan import OrderedRows
from pipeline.store.row_query import Selection, shots_at

_COLUMNS = ("track", "t_start", "t_end", "start_pts", "end_pts", "frame", "box", "score", "logprob")


def plain_captions(
    block: OrderedRows, masks: bool = False, embeddings: bool = False
) -> list[tuple[CaptionEvent, int]]:
    """The events of a block and the numbers of their shots, in its order. Everything is read here, so damage shows here."""
    found, order = block.found, block.order
    columns = [np.concatenate([f.column(name) for f in found])[order].tolist() for name in _COLUMNS]
    texts = [text for f in found for text in f.strings("text")]
    shots = np.concatenate([shots_at(f.source, f.column("t_start")) for f in found])[order].tolist()
    kept = [mask and RleMask(*mask) for f in found for mask in f.masks()] if masks else None
    vectors = [row for f in found for row in known_embeddings(f.column("emb"))] if embeddings else None
    events = []
    for row, shot, track, t0, t1, pts0, pts1, frame, box, score, logprob in zip(
        order.tolist(), shots, *columns, strict=True
    ):
        event = CaptionEvent(
            track, t0, t1, pts0, pts1, frame, tuple(box), texts[row], score, logprob,
            mask=kept[row] if kept is not None else None,
        )  # fmt: skip
        if vectors is not None:
            event = replace(event, embedding=vectors[row])
        events.append((event, shot))
    return events


def known_embeddings(rows: np.ndarray) -> list[np.ndarray]:
    """Rows (n, D) as float32 without the NaN that fill up shorter ones, (0,) where there is none."""
    known = ~np.isnan(rows)
    lengths = (
        np.where(known.any(axis=1), rows.shape[1] - np.argmax(known[:, ::-1], axis=1), 0)
        if rows.shape[1]
        else [0] * len(rows)
    )
    return [row[:length].astype(np.float32) for row, length in zip(rows, lengths, strict=True)]


def plain_gaps(found: Sequence[Selection]) -> list[tuple[TimeSpan, GapReason | str]]:
    """What `find_gaps` found: when, and why."""
    gaps: list[tuple[TimeSpan, GapReason | str]] = []
    for f in found:
        columns = (f.column("t_start").tolist(), f.column("t_end").tolist(), f.strings("reason"))
        gaps += [(TimeSpan(a, b), known_reason(reason)) for a, b, reason in zip(*columns, strict=True)]
    return gaps
