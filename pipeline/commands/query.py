"""`sca query`: captions of a store by time, track, text and score."""

from __future__ import annotations

import itertools
import sys
from datetime import UTC, tzinfo
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from pipeline.commands.caption_filters import (
    AboutOption,
    BoxOption,
    CaptionsAsked,
    LikeImageOption,
    LikeOption,
    MeaningOption,
    ModelOption,
    PhrasesOption,
    RegexOption,
    ScoreOption,
    ShotOption,
    SimilarityOption,
    StreamsOption,
    TextOption,
    TrackOption,
    WithoutOption,
    WordsOption,
    ZoneOption,
)
from pipeline.commands.coverage import counted, coverage_lines
from pipeline.commands.damage_exit import leave_with_damage
from pipeline.commands.terminal import PlainConsole, quiet_pipe, say
from pipeline.core.clock import local_zone, to_datetime
from pipeline.core.errors import UserError
from pipeline.core.shown_text import json_text, shown
from pipeline.export.csv import csv_lines, gap_csv_lines, table_csv_lines
from pipeline.export.jsonl import json_lines
from pipeline.query.clock_changes import needs_offset, offset_suffix
from pipeline.query.counts import CountBy, CountRow, count_rows
from pipeline.query.rows import (
    CaptionRow,
    CutRow,
    EffortRow,
    GapRow,
    coalesce_first,
    cut_rows,
    effort_rows,
    gap_rows,
)
from pipeline.query.typed_times import TIME_HELP, clock_text, clock_texts, offset_text
from pipeline.query.windows import MaskReading, StreamWindow, stream_windows, told_notes, window_rows
from pipeline.store import CaptionStore

PIPED_WIDTH = 140


class OutputFormat(StrEnum):
    """How `sca query` prints."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def query(
    store: Annotated[
        str,
        typer.Argument(
            help="The .zarr directory that `sca run` wrote, or s3://bucket/prefix.", show_default=False
        ),
    ],
    start: Annotated[str | None, typer.Option("--from", metavar="TIME", help=TIME_HELP)] = None,
    end: Annotated[
        str | None, typer.Option("--to", metavar="TIME", help="End of the window, as --from.")
    ] = None,
    stream: StreamsOption = None,
    track: TrackOption = None,
    text: TextOption = None,
    word: WordsOption = None,
    phrase: PhrasesOption = None,
    regex: RegexOption = None,
    without: WithoutOption = None,
    min_score: ScoreOption = None,
    box: BoxOption = None,
    zone: ZoneOption = None,
    shot: ShotOption = None,
    like_track: LikeOption = None,
    like: LikeImageOption = None,
    model: ModelOption = None,
    min_similarity: SimilarityOption = 0.8,
    about: AboutOption = None,
    min_meaning: MeaningOption = 0.5,
    newest: Annotated[
        int | None,
        typer.Option("--newest", min=1, max=10**12, metavar="N", help="The N latest, latest first."),
    ] = None,
    count_by: Annotated[
        CountBy | None,
        typer.Option("--count-by", help="How many captions and tracks match, instead of the captions."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=0, max=10**12, help="At most this many, earliest first.")
    ] = None,
    utc: Annotated[
        bool, typer.Option("--utc/--local", help="Clock times in UTC, or in this machine's zone.")
    ] = False,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on telling what is stored, each caption once, until Ctrl-C.")
    ] = False,
    cursor: Annotated[
        Path | None,
        typer.Option(
            "--cursor",
            metavar="FILE",
            help="With --follow: go on behind what this file tells, and keep it up to date. -: lines of the output instead.",
        ),
    ] = None,
    sql: Annotated[
        str | None,
        typer.Option(
            "--sql",
            metavar="SELECT",
            help="What this SELECT gives, over the tables captions, observations, tracks, gaps, cuts, efforts, clocks, streams.",
        ),
    ] = None,
    gaps: Annotated[
        bool,
        typer.Option("--gaps", help="Show what was not watched, when load was shed and where shots begin."),
    ] = False,
    masks: Annotated[
        bool,
        typer.Option(
            "--masks",
            help="With each caption's mask, as COCO run lengths over its picture; with --format json.",
        ),
    ] = False,
    output: Annotated[
        OutputFormat, typer.Option("--format", help="json: one object a line.")
    ] = OutputFormat.TABLE,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse to answer (exit 2) where a file of the store is damaged.")
    ] = False,
) -> None:
    """Show what was seen, by time.

    Examples: sca query yard.zarr --from 14:00 --to 14:05 --text dog; sca query street.zarr --from 90s --format json
    """
    if masks and (gaps or output is not OutputFormat.JSON):
        raise UserError(
            "--masks: masks are given with captions as JSON lines; add --format json, leave --gaps out"
        )
    zone_of_clock = UTC if utc else local_zone()
    asked_of = CaptionsAsked(
        track,
        text,
        word,
        phrase,
        regex,
        without,
        min_score,
        box,
        zone,
        shot,
        like_track,
        min_similarity,
        like,
        model,
        about,
        min_meaning,
    )
    if follow and sql is None:
        if about is not None:
            raise UserError("--about looks at the texts that are there: leave --follow out, or say --word")
        from pipeline.commands.follow import FollowedFormat, follow_store

        if end is not None or newest is not None or count_by is not None or gaps:
            raise UserError("--follow has no end: leave --to, --newest, --count-by and --gaps out")
        with CaptionStore.open(store, strict=strict) as opened:
            follow_store(
                opened, stream, start, asked_of.filter(opened, stream), zone_of_clock, FollowedFormat(output.value), limit, cursor, masks,
            )  # fmt: skip
        return
    if sql is not None:
        from pipeline.commands.query_sql import query_sql

        if (
            start
            or end
            or stream
            or asked_of != CaptionsAsked()
            or newest
            or count_by
            or gaps
            or masks
            or cursor
        ):
            raise UserError(
                "--sql says itself what is asked: leave all but --format, --limit, --utc and --strict out"
            )
        query_sql(store, sql, zone_of_clock, output.value, limit, strict)
        return
    if cursor is not None:
        raise UserError("--cursor goes with --follow: add it, or leave --cursor out")
    with CaptionStore.open(store, strict=strict) as opened:
        windows = stream_windows(opened, stream, start, end, zone_of_clock)
        for note in told_notes(windows):
            say(note, error=True)
        if gaps:
            for window in windows:
                opened.verify(window.start, window.end, stream=window.stream)
            _print_gaps(opened, windows, zone_of_clock, limit, output)
            leave_with_damage(opened.damage())
            return
        if strict:  # all is read before the first is shown
            for window in windows:
                opened.verify(window.start, window.end, stream=window.stream)
        asked = asked_of.filter(opened, stream)
        if count_by is not None:
            _print_counts(count_rows(opened, windows, asked, count_by, zone_of_clock), count_by, output)
            _tell_coverage(opened, windows, zone_of_clock)
            leave_with_damage(opened.damage())
            return
        reading = MaskReading(opened, strict) if masks else None
        rows = window_rows(opened, windows, asked, newest=newest is not None, masks=reading)
        if newest is not None:
            limit = newest if limit is None else min(limit, newest)
        if reading is not None and strict:
            rows = iter(list(rows))
        with quiet_pipe():
            if output is OutputFormat.TABLE:
                if newest is None:
                    found, more = coalesce_first(rows, limit)
                else:
                    found, more = list(itertools.islice(rows, limit)), False
                _print_table(found, more, opened, windows, zone_of_clock)
            else:
                kept = itertools.islice(rows, limit)
                sys.stdout.writelines(json_lines(kept) if output is OutputFormat.JSON else csv_lines(kept))
        if output is not OutputFormat.TABLE:
            _tell_coverage(opened, windows, zone_of_clock)
        leave_with_damage(opened.damage(), reading)


def _tell_coverage(store: CaptionStore, windows: list[StreamWindow], zone: tzinfo) -> None:
    """On stderr, so that the rows can be read by a program."""
    for line in coverage_lines(store, windows, True, zone):
        say(line, error=True)


def _print_counts(rows: list[CountRow], by: CountBy, output: OutputFormat) -> None:
    with quiet_pipe():
        if output is OutputFormat.JSON:
            sys.stdout.writelines(json_text(row.document(by)) + "\n" for row in rows)
        elif output is OutputFormat.CSV:
            sys.stdout.writelines(
                table_csv_lines((by.value, "captions", "tracks"), map(CountRow.cells, rows))
            )
        else:
            table = Table(by.value, "captions", "tracks", box=None, pad_edge=False)
            for row in rows:
                table.add_row(shown(row.key), str(row.captions), str(row.tracks))
            console = PlainConsole(
                file=sys.stdout, width=None if sys.stdout.isatty() else PIPED_WIDTH, highlight=False
            )
            console.print(table if rows else "No captions match.")


def _print_gaps(
    store: CaptionStore, windows: list[StreamWindow], zone: tzinfo, limit: int | None, output: OutputFormat
) -> None:
    gaps = [row for w in windows for row in gap_rows(store.gaps(w.start, w.end, stream=w.stream))]
    steps = [row for w in windows for row in effort_rows(store.efforts(w.start, w.end, stream=w.stream))]
    cuts = [row for w in windows for row in cut_rows(store.cuts(w.start, w.end, stream=w.stream))]
    all_rows: list[GapRow | EffortRow | CutRow] = [*gaps, *steps, *cuts]
    rows = sorted(all_rows, key=lambda row: row.start_ns)[:limit]
    with quiet_pipe():
        if output is OutputFormat.JSON:
            sys.stdout.writelines(json_lines(rows))
        elif output is OutputFormat.CSV:
            sys.stdout.writelines(gap_csv_lines(rows))
        else:
            table = Table("date", "from", "to", "stream", "reason", "frames", box=None, pad_edge=False)
            ends = [row.end_ns if isinstance(row, GapRow) else row.start_ns for row in rows]
            near = needs_offset([*(row.start_ns for row in rows), *ends], zone)
            for row, end_ns in zip(rows, ends, strict=True):
                day = str(to_datetime(row.start_ns, zone).date())
                start = clock_text(row.start_ns, zone) + (offset_suffix(row.start_ns, zone) if near else "")
                end = clock_text(end_ns, zone) + (offset_suffix(end_ns, zone) if near else "")
                end = end if isinstance(row, GapRow) else ""
                frames = str(row.frames) if isinstance(row, GapRow) and row.frames else ""
                table.add_row(day, start, end, shown(row.stream), shown(str(row.reason)), frames)
            console = PlainConsole(
                file=sys.stdout, width=None if sys.stdout.isatty() else PIPED_WIDTH, highlight=False
            )
            console.print(table if rows else "No gaps, no change of effort and no cuts.")
            for w in windows:
                share = store.coverage(w.start, w.end, stream=w.stream)
                console.print(f"{w.stream}: {share:.1%} of the window was watched")


def _print_table(
    rows: list[CaptionRow], more: bool, store: CaptionStore, windows: list[StreamWindow], zone: tzinfo
) -> None:
    console = PlainConsole(
        file=sys.stdout, width=None if sys.stdout.isatty() else PIPED_WIDTH, highlight=False
    )
    with console.capture() as capture:
        if rows:
            console.print(_caption_table(rows, len(windows) > 1, zone))
            tracks = len({(row.stream, row.track) for row in rows})
            rest = ", more beyond --limit" if more else ""
            console.print(f"{counted(len(rows), 'caption')} of {counted(tracks, 'track')}{rest}")
        else:
            console.print("No captions match." if windows else "The store holds nothing yet.")
        for line in coverage_lines(store, windows, bool(rows), zone):
            console.print(line)
    sys.stdout.write(capture.get())


def _caption_table(rows: list[CaptionRow], several_streams: bool, zone: tzinfo) -> Table:
    clocks = clock_texts([row.start_ns for row in rows], zone)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("clock", "from", "to"):
        table.add_column(name, no_wrap=True)
    if several_streams:
        table.add_column("stream", overflow="fold")
    table.add_column("track", justify="right")
    table.add_column("caption", overflow="fold", style="bold cyan")
    table.add_column("score", justify="right")
    table.add_column("box (x0 y0 x1 y1)", no_wrap=True)
    for row, clock in zip(rows, clocks, strict=True):
        cells = [clock, offset_text(row.start_s), offset_text(row.end_s)]
        cells += [row.stream] if several_streams else []
        cells += [str(row.track), row.text, f"{row.score:.2f}", " ".join(f"{edge:.0f}" for edge in row.box)]
        table.add_row(*(shown(cell) for cell in cells))
    return table
