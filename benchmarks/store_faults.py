"""A store under errors and kills that the kernel makes: at each system call of committing, merging, archiving, forgetting and erasing.

    apt install strace
    python -m benchmarks.store_faults [--most 1000] [--kinds errors kills]

One process works, another looks. `strace` lets the worker's n-th call of a kind fail (EIO, ENOSPC, EACCES) or kills it there with
SIGKILL, for every kind of call that the work makes and every n. After each commit, and at the end, all rows are compared: what was
acknowledged is what is read. After a kill the next writer goes on, finishes the work, and all rows are compared again. Ends
with an error for the first that differ. Each call of a commit and of a merge are some 300 places and two runs or three at each: minutes; archiving
makes 7,000 calls, so give `--most 12` for it.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import logging
import mmap
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from tqdm import tqdm

import pipeline.store.day_archive  # noqa: F401 - loaded before the workers are forked
from pipeline.core.clock import DAY_NS
from pipeline.core.errors import StoreRefused
from pipeline.store import CaptionStore, Compaction, StreamWriter
from pipeline.store.erasing import ErasedRows
from tests.store_samples import INFO, T0, batch, check_everything, filled_store

# Calls of a file system. What else the worker calls (memory, clocks, threads) touches no store.
FILE_CALLS = (
    "openat", "open", "read", "pread64", "write", "pwrite64", "writev", "fsync", "fdatasync", "rename", "renameat", "renameat2",
    "link", "unlink", "unlinkat", "rmdir", "mkdir", "mkdirat", "newfstatat", "stat", "fstat", "statx", "lstat", "lseek", "ftruncate",
    "getdents64", "close", "flock", "fcntl", "fchmod", "chmod", "utimensat", "access", "faccessat", "readlink", "ioctl", "sendfile",
    "copy_file_range", "dup", "umask", "getcwd",
)  # fmt: skip
FIRST = 6
MORE = 4
MERGING = Compaction(fan_in=3, grace_s=0, enabled=False)
# A worker does its work in far less; one that hangs is a fault.
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Work:
    """What a worker does to a store of FIRST batches, `step` by step. `gone`: whether rows go by it."""

    name: str
    step: Callable[[StreamWriter, int], None]
    steps: int = 1
    commits: bool = False
    gone: bool = False


def _commit(writer: StreamWriter, number: int) -> None:
    writer.commit(batch(number))


WORKS = (
    Work("commit", _commit, steps=MORE, commits=True),
    Work("merge", lambda writer, _: writer.compact()),
    Work("archive", lambda writer, _: writer.archive_closed_days(T0 + 2 * DAY_NS) and None),
    Work("forget", lambda writer, _: writer.forget_before(T0 + 10**9 * 3) and None, gone=True),
    Work("erase", lambda writer, _: writer.erase(ErasedRows(track=102)) and None, gone=True),
)


class Board:
    """Numbers that worker and onlooker share without any system call: how many batches are acknowledged, how many steps
    were made, up to which the onlooker has looked, and whether the worker met a fault of ours."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 4096)

    def __getitem__(self, place: int) -> int:
        return int(struct.unpack_from("<q", self._memory, 8 * place)[0])

    def __setitem__(self, place: int, value: int) -> None:
        struct.pack_into("<q", self._memory, 8 * place, value)


ACKNOWLEDGED, STEPS, LOOKED, FAULT, TOLD = range(5)


def _work(path: Path, work: Work, board: Board) -> None:
    """In the worker: as many steps, each again where the disk refuses it."""
    logging.disable(logging.CRITICAL)
    while not board[LOOKED]:
        time.sleep(0.001)
    writer: StreamWriter | None = None
    done = 0
    for _ in range(work.steps + 3):
        try:
            if writer is None:
                writer = CaptionStore.open(path).writer("cam", INFO, compaction=MERGING)
                board[ACKNOWLEDGED] = max(board[ACKNOWLEDGED], writer.resume.frame + 1)
            if done < work.steps:
                number = writer.resume.frame + 1
                work.step(writer, number)
                done += 1
                if work.commits:
                    board[ACKNOWLEDGED] = number + 1
        except StoreRefused:
            board[TOLD] += 1
            with contextlib.suppress(StoreRefused, OSError):
                if writer is not None:
                    writer.close()
            writer = None
        board[STEPS] += 1
        while board[LOOKED] <= board[STEPS]:
            time.sleep(0.001)
    if writer is not None:
        with contextlib.suppress(OSError):
            writer.close()


def _forked(path: Path, work: Work, board: Board) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setpgid(0, 0)
        _work(path, work, board)
    except BaseException:
        traceback.print_exc()
        board[FAULT] = 1
        os._exit(1)
    os._exit(0)


def _traced(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return "TracerPid:\t0\n" not in Path(f"/proc/{pid}/status").read_text()
    return False


def _ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


@dataclass(frozen=True)
class Met:
    """What one run was like: calls of each kind, whether the injected one came, and how often the disk's refusal was told."""

    calls: collections.Counter[str]
    injected: bool
    told: int


def run(path: Path, work: Work, injections: tuple[str, ...], look: Callable[[Board], None]) -> Met:
    """One worker under strace. `look` is called after every step, while the worker waits."""
    board, log = Board(), path.with_name("strace.log")
    board[ACKNOWLEDGED] = FIRST
    pid = _forked(path, work, board)
    flags = [flag for one in injections for flag in ("-e", f"inject={one}")]
    kinds = "trace=" + ",".join(f"?{call}" for call in FILE_CALLS)
    tracer = subprocess.Popen(
        ["strace", "-f", "-qq", "-o", str(log), "-p", str(pid), "-e", kinds, *flags],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    until = time.monotonic() + PATIENCE_S
    try:
        while not _traced(pid):
            if tracer.poll() is not None:
                assert tracer.stderr is not None
                raise RuntimeError(f"strace cannot trace: {tracer.stderr.read()}")
            time.sleep(0.002)
        board[LOOKED] = 1
        while not _ended(pid):
            if time.monotonic() > until:
                raise AssertionError(f"{work.name}, {injections}: the worker hangs")
            if board[STEPS] >= board[LOOKED]:
                look(board)
                board[LOOKED] = board[STEPS] + 1
            time.sleep(0.001)
    finally:
        if not _ended(pid):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        tracer.wait(timeout=PATIENCE_S)
    if board[FAULT]:
        raise AssertionError(f"{work.name}, {injections}: an error of ours, above")
    text = log.read_text()
    calls = collections.Counter(re.findall(r"^(?:\d+\s+)?(\w+)\(", text, re.MULTILINE))
    return Met(calls, "(INJECTED)" in text or "+++ killed by SIGKILL" in text, board[TOLD])


def check(path: Path, work: Work, board: Board) -> None:
    """Acknowledged rows are those that are read; of what goes, all or nothing that is told."""
    with CaptionStore.open(path, strict=True) as store:
        if not work.gone:
            check_everything(store, board[ACKNOWLEDGED])
            return
        tracks = store.captions(columns=("track",))["track"].to_pylist()
        kept = [t - 100 for t in tracks if t >= 100]
        assert kept == [n for n in range(FIRST) if n in kept], kept
        assert {n for n in range(3, FIRST)} <= set(kept), kept
        assert not [r for r in store.gaps()["reason"].to_pylist() if r in ("lost", "damaged")]


def finish(path: Path, work: Work, least: int) -> None:
    """What comes after a kill: the next writer goes on, does the work, and everything is there."""
    with CaptionStore.open(path).writer("cam", INFO, compaction=MERGING) as writer:
        number = writer.resume.frame + 1
        assert number >= least, f"acknowledged {least}, stored {number}"
        for step in range(work.steps):
            work.step(writer, number + step)
    board = Board()
    board[ACKNOWLEDGED] = number + (work.steps if work.commits else 0)
    check(path, work, board)
    left = [f.name for f in path.rglob("*") if ".tmp" in f.name]
    assert not left, left


def trials(
    path: Path, works: tuple[Work, ...], kinds: list[str], most: int
) -> Iterator[tuple[Work, str, str, Met]]:
    """Every work x every call that it makes (`most` of a kind, evenly spread) x what may happen there."""
    template = path / "template.zarr"
    shutil.rmtree(template, ignore_errors=True)
    filled_store(template, FIRST, Compaction(enabled=False))
    target = path / "a.zarr"

    def one(work: Work, *injections: str) -> Met:
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(template, target)
        least = FIRST

        def look(board: Board) -> None:
            nonlocal least
            least = board[ACKNOWLEDGED]
            check(target, work, board)

        try:
            met = run(target, work, injections, look)
            finish(target, work, least)
        except Exception as error:
            error.add_note(f"{work.name}: {', '.join(injections)}")
            raise
        return met

    for work in works:
        plain = one(work)
        places = [
            (call, number)
            for call, count in sorted(plain.calls.items())
            if call in FILE_CALLS
            for number in sorted({1 + round(n) for n in np.linspace(0, count - 1, min(count, most)).tolist()})
        ]
        # By the hour with many calls: who started it sees where it is.
        with tqdm(places, desc=work.name, mininterval=5.0) as shown:
            for call, number in shown:
                if "errors" in kinds:
                    errors = ["EIO"]
                    errors += ["ENOSPC"] if call in ("openat", "write", "mkdir", "fsync", "rename") else []
                    errors += ["EACCES"] if call in ("openat", "rename", "unlink", "mkdir") else []
                    for error in errors:
                        injection = f"{call}:error={error}:when={number}"
                        yield work, "error", injection, one(work, injection)
                if "kills" in kinds:
                    injection = f"{call}:signal=SIGKILL:when={number}"
                    yield work, "kill", injection, one(work, injection)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", nargs="+", choices=("errors", "kills"), default=["errors", "kills"])
    parser.add_argument(
        "--works", nargs="+", choices=[w.name for w in WORKS], default=[w.name for w in WORKS]
    )
    parser.add_argument("--most", type=int, default=1000, help="calls of a kind that fail, of each work")
    options = parser.parse_args()
    works = tuple(w for w in WORKS if w.name in options.works)
    if shutil.which("strace") is None:
        raise SystemExit("strace is missing: apt install strace")
    with tempfile.TemporaryDirectory() as folder:
        for work in works:
            tally = {kind: collections.Counter[str]() for kind in options.kinds}
            for _, kind, injection, met in trials(Path(folder), (work,), options.kinds, options.most):
                counts = tally[f"{kind}s"]
                counts["runs"] += 1
                counts["came"] += met.injected
                counts["told"] += met.told > 0
                counts[injection.split(":")[0]] += 1
            for kind, counts in tally.items():
                calls = ", ".join(
                    f"{c} {n}" for c, n in sorted(counts.items()) if c not in ("runs", "came", "told")
                )
                told = f", {counts['told']} told as a refusal" if kind == "errors" else ""
                print(
                    f"{work.name}: {counts['runs']} runs with one of {kind} each ({counts['came']} came{told}): {calls}",
                    flush=True,
                )
    print("every acknowledged row was read, after every step; no other")


if __name__ == "__main__":
    main()
