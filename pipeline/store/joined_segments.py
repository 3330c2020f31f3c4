"""The rows of consecutive segments as those of one, read a few thousand at a time: a busy day need not fit into memory.

Only the columns that decide which rows stay and in which order are held whole; every other one is read where it is sliced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from pipeline.store.columns import (
    COMMITS,
    TABLES,
    CaptionColumns,
    Columns,
    ColumnSpec,
    ObservationColumns,
    TextColumns,
    TextDictionary,
    TrackColumns,
)
from pipeline.store.segment_rows import newest_versions

# What orders the rows of a table, and which of its columns are numbers of texts.
ORDERED_BY = {
    "obs": "t",
    "cap": "t_start",
    "trk": "t_first",
    "gap": "t_start",
    "clk": "t",
    "eff": "t",
    "cut": "t",
}
TEXT_COLUMNS = {"cap": "text", "trk": "text", "gap": "reason", "clk": "clock", "eff": "effort"}


class JoinedPart(Protocol):
    """One of the segments that are joined."""

    number: int
    attrs: dict[str, Any]

    def count(self, table: type[Columns]) -> int: ...

    def column(self, table: type[Columns], name: str, rows: np.ndarray | None = None) -> np.ndarray: ...

    def byte_range(self, table: type[Columns], name: str, start: int, stop: int) -> bytes: ...

    def byte_count(self, table: type[Columns], name: str) -> int: ...

    def damaged(self, error: Exception) -> Exception: ...


KeptRows = Callable[[JoinedPart, type[Columns]], np.ndarray]
"""Which rows of a table of a part stay, (n,) bool."""


class JoinedSegments:
    """All tables of consecutive segments: texts numbered anew, superseded events and tracks left out, and unused texts.

    `keep`: which rows stay; all by default. Raises the part's own error where its masks or texts are not its own.
    """

    def __init__(self, parts: Sequence[JoinedPart], keep: KeptRows | None = None) -> None:
        self._parts = parts
        for part in parts:
            _check_masks(part)
        joined = [k for k in TABLES if k is not TextColumns and k not in COMMITS.values()]
        orders = {k.group: _order(parts, k, keep) for k in joined}
        texts = TextDictionary()
        words: list[np.ndarray] = []
        for number, part in enumerate(parts):
            words.append(_remap(part, number, orders, texts))
        self._tables: dict[str, JoinedTable | Columns] = {
            k.group: JoinedTable(k, parts, orders[k.group], words) for k in joined
        }
        for k, told in COMMITS.items():
            self._tables[told.group] = told(_commits(parts, k, orders[k.group]))  # type: ignore[call-arg]
        self._tables["text"] = texts.columns()

    def table(self, group: str) -> JoinedTable | Columns:
        return self._tables[group]


_Block = tuple[int, np.ndarray, np.ndarray]
# Of a merge of a minute or an hour all; of a day, whose columns are read one after the other, those of one column are more.
_KNOWN_BLOCKS = 64


@dataclass(frozen=True, slots=True, eq=False)
class _Order:
    """Output rows in order: of which part each is, and which row of it. `known`: blocks that were asked for last."""

    part: np.ndarray
    row: np.ndarray
    known: dict[tuple[int, int], list[_Block]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.row)

    def blocks(self, start: int, stop: int) -> list[_Block]:
        """(part, where in the block, ascending rows of the part) of output rows [start, stop). Each column of a table asks for the same."""
        found = self.known.get((start, stop))
        if found is None:
            found = self.known[start, stop] = self._split(start, stop)
            if len(self.known) > _KNOWN_BLOCKS:
                del self.known[next(iter(self.known))]
        return found

    def _split(self, start: int, stop: int) -> list[_Block]:
        parts, rows = self.part[start:stop], self.row[start:stop]
        if len(parts) and (parts[0] == parts).all():
            return [(int(parts[0]), np.arange(len(rows)), rows)]
        order = np.argsort(parts, kind="stable")
        found = np.split(order, np.flatnonzero(np.diff(parts[order])) + 1) if len(order) else []
        return [(int(parts[where[0]]), where, rows[where]) for where in found]


class JoinedTable:
    """One table of joined segments."""

    def __init__(
        self, kind: type[Columns], parts: Sequence[JoinedPart], order: _Order, words: Sequence[np.ndarray]
    ) -> None:
        self._kind = kind
        self._order = order
        self._columns: dict[str, Any] = {}
        for name, spec in kind.specs().items():
            if spec.byte_string:
                continue
            if name == "mask_off":
                self._columns[name] = _new_ends(kind, parts, order)
                self._columns["mask_bytes"] = _JoinedBytes(kind, parts, order, self._columns[name])
                continue
            remap = words if TEXT_COLUMNS.get(kind.group) == name else None
            self._columns[name] = _JoinedColumn(kind, name, spec, parts, order, remap)

    @property
    def group(self) -> str:
        return self._kind.group

    def specs(self) -> dict[str, ColumnSpec]:
        return self._kind.specs()

    def arrays(self) -> Mapping[str, Any]:
        return {name: self._columns[name] for name in self._kind.specs()}

    def __len__(self) -> int:
        return len(self._order)


class _JoinedColumn:
    """A column with one value a row, read when it is sliced."""

    def __init__(
        self,
        kind: type[Columns],
        name: str,
        spec: ColumnSpec,
        parts: Sequence[JoinedPart],
        order: _Order,
        remap: Sequence[np.ndarray] | None,
    ) -> None:
        self._kind, self._name, self._parts, self._order, self._remap = kind, name, parts, order, remap
        self.dtype = np.dtype(spec.dtype)
        width = spec.width
        if width == 0:  # embeddings of several models: as wide as the widest
            none = np.empty(0, np.int64)
            width = max((p.column(kind, name, none).shape[1] for p in parts if p.count(kind)), default=0)
        self.shape: tuple[int, ...] = (len(order),) if width is None else (len(order), width)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(len(self))
        block = np.zeros((stop - start, *self.shape[1:]), self.dtype)
        if self._kind.specs()[self._name].width == 0:
            block[:] = np.nan
        for number, where, wanted in self._order.blocks(start, stop):
            values = self._parts[number].column(self._kind, self._name, wanted)
            if self._remap is not None:
                values = self._remap[number][values]
            if block.ndim == 2:
                block[where, : values.shape[1]] = values
            else:
                block[where] = values
        return block


class _JoinedBytes:
    """The bytes of all masks, read when they are sliced."""

    def __init__(
        self, kind: type[Columns], parts: Sequence[JoinedPart], order: _Order, ends: np.ndarray
    ) -> None:
        self._kind, self._parts, self._order, self._ends = kind, parts, order, ends
        self.dtype = np.dtype("|u1")
        self.shape = (int(ends[-1]) if len(ends) else 0,)

    @property
    def size(self) -> int:
        return self.shape[0]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, span: slice) -> np.ndarray:
        start, stop, _ = span.indices(len(self))
        first = int(np.searchsorted(self._ends, start, "right"))
        last = int(np.searchsorted(self._ends, stop, "left")) + 1
        begins = int(self._ends[first - 1]) if first else 0
        parts, rows = self._order.part[first:last], self._order.row[first:last]
        held: dict[int, tuple[np.ndarray, np.ndarray, int, bytes]] = {}
        for number, _, wanted in self._order.blocks(first, min(last, len(self._order))):
            starts, ends = mask_bounds(self._parts[number], self._kind, wanted)
            base, most = int(starts[0]), int(ends[-1])
            data = (
                self._parts[number].byte_range(self._kind, "mask_bytes", base, most) if most > base else b""
            )
            held[number] = (starts, ends, base, data)
        # Neighbours in a part that stay neighbours are copied together.
        breaks = np.flatnonzero((np.diff(parts.astype(np.int64)) != 0) | (np.diff(rows) != 1)) + 1
        used = dict.fromkeys(held, 0)
        pieces = []
        for a, b in zip([0, *breaks.tolist()], [*breaks.tolist(), len(rows)], strict=True):
            number = int(parts[a])
            starts, ends, base, data = held[number]
            at = used[number]
            used[number] = at + b - a
            pieces.append(data[int(starts[at]) - base : int(ends[at + b - a - 1]) - base])
        joined = np.frombuffer(b"".join(pieces), np.uint8)
        return joined[start - begins : stop - begins]


def mask_bounds(part: JoinedPart, kind: type[Columns], rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the masks of ascending `rows` begin and end in the part's bytes, (n,) int64 each."""
    ends = part.column(kind, "mask_off", rows).astype(np.int64)
    if not len(rows):
        return ends, ends
    wanted, back = np.unique(np.maximum(rows - 1, 0), return_inverse=True)
    before = part.column(kind, "mask_off", wanted).astype(np.int64)[back]
    return np.where(rows > 0, before, 0), ends


def _new_ends(kind: type[Columns], parts: Sequence[JoinedPart], order: _Order) -> np.ndarray:
    lengths = np.zeros(len(order), np.int64)
    for number, part in enumerate(parts):
        where = np.flatnonzero(order.part == number)
        if len(where):
            ends = part.column(kind, "mask_off").astype(np.int64)
            lengths[where] = np.diff(ends, prepend=0)[order.row[where]]
    np.cumsum(lengths, out=lengths)
    return lengths.astype("<u4") if not len(lengths) or lengths[-1] < 2**32 else lengths


def _order(parts: Sequence[JoinedPart], kind: type[Columns], keep: KeptRows | None) -> _Order:
    counts = [part.count(kind) for part in parts]
    row = np.concatenate([np.arange(n) for n in counts]) if counts else np.empty(0, np.int64)
    part = np.repeat(np.arange(len(parts), dtype=np.int32), counts)

    def whole(name: str) -> np.ndarray:
        found = [p.column(kind, name) for p, n in zip(parts, counts, strict=True) if n]
        return np.concatenate(found) if found else np.empty(0, np.int64)

    times = whole(ORDERED_BY[kind.group])
    if kind is CaptionColumns:
        chosen = newest_versions(whole("track"), times, whole("t_end"))
    elif kind is TrackColumns:
        chosen = newest_versions(whole("track"), np.zeros(len(times), np.int64), whole("t_last"))
    else:
        chosen = np.arange(len(times))
    if keep is not None and len(times):
        stays = np.concatenate([keep(p, kind) for p, n in zip(parts, counts, strict=True) if n])
        chosen = chosen[stays[chosen]]
    chosen = chosen[np.argsort(times[chosen], kind="stable")]
    return _Order(part[chosen], row[chosen])


def commit_numbers(part: JoinedPart, kind: type[Columns]) -> np.ndarray:
    """Which commit each row of a table of a segment came with, (n,) int64.

    Where a program that did not write that down has merged them, the last commit that it may be: who tells rows as they come
    then tells one twice rather than never.
    """
    first, last = int(part.attrs["seq"][0]), int(part.attrs["seq"][1]) - 1
    if last > first and part.count(COMMITS[kind]) == part.count(kind):
        return np.clip(part.column(COMMITS[kind], "commit"), first, last)
    return np.full(part.count(kind), last, np.int64)


def _commits(parts: Sequence[JoinedPart], kind: type[Columns], order: _Order) -> np.ndarray:
    numbers = np.zeros(len(order), np.int64)
    for number, part in enumerate(parts):
        where = np.flatnonzero(order.part == number)
        if len(where):
            numbers[where] = commit_numbers(part, kind)[order.row[where]]
    return numbers


def _remap(part: JoinedPart, number: int, orders: Mapping[str, _Order], texts: TextDictionary) -> np.ndarray:
    """New numbers (n,) of the part's texts; of those that no row uses any more 0, which nothing looks at."""
    ends = part.column(TextColumns, "off")
    words = TextColumns(ends, part.column(TextColumns, "bytes")).strings() if len(ends) else []
    used = np.zeros(len(words), bool)
    for kind in TABLES:
        name = TEXT_COLUMNS.get(kind.group)
        if name is None or not part.count(kind):
            continue
        ids = part.column(kind, name)
        if len(ids) and int(ids.max()) >= len(words):
            raise part.damaged(ValueError(f"{kind.group} has texts that its dictionary lacks"))
        order = orders[kind.group]
        used[ids[order.row[order.part == number]]] = True
    remap = np.zeros(len(words), "<u4")
    for index in np.flatnonzero(used).tolist():
        remap[index] = texts.index(words[index])
    return remap


def _check_masks(part: JoinedPart) -> None:
    for kind in (ObservationColumns, CaptionColumns):
        if not part.count(kind):
            continue
        ends = part.column(kind, "mask_off").astype(np.int64)
        if (np.diff(ends, prepend=0) < 0).any() or int(ends[-1]) != part.byte_count(kind, "mask_bytes"):
            raise part.damaged(ValueError(f"the masks of {kind.group} do not end where it tells"))
