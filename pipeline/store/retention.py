"""Forgetting what is older than a moment: whole segments and days, by their names alone."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from pipeline.store.durable_files import fsync_directory
from pipeline.store.segment_name import DAY_LEVEL, SegmentName, Visible
from pipeline.store.stream_directory import FOLDERS


def expired(names: Iterable[SegmentName], shown: Visible, cutoff_ns: int) -> list[SegmentName]:
    """Segments that end before `cutoff_ns`, in the order in which they may be deleted one by one.

    Only from the stream's beginning on, so that no hole appears, and never the last one: it tells where to go on. What
    a merge has replaced goes before the merge, or it would count again.
    """
    end = 0
    for segment in shown.segments[:-1]:
        if segment.t_max >= cutoff_ns:
            break
        end = segment.hi
    return sorted((n for n in names if n.hi <= end), key=lambda n: (n in shown.segments, n.lo))


def delete_segments(directory: Path, names: Iterable[SegmentName]) -> None:
    """Delete in the given order. Raises OSError."""
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            if name.level == DAY_LEVEL:
                shutil.rmtree(directory / name.path)
            else:
                os.unlink(directory / name.path)
    for folder in FOLDERS:
        fsync_directory(directory / folder)
