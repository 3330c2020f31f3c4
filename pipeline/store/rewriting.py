"""Segments and archives written anew under the same commits: without some of their rows, or in a newer schema."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.store.joined_segments import JoinedSegments, KeptRows
from pipeline.store.place import StorePlace
from pipeline.store.row_query import StoredSegment, open_segment, verify_segment
from pipeline.store.segment import (
    SCHEMA,
    SegmentAttributes,
    encode_segment,
    refuse_unknown_tables,
    resume_of,
    schema_number,
)
from pipeline.store.segment_name import DAY_LEVEL, SegmentName
from pipeline.store.stream_directory import FOLDERS, list_names, list_visible


def rewrite(
    place: StorePlace, name: SegmentName, segment: StoredSegment, epoch: int, keep: KeptRows | None = None
) -> None:
    """Write the rows of a segment or archive that stay anew, under the same commits and a newer epoch, in this schema. Raises OSError."""
    rows = JoinedSegments([segment], keep)
    if name.level == DAY_LEVEL:
        from pipeline.store.day_archive import write_day

        assert place.folder is not None
        date = name.path.removeprefix("day/")[:10]
        write_day(place.folder, date, [name], rows, segment.attrs, epoch)
        return
    output = SegmentName.hot(name.lo, name.hi, epoch, name.t_min, name.t_max, name.level)
    attributes = SegmentAttributes(
        stream=segment.attrs["stream"],
        lo=name.lo,
        hi=name.hi,
        epoch=epoch,
        level=name.level,
        t_min=name.t_min,
        t_max=name.t_max,
        created_ns=segment.attrs["created_ns"],
        resume=resume_of(segment.attrs),
        model=segment.attrs["model"],
        stream_id=segment.attrs.get("stream_id", ""),
    )
    place.put(output.path, encode_segment(rows, attributes))


def delete(place: StorePlace, names: Sequence[SegmentName]) -> None:
    """Delete segments for good. Raises OSError."""
    for name in names:
        place.delete(name.path)
    for folder in FOLDERS:
        place.settle(folder)


def upgrade(place: StorePlace, epoch: int) -> int:
    """Write every segment and archive of an earlier schema anew, then delete what was replaced. Returns how many there were.

    Only for who holds the stream. The rows are the same; each file appears in one step, and cut off in between it is done again.
    Raises `StoreRefused` for a damaged segment, OSError.
    """
    newest = schema_number({"schema": SCHEMA}, place.where)
    count = 0
    for name in list_visible(place).segments:
        segment = open_segment(place, name)
        try:
            if schema_number(segment.attrs, f"{place.where}/{name.path}") < newest:
                refuse_unknown_tables(segment.attrs, f"{place.where}/{name.path}", name.path)
                segment.verify()
                rewrite(place, name, segment, epoch)
                count += 1
        finally:
            segment.close()
    # Inputs of merges that wait for their grace are of the earlier schema too.
    counted = set(list_visible(place).segments)
    old = [
        n
        for n in list_names(place)
        if n not in counted and any(c.lo <= n.lo and n.hi <= c.hi for c in counted)
    ]
    if count:
        for name in counted:
            if any(name.lo <= n.lo and n.hi <= name.hi for n in old):
                verify_segment(place, name)
        delete(place, old)
    return count
