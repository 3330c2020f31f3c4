"""CPU seconds until `sca --help` and `sca query` on a small store have answered: the median of five, each a new process.

    python benchmarks/command_line.py [STORE]

Without STORE, one with a hundred captions is made. Modules must have been compiled to bytecode before, as an installation
does: the first round of each, which may do that, is not counted.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from pipeline.core.frame import ClockSource
from pipeline.core.records import Batch, CaptionEvent, ResumePoint
from pipeline.store import CaptionStore, StreamInfo

ROUNDS = 5
NS = 10**9
START = 1_790_000_000 * NS


def small_store(path: Path) -> Path:
    """A store of one stream with a hundred captions in ten commits."""
    with CaptionStore.create(path).writer(
        "cam", StreamInfo("a.mp4", ClockSource.FILE, START, 640, 480)
    ) as writer:
        for number in range(10):
            events = tuple(
                CaptionEvent(n, START + n * NS, START + (n + 1) * NS, n * NS, (n + 1) * NS, n, (0, 0, 9, 9), f"thing {n}", 0.5, -1)
                for n in range(number * 10, number * 10 + 10)
            )  # fmt: skip
            writer.commit(Batch(captions=events, resume=ResumePoint(number * 10 * NS, number * 10)))
    return path


def cpu_seconds(*words: str) -> float:
    """User and system time of one `sca WORDS`."""
    before = os.times()
    command = [sys.executable, "-m", "pipeline.cli", *words]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        store = sys.argv[1] if len(sys.argv) > 1 else str(small_store(Path(folder) / "small.zarr"))
        for words in (("--help",), ("query", store), ("query", store, "--text", "thing")):
            taken = [cpu_seconds(*words) for _ in range(ROUNDS + 1)][1:]
            print(f"sca {' '.join(words).replace(store, 'STORE')}: {statistics.median(taken):.3f} s of CPU")


if __name__ == "__main__":
    main()
