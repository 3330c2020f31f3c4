"""The step of `sca run` that compiles the model for this machine, where that was not done before."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.status import Status
from rich.text import Text

from engines.preparation import EngineRequest, PreparationFailed, find_prepared, prepare
from pipeline.core.clock import NS
from pipeline.core.shown_text import shown
from pipeline.runtime.plan import RunPlan
from pipeline.sources import open_source
from pipeline.sources.standing import StandingPictures
from pipeline.store import CaptionStore

# Before a run: the model's engines are there, and its streams say what computes them.

log = logging.getLogger(__name__)
EAGER = "eager"


def with_engines(plan: RunPlan, report: Callable[[str], None]) -> RunPlan:
    """The plan, with engines built for this machine if they are wanted and missing.

    `report` takes lines of progress, none if there is nothing to build. Where nothing can be built, the run computes
    eagerly and says why. On a cluster elsewhere (`runtime.address`) each node builds for itself.
    """
    runtime = plan.config.runtime
    if runtime.engine == EAGER:
        return _noted(plan, "all model stages: eager")
    if runtime.address:
        return plan
    request = EngineRequest(plan.config.model, runtime.device, runtime.engine)
    prepared = find_prepared(request)
    if prepared is None:
        try:
            prepared = prepare(request, report)
        except PreparationFailed as error:
            log.warning("engines could not be built, the model is computed eagerly: %s", error)
            report(f"not built, going on without: {error}")
            eager = plan.config.model_copy(update={"runtime": runtime.model_copy(update={"engine": EAGER})})
            return _noted(replace(plan, config=eager), f"all model stages: eager ({error})")
    for line in prepared.origin:
        log.info("%s", line)
    return _noted(plan, "; ".join(prepared.origin))


def _noted(plan: RunPlan, engines: str) -> RunPlan:
    streams = tuple(replace(stream, info=replace(stream.info, engines=engines)) for stream in plan.streams)
    return replace(plan, streams=streams)


# The last step of `sca run --annotate`: the video with its captions drawn in.

# Boxes are carried over this many of the longest keyframe intervals.
_GAP_INTERVALS = 1.5


def annotate_run(plan: RunPlan, output: Path, console: Console) -> None:
    """Write the annotated video of a run with one stream."""
    from pipeline.drawing.annotate import track_paths, write_annotated

    (stream,) = plan.streams
    with CaptionStore.open(plan.store) as store:
        paths = track_paths(store, stream.stream)
    source = StandingPictures(
        open_source(stream.uri, stream=stream.stream, start_ns=stream.start_ns, options=stream.config.sources)
    )
    bar = Progress(
        TextColumn("drawing {task.description}", markup=False),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        console=console,
        disable=console.quiet,
    )
    try:
        with bar:
            total = stream.source.duration_ns
            task = bar.add_task(shown(output.name), total=total / NS if total else None)
            write_annotated(
                source,
                paths,
                output,
                max_gap_s=stream.config.keyframes.max_interval_s * _GAP_INTERVALS,
                display=stream.config.display,
                on_frame=lambda pts_ns: bar.update(task, completed=pts_ns / NS),
            )
            if total:
                bar.update(task, completed=total / NS)
    finally:
        source.close()
    console.print(f"Captions drawn into {output}", soft_wrap=True)


def engines_for(plan: RunPlan, console: Console, clock: Callable[[], float] = time.monotonic) -> RunPlan:
    """The plan with its engines ready. The first time, progress is shown from the first second on."""
    begun = clock()
    status: Status | None = None
    with ExitStack() as during:

        def report(line: str) -> None:
            nonlocal status
            if status is None:
                console.print(
                    "Compiling the model for this machine: once, in a minute or two. "
                    "Every compiled part is checked against the model itself.",
                    soft_wrap=True,
                )
                status = during.enter_context(console.status("starting"))
            seconds = f"{clock() - begun:4.0f} s  {line}"
            status.update(Text(shown(seconds)))
            if not console.is_terminal:
                console.print(seconds, soft_wrap=True, highlight=False)

        ready = with_engines(plan, report)
    if status is not None and ready.config.runtime.engine == EAGER:
        console.print(
            "The model computes uncompiled, more slowly; the next start tries again.", soft_wrap=True
        )
    elif status is not None:
        console.print(f"Compiled in {clock() - begun:.0f} s; the next start finds it ready.", soft_wrap=True)
    return ready
