"""`sca run`: from a video to a store of captions."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from pipeline.commands.log_format import LogFormat, run_logs
from pipeline.commands.terminal import LastingOutput, PlainConsole
from pipeline.core.errors import UserError
from pipeline.core.leaving import asked_to_stop

if TYPE_CHECKING:
    from pipeline.runtime.model_loading import EarlyModel
    from pipeline.runtime.plan import RunPlan
    from pipeline.runtime.progress import RunObserver, StopRequest, StreamProgress

log = logging.getLogger(__name__)


def run(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Video files, pictures, folders and globs of them, rtsp:// or http:// addresses, 0 for a webcam, "
            "or a YAML list of them. ${NAME} and ${file:PATH} in an address are filled in from the environment and files.",
        ),
    ],
    store: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Where to write, or s3://bucket/prefix. Default: the input's name with .zarr, in this directory.",
        ),
    ] = None,
    preset: Annotated[
        str, typer.Option(help="Settings to start from: a name in configs/, or a YAML file.")
    ] = "default",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting: keyframes.interval_s=1"),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A name from `sca models list`, or a checkpoint directory.")
    ] = None,
    annotate: Annotated[
        Path | None,
        typer.Option(metavar="OUT.mp4", help="Also write the video with masks and captions drawn in."),
    ] = None,
    draw: Annotated[
        str | None, typer.Option(help="What --annotate draws of a region: masks (default), boxes or both.")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(metavar="ISO", help="Wall clock of a file's 0:00. Default: the file's own date."),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            help="Pictures a second of files without a clock (raw .h264, .hevc, .m4v). Default: as they say, or 25."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the stream in the store. Default: from the input.")
    ] = None,
    track: Annotated[
        int | None,
        typer.Option(
            min=1, help="Which video track of a file, from 1. Default: the film, no cover or preview."
        ),
    ] = None,
    runtime: Annotated[
        str | None, typer.Option(help="ray (default) or inline: everything in one process.")
    ] = None,
    address: Annotated[str | None, typer.Option(help="An existing Ray cluster to run on.")] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Serve /metrics, /healthz and /readyz on this port; 0: any free one."
        ),
    ] = None,
    metrics_address: Annotated[
        str, typer.Option(help="Where to listen for them; 0.0.0.0 or ::: from other machines too.")
    ] = "127.0.0.1",
    log_format: Annotated[
        LogFormat, typer.Option(help="json: one object a line on stderr, and no progress bar.")
    ] = LogFormat.TEXT,
    profile: Annotated[
        bool,
        typer.Option(
            "--profile", help="Print at the end where the time went: starting, decoding, encoding, ..."
        ),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar, no table.")] = False,
) -> None:
    """Caption every region of a video and store when each was seen.

    Run the same command again to go on where a run was stopped; Ctrl-C stops after what is in flight.

    Examples:

    sca run street.mp4 --annotate street_captions.mp4

    sca run rtsp://camera/stream --store yard.zarr --preset live

    sca run 'clips/*.mp4' --store clips.zarr --set keyframes.interval_s=1

    sca run cams.yaml --store site.zarr --preset live --metrics-port 9464
    """
    changes: dict[str, Any] = {
        "runtime.kind": runtime,
        "runtime.address": address,
        "model": model,
        "sources.track": track,
        "sources.rate": rate,
        "display.draw": draw,
    }
    given = {key: value for key, value in changes.items() if value is not None}
    quiet = quiet or log_format is LogFormat.JSON
    # Whoever reads the progress may go (`| head -1`, a closed window): what is recorded is worth more.
    console = PlainConsole(quiet=quiet, file=LastingOutput(sys.stdout))
    # On a terminal something moves before the libraries that follow are there, which takes a second.
    with console.status("opening"), run_logs(log_format, console):
        from pipeline.core.clock import NS, iso_ns
        from pipeline.core.output_files import check_output
        from pipeline.settings.stream_list import stream_requests
        from sca.model_names import find_model

        config, requests = stream_requests(inputs, preset=preset, settings=settings or [], changes=given)
        find_model(config.model)
        if config.runtime.kind == "ray":
            from pipeline.runtime.on_ray.reachable import check_names, check_ray

            check_ray(config.runtime)
            typed = [config.model, str(store or ""), name or "", preset, os.getcwd(), *(settings or [])]
            check_names([*typed, *(request.uri for request in requests)])
        if config.runtime.address is None and config.runtime.device not in ("auto", "cpu"):
            from engines.devices import probe

            probe(config.runtime.device)
        if annotate is not None:
            check_annotation([request.uri for request in requests], annotate)
        early = None
        if config.runtime.kind == "inline" and config.runtime.engine != "eager":
            from pipeline.runtime.model_loading import EarlyModel

            early = EarlyModel(config)
        from pipeline.runtime.plan import plan_run
        from pipeline.store.place import typed_address

        start_ns = None if start is None else iso_ns(start)
        at = None if store is None else typed_address(store)
        plan = plan_run(requests, config, store=at, start_ns=start_ns, name=name)
        if annotate is not None:
            check_output(annotate, store=plan.store)
        for stream in plan.streams:
            for notice in stream.source.notices:
                log.warning("%s: %s", stream.stream, notice)
    for stream in plan.streams:
        if stream.complete:
            console.print(f"{stream.stream}: complete in {plan.store}, nothing to do", soft_wrap=True)
        elif stream.resume.pts_ns >= 0:
            console.print(f"{stream.stream}: going on at {stream.resume.pts_ns / NS:.1f} s", soft_wrap=True)
    with ExitStack() as during:
        during.enter_context(run_logs(log_format, console))
        if profile:
            from pipeline.commands.run_profile import profiled

            during.enter_context(profiled(PlainConsole(file=console.file)))
        stopped = _execute(plan, early, console, metrics_port, metrics_address)
    if stopped:
        console.print(
            f"Stopped. Everything so far is in {plan.store}; run the same command to go on.", soft_wrap=True
        )
        raise typer.Exit(130)
    if annotate is not None:
        from pipeline.commands.run_steps import annotate_run

        annotate_run(plan, annotate, console)
    if not quiet:
        from pipeline.commands.run_report import show_result

        show_result(plan, console)


def check_annotation(inputs: list[str], output: Path) -> None:
    """Raise `UserError` when an annotated video of `inputs` cannot be written to `output`."""
    from pipeline.core.output_files import check_output
    from pipeline.sources.addresses import is_webcam

    if len(inputs) != 1 or "://" in inputs[0] or is_webcam(inputs[0]):
        raise UserError(f"--annotate {output}: it needs exactly one input, and a file")
    if output.suffix.lower() not in {".mp4", ".mkv", ".mov"}:
        raise UserError(f"--annotate {output}: the name must end in .mp4, .mkv or .mov")
    if not output.parent.is_dir():
        raise UserError(f"--annotate {output}: there is no directory {output.parent}; make it first")
    try:
        check_output(output, source=inputs[0])
    except UserError as error:
        raise UserError(f"--annotate {error}") from None


def _execute(
    plan: RunPlan, early: EarlyModel | None, console: Console, port: int | None, address: str
) -> bool:
    """Run what is left of the plan. Returns whether it was stopped before the end."""
    from dataclasses import replace

    from pipeline.commands.run_report import RunDisplay
    from pipeline.commands.run_steps import engines_for
    from pipeline.runtime.progress import Observers, ProgressOnly, StopRequest

    todo = tuple(stream for stream in plan.streams if not stream.complete)
    if not todo:
        if plan.away:
            raise UserError("; ".join(str(one.why) for one in plan.away))
        return False
    stop = StopRequest()
    with ExitStack() as during:
        observers: list[RunObserver] = []
        if port is not None:
            observers += during.enter_context(_served(plan, console, port, address))
        plan = engines_for(replace(plan, streams=todo), console)
        during.enter_context(asked_to_stop(stop.set))
        display = during.enter_context(RunDisplay(console, time.monotonic))
        progress = _run(plan, early, Observers(ProgressOnly(display.update), *observers), stop)
    return stop.is_set and not all(stream.finished for stream in progress)


@contextmanager
def _served(plan: RunPlan, console: Console, port: int, address: str) -> Iterator[list[RunObserver]]:
    """Metrics and health over HTTP, fed by the observers that are yielded."""
    from pipeline.serving.health import Health, health_server
    from pipeline.serving.metrics import RunMetrics

    metrics, health = RunMetrics(), Health(plan.config.runtime.stall_deadline_s)
    with health_server(address, port, metrics, health) as actual:
        log.info("metrics on port %d", actual)
        host = f"[{address}]" if ":" in address and "[" not in address else address
        console.print(f"Metrics: http://{host}:{actual}/metrics", soft_wrap=True)
        yield [metrics, health]


def _run(
    plan: RunPlan, early: EarlyModel | None, observer: RunObserver, stop: StopRequest
) -> list[StreamProgress]:
    if plan.config.runtime.kind == "inline":
        from pipeline.runtime.inline import run_inline

        return run_inline(plan, observer, stop, None if early is None else early.taken())
    from pipeline.runtime.on_ray.driver import run_on_ray

    return run_on_ray(plan, observer, stop)
