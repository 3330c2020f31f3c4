"""How fast and how large `sca run` is on real clips, where its time goes, and what a first keyframe waits for: one command, one page.

    python benchmarks/run_speed.py CLIP... [--still FILM] [--demo] [--reference CLIP] [--times 3] [-- OPTIONS OF sca run]

The second run of everything counts: engines are compiled and files are read by a first one that is not timed. `whole`: from the
start of the command to its end, on Ray; `started`: from the first analysed keyframe on; both as multiples of the clip's length.
`first`: seconds until that keyframe. `peak`: the greatest sum of proportional set sizes of all processes, sampled, MiB. `encoder`: the
rate of the run as a share of that of a run which only encodes. Medians of `--times` runs, which take turns over the clips.

Then, inline: the same; a film that stands (`--still`, its length over the whole run); and what a keyframe behind the first takes with
1, 2 and 3 views of the picture. `--demo`: `make demo` for the second time. `--reference`: beside the mask grid with `generate` region by region.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil

from pipeline.commands.run_profile import encoder_share
from pipeline.core.clock import NS
from pipeline.core.stage_times import FOLDER_VARIABLE, RunTimes, TimedStage, read_times
from pipeline.sources import open_source

ROOT = Path(__file__).resolve().parents[1]
SAMPLE_S = 0.25
VIEWS = (0, 1, 2)


@dataclass(frozen=True)
class Run:
    """One run of `sca run`: seconds of the wall clock and of processors, MiB, and where the time went."""

    wall_s: float
    first_s: float
    cpu_s: float
    peak_mib: float
    times: RunTimes

    @property
    def started_s(self) -> float:
        return self.wall_s - self.first_s

    @property
    def keyframe_ms(self) -> float:
        later = self.times.later
        return later.wall_ns / max(later.times, 1) / 1e6

    @property
    def keyframe_cpu_ms(self) -> float:
        later = self.times.later
        return later.cpu_ns / max(later.times, 1) / 1e6


def peak_memory(process: psutil.Process, done: threading.Event, peak: list[int]) -> None:
    """Sample the proportional set size of `process` and all its descendants until `done`; bytes in `peak[0]`."""
    while not done.wait(SAMPLE_S):
        total = 0
        try:
            family = [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for member in family:
            try:
                total += member.memory_full_info().pss
            except psutil.Error:
                continue
        peak[0] = max(peak[0], total)


def run_once(clip: Path, options: Sequence[str], *, memory: bool) -> Run:
    """`sca run` on `clip`. `memory`: sample it, which takes a few hundredths of a processor."""
    with tempfile.TemporaryDirectory() as folder:
        times = Path(folder) / "times"
        times.mkdir()
        command = [
            sys.executable,
            "-m",
            "pipeline.cli",
            "run",
            str(clip),
            "--store",
            f"{folder}/run.zarr",
            "-q",
            *options,
        ]
        environment = {**os.environ, FOLDER_VARIABLE: str(times)}
        begun, begun_ns = time.perf_counter(), time.time_ns()
        process = subprocess.Popen(command, env=environment, cwd=ROOT)
        done, peak = threading.Event(), [0]
        watcher = threading.Thread(target=peak_memory, args=(psutil.Process(process.pid), done, peak))
        if memory:
            watcher.start()
        code = process.wait()
        wall = time.perf_counter() - begun
        done.set()
        if memory:
            watcher.join()
        if code:
            sys.exit(code)
        told = read_times(times)
    cpu = sum(one.cpu_ns for one in told.stages.values()) + told.other_cpu_ns
    return Run(wall, (told.first_ns - begun_ns) / NS, cpu / NS, peak[0] / 2**20, told)


def length_of(clip: Path) -> float:
    source = open_source(str(clip))
    try:
        return (source.info.duration_ns or 0) / NS
    finally:
        source.close()


def measured(clips: Sequence[Path], options: Sequence[str], times: int) -> dict[Path, list[Run]]:
    """`times` runs of each, in turns, so that whatever else the machine does meets all of them; the first gets ready and is dropped."""
    runs: dict[Path, list[Run]] = {clip: [] for clip in clips}
    run_once(clips[0], options, memory=False)
    for turn in range(times):
        for clip in clips:
            runs[clip].append(run_once(clip, options, memory=turn == 0))
    return runs


HEADINGS = (
    "clip",
    "clip_s",
    "wall_s",
    "whole",
    "started",
    "first",
    "keyframe_ms",
    "cpu_s",
    "peak",
    "encoder",
)


def show(title: str, runs: dict[Path, list[Run]]) -> None:
    print(f"\n{title}\n  {HEADINGS[0]:22}" + "".join(f"{name:>12}" for name in HEADINGS[1:]))
    for clip, own in runs.items():
        length, wall = length_of(clip), median(run.wall_s for run in own)
        started = median(run.started_s for run in own)
        share = median(encoder_share(run.times, round(run.wall_s * NS)) for run in own)
        cells = (
            f"{length:.1f}", f"{wall:.1f}", f"{length / wall:.2f}", f"{length / started:.2f}",
            f"{median(run.first_s for run in own):.2f}", f"{median(run.keyframe_ms for run in own):.0f}",
            f"{median(run.cpu_s for run in own):.1f}", f"{max(run.peak_mib for run in own):.0f}", f"{share:.0%}",
        )  # fmt: skip
        print(f"  {clip.stem:22}" + "".join(f"{cell:>12}" for cell in cells), flush=True)
    print("  share of the processors' time: " + ", ".join(shares(runs)), flush=True)


def shares(runs: dict[Path, list[Run]]) -> list[str]:
    every = [run for own in runs.values() for run in own]
    whole = sum(run.cpu_s for run in every) * NS
    told = [
        f"{stage.value} {sum(run.times.stages[stage].cpu_ns for run in every) / whole:.0%}"
        for stage in TimedStage
    ]
    return [*told, f"all else {sum(run.times.other_cpu_ns for run in every) / whole:.0%}"]


def show_views(clip: Path, options: Sequence[str]) -> None:
    """What a keyframe behind the first takes, by the number of its views: the whole picture and windows, without crops."""
    before = 0.0
    print(f"\nA keyframe behind the first, inline, {clip.stem}", flush=True)
    for views in VIEWS:
        run = run_once(
            clip,
            [
                *options,
                "--runtime",
                "inline",
                "--set",
                f"perception.views={views}",
                "--set",
                "perception.closer=0",
            ],
            memory=False,
        )
        more = f", {run.keyframe_ms - before:+.0f} ms for the last one" if views else ""
        print(
            f"  {views + 1} view{'s' * (views > 0)}: {run.keyframe_ms:.0f} ms ({run.keyframe_cpu_ms:.0f} ms of processors){more}",
            flush=True,
        )
        before = run.keyframe_ms


def show_demo() -> None:
    """`make demo` again, where it was made before."""
    subprocess.run(["make", "demo"], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    begun = time.perf_counter()
    done = subprocess.run(["make", "demo"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    print(
        f"\nmake demo, the second time: {time.perf_counter() - begun:.1f} s; its last line: {done.stdout.splitlines()[-1]}"
    )


def main() -> None:
    arguments = sys.argv[1:]
    split = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clips", type=Path, nargs="+", metavar="CLIP")
    parser.add_argument("--still", type=Path, metavar="FILM")
    parser.add_argument("--demo", action="store_true")
    parser.add_argument("--reference", type=Path, metavar="CLIP")
    parser.add_argument("--times", type=int, default=3)
    asked, options = parser.parse_args(arguments[:split]), arguments[split + 1 :]
    clips = [clip.resolve() for clip in asked.clips]
    begun = time.perf_counter()
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}, medians of {asked.times}", flush=True)
    show("On Ray", measured(clips, options, asked.times))
    inline = [*options, "--runtime", "inline"]
    show("Inline", measured(clips[:1], inline, asked.times))
    if asked.still is not None:
        show("Inline, a film that stands", measured([asked.still.resolve()], inline, 1))
    show_views(clips[0], options)
    if asked.demo:
        show_demo()
    if asked.reference is not None:
        print(flush=True)
        command = [
            sys.executable,
            "-m",
            "benchmarks.whole_pipeline_cpu",
            str(asked.reference.resolve()),
            "--reference-keyframes",
            "2",
        ]
        subprocess.run(command, cwd=ROOT, check=True)
    print(f"\nall of it took {time.perf_counter() - begun:.0f} s; load {os.getloadavg()[0]:.1f}", flush=True)


if __name__ == "__main__":
    main()
