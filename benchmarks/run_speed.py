"""How fast `sca run` is on real clips, and how much memory its processes take together.

    python benchmarks/run_speed.py CLIP... [-- OPTIONS OF sca run]

Columns: `clip_s` length; `wall_s` from start to the last line, so with the start of Ray and the model; `real` clip_s over
wall_s; `peak_MiB` the greatest sum of proportional set sizes of all processes, sampled; counts as the progress bar ends.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from pipeline.core.clock import NS
from pipeline.sources import open_source
from pipeline.store import CaptionStore

SAMPLE_S = 0.5


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


def main() -> None:
    arguments = sys.argv[1:]
    split = arguments.index("--") if "--" in arguments else len(arguments)
    clips, options = [Path(clip) for clip in arguments[:split]], arguments[split + 1 :]
    print(f"{'clip':24} clip_s wall_s  real peak_MiB observations tracks events", flush=True)
    for clip in clips:
        source = open_source(str(clip))
        length = (source.info.duration_ns or 0) / NS
        source.close()
        with tempfile.TemporaryDirectory() as folder:
            store = Path(folder) / "run.zarr"
            command = [
                sys.executable,
                "-m",
                "pipeline.cli",
                "run",
                str(clip),
                "--store",
                str(store),
                "-q",
                *options,
            ]
            begun = time.perf_counter()
            process = subprocess.Popen(command)
            done, peak = threading.Event(), [0]
            watcher = threading.Thread(target=peak_memory, args=(psutil.Process(process.pid), done, peak))
            watcher.start()
            code = process.wait()
            wall = time.perf_counter() - begun
            done.set()
            watcher.join()
            if code:
                sys.exit(code)
            with CaptionStore.open(store) as opened:
                rows, tracks = opened.observations().num_rows, opened.tracks().num_rows
                events = opened.captions().num_rows
        print(
            f"{clip.stem:24} {length:6.1f} {wall:6.1f} {length / wall:5.2f} {peak[0] / 2**20:8.0f} "
            f"{rows:12} {tracks:6} {events:6}",
            flush=True,
        )


if __name__ == "__main__":
    main()
