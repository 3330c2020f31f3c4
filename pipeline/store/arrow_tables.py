"""Rows found in a store as Arrow tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from pipeline.core.clock import NS, TimeSpan
from pipeline.core.errors import StoreRefused
from pipeline.core.records import GapReason
from pipeline.store.arrow_arrays import array_of, int64_of, moments_array, numbers_array
from pipeline.store.row_query import OLD_EFFORT, Selection, shots_at

TIME = pa.timestamp("ns", tz="UTC")
MASK = pa.struct([("size", pa.list_(pa.int32(), 2)), ("counts", pa.binary())])

CAPTION_COLUMNS = (
    "stream", "track", "t_start", "t_end", "start_s", "end_s", "text", "score", "logprob", "x0", "y0", "x1", "y1", "frame", "shot",
)  # fmt: skip
OBSERVATION_COLUMNS = ("stream", "track", "t", "t_s", "score", "x0", "y0", "x1", "y1", "frame", "shot")
OPTIONAL_CAPTION_COLUMNS = ("mask", "embedding")


def caption_table(stream: str, found: Sequence[Selection], columns: Sequence[str]) -> pa.Table:
    """Caption events of one stream, in the order found."""
    makers: dict[str, Callable[[], pa.Array]] = {
        "track": lambda: numbers_array(_joined(found, "track", np.uint32).astype(np.int64)),
        "t_start": lambda: _times(found, "t_start"),
        "t_end": lambda: _times(found, "t_end"),
        "start_s": lambda: numbers_array(_joined(found, "start_pts", np.int64) / NS),
        "end_s": lambda: numbers_array(_joined(found, "end_pts", np.int64) / NS),
        "text": lambda: _texts(found, "text"),
        "score": lambda: numbers_array(_joined(found, "score", np.float32)),
        "logprob": lambda: numbers_array(_joined(found, "logprob", np.float32)),
        "frame": lambda: numbers_array(_joined(found, "frame", np.int64)),
        "shot": lambda: _shots(found, "t_start"),
        "mask": lambda: _masks(found),
        "embedding": lambda: _embeddings(found),
    }
    return _table(stream, found, columns, makers)


def observation_table(stream: str, found: Sequence[Selection], columns: Sequence[str]) -> pa.Table:
    """Observations of one stream, in the order found."""
    makers: dict[str, Callable[[], pa.Array]] = {
        "track": lambda: numbers_array(_joined(found, "track", np.uint32).astype(np.int64)),
        "t": lambda: _times(found, "t"),
        "t_s": lambda: numbers_array(_joined(found, "pts", np.int64) / NS),
        "score": lambda: numbers_array(_joined(found, "score", np.float32)),
        "frame": lambda: numbers_array(_joined(found, "frame", np.int64)),
        "shot": lambda: _shots(found, "t"),
        "mask": lambda: _masks(found),
    }
    return _table(stream, found, columns, makers)


def track_table(stream: str, found: Sequence[Selection]) -> pa.Table:
    """Closed tracks of one stream, in the order found."""
    makers: dict[str, Callable[[], pa.Array]] = {
        "track": lambda: numbers_array(_joined(found, "track", np.uint32).astype(np.int64)),
        "t_first": lambda: _times(found, "t_first"),
        "t_last": lambda: _times(found, "t_last"),
        "observations": lambda: numbers_array(_joined(found, "n_obs", np.uint32).astype(np.int64)),
        "text": lambda: _texts(found, "text"),
    }
    return _table(stream, found, ("stream", "track", "t_first", "t_last", "observations", "text"), makers)


def clock_table(stream: str, found: Sequence[Selection]) -> pa.Table:
    """Clock readings of one stream."""
    makers: dict[str, Callable[[], pa.Array]] = {
        "t": lambda: _times(found, "t"),
        "pts_s": lambda: numbers_array(_joined(found, "pts", np.int64) / NS),
        "epoch": lambda: numbers_array(_joined(found, "epoch", np.uint32).astype(np.int64)),
        "clock": lambda: _texts(found, "clock"),
        "drift_ppm": lambda: _known(_joined(found, "drift", np.float32)),
    }
    return _table(stream, found, ("stream", "t", "pts_s", "epoch", "clock", "drift_ppm"), makers)


def gap_table(stream: str, found: Sequence[Selection]) -> pa.Table:
    """Gaps of one stream that are stored."""
    starts, ends = (_joined(found, name, np.int64).tolist() for name in ("t_start", "t_end"))
    frames = _joined(found, "frames", np.uint32).tolist()
    return _gaps(stream, starts, ends, _texts(found, "reason").to_pylist(), frames)


def missing_table(stream: str, missing: Sequence[tuple[TimeSpan, GapReason]]) -> pa.Table:
    """Gaps of one stream where what was stored is not there, or cannot be read, wall ns."""
    starts, ends = [span.start for span, _ in missing], [span.end for span, _ in missing]
    return _gaps(stream, starts, ends, [reason.value for _, reason in missing], [0] * len(missing))


def overlapping(gaps: pa.Table, start: int | None, end: int | None) -> pa.Table:
    """The gaps that overlap wall ns [start, end]."""
    starts, ends = (int64_of(gaps[name]) for name in ("t_start", "t_end"))
    keep = np.ones(len(gaps), bool)
    if start is not None:
        keep &= ends >= start
    if end is not None:
        keep &= starts <= end
    return gaps.filter(numbers_array(keep))


def _gaps(stream: str, starts: list[int], ends: list[int], reasons: list[str], frames: list[int]) -> pa.Table:
    return pa.table(
        {
            "stream": _repeated(stream, len(starts)),
            "t_start": array_of(starts, TIME),
            "t_end": array_of(ends, TIME),
            "reason": array_of(reasons, pa.string()),
            "frames": array_of(frames, pa.int64()),
        }
    )


def effort_table(stream: str, found: Sequence[Selection], as_gaps: Sequence[Selection]) -> pa.Table:
    """Steps of effort of one stream; `as_gaps`: those that are stored in the table of gaps."""
    old = [text.removeprefix(OLD_EFFORT) for text in _texts(as_gaps, "reason").to_pylist()]
    return pa.table(
        {
            "stream": _repeated(stream, sum(len(f) for f in found) + len(old)),
            "t": pa.concat_arrays([_times(found, "t"), _times(as_gaps, "t_start")]),
            "effort": array_of([*_texts(found, "effort").to_pylist(), *old], pa.string()),
        }
    )


def cut_table(stream: str, found: Sequence[Selection]) -> pa.Table:
    """Cuts of one stream."""
    return pa.table(
        {
            "stream": _repeated(stream, sum(len(f) for f in found)),
            "t": _times(found, "t"),
            "pts_s": numbers_array(_joined(found, "pts", np.int64) / NS),
        }
    )


def by_time(tables: list[pa.Table], column: str, limit: int | None) -> pa.Table:
    """All rows ordered by a time column, then track; at most the first `limit`."""
    if limit is not None and limit < 0:
        raise StoreRefused(f"limit {limit}: must be 0 or more")
    if not tables:
        raise StoreRefused("the store holds no streams yet: run `sca run` first")
    table = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
    times = int64_of(table[column])
    tracks = int64_of(table["track"]) if "track" in table.column_names else np.zeros(len(times))
    order = np.lexsort((tracks, times))
    if (np.diff(order) != 1).any():
        table = table.take(numbers_array(order))
    return table if limit is None else table.slice(0, limit)


def _table(
    stream: str, found: Sequence[Selection], columns: Sequence[str], makers: dict[str, Callable[[], pa.Array]]
) -> pa.Table:
    boxes = _joined(found, "box", np.float32, 4) if {"x0", "y0", "x1", "y1"} & set(columns) else None
    arrays: dict[str, pa.Array] = {}
    for name in columns:
        if name == "stream":
            arrays[name] = _repeated(stream, sum(len(f) for f in found))
        elif name in ("x0", "y0", "x1", "y1"):
            assert boxes is not None
            arrays[name] = numbers_array(np.ascontiguousarray(boxes[:, ("x0", "y0", "x1", "y1").index(name)]))
        else:
            arrays[name] = makers[name]()
    return pa.table(arrays)


def _shots(found: Sequence[Selection], time: str) -> pa.Array:
    """Numbers of the shots in which rows begin, from 0."""
    numbers = [shots_at(f.source, f.column(time)) for f in found]
    return numbers_array(np.concatenate(numbers) if numbers else np.empty(0, np.int64))


def _known(numbers: np.ndarray) -> pa.Array:
    """Not-a-number as null."""
    return numbers_array(numbers, ~np.isnan(numbers))


def _repeated(text: str, count: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(
        numbers_array(np.zeros(count, np.int32)), array_of([text], pa.string())
    )


def _joined(found: Sequence[Selection], name: str, dtype: type, width: int | None = None) -> np.ndarray:
    if not found:
        return np.empty((0,) if width is None else (0, width), dtype)
    return np.concatenate([f.column(name) for f in found])


def _times(found: Sequence[Selection], name: str) -> pa.Array:
    return moments_array(_joined(found, name, np.int64), TIME)


def _texts(found: Sequence[Selection], name: str) -> pa.Array:
    parts = [f.texts(name).cast(pa.string()) for f in found]
    return pa.concat_arrays(parts or [array_of([], pa.string())]).dictionary_encode()


def _masks(found: Sequence[Selection]) -> pa.Array:
    rows = [mask for f in found for mask in f.masks()]
    return array_of([None if m is None else {"size": m[0], "counts": m[1]} for m in rows], MASK)


def _embeddings(found: Sequence[Selection]) -> pa.Array:
    rows: list[np.ndarray | None] = []
    for selection in found:
        for row in selection.column("emb").astype(np.float32):
            known = (
                row[: len(row) - int(np.argmin(np.isnan(row[::-1])))] if not np.isnan(row).all() else row[:0]
            )
            rows.append(known if len(known) else None)
    return array_of(rows, pa.list_(pa.float32()))
