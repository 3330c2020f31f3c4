"""What a filter of Arrow leaves possible: between which values a column may lie, so that no more of a store is read than that.

An expression of Arrow cannot be looked into from Python. But Arrow itself tells which of many parts of a data set a filter rules out
when each part says what its rows have in common. So here are parts without files that say one stretch of values each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyarrow import fs

Hull = tuple[int | None, int | None]
"""First and last value that is possible, None for an open end."""

# A day to 5 ms, and any track exactly.
_PARTS = 16
_LEVELS = 8


@dataclass(frozen=True, slots=True)
class FilterBounds:
    """What rows that a filter lets through may have: wall ns, both included, None for an open end; a track; a score.

    `streams`: which of those that were asked about. None of what is given here is more than the filter says.
    """

    streams: tuple[str, ...]
    start: int | None = None
    end: int | None = None
    track: int | None = None
    min_score: float | None = None


@dataclass(frozen=True, slots=True)
class AskedFilter:
    """A filter on columns of `schema`; None lets everything through."""

    expression: pc.Expression | None
    schema: pa.Schema
    _format: ds.FileFormat = field(default_factory=ds.ParquetFileFormat)

    def possible(self, guarantees: Sequence[pc.Expression]) -> list[int]:
        """Which of `guarantees` rows may have that the filter lets through; their numbers."""
        files = fs.LocalFileSystem()
        parts = [
            self._format.make_fragment(str(number), files, partition_expression=one)
            for number, one in enumerate(guarantees)
        ]
        listed = ds.FileSystemDataset(parts, self.schema, self._format, files)
        return sorted(int(part.path) for part in listed.get_fragments(filter=self.expression))

    def columns(self) -> set[str]:
        """Names of the columns that it looks at."""
        if self.expression is None:
            return set()
        empty = self.schema.empty_table()
        return {name for name in self.schema.names if not self._works(empty.drop_columns([name]))}

    def _works(self, table: pa.Table) -> bool:
        try:
            table.filter(self.expression)
        except pa.ArrowInvalid:
            return False
        return True

    def bounds(
        self, streams: Sequence[str], first_ns: int, last_ns: int, times: tuple[str, str]
    ) -> FilterBounds:
        """What it leaves possible. `first_ns`, `last_ns`: about where rows are; `times`: columns of their first and last moment."""
        if self.expression is None:
            return FilterBounds(tuple(streams))
        chosen = self.possible([pc.field("stream") == name for name in streams])
        named = tuple(streams[number] for number in chosen)
        if not named:
            return FilterBounds(())
        begin, end = times
        scale = {"us": 1000, "ns": 1}[self.schema.field(begin).type.unit]
        starts = self._between(begin, first_ns // scale, last_ns // scale, scale)
        ends = starts if begin == end else self._between(end, first_ns // scale, last_ns // scale, scale)
        track = self._between("track", 0, 2**32 - 1, 1)
        if starts is None or ends is None or track is None:
            return FilterBounds(())
        # A row that ends at or after `start` and begins at or before `end` is what a store is asked for.
        (begins, latest), (earliest, done) = starts, ends
        low, high = track
        return FilterBounds(
            named,
            max((t for t in (earliest, begins) if t is not None), default=None),
            min((t for t in (latest, done) if t is not None), default=None),
            low if low is not None and low == high else None,
            self._least_score(),
        )

    def _between(self, name: str, first: int, last: int, scale: int) -> Hull | None:
        """Hull of the values that are possible, in ns where `scale` makes it that; None where none is.

        What lies beyond `first` and `last` counts as theirs.
        """
        kind = self.schema.field(name).type
        low = high = _Stretch(first, last, True, True)
        for _ in range(_LEVELS):
            parts = [low.parts(), high.parts()] if low != high else [low.parts()]
            hits = self.possible([_inside(name, kind, one) for part in parts for one in part])
            below = [number for number in hits if number < len(parts[0])]
            above = [number - len(parts[0]) for number in hits if number >= len(parts[0])]
            above = above if len(parts) > 1 else below
            if not below or not above:
                return None
            low, high = parts[0][below[0]], parts[-1][above[-1]]
            if low.first == low.last and high.first == high.last:
                break
        return (
            None if low.open_below else low.first * scale,
            None if high.open_above else high.last * scale + scale - 1,
        )

    def _least_score(self) -> float | None:
        steps = [number / 20 for number in range(1, 21)]
        kind = self.schema.field("score").type
        below = [pc.field("score") < pa.scalar(step, kind) for step in steps]
        ruled_out = set(range(len(steps))) - set(self.possible(below))
        return max((steps[number] for number in ruled_out), default=None)


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Values from `first` to `last`, both included, and beyond where it is open."""

    first: int
    last: int
    open_below: bool
    open_above: bool

    def parts(self) -> list[_Stretch]:
        """The same in a few pieces."""
        step = max(1, -(-(self.last - self.first + 1) // _PARTS))
        edges = list(range(self.first, self.last + 1, step))
        return [
            _Stretch(
                edge,
                min(edge + step - 1, self.last),
                self.open_below and edge == edges[0],
                self.open_above and edge == edges[-1],
            )
            for edge in edges
        ]


def _inside(name: str, kind: pa.DataType, values: _Stretch) -> pc.Expression:
    said = pc.is_valid(pc.field(name))
    if not values.open_below:
        said &= pc.field(name) >= pa.scalar(values.first, kind)
    if not values.open_above:
        said &= pc.field(name) <= pa.scalar(values.last, kind)
    return said
