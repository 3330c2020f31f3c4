"""What `sca run` shows: a progress bar while it runs, the strongest captions at the end."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from pipeline.core.clock import NS, local_zone
from pipeline.core.shown_once import shown_once
from pipeline.core.shown_text import shown
from pipeline.query.rows import CaptionRow, coalesce
from pipeline.query.typed_times import clock_texts, offset_text
from pipeline.query.windows import stream_windows, window_rows
from pipeline.runtime.plan import RunPlan
from pipeline.runtime.progress import StreamProgress
from pipeline.store import CaptionStore

STRONGEST = 12
# So many times as many captions are compared, since some of them are of one thing.
_DOUBLES = 8
_MIN_SPEED_S = 0.5


def speed_text(watched_ns: int, elapsed_s: float) -> str:
    """Stream time over wall time as `1.7x`; empty before it means anything."""
    return f"{watched_ns / NS / elapsed_s:.1f}x" if elapsed_s >= _MIN_SPEED_S and watched_ns > 0 else ""


class RunDisplay:
    """One bar a stream: frames, regions, captions, captions avoided, and speed as a multiple of real time.

    `clock`: seconds, steady. Speed counts from the first result, since starting up says nothing about it.
    """

    def __init__(self, console: Console, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._tasks: dict[str, TaskID] = {}
        self._begun: dict[str, tuple[float, int]] = {}
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[counts]}", markup=False),
            TimeElapsedColumn(),
            console=console,
            disable=console.quiet,
            transient=False,
        )
        self._starting = self._bar.add_task("loading the model", total=None, counts="")

    def __enter__(self) -> RunDisplay:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._starting in self._bar.task_ids:
            self._bar.remove_task(self._starting)
        self._bar.stop()

    def update(self, now: StreamProgress) -> None:
        if self._starting in self._bar.task_ids:
            self._bar.remove_task(self._starting)
        task = self._tasks.get(now.stream)
        if task is None:
            total = now.duration_ns / NS if now.duration_ns else None
            task = self._tasks[now.stream] = self._bar.add_task(shown(now.stream), total=total, counts="")
            self._begun[now.stream] = (self._clock(), now.position_ns)
        begun, position = self._begun[now.stream]
        done = now.duration_ns if now.finished and now.duration_ns else now.position_ns
        self._bar.update(
            task,
            completed=done / NS,
            counts=counts_text(now, speed_text(now.position_ns - position, self._clock() - begun)),
        )


def counts_text(now: StreamProgress, speed: str) -> str:
    """The numbers beside the bar."""
    parts = [
        f"{now.frames} frames",
        f"{now.regions} regions",
        f"{now.captions} captions",
        f"{now.avoided.captions} avoided",
    ]
    if now.corrupt:
        parts.append(f"{now.corrupt} damaged")
    if now.dropped:
        parts.append(f"{now.dropped} dropped")
    if now.reconnects:
        parts.append(f"{now.reconnects} reconnects")
    if now.restarts:
        parts.append(f"{now.restarts} restarts")
    return ", ".join(parts) + (f", {speed}" if speed else "")


def strongest(rows: list[CaptionRow], count: int) -> list[CaptionRow]:
    """The surest caption of each text and stream, at most `count`, in order of time; what is there at once, once."""
    best: dict[tuple[str, str], CaptionRow] = {}
    for row in rows:
        key = (row.stream, row.text)
        if key not in best or row.score > best[key].score:
            best[key] = row
    several = sorted(best.values(), key=lambda row: -row.score)[: count * _DOUBLES]
    stream = np.array([row.stream for row in several])
    start, end = (np.array([getattr(row, name) for row in several]) for name in ("start_ns", "end_ns"))
    at_once = (stream[:, None] == stream) & (start[:, None] <= end) & (start <= end[:, None])
    boxes = np.array([row.box for row in several], np.float64).reshape(-1, 4)
    kept = shown_once(boxes, [row.text for row in several], [row.score for row in several], at_once)
    top = [several[index] for index in kept[:count]]
    return sorted(top, key=lambda row: row.start_ns)


def nothing_captioned(regions: int, store: Path | str) -> str:
    """Why a run ended without captions. `regions`: how many it stored."""
    if regions:
        return (
            f"No captions: {store} holds {regions} regions, and the language model found words for none of them. "
            "They are unlike what it was trained on, or too small."
        )
    return (
        f"No region was found, so {store} holds none and no captions: the pictures are empty, dark or blurred, or show "
        "nothing that the model tells from its background. If they are not, try --preset quality."
    )


def show_result(plan: RunPlan, console: Console) -> None:
    """Print the strongest captions of the run's streams, and the query to try next."""
    names = {stream.stream for stream in plan.streams}
    zone = local_zone()
    with CaptionStore.open(plan.store) as store:
        windows = [w for w in stream_windows(store, None, None, None, zone) if w.stream in names]
        rows = coalesce(window_rows(store, windows))
        regions = 0 if rows else sum(len(store.observations(stream=window.stream)) for window in windows)
    store_text = shlex.quote(str(plan.store))
    if not rows:
        console.print(nothing_captioned(regions, plan.store), soft_wrap=True)
        return
    display = plan.config.display
    least = display.min_score
    sure = [row for row in rows if row.score >= least]
    chosen = strongest(sure or rows, STRONGEST)
    several = len(names) > 1
    columns = (["stream"] if several else []) + ["at", "clock", "lasts", "track", "caption", "score"]
    table = Table(*columns, box=None, pad_edge=False)
    clocks = clock_texts([row.start_ns for row in chosen], zone)
    for row, clock in zip(chosen, clocks, strict=True):
        cells = [
            offset_text(row.start_s),
            clock,
            f"{row.end_s - row.start_s:.1f} s",
            str(row.track),
            display.words(row.text, row.score),
            f"{row.score:.2f}",
        ]
        table.add_row(*(shown(cell) for cell in ([row.stream] if several else []) + cells))
    console.print(table)
    unsure = len(rows) - len(sure)
    console.print(
        f"{len(rows)} caption events in {plan.store}, {unsure} of them unsure (below {least:g}).",
        soft_wrap=True,
    )
    sample = max(chosen, key=lambda row: row.score)
    first, last = max(0, int(sample.start_s)), int(sample.end_s) + 1
    console.print(
        f"Try: {program_name()} query {store_text} --from {first}s --to {last}s --min-score {least:g}",
        soft_wrap=True,
    )


def program_name() -> str:
    """What to type to start this program again from here: `sca`, or its path where the shell would not find it."""
    started = Path(sys.argv[0])
    found = shutil.which("sca")
    if found is not None and started.exists() and Path(found).samefile(started):
        return "sca"
    if not os.access(started, os.X_OK) or started.suffix == ".py":
        return "sca"
    here = Path(os.path.relpath(started))
    return shlex.quote(str(here if ".." not in here.parts else started.resolve()))
