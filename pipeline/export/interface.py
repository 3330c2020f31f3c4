"""What every export format offers, and which there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO, Protocol

from pipeline.core.errors import UserError
from pipeline.query.rows import CaptionRow
from sca.parts import Registry, registry


class Exporter(Protocol):
    """One file format. `one_stream`: whether a file can hold the captions of one stream only, as subtitles do.

    A format with an attribute `holds_masks` that is true may be given rows with masks (`sca export --masks`).
    """

    one_stream: bool

    def write(self, rows: Iterable[CaptionRow], out: BinaryIO) -> None:
        """Write `rows`, ordered by start, to a stream of bytes that can only be appended to.

        Take the rows one by one: there may be millions, and none need be kept. Leave `out` open.
        """
        ...


EXPORTERS: Registry[Callable[[], Exporter]] = registry(
    "export format",
    "exporters",
    {
        "jsonl": "pipeline.export.jsonl:JsonLines",
        "csv": "pipeline.export.csv:CsvTable",
        "srt": "pipeline.export.srt:SubRip",
        "vtt": "pipeline.export.vtt:WebVtt",
        "parquet": "pipeline.export.parquet:ParquetTable",
        "arrow": "pipeline.export.arrow:ArrowTable",
        "coco": "pipeline.export.coco:CocoObjects",
    },
)
"""Parts are called without arguments. Their names are the endings of their files."""


def exporter_for(path: Path, name: str | None = None) -> Exporter:
    """The format of this name, or the one that the ending of `path` tells. `UserError` where there is none."""
    if name is not None:
        return EXPORTERS.get(name)()
    ending = path.suffix.removeprefix(".").lower()
    if not EXPORTERS.knows(ending):
        endings = ", ".join(f".{known}" for known in EXPORTERS.names())
        raise UserError(f"cannot tell the format of {path}: end it in {endings}, or give --format")
    return EXPORTERS.get(ending)()
