"""`sca query --follow`: what is stored from now on, as it comes."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from datetime import tzinfo
from enum import StrEnum
from pathlib import Path

import typer

from pipeline.commands.damage_exit import leave_with_damage
from pipeline.commands.terminal import quiet_pipe, say
from pipeline.core.clock import to_datetime
from pipeline.core.errors import UserError
from pipeline.core.leaving import asked_to_stop
from pipeline.core.output_files import check_output, writing_output
from pipeline.core.shown_text import json_text, shown
from pipeline.export.csv import csv_lines
from pipeline.query.rows import CaptionRow
from pipeline.query.windows import MaskReading, caption_row, stream_windows, told_notes
from pipeline.store import CaptionStore
from pipeline.store.durable_files import read_regular, refusal
from pipeline.store.feed import CaptionFeed, NewCaption, NewGap
from pipeline.store.row_filter import RowFilter

POLL_S = 0.5
# So many rows are told before the cursor is written again: at most these come twice when the program is killed.
_BATCH = 1000
_MOST_CURSOR_BYTES = 16 << 20


class FollowedFormat(StrEnum):
    """How rows are told."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def follow_store(
    store: CaptionStore,
    streams: Sequence[str] | None,
    start: str | None,
    asked: RowFilter,
    zone: tzinfo,
    output: FollowedFormat,
    limit: int | None,
    cursor: Path | None,
    masks: bool,
) -> None:
    """Tell each caption that matches once, and on stderr each gap, until Ctrl-C (exit 130) or `limit`.

    `cursor`: a file that tells where to go on, and is kept up to date; "-": lines of the output, {"cursor": ...}, each behind
    what it covers. Raises `UserError` for one that cannot be read.
    """
    printed = cursor is not None and str(cursor) == "-"
    if printed and output is not FollowedFormat.JSON:
        raise UserError("--cursor -: cursors are lines of JSON; add --format json, or name a file")
    known = None
    if cursor is not None and not printed:
        check_output(cursor, store=store.path)
        known = _read_cursor(cursor)
    windows = stream_windows(store, streams, start, None, zone) if start is not None else []
    for note in told_notes(windows):
        say(note, error=True)
    if len({window.start for window in windows}) > 1:
        raise UserError(
            f"--from {start} is another moment in each stream: choose one with --stream, or give a clock time"
        )
    feed = store.follow(
        windows[0].start if windows else (0 if start is not None else None),
        stream=list(streams or ()),
        wanted=asked,
        cursor=known,
        masks=masks,
    )
    reading = MaskReading(store) if masks else None
    told = _Told(store, feed, output, zone, limit, reading)
    stop: list[bool] = []
    with quiet_pipe(), asked_to_stop(lambda: stop.append(True)):
        told.begin()
        while not told.enough:
            if told.tell_some(stop) or told.cursor_due:
                told.cursor_due = False
                _write_cursor(feed, cursor, printed)
            elif stop:
                break
            else:
                time.sleep(POLL_S)
            if stop:
                break
    leave_with_damage(store.damage(), reading)
    if stop:
        say(f"Stopped after {told.count} {'caption' if told.count == 1 else 'captions'}.", error=True)
        raise typer.Exit(130)


class _Told:
    """Prints what the feed tells. `count`: of captions."""

    def __init__(
        self,
        store: CaptionStore,
        feed: CaptionFeed,
        output: FollowedFormat,
        zone: tzinfo,
        limit: int | None,
        masks: MaskReading | None,
    ) -> None:
        self._store, self._feed, self._output, self._zone = store, feed, output, zone
        self._limit, self._masks = limit, masks
        self._starts: dict[str, int] = {}
        self.count = 0
        self.cursor_due = True

    @property
    def enough(self) -> bool:
        return self._limit is not None and self.count >= self._limit

    def begin(self) -> None:
        if self._output is FollowedFormat.CSV:
            sys.stdout.writelines(csv_lines([]))
            sys.stdout.flush()

    def tell_some(self, stop: Sequence[int]) -> bool:
        """Print a batch of what is new, whole lines. Whether there was any."""
        items = 0
        for item in self._feed.poll():
            items += 1
            if isinstance(item, NewGap):
                say(_gap_line(item, self._zone), error=True)
            else:
                sys.stdout.write(self._line(item))
                self.count += 1
            if items >= _BATCH or self.enough or stop:
                break
        sys.stdout.flush()
        return bool(items)

    def _line(self, item: NewCaption) -> str:
        row = caption_row(self._start_of(item), item.stream, item.event, item.shot, self._masks)
        if self._output is FollowedFormat.JSON:
            return json_text(row.document()) + "\n"
        if self._output is FollowedFormat.CSV:
            return list(csv_lines([row]))[-1]
        return _plain_line(row, self._zone)

    def _start_of(self, item: NewCaption) -> int:
        if item.stream not in self._starts:
            self._starts = {name: info.start_wall_ns for name, info in self._store.streams().items()}
        return self._starts.get(item.stream) or item.event.start_ns


def _plain_line(row: CaptionRow, zone: tzinfo) -> str:
    clock = f"{to_datetime(row.start_ns, zone):%Y-%m-%d %H:%M:%S}"
    return f"{clock}  {shown(row.stream)}  {row.track:>5}  {row.score:.2f}  {shown(row.text)}\n"


def _gap_line(gap: NewGap, zone: tzinfo) -> str:
    first, last = (f"{to_datetime(t, zone):%Y-%m-%d %H:%M:%S %Z}" for t in (gap.span.start, gap.span.end))
    return f"{gap.stream}: not told or not watched from {first} to {last} ({gap.reason})"


def _read_cursor(path: Path) -> str | None:
    """The cursor in a file; None where there is no file yet."""
    try:
        text = read_regular(path, _MOST_CURSOR_BYTES).decode()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise UserError(f"{path} is no cursor: give another file, or delete it to begin now") from None
    except OSError as error:
        raise refusal(error, path, "read the cursor") from error
    if not text.strip():  # cut off, perhaps by a full disk: to begin now would leave out what came since
        raise UserError(
            f"{path} is empty, so it does not tell where to go on: restore it, or delete it to begin now"
        )
    return text


def _write_cursor(feed: CaptionFeed, path: Path | None, printed: bool) -> None:
    if path is None:
        return
    if printed:
        sys.stdout.write(json.dumps({"cursor": json.loads(feed.cursor)}) + "\n")
        sys.stdout.flush()
        return
    try:
        with writing_output(path) as file:
            file.write(feed.cursor.encode() + b"\n")
    except OSError as error:
        raise refusal(error, path, "write the cursor") from error
