"""`sca query`: captions of a store by time, track, text and score."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from datetime import UTC, tzinfo
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from pipeline.caption_rows import CaptionRow, caption_rows, coalesce, csv_lines, json_lines
from pipeline.clock_time import (
    TIME_HELP,
    Recording,
    clock_text,
    local_zone,
    offset_text,
    parse_window,
    to_datetime,
)
from pipeline.commands.quiet_pipe import quiet_pipe
from pipeline.gap_rows import gap_csv_lines, gap_json_lines, gap_rows
from pipeline.store import CaptionStore

PIPED_WIDTH = 140


class OutputFormat(StrEnum):
    """How `sca query` prints."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


@dataclass(frozen=True, slots=True)
class StreamWindow:
    """What is asked of one stream: wall ns, None for an open end, and the time that the stream was recorded."""

    stream: str
    start: int | None
    end: int | None
    recording: Recording


def query(
    store: Annotated[
        Path, typer.Argument(help="The .zarr directory that `sca run` wrote.", show_default=False)
    ],
    start: Annotated[str | None, typer.Option("--from", metavar="TIME", help=TIME_HELP)] = None,
    end: Annotated[
        str | None, typer.Option("--to", metavar="TIME", help="End of the window, as --from.")
    ] = None,
    stream: Annotated[str | None, typer.Option(help="Only this stream.")] = None,
    track: Annotated[int | None, typer.Option(help="Only this track.")] = None,
    text: Annotated[str | None, typer.Option(help="Only captions that contain this, in any case.")] = None,
    min_score: Annotated[float | None, typer.Option(help="Only captions at least this sure, 0 to 1.")] = None,
    limit: Annotated[int | None, typer.Option(min=0, help="At most this many, earliest first.")] = None,
    utc: Annotated[
        bool, typer.Option("--utc/--local", help="Clock times in UTC, or in this machine's zone.")
    ] = False,
    gaps: Annotated[
        bool, typer.Option("--gaps", help="Show what was not watched and when load was shed, not captions.")
    ] = False,
    output: Annotated[
        OutputFormat, typer.Option("--format", help="json: one object a line.")
    ] = OutputFormat.TABLE,
) -> None:
    """Show what was seen, by time.

    Examples: sca query yard.zarr --from 14:00 --to 14:05 --text dog; sca query street.zarr --from 90s --format json
    """
    zone = UTC if utc else local_zone()
    with CaptionStore.open(store) as opened:
        windows = stream_windows(opened, stream, start, end, zone)
        if gaps:
            _print_gaps(opened, windows, zone, limit, output)
            return
        rows = window_rows(
            opened, windows, track=track, text=text, min_score=min_score,
            limit=None if output is OutputFormat.TABLE else limit,
        )  # fmt: skip
        with quiet_pipe():
            if output is OutputFormat.TABLE:
                found = coalesce(rows)
                shown = found if limit is None else found[:limit]
                _print_table(shown, len(found), opened, windows, zone)
            else:
                kept = rows if limit is None else rows[:limit]
                sys.stdout.writelines(json_lines(kept) if output is OutputFormat.JSON else csv_lines(kept))


def _print_gaps(
    store: CaptionStore, windows: list[StreamWindow], zone: tzinfo, limit: int | None, output: OutputFormat
) -> None:
    found = [row for w in windows for row in gap_rows(store.gaps(w.start, w.end, stream=w.stream))]
    rows = sorted(found, key=lambda row: row.start_ns)[:limit]
    with quiet_pipe():
        if output is OutputFormat.JSON:
            sys.stdout.writelines(gap_json_lines(rows))
        elif output is OutputFormat.CSV:
            sys.stdout.writelines(gap_csv_lines(rows))
        else:
            table = Table("date", "from", "to", "stream", "reason", "frames", box=None, pad_edge=False)
            for row in rows:
                day = str(to_datetime(row.start_ns, zone).date())
                end = "" if row.is_step else clock_text(row.end_ns, zone)
                frames = str(row.frames) if row.frames else ""
                table.add_row(day, clock_text(row.start_ns, zone), end, row.stream, row.reason, frames)
            console = Console(
                file=sys.stdout, width=None if sys.stdout.isatty() else PIPED_WIDTH, highlight=False
            )
            console.print(table if rows else "No gaps and no change of effort.")
            for w in windows:
                share = store.coverage(w.start, w.end, stream=w.stream)
                console.print(f"{w.stream}: {share:.1%} of the window was watched", markup=False)


def stream_windows(
    store: CaptionStore, stream: str | None, start: str | None, end: str | None, zone: tzinfo
) -> list[StreamWindow]:
    """The window in each stream: offsets count from each one's own start. Streams without rows are left out.

    Raises ValueError for an unknown stream, an unreadable time, a start after the end.
    """
    windows = []
    infos = store.streams()
    for name in [stream] if stream is not None else infos:
        span = store.span(name)
        if span is not None:
            recording = Recording(infos[name].start_wall_ns or span.start, span.end, zone)
            windows.append(StreamWindow(name, *parse_window(start, end, recording), recording))
    return windows


def window_rows(
    store: CaptionStore,
    windows: list[StreamWindow],
    *,
    track: int | None = None,
    text: str | None = None,
    min_score: float | None = None,
    limit: int | None = None,
) -> list[CaptionRow]:
    """What matches in all windows, ordered by start, then track; at most `limit` of each stream.

    `start_s` and `end_s` count from where each stream starts on the wall, as offsets in `--from` do.
    """
    rows: list[CaptionRow] = []
    for w in windows:
        table = store.captions(
            w.start, w.end, stream=w.stream, track=track, text=text, min_score=min_score, limit=limit
        )
        rows += (_since(w.recording.start_ns, row) for row in caption_rows(table))
    return sorted(rows, key=lambda row: (row.start_ns, row.track))


def _since(start_ns: int, row: CaptionRow) -> CaptionRow:
    # Stored PTS start at 0 again after a reset, and leave out how long a camera's program was down.
    return replace(row, start_s=(row.start_ns - start_ns) / 1e9, end_s=(row.end_ns - start_ns) / 1e9)


def _print_table(
    rows: list[CaptionRow], found: int, store: CaptionStore, windows: list[StreamWindow], zone: tzinfo
) -> None:
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else PIPED_WIDTH, highlight=False)
    with console.capture() as capture:
        if rows:
            console.print(_caption_table(rows, len(windows) > 1, zone))
            tracks = len({(row.stream, row.track) for row in rows})
            more = f", {found - len(rows)} more beyond --limit" if found > len(rows) else ""
            console.print(f"{_count(len(rows), 'caption')} of {_count(tracks, 'track')}{more}")
        else:
            console.print("No captions match." if windows else "The store holds nothing yet.")
        for line in _coverage_lines(store, windows, bool(rows), zone):
            console.print(line, markup=False)
    sys.stdout.write(capture.get())


def _caption_table(rows: list[CaptionRow], several_streams: bool, zone: tzinfo) -> Table:
    days = {to_datetime(row.start_ns, zone).date() for row in rows}
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("clock", "from", "to"):
        table.add_column(name, no_wrap=True)
    if several_streams:
        table.add_column("stream", overflow="fold")
    table.add_column("track", justify="right")
    table.add_column("caption", overflow="fold", style="bold cyan")
    table.add_column("score", justify="right")
    table.add_column("box (x0 y0 x1 y1)", no_wrap=True)
    for row in rows:
        day = f"{to_datetime(row.start_ns, zone).date()} " if len(days) > 1 else ""
        cells = [day + clock_text(row.start_ns, zone), offset_text(row.start_s), offset_text(row.end_s)]
        cells += [row.stream] if several_streams else []
        cells += [str(row.track), row.text, f"{row.score:.2f}", " ".join(f"{edge:.0f}" for edge in row.box)]
        table.add_row(*(cell.replace("[", "\\[") for cell in cells))
    return table


def _coverage_lines(store: CaptionStore, windows: list[StreamWindow], found: bool, zone: tzinfo) -> list[str]:
    """Per stream: how much of the window was watched where that is not all of it, and when nothing was found."""
    lines = []
    for window in windows:
        found_gaps = gap_rows(store.gaps(window.start, window.end, stream=window.stream))
        gaps = [row for row in found_gaps if not row.is_step]
        share = store.coverage(window.start, window.end, stream=window.stream)
        if gaps and share < 1:
            reasons = ", ".join(sorted({row.reason for row in gaps}))
            lines.append(
                f"{window.stream}: {share:.1%} of the window was watched ({_count(len(gaps), 'gap')}: {reasons})"
            )
        if not found:
            first, last = (to_datetime(t, zone) for t in (window.recording.start_ns, window.recording.end_ns))
            lines.append(
                f"{window.stream} was recorded from {first:%Y-%m-%d %H:%M:%S} to {last:%Y-%m-%d %H:%M:%S %Z}"
            )
    return lines


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
