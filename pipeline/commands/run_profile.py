"""`sca run --profile`: where the time of the run went, by stage."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from pipeline.core.clock import NS
from pipeline.core.stage_times import RunTimes, StageTime, TimedStage, begin, end, read_times

_MS = 10**6


@contextmanager
def profiled(console: Console) -> Iterator[None]:
    """Count while the block runs, in this process and those that it starts here, and print where the time went, however it ends."""
    begun_ns = time.time_ns() - age_ns()
    with tempfile.TemporaryDirectory(prefix="sca-times-", ignore_cleanup_errors=True) as folder:
        begin(Path(folder))
        try:
            yield
        finally:
            end()
            times = read_times(Path(folder))
            console.print(times_table(times, time.time_ns() - begun_ns))
            for line in keyframe_lines(times, begun_ns, time.time_ns()):
                console.print(line, soft_wrap=True, highlight=False)


def age_ns() -> int:
    """Since when this process has been there, to a hundredth of a second where the kernel tells."""
    try:
        started = float(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return round((time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")) * NS)
    except (OSError, AttributeError, ValueError):
        return round(time.time() * NS - psutil.Process().create_time() * NS)


def times_table(times: RunTimes, whole_ns: int) -> Table:
    """A row a stage. `whole_ns`: from the command to the end of the run, of which the shares of the wall clock are."""
    cpu_ns = sum(time.cpu_ns for time in times.stages.values()) + times.other_cpu_ns
    table = Table("stage", box=None, pad_edge=False)
    for name in ("wall s", "share", "CPU s", "share", "times", "ms each"):
        table.add_column(name, justify="right")
    for stage, taken in times.stages.items():
        table.add_row(stage.value, *_cells(taken, whole_ns, cpu_ns))
    table.add_row(
        "all else", "", "", f"{times.other_cpu_ns / NS:.2f}", _share(times.other_cpu_ns, cpu_ns), "", ""
    )
    table.add_row("the run", f"{whole_ns / NS:.2f}", "", f"{cpu_ns / NS:.2f}", "", "", "")
    return table


def keyframe_lines(times: RunTimes, begun_ns: int, ended_ns: int) -> list[str]:
    """The first keyframe, those after it, and how near the run came to one that does nothing but encode."""
    lines = []
    if times.first_ns:
        lines.append(
            f"First keyframe analysed {(times.first_ns - begun_ns) / NS:.2f} s after the command began."
        )
    if times.later.times:
        later, count = times.later, times.later.times
        lines.append(
            f"The {count} after it took {later.wall_ns / count / _MS:.0f} ms each ({later.cpu_ns / count / _MS:.0f} ms of processors)."
        )
    encoder = encoder_share(times, ended_ns - begun_ns)
    lines.append(
        f"{encoder:.0%} of the rate of the encoder alone. Stages of several processes run side by side."
    )
    return lines


def encoder_share(times: RunTimes, whole_ns: int) -> float:
    """The rate of the run as a share of that of a run which encodes the same pictures on all processors and does nothing else."""
    return times.stages[TimedStage.ENCODE].cpu_ns / (whole_ns * (os.cpu_count() or 1))


def _cells(taken: StageTime, whole_ns: int, cpu_ns: int) -> list[str]:
    return [
        f"{taken.wall_ns / NS:.2f}",
        _share(taken.wall_ns, whole_ns),
        f"{taken.cpu_ns / NS:.2f}",
        _share(taken.cpu_ns, cpu_ns),
        str(taken.times),
        f"{taken.wall_ns / taken.times / _MS:.1f}" if taken.times else "",
    ]


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else ""
