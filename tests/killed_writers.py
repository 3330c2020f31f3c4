"""A writer that is killed again and again while it commits, merges and archives, and readers beside; a test and a benchmark use it."""

from __future__ import annotations

import multiprocessing
import random
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.store import CaptionStore, Compaction
from tests.store_samples import batch, check_everything, newest_events, write_forever

KEEPING = Compaction(fan_in=4, grace_s=0.5, archive_days=True, housekeeping_s=0.3)
"""Merges and archives all the time: the days of the samples are long over."""
# How long a merge or an archive is waited for before the writer is killed wherever it is.
_PATIENCE_S = 20.0
# Commits without a pause make merges due faster than they are done, and archives come after merges.
_PAUSE_S = 0.03


@dataclass
class Killed:
    """How many kills there were, in which of them a merge, an archive or a commit was left half written, how often a commit was
    durable but not acknowledged, and what the readers did beside."""

    kills: int = 0
    merges: int = 0
    archives: int = 0
    commits: int = 0
    unacknowledged: int = 0
    stored: int = 0
    reads: int = 0
    wrong: list[str] = field(default_factory=list)


def context() -> multiprocessing.context.BaseContext:
    """Processes that have all imports behind them."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(["__main__", "pipeline.store.day_archive", "tests.killed_writers"])
    return made


def last_acknowledged(log: Path) -> int:
    """Number of the last commit that returned; -1 without any. The last line may be cut off."""
    lines = log.read_bytes().split(b"\n")[:-1] if log.exists() else []
    return int(lines[-1]) if lines else -1


def half_written(path: Path) -> set[str]:
    """What temporary files lie in a stream: "merge", "archive", "commit"."""
    found = set()
    for file in (*(path / "streams/cam/hot").glob("*.tmp*"), *(path / "streams/cam/day").glob("*.tmp*")):
        found.add("archive" if file.parent.name == "day" else "commit" if ".L0." in file.name else "merge")
    return found


def look_on(path: Path, log: Path, reads: Any, told: Path) -> None:
    """Read everything again and again, with one store that is held and with new ones, and compare each row, until killed."""
    held, seen = CaptionStore.open(path, strict=True), 0
    try:
        while True:
            acknowledged = last_acknowledged(log)
            for store in (held, CaptionStore.open(path, strict=True)):
                table = store.captions(columns=("track", "t_start", "t_end", "text"))
                count = max(table["track"].to_pylist()) - 99
                assert count >= max(seen, acknowledged + 1), f"{count} of {seen}, {acknowledged + 1}"
                wanted = newest_events([batch(n) for n in range(count)])
                assert table["t_end"].cast(pa.int64()).to_pylist() == [e.end_ns for e in wanted]
                assert table["text"].to_pylist() == [e.text for e in wanted]
                assert "lost" not in store.gaps()["reason"].to_pylist()
                seen = count
                reads.value += 1
    except BaseException:
        told.write_text(traceback.format_exc())
        raise


def killed_writers(
    folder: Path,
    kills: int,
    readers: int = 2,
    say: Callable[[str], None] = lambda _: None,
    seed: int = 20231130,
) -> Killed:
    """Kill a writer `kills` times: every second time anywhere, else inside of a merge or an archive. Asserts after each that all
    rows which were acknowledged are there, each once."""
    moments, processes, tally = random.Random(seed), context(), Killed()
    path, log = folder / "killed.zarr", folder / "acknowledged"
    reads = processes.Value("q", 0)
    told = [folder / f"reader-{n}" for n in range(readers)]
    lookers: list[multiprocessing.process.BaseProcess] = []
    try:
        for number in range(kills):
            before = last_acknowledged(log)
            writer = processes.Process(target=write_forever, args=(path, log, KEEPING, _PAUSE_S))
            writer.start()
            until = time.monotonic() + 120
            while last_acknowledged(log) < before + 1 + moments.randint(0, 12):
                assert writer.is_alive()
                assert time.monotonic() < until
                time.sleep(0.002)
            if not lookers:
                lookers = [processes.Process(target=look_on, args=(path, log, reads, one)) for one in told]
                for looker in lookers:
                    looker.start()
            _await_moment(path, ("any", "merge", "any", "archive")[number % 4], moments)
            writer.kill()
            writer.join()
            writer.close()
            left = half_written(path)
            tally.kills += 1
            tally.merges += "merge" in left
            tally.archives += "archive" in left
            tally.commits += "commit" in left
            with CaptionStore.open(path, strict=True) as store:
                tally.stored = store.resume("cam").frame + 1
                acknowledged = last_acknowledged(log) + 1
                assert tally.stored >= acknowledged, f"{acknowledged} acknowledged, {tally.stored} stored"
                tally.unacknowledged += tally.stored > acknowledged
                check_everything(store, tally.stored)
            say(
                f"kill {tally.kills}: {', '.join(sorted(left)) or 'nothing'} half written, {tally.stored} batches stored"
            )
            tally.wrong = [one.read_text() for one in told if one.exists()]
            assert not tally.wrong, tally.wrong[0]
    finally:
        for looker in lookers:
            looker.kill()
            looker.join()
    tally.reads = int(reads.value)
    return tally


def _await_moment(path: Path, aim: str, moments: random.Random) -> None:
    """Wait until what is aimed at has begun, then a moment more."""
    # A merge of four small segments is over in milliseconds; benchmarks/store_faults.py kills at each of its calls.
    until = time.monotonic() + (2.0 if aim == "merge" else _PATIENCE_S)
    while aim != "any" and aim not in half_written(path) and time.monotonic() < until:
        time.sleep(0.0005)
    time.sleep(moments.uniform(0, 0.25 if aim == "any" else 0.01))
