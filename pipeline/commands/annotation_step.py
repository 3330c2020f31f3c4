"""The last step of `sca run --annotate`: the video with its captions drawn in."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from pipeline.annotate import track_paths, write_annotated
from pipeline.run_plan import RunPlan
from pipeline.sources import open_source
from pipeline.store import CaptionStore

# Boxes are carried over this many of the longest keyframe intervals.
_GAP_INTERVALS = 1.5


def annotate_run(plan: RunPlan, output: Path, console: Console) -> None:
    """Write the annotated video of a run with one stream."""
    (stream,) = plan.streams
    with CaptionStore.open(plan.store) as store:
        paths = track_paths(store, stream.stream)
    source = open_source(
        stream.uri, stream=stream.stream, start_ns=stream.start_ns, options=stream.config.sources
    )
    bar = Progress(
        TextColumn("drawing {task.description}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        console=console,
        disable=console.quiet,
    )
    try:
        with bar:
            total = stream.source.duration_ns
            task = bar.add_task(output.name, total=total / 1e9 if total else None)
            write_annotated(
                source,
                paths,
                output,
                max_gap_s=stream.config.keyframes.max_interval_s * _GAP_INTERVALS,
                display=stream.config.display,
                on_frame=lambda pts_ns: bar.update(task, completed=pts_ns / 1e9),
            )
            if total:
                bar.update(task, completed=total / 1e9)
    finally:
        source.close()
    console.print(f"Captions drawn into {output}", soft_wrap=True)
