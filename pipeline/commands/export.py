"""`sca export`: captions of a store as a file for other programs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pipeline.core.clock import local_zone
from pipeline.core.errors import UserError
from pipeline.export.lines import csv_lines, json_lines
from pipeline.export.subtitles import srt_lines, vtt_lines
from pipeline.query.rows import CaptionRow, coalesce
from pipeline.query.typed_times import TIME_HELP
from pipeline.query.windows import stream_windows, window_rows
from pipeline.store import CaptionStore
from pipeline.store.durable_files import refusal, write_durably


class ExportFormat(StrEnum):
    """Files that `sca export` writes."""

    JSONL = "jsonl"
    CSV = "csv"
    SRT = "srt"
    VTT = "vtt"


_LINES: dict[ExportFormat, Callable[[Iterable[CaptionRow]], Iterator[str]]] = {
    ExportFormat.JSONL: json_lines,
    ExportFormat.CSV: csv_lines,
    ExportFormat.SRT: srt_lines,
    ExportFormat.VTT: vtt_lines,
}


def export(
    store: Annotated[
        Path, typer.Argument(help="The .zarr directory that `sca run` wrote.", show_default=False)
    ],
    out: Annotated[
        Path, typer.Argument(help="The file to write; an older one is replaced.", show_default=False)
    ],
    output: Annotated[
        ExportFormat | None, typer.Option("--format", help="Told by the file's ending if not given.")
    ] = None,
    start: Annotated[str | None, typer.Option("--from", metavar="TIME", help=TIME_HELP)] = None,
    end: Annotated[
        str | None, typer.Option("--to", metavar="TIME", help="End of the window, as --from.")
    ] = None,
    stream: Annotated[str | None, typer.Option(help="Only this stream; subtitles hold one.")] = None,
    text: Annotated[str | None, typer.Option(help="Only captions that contain this, in any case.")] = None,
    min_score: Annotated[float | None, typer.Option(help="Only captions at least this sure, 0 to 1.")] = None,
    utc: Annotated[
        bool, typer.Option("--utc/--local", help="Clock times in UTC, or in this machine's zone.")
    ] = False,
) -> None:
    """Write captions as JSON lines, CSV, SubRip or WebVTT subtitles (times from the stream's start).

    Example: sca export street.zarr street.vtt --min-score 0.5
    """
    kind = output or _format_of(out)
    with CaptionStore.open(store) as opened:
        windows = stream_windows(opened, stream, start, end, UTC if utc else local_zone())
        subtitles = kind in (ExportFormat.SRT, ExportFormat.VTT)
        if subtitles and len(windows) > 1:
            raise UserError(
                f"subtitles hold one stream: choose it with --stream {'|'.join(w.stream for w in windows)}"
            )
        rows = window_rows(opened, windows, text=text, min_score=min_score)
    lines = _LINES[kind](coalesce(rows) if subtitles else rows)
    try:
        write_durably(out, "".join(lines).encode())
    except OSError as error:
        raise refusal(error, out, "write") from error


def _format_of(path: Path) -> ExportFormat:
    try:
        return ExportFormat(path.suffix.removeprefix(".").lower())
    except ValueError:
        endings = ", ".join(f".{kind}" for kind in ExportFormat)
        raise UserError(f"cannot tell the format of {path}: end it in {endings}, or give --format") from None
