"""Forgetting the oldest of a stream, by age or by size: whole segments and days, chosen by their names alone."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterable

from pipeline.store.place import StorePlace
from pipeline.store.segment_name import DAY_LEVEL, SegmentName, Visible, is_ahead
from pipeline.store.stream_directory import FOLDERS, list_names, list_visible


def expired(
    names: Iterable[SegmentName], shown: Visible, cutoff_ns: int, clock_ns: int | None = None
) -> list[SegmentName]:
    """Segments that end before `cutoff_ns`, in the order in which they may be deleted one by one.

    Only from the stream's beginning on, so that no hole appears, and never the last one: it tells where to go on. What
    a merge has replaced goes before the merge, or it would count again. A segment that ends more than a day ahead of the
    clock (`clock_ns`) has no date; it goes with the one after it.
    """
    end = 0
    for segment in shown.segments[:-1]:
        if is_ahead(segment.t_max, clock_ns):
            continue
        if segment.t_max >= cutoff_ns:
            break
        end = segment.hi
    return _in_order((n for n in names if n.hi <= end), shown)


def all_expired(shown: Visible, cutoff_ns: int) -> bool:
    """Whether the newest of a stream ends before `cutoff_ns` too."""
    return bool(shown.segments) and max(name.t_max for name in shown.segments) < cutoff_ns


def over_size(
    names: Iterable[SegmentName], shown: Visible, size_of: Callable[[SegmentName], int], most_bytes: int
) -> list[SegmentName]:
    """The oldest segments, as few as must go so that all files that are left take `most_bytes`; order and limits as of `expired`.

    What was replaced and waits for its grace takes its bytes too, but for it alone nothing has to go: it goes by itself.
    """
    sizes = {name: size_of(name) for name in shown.segments}
    left, end = sum(sizes.values()), 0
    for segment in shown.segments[:-1]:
        if left <= most_bytes:
            break
        left -= sizes[segment]
        end = segment.hi
    return _in_order((n for n in names if n.hi <= end), shown)


def forget(place: StorePlace, cutoff_ns: int, clock_ns: int) -> int:
    """Delete segments that end before `cutoff_ns`. Returns how many of those that counted.

    Only for who holds the stream. Nothing is written, so that it can free a full disk. Raises OSError.
    """
    shown = list_visible(place)
    return _forget(place, expired(list_names(place), shown, cutoff_ns, clock_ns), shown)


def forget_to_fit(place: StorePlace, most_bytes: int) -> int:
    """Delete the oldest segments until the rest takes at most `most_bytes`; as `forget` in all else."""
    shown = list_visible(place)
    return _forget(
        place, over_size(list_names(place), shown, lambda n: size_on_disk(place, n), most_bytes), shown
    )


def size_on_disk(place: StorePlace, name: SegmentName) -> int:
    """Bytes of a segment or of all files of an archive; 0 for one that went meanwhile, or is a link to nothing. Raises OSError."""
    try:
        if name.level != DAY_LEVEL:
            return place.stamp(name.path).size
        return sum(place.sizes(name.path).values())
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
        return 0


def delete_segments(place: StorePlace, names: Iterable[SegmentName]) -> None:
    """Delete in the given order. Raises OSError."""
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            place.delete(name.path)
    for folder in FOLDERS:
        place.settle(folder)


def _forget(place: StorePlace, old: list[SegmentName], shown: Visible) -> int:
    if old:
        delete_segments(place, old)
    return len(set(old) & set(shown.segments))


def _in_order(names: Iterable[SegmentName], shown: Visible) -> list[SegmentName]:
    return sorted(names, key=lambda n: (n in shown.segments, n.lo))
