"""Captions on disk, written around the clock and read by time."""

from pathlib import Path

from pipeline.core.clock import TimeSpan
from pipeline.store.caption_store import CaptionStore
from pipeline.store.compaction import Compaction
from pipeline.store.stream_info import StreamInfo, check_stream_id
from pipeline.store.stream_writer import StreamWriter

__all__ = [
    "CaptionStore",
    "Compaction",
    "StreamInfo",
    "StreamWriter",
    "TimeSpan",
    "check_stream_id",
    "open",
]


def open(path: str | Path) -> CaptionStore:
    """Open an existing store. Raises `StoreRefused` when it is not one, or one of another schema."""
    return CaptionStore.open(path)
