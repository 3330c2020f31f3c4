"""`sca export`: captions of a store as a file for other programs."""

from __future__ import annotations

import itertools
from datetime import UTC
from pathlib import Path
from typing import Annotated

import typer

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
from pipeline.commands.coverage import coverage_lines
from pipeline.commands.damage_exit import leave_with_damage
from pipeline.commands.terminal import quiet_pipe, say
from pipeline.core.clock import local_zone
from pipeline.core.errors import UserError
from pipeline.core.output_files import check_output, writing_output
from pipeline.export.interface import ObservedExporter, TimedLines, exporter_for
from pipeline.query.observed import observed_rows
from pipeline.query.typed_times import TIME_HELP
from pipeline.query.windows import MaskReading, stream_windows, told_notes, window_rows
from pipeline.store import CaptionStore
from pipeline.store.durable_files import refusal

DRAWN = ("mp4", "mkv", "mov")
"""Endings of films that captions are drawn into."""


def export(
    store: Annotated[
        str,
        typer.Argument(
            help="The .zarr directory that `sca run` wrote, or s3://bucket/prefix.", show_default=False
        ),
    ],
    out: Annotated[
        Path,
        typer.Argument(
            help="The file to write; an older one is replaced. -: standard output.", show_default=False
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="NAME",
            help="jsonl, csv, parquet, arrow, coco, srt, vtt, mot, ytvis, mp4, or one of an installed package. Told by the file's ending if not given.",
        ),
    ] = None,
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
    limit: Annotated[
        int | None, typer.Option(min=0, max=10**12, help="At most this many, earliest first.")
    ] = None,
    utc: Annotated[
        bool, typer.Option("--utc/--local", help="Clock times in UTC, or in this machine's zone.")
    ] = False,
    masks: Annotated[
        bool,
        typer.Option("--masks", help="With masks, as COCO run lengths; jsonl, parquet, arrow, coco, ytvis."),
    ] = False,
    at_once: Annotated[
        int, typer.Option("--at-once", min=1, help="Subtitles: so many at a time at most, the surest.")
    ] = 3,
    film: Annotated[
        str | None,
        typer.Option(
            "--film", help="mp4: the film that captions are drawn into; the stream's own if not given."
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Write nothing (exit 2) where a file of the store is damaged.")
    ] = False,
) -> None:
    """Write captions as JSON lines, tables, COCO objects, subtitles or tracks, or draw them into the film.

    Tables are CSV, Parquet and Arrow, subtitles SubRip and WebVTT with times from the stream's start, tracks MOTChallenge's text and
    YouTube-VIS's JSON, films mp4, mkv and mov.

    Example: sca export street.zarr street.vtt --min-score 0.5
    """
    drawn = (output or out.suffix.removeprefix(".")).lower() in DRAWN
    exporter = None if drawn else exporter_for(out, output)
    if film is not None and not drawn:
        raise UserError(
            "--film: captions are drawn into a film as mp4, mkv or mov; end the file in one of these"
        )
    if masks and not getattr(exporter, "holds_masks", False):
        raise UserError(
            f"--masks: {output or out.suffix.removeprefix('.')} holds no masks; write jsonl, parquet, arrow or coco"
        )
    if isinstance(exporter, TimedLines):
        exporter.at_once = at_once
    check_output(out, store=store)
    zone_of_clock = UTC if utc else local_zone()
    with CaptionStore.open(store, strict=strict) as opened:
        windows = stream_windows(opened, stream, start, end, zone_of_clock)
        for note in told_notes(windows):
            say(note, error=True)
        if (exporter is None or exporter.one_stream) and len(windows) > 1:
            streams = "|".join(window.stream for window in windows)
            kind = (output or out.suffix.removeprefix(".")).lower()
            what = "subtitles hold" if kind in ("srt", "vtt") else f"a {kind} file holds"
            raise UserError(f"{what} one stream: choose it with --stream {streams}")
        reading = MaskReading(opened, strict) if masks else None
        if strict:  # nothing is written where something is damaged
            for window in windows:
                opened.verify(window.start, window.end, stream=window.stream)
        asked = CaptionsAsked(
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
        ).filter(opened, stream)
        if exporter is None:
            from pipeline.commands.export_video import export_video

            export_video(opened, windows, asked, out, film, output)
        else:
            try:
                with quiet_pipe(), writing_output(out) as file:
                    if isinstance(exporter, ObservedExporter):
                        observed = observed_rows(opened, windows, asked, reading)
                        exporter.write_observed(itertools.islice(observed, limit), file)
                    else:
                        rows = itertools.islice(window_rows(opened, windows, asked, masks=reading), limit)
                        exporter.write(rows, file)
            except OSError as error:
                raise refusal(error, out, "write") from error
            if left_out := getattr(exporter, "left_out", 0):
                say(
                    f"{left_out} captions are not in {out}: they were over before there was room, at most {at_once} at a time "
                    "(--at-once)",
                    error=True,
                )
        for line in coverage_lines(opened, windows, True, zone_of_clock):
            say(line, error=True)
        leave_with_damage(opened.damage(), reading)
