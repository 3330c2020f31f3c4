"""What a question costs after many restarts of the program that writes: a minute's captions after 10 and after 10,000.

    python -m benchmarks.store_restarts [--restarts 10000]

At each restart a writer claims the stream, commits a second and ends, killed or not makes no difference to what is left; merging goes on as in
a run. The questions go to both stores in turn, so that what else the machine does bears on both alike; medians of processor time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.side_by_side import describe_machine
from pipeline.store import CaptionStore, Compaction
from tests.store_samples import INFO, T0, S, batch

SETTINGS = Compaction(fan_in=60, grace_s=0, enabled=False)
ASKED = 60
MINUTE = 60
"""Both stores hold a whole minute, so that both give the same rows."""


def restarted(path: Path, restarts: int, commits: int) -> CaptionStore:
    """A store of `commits` seconds, written by `restarts` writers one after the other."""
    store = CaptionStore.create(path)
    number = 0
    for restart in range(restarts):
        until = commits * (restart + 1) // restarts
        with store.writer("cam", INFO, compaction=SETTINGS) as writer:
            while number < until:
                writer.commit(batch(number))
                number += 1
                if number % SETTINGS.fan_in == 0:
                    writer.compact()
    return store


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--restarts", type=int, default=10_000)
    options = parser.parse_args()
    print(describe_machine(), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        few = restarted(Path(folder) / "few.zarr", 10, options.restarts)
        many = restarted(Path(folder) / "many.zarr", options.restarts, options.restarts)
        first = T0 + (options.restarts // 2) * S
        for name, held in (("store held open", True), ("store opened anew", False)):
            spent: dict[int, list[float]] = {10: [], options.restarts: []}
            for _ in range(ASKED):
                for restarts, store in ((10, few), (options.restarts, many)):
                    begun = time.process_time()
                    asked = store if held else CaptionStore.open(store.path)
                    rows = asked.captions(first, first + MINUTE * S).num_rows
                    spent[restarts].append(time.process_time() - begun)
                    assert rows >= MINUTE
            a, b = (statistics.median(times) * 1000 for times in spent.values())
            print(
                f"{name}: {a:.2f} ms after 10 restarts, {b:.2f} ms after {options.restarts}: {b / a:.2f} times"
            )
        for store in (few, many):
            left = {
                f.name: len(list(f.iterdir())) for f in (store.path / "streams/cam").iterdir() if f.is_dir()
            }
            print(store.path.name, left)


if __name__ == "__main__":
    main()
