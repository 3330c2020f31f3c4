"""`sca export`: captions of a store as a file for other programs."""

from __future__ import annotations

import itertools
from datetime import UTC
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.caption_filters import (
    BoxOption,
    CaptionsAsked,
    LikeOption,
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
from pipeline.commands.damage_exit import leave_with_damage
from pipeline.commands.terminal import quiet_pipe, say
from pipeline.core.clock import local_zone
from pipeline.core.errors import UserError
from pipeline.core.output_files import check_output, writing_output
from pipeline.export.interface import exporter_for
from pipeline.query.typed_times import TIME_HELP
from pipeline.query.windows import MaskReading, stream_windows, told_notes, window_rows
from pipeline.store import CaptionStore
from pipeline.store.durable_files import refusal


def export(
    store: Annotated[
        Path, typer.Argument(help="The .zarr directory that `sca run` wrote.", show_default=False)
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
            help="jsonl, csv, parquet, arrow, coco, srt, vtt, or one of an installed package. Told by the file's ending if not given.",
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
    min_similarity: SimilarityOption = 0.8,
    limit: Annotated[int | None, typer.Option(min=0, help="At most this many, earliest first.")] = None,
    utc: Annotated[
        bool, typer.Option("--utc/--local", help="Clock times in UTC, or in this machine's zone.")
    ] = False,
    masks: Annotated[
        bool,
        typer.Option(
            "--masks", help="With each caption's mask, as COCO run lengths; jsonl, parquet, arrow, coco."
        ),
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Write nothing (exit 2) where a file of the store is damaged.")
    ] = False,
) -> None:
    """Write captions as JSON lines, CSV, Parquet, Arrow, COCO objects, SubRip or WebVTT subtitles (times from the stream's start).

    Example: sca export street.zarr street.vtt --min-score 0.5
    """
    exporter = exporter_for(out, output)
    if masks and not getattr(exporter, "holds_masks", False):
        raise UserError(
            f"--masks: {output or out.suffix.removeprefix('.')} holds no masks; write jsonl, parquet, arrow or coco"
        )
    check_output(out, store=store)
    with CaptionStore.open(store, strict=strict) as opened:
        windows = stream_windows(opened, stream, start, end, UTC if utc else local_zone())
        for note in told_notes(windows):
            say(note, error=True)
        if exporter.one_stream and len(windows) > 1:
            streams = "|".join(window.stream for window in windows)
            kind = (output or out.suffix.removeprefix(".")).lower()
            what = "subtitles hold" if kind in ("srt", "vtt") else f"a {kind} file holds"
            raise UserError(f"{what} one stream: choose it with --stream {streams}")
        reading = MaskReading(opened, strict) if masks else None
        if strict:  # nothing is written where something is damaged
            for window in windows:
                opened.verify(window.start, window.end, stream=window.stream)
        asked = CaptionsAsked(
            track, text, word, phrase, regex, without, min_score, box, zone, shot, like_track, min_similarity
        ).filter(opened)
        rows = itertools.islice(window_rows(opened, windows, asked, masks=reading), limit)
        try:
            with quiet_pipe(), writing_output(out) as file:
                exporter.write(rows, file)
        except OSError as error:
            raise refusal(error, out, "write") from error
        leave_with_damage(opened.damage(), reading)
