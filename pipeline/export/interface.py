"""What every export format offers, and which there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

from pipeline.core.errors import UserError
from pipeline.query.observed import ObservedRow
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


@runtime_checkable
class TimedLines(Protocol):
    """A format of subtitles: at most `at_once` at a time, and how many were `left_out` for that."""

    at_once: int | None
    left_out: int


@runtime_checkable
class ObservedExporter(Protocol):
    """A file format of where things were in each keyframe, rather than of what was said of them. Attributes as of `Exporter`."""

    one_stream: bool

    def write_observed(self, rows: Iterable[ObservedRow], out: BinaryIO) -> None:
        """Write `rows`, one stream behind the other and each ordered by time; as `Exporter.write`."""
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


OBSERVED_EXPORTERS: Registry[Callable[[], ObservedExporter]] = registry(
    "export format of observations",
    "observed_exporters",
    {"mot": "pipeline.export.mot:MotChallenge", "ytvis": "pipeline.export.ytvis:YouTubeVis"},
)
"""The same for formats of boxes and masks in each keyframe."""


def exporter_for(path: Path, name: str | None = None) -> Exporter | ObservedExporter:
    """The format of this name, or the one that the ending of `path` tells. `UserError` where there is none."""
    chosen = path.suffix.removeprefix(".").lower() if name is None else name
    if chosen in OBSERVED_EXPORTERS.own or (not EXPORTERS.knows(chosen) and OBSERVED_EXPORTERS.knows(chosen)):
        return OBSERVED_EXPORTERS.get(chosen)()
    if name is None and not EXPORTERS.knows(chosen):
        endings = ", ".join(f".{known}" for known in (*EXPORTERS.names(), *OBSERVED_EXPORTERS.names()))
        raise UserError(f"cannot tell the format of {path}: end it in {endings}, or give --format")
    return EXPORTERS.get(chosen)()
