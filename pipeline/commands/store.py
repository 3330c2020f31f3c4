"""`sca store`: look after a store: whether it is whole, what is in it, merge, upgrade, set damaged files aside, erase."""

from __future__ import annotations

import itertools
import os
import shutil
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from pipeline.commands.damage_exit import EXIT_DAMAGED
from pipeline.commands.terminal import PlainConsole, say
from pipeline.core.clock import iso_text, local_zone
from pipeline.core.errors import UserError
from pipeline.query.typed_times import TIME_HELP
from pipeline.query.windows import stream_windows
from pipeline.store import CaptionStore
from pipeline.store.columns import CaptionColumns, ObservationColumns, TrackColumns
from pipeline.store.durable_files import refusal
from pipeline.store.erasing import ErasedRows
from pipeline.store.place import typed_address
from pipeline.store.row_query import StoredSegment
from pipeline.store.segment import SCHEMA
from pipeline.store.segment_name import DAY_LEVEL
from pipeline.store.stream_directory import list_visible
from pipeline.store.stream_writer import keep_numbers
from pipeline.store.text_filter import TextFilter

store = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Look after a store: check, count, merge, upgrade, set damage aside, erase.",
    context_settings={"help_option_names": ["-h", "--help"]},
)

StoreAddress = Annotated[
    str,
    typer.Argument(
        metavar="STORE",
        help="The .zarr directory that `sca run` wrote, or s3://bucket/prefix.",
        show_default=False,
    ),
]
StreamOption = Annotated[str | None, typer.Option("--stream", help="Only this stream.")]


@store.command("check")
def check(path: StoreAddress, stream: StreamOption = None) -> None:
    """Read every byte and tell what is damaged or missing (exit 3).

    Example: sca store check yard.zarr
    """
    with CaptionStore.open(path) as opened:
        damage = opened.verify(stream=stream)
        lost = [
            (name, span)
            for name in ([stream] if stream else opened.streams())
            for span, reason in opened.unwatched(name)
            if str(reason) == "lost"
        ]
    for file in damage:
        say(
            f"{file.path} is damaged ({file.reason}): {iso_text(file.span.start)} to {iso_text(file.span.end)}"
            + (
                "; nothing is missing while what it was merged from is there: set it aside with `sca store repair`"
                if file.covered
                else ""
            )
        )
    for name, span in lost:
        say(f"{name}: files are missing, from {iso_text(span.start)} to {iso_text(span.end)}")
    if damage or lost:
        raise typer.Exit(EXIT_DAMAGED)
    say("Everything is whole.")


@store.command("stats")
def stats(path: StoreAddress, stream: StreamOption = None) -> None:
    """Show how much is stored of each stream, from when to when, and in how many files."""
    columns = ("stream", "captions", "observations", "tracks", "MB", "segments", "archives", "from", "to")
    table = Table(*columns, box=None, pad_edge=False)
    with CaptionStore.open(path) as opened:
        for name in [stream] if stream else opened.streams():
            span, found = opened.span(name), _stats_of(opened, name)
            numbers = (found.captions, found.observations, found.tracks, round(found.bytes / 1e6, 1))
            files = (found.segments, found.archives)
            times = ("", "") if span is None else (iso_text(span.start), iso_text(span.end))
            table.add_row(name, *map(str, (*numbers, *files)), *times)
    PlainConsole(width=160).print(table)


@dataclass(frozen=True, slots=True)
class _Stats:
    """Rows of each table (versions of one event in several segments count as often), files that count, and bytes of all."""

    captions: int
    observations: int
    tracks: int
    segments: int
    archives: int
    bytes: int


def _stats_of(opened: CaptionStore, stream: str) -> _Stats:
    """Of one stream. Damaged segments count as files without rows. Raises `StoreRefused` for an unknown stream."""
    place = opened.place_of_stream(stream)

    def rows(sources: list[StoredSegment]) -> list[int]:
        kinds = (CaptionColumns, ObservationColumns, TrackColumns)
        return [sum(source.count(kind) for source in sources) for kind in kinds]

    captions, observations, tracks = opened.ask_stream(stream, rows)
    names = list_visible(place).segments
    archives = sum(name.level == DAY_LEVEL for name in names)
    size = sum(place.sizes("").values())
    return _Stats(captions, observations, tracks, len(names) - archives, archives, size)


@store.command("compact")
def compact(path: StoreAddress, stream: StreamOption = None) -> None:
    """Merge small segments that are due, and delete what was replaced. Not while a run writes the stream."""
    with CaptionStore.open(path) as opened:
        opened.compact(stream=stream)


@store.command("upgrade")
def upgrade(path: StoreAddress, stream: StreamOption = None) -> None:
    """Write files of an earlier schema anew in this one, so that programs that know only this read all. Not while a run writes.

    Nothing needs it: a store of an earlier schema is read and gone on with as it is.
    """
    with CaptionStore.open(path) as opened:
        count = opened.upgrade(stream=stream)
    say(f"{count} files were written anew as {SCHEMA}." if count else f"Everything is of {SCHEMA} already.")


@store.command("repair")
def repair(
    path: StoreAddress,
    aside: Annotated[
        Path | None, typer.Option(help="Folder for damaged files; next to the store if not given.")
    ] = None,
    stream: StreamOption = None,
) -> None:
    """Move damaged files out of the store, so that what they held counts as lost and the rest is merged again.

    Nothing is deleted: a file that is mended is moved back by hand.
    """
    whole = typed_address(path)
    if not isinstance(whole, Path):
        raise UserError(
            f"{path}: damaged files are set aside on disks only; move what `sca store check` names with the tools of your object store"
        )
    target = aside or whole.with_name(f"{whole.name}.damaged")
    if target.resolve().is_relative_to(whole.resolve()):
        raise UserError(f"{target}: this lies inside the store; choose another folder")
    with CaptionStore.open(path) as opened:
        damage = opened.verify(stream=stream)
        for name in {file.stream for file in damage}:
            keep_numbers(opened.place_of_stream(name))
    for file in damage:
        moved = _free_name(target / Path(file.path).relative_to(whole))
        try:
            moved.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(file.path, moved)
        except OSError as error:
            raise refusal(error, moved, "move a damaged file to") from error
        say(f"{file.path} was moved to {moved} ({file.reason})")
    if not damage:
        say("Everything that is there is whole.")


def _free_name(path: Path) -> Path:
    """The path, or one beside it that nothing lies under: what was set aside before stays."""
    names = (path if number == 0 else path.with_name(f"{path.name}.{number}") for number in itertools.count())
    return next(name for name in names if not os.path.lexists(name))


@store.command("erase")
def erase(
    path: StoreAddress,
    track: Annotated[
        int | None, typer.Option(help="Everything of this track: captions, boxes, masks, embeddings.")
    ] = None,
    start: Annotated[str | None, typer.Option("--from", metavar="TIME", help=TIME_HELP)] = None,
    end: Annotated[
        str | None, typer.Option("--to", metavar="TIME", help="End of the time, as --from.")
    ] = None,
    word: Annotated[
        list[str] | None,
        typer.Option("--word", help="Captions with this word or phrase. Repeatable: all of them."),
    ] = None,
    stream: StreamOption = None,
    utc: Annotated[
        bool, typer.Option("--utc/--local", help="Clock times in UTC, or in this machine's zone.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Take a track, a time or words out of every file of the store, for good. Copies and backups are not touched.

    What is given together must hold together. Not while a run writes the stream.
    Example: sca store erase yard.zarr --stream yard --track 17
    """  # fmt: skip
    if track is None and start is None and end is None and not word:
        raise UserError("say what is to be erased: --track, --from and --to, or --word")
    with CaptionStore.open(path) as opened:
        if track is not None and stream is None and len(opened.streams()) > 1:
            raise UserError("--track: tracks are numbered in each stream; add --stream")
        windows = stream_windows(opened, stream, start, end, UTC if utc else local_zone())
        if not yes:
            typer.confirm(f"Erase from {path} for good?", abort=True)
        texts = TextFilter(phrases=tuple(word)) if word else None
        for window in windows:
            gone = opened.erase(ErasedRows(window.start, window.end, track, texts), stream=window.stream)
            say(f"{window.stream}: {gone} rows erased")
