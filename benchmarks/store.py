"""The store beside Parquet with DuckDB, Lance and SQLite: the same rows, the same questions, in one run.

    pip install duckdb pylance
    python -m benchmarks.store [--rows 100000] [--repeat 20]

A day of captions with masks (167 bytes, each another) and embeddings (128 half floats). The store is asked as segments, as the writer leaves
them, and as a day archive; Parquet is one file sorted by time with groups of 4,096 rows; Lance is one dataset, compacted, with an index
(BTREE) of time and of track; SQLite has indices of both. Files are in the page cache, times are medians of processor time of all
threads in ms, and every answer is compared in its number of rows.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.query_latency import COLORS, PLACES, THINGS, machine
from pipeline.core.clock import NS
from pipeline.core.frame import ClockSource
from pipeline.core.masks import RleMask
from pipeline.core.records import Batch, CaptionEvent, ResumePoint
from pipeline.store import CaptionStore, Compaction, StreamInfo
from pipeline.store.counting import CountedBy
from pipeline.store.row_filter import RowFilter
from pipeline.store.text_filter import TextFilter

DAY_NS = 86_400 * NS
START = 1_790_000_000 * NS // DAY_NS * DAY_NS
WIDTH = 128
BATCH = 100
COLUMNS = ["track", "t_start", "t_end", "text", "score", "x0", "y0", "x1", "y1"]
Questions = dict[str, Callable[[], int]]


def tables(rows: int) -> Iterator[pa.Table]:
    """Captions in order of time, 100 a table: the batches that are committed."""
    random = np.random.default_rng(7)
    for first in range(0, rows, BATCH):
        number = np.arange(first, min(first + BATCH, rows))
        start = START + number * (DAY_NS // rows)
        picks = random.integers(0, [len(COLORS), len(THINGS), len(PLACES), 40], (len(number), 4)).tolist()
        x, y = random.uniform(0, 1000, (2, len(number))).astype(np.float32)
        # As skewed as run lengths are: 167 bytes become about 50.
        masks = (random.geometric(0.35, (len(number), 167)) + 47).clip(48, 111).astype(np.uint8)
        vectors = random.normal(size=(len(number), WIDTH)).astype(np.float16)
        yield pa.table(
            {
                "track": pa.array(number // 6, pa.uint32()),
                "t_start": pa.array(start, pa.int64()),
                "t_end": pa.array(start + 3 * NS, pa.int64()),
                "text": [f"a {COLORS[a]} {THINGS[b]} {PLACES[c]} {d}" for a, b, c, d in picks],
                "score": pa.array((number % 100 / 100).astype(np.float32)),
                "x0": x, "y0": y, "x1": x + 80, "y1": y + 60,
                "mask": [mask.tobytes() for mask in masks],
                "emb": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), WIDTH),
            }
        )  # fmt: skip


def events_of(table: pa.Table) -> tuple[CaptionEvent, ...]:
    vectors = table["emb"].combine_chunks().flatten().to_numpy().reshape(-1, WIDTH).astype(np.float32)
    return tuple(
        CaptionEvent(
            r["track"], r["t_start"], r["t_end"], r["t_start"] - START, r["t_end"] - START, 0,
            (r["x0"], r["y0"], r["x1"], r["y1"]), r["text"], r["score"], -0.5, vector, RleMask((72, 128), r["mask"]),
        )
        for r, vector in zip(table.drop_columns(["emb"]).to_pylist(), vectors, strict=True)
    )  # fmt: skip


def write_store(path: Path, rows: int) -> tuple[CaptionStore, list[float]]:
    """Returns processor seconds of each commit with the merging that it made due."""
    store, spent = CaptionStore.create(path), []
    merging = Compaction(grace_s=0, enabled=False)
    with store.writer(
        "cam", StreamInfo("generated", ClockSource.FILE, START, 1280, 720), compaction=merging
    ) as writer:
        for number, table in enumerate(tables(rows)):
            events = events_of(table)
            batch = Batch(captions=events, resume=ResumePoint(number, number, 0, events[-1].end_ns, 0))
            begun = time.process_time()
            writer.commit(batch)
            if number % 60 == 59:
                writer.compact()
            spent.append(time.process_time() - begun)
        writer.compact()
    return store, spent


def store_questions(store: CaptionStore, like: np.ndarray, track: int, minute: int) -> Questions:
    vector = tuple(like.astype(np.float32).tolist())
    word = TextFilter(words=("kayak",))
    return {
        "minute": lambda: len(store.captions(minute, minute + 60 * NS, columns=COLUMNS)),
        "contains 'red kayak'": lambda: len(store.captions(text="red kayak", columns=COLUMNS)),
        "count by hour of 'kayak'": lambda: sum(
            c.events for c in store.count("cam", RowFilter(texts=word), CountedBy.QUARTER).values()
        ),
        "count by text": lambda: len(store.count("cam", RowFilter(), CountedBy.TEXT)),
        "track": lambda: len(store.captions(track=track, columns=COLUMNS)),
        "newest 20": lambda: sum(1 for _ in zip(store.events("cam", newest=True), range(20), strict=False)),
        "alike": lambda: sum(
            c.events
            for c in store.count("cam", RowFilter(like=vector, min_similarity=0.9), CountedBy.STREAM).values()
        ),
    }


def parquet_questions(path: Path, like: np.ndarray, track: int, minute: int) -> Questions:
    db = duckdb.connect()
    columns = ", ".join(COLUMNS)

    def ask(where: str, what: str = columns) -> pa.Table:
        return db.execute(f"select {what} from '{path}' {where}").to_arrow_table()

    vector = "[" + ",".join(map(str, like.astype(np.float32).tolist())) + "]::float[128]"
    return {
        "minute": lambda: len(ask(f"where t_start <= {minute + 60 * NS} and t_end >= {minute}")),
        "contains 'red kayak'": lambda: len(ask("where contains(text, 'red kayak')")),
        "count by hour of 'kayak'": lambda: sum(
            ask(
                "where regexp_matches(text, '\\bkayak\\b') group by all", f"t_start // {3600 * NS} as h, count(*) as n, count(distinct track) as m"
            )["n"].to_pylist()
        ),
        "count by text": lambda: len(
            ask("group by all", "text, count(*) as n, count(distinct track) as m")
        ),
        "track": lambda: len(ask(f"where track = {track}")),
        "newest 20": lambda: len(ask("order by t_start desc limit 20")),
        "alike": lambda: len(
            ask(f"where array_cosine_similarity(emb::float[128], {vector}) >= 0.9", "track")
        ),
    }  # fmt: skip


def lance_questions(path: Path, like: np.ndarray, track: int, minute: int) -> Questions:
    data = lance.dataset(str(path))

    def ask(where: str | None) -> pa.Table:
        return data.to_table(columns=COLUMNS, filter=where)

    def by(column: str, where: str | None) -> pa.Table:
        table = data.to_table(columns=[column, "track"], filter=where)
        key = table[column] if column == "text" else pa.compute.divide(table[column], 3600 * NS)
        return pa.table({"key": key, "track": table["track"]}).group_by("key").aggregate([("track", "count"), ("track", "count_distinct")])  # fmt: skip

    nearest = {"column": "emb", "q": like, "k": 20, "metric": "cosine", "use_index": False}
    return {
        "minute": lambda: len(ask(f"t_start <= {minute + 60 * NS} and t_end >= {minute}")),
        "contains 'red kayak'": lambda: len(ask("text like '%red kayak%'")),
        "count by hour of 'kayak'": lambda: sum(by("t_start", "text like '% kayak %'")["track_count"].to_pylist()),
        "count by text": lambda: len(by("text", None)),
        "track": lambda: len(ask(f"track = {track}")),
        "newest 20": lambda: len(data.to_table(columns=COLUMNS, offset=data.count_rows() - 20, limit=20)),
        "alike": lambda: len(data.to_table(columns=["track"], nearest=nearest)),
    }  # fmt: skip


def sqlite_questions(path: Path, like: np.ndarray, track: int, minute: int) -> Questions:
    db = sqlite3.connect(path)
    columns = ", ".join(COLUMNS)

    def ask(rest: str, what: str = columns) -> list[tuple[object, ...]]:
        return db.execute(f"select {what} from captions {rest}").fetchall()

    def alike() -> int:
        vectors = np.frombuffer(b"".join(r[0] for r in ask("", "emb")), np.float16).reshape(-1, WIDTH).astype(np.float32)  # type: ignore[misc]  # fmt: skip
        cosine = vectors @ like.astype(np.float32) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(like)
        return int((cosine >= 0.9).sum())

    return {
        "minute": lambda: len(
            ask(f"where t_start <= {minute + 60 * NS} and t_start >= {minute - 3 * NS} and t_end >= {minute}")
        ),
        "contains 'red kayak'": lambda: len(ask("where text like '%red kayak%'")),
        "count by hour of 'kayak'": lambda: sum(
            r[1]  # type: ignore[misc]
            for r in ask(
                "where text like '% kayak %' group by 1", f"t_start / {3600 * NS}, count(*), count(distinct track)"
            )
        ),
        "count by text": lambda: len(ask("group by 1", "text, count(*), count(distinct track)")),
        "track": lambda: len(ask(f"where track = {track}")),
        "newest 20": lambda: len(ask("order by t_start desc limit 20")),
        "alike": alike,
    }  # fmt: skip


def write_others(folder: Path, rows: int) -> None:
    parts = list(tables(rows))
    table = pa.concat_tables(parts).combine_chunks()
    pq.write_table(table, folder / "captions.parquet", compression="zstd", row_group_size=4096)
    data = lance.write_dataset(table, str(folder / "captions.lance"))
    for column in ("t_start", "track"):
        data.create_scalar_index(column, "BTREE")
    db = sqlite3.connect(folder / "captions.sqlite")
    db.execute(f"create table captions ({', '.join(table.column_names)})")
    for part in parts:
        vectors = part["emb"].combine_chunks().flatten().to_numpy().reshape(-1, WIDTH)
        plain = [tuple(r.values()) for r in part.drop_columns(["emb"]).to_pylist()]
        lines = [(*row, v.tobytes()) for row, v in zip(plain, vectors, strict=True)]
        db.executemany(f"insert into captions values ({', '.join('?' * len(table.column_names))})", lines)
    for column in ("t_start", "track"):
        db.execute(f"create index by_{column} on captions ({column})")
    db.commit()
    db.close()


def megabytes(path: Path) -> float:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument(
        "--folder", type=Path, help="where to keep what was written, and take it from the next time"
    )
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp())
    try:
        compare(folder, options.rows, options.repeat)
        measure_commits(folder)
        measure_commands(folder)
    finally:
        if options.folder is None:
            shutil.rmtree(folder)


def compare(folder: Path, rows: int, repeat: int) -> None:
    """Write everything, ask everything, print a table."""
    if not (folder / "written.json").exists():
        store, spent = write_store(folder / "segments.zarr", rows)
        shutil.copytree(store.path, folder / "archive.zarr")
        CaptionStore.open(folder / "archive.zarr").archive_closed_days(START + 3 * DAY_NS)
        CaptionStore.open(folder / "archive.zarr").compact()
        write_others(folder, rows)
        (folder / "written.json").write_text(json.dumps(spent))
    store, spent = (
        CaptionStore.open(folder / "segments.zarr"),
        json.loads((folder / "written.json").read_text()),
    )
    tenth = max(1, len(spent) // 10)
    some = next(iter(tables(rows)))
    like = some["emb"].combine_chunks().flatten().to_numpy().reshape(-1, WIDTH)[7]
    asked = (like, rows // 12, START + DAY_NS // 3)
    contestants = {
        "segments": (store_questions(store, *asked), folder / "segments.zarr"),
        "archive": (
            store_questions(CaptionStore.open(folder / "archive.zarr"), *asked),
            folder / "archive.zarr/streams/cam/day",
        ),
        "Parquet": (parquet_questions(folder / "captions.parquet", *asked), folder / "captions.parquet"),
        "Lance": (lance_questions(folder / "captions.lance", *asked), folder / "captions.lance"),
        "SQLite": (sqlite_questions(folder / "captions.sqlite", *asked), folder / "captions.sqlite"),
    }
    print(machine(), f"duckdb {duckdb.__version__}, lance {lance.__version__}", sep="; ")
    first, last = np.mean(spent[:tenth]) * 1000, np.mean(spent[-tenth:]) * 1000
    print(
        f"{rows} rows; commit of {BATCH} rows with merging {np.mean(spent) * 1000:.1f} ms of processor time, last tenth over "
        f"first {last / first:.2f}\n"
    )
    print("| question | " + " | ".join(contestants) + " |\n|---|" + "---|" * len(contestants))
    for question in next(iter(contestants.values()))[0]:
        cells, found = [], {}
        for name, (questions, _) in contestants.items():
            found[name] = questions[question]()
            times = []
            for _ in range(repeat):
                begun = time.process_time()
                questions[question]()
                times.append((time.process_time() - begun) * 1000)
            cells.append(f"{statistics.median(times):.1f}")
        if question != "alike" and len(set(found.values())) > 1:
            raise AssertionError(f"{question}: {found}")
        print(f"| {question} ({found['segments']}) | " + " | ".join(cells) + " |", flush=True)
    print("| MB | " + " | ".join(f"{megabytes(path):.0f}" for _, path in contestants.values()) + " |")


def measure_commits(folder: Path, commits: int = 240) -> None:
    """Commits to a store of all rows and to an empty one, in turn, so that what else the machine does bears on both alike."""
    full, empty = folder / "grown.zarr", folder / "empty.zarr"
    for path in (full, empty):
        shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(folder / "segments.zarr", full)
    info, merging = (
        StreamInfo("generated", ClockSource.FILE, START, 1280, 720),
        Compaction(grace_s=0, enabled=False),
    )
    writers = {
        path: CaptionStore.create(path).writer("cam", info, compaction=merging) for path in (empty, full)
    }
    spent: dict[Path, list[float]] = {path: [] for path in writers}
    for number, table in enumerate(tables(commits * BATCH)):
        events = events_of(table)
        batch = Batch(captions=events, resume=ResumePoint(number, 10**6 + number, 0, events[-1].end_ns, 0))
        for path, writer in writers.items():
            begun = time.process_time()
            writer.commit(batch)
            if number % 60 == 59:
                writer.compact()
            spent[path].append(time.process_time() - begun)
    for writer in writers.values():
        writer.close()
    fresh, grown = (np.mean(times) * 1000 for times in spent.values())
    median = statistics.median(spent[full]) * 1000
    print(
        f"\ncommit of {BATCH} rows with merging: {grown:.1f} ms of processor time (median of commits alone {median:.1f}), in an "
        f"empty store in turn with it {fresh:.1f}: {grown / fresh:.2f} times"
    )


_SPENT = """
import os, sys
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)])
_, status, used = os.wait4(pid, 0)
print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def measure_commands(folder: Path) -> None:
    """Processor time and most memory of the command: five rows, and all, in each format."""
    print("\n| command | s of processor time | MB at most |\n|---|---|---|")
    path = str(folder / "segments.zarr")
    asked = [["query", path, "--limit", "5", "--format", one] for one in ("table", "json", "csv")]
    asked += [["query", path, "--newest", "5"]]
    asked += [["export", path, str(folder / f"out.{one}")] for one in ("jsonl", "csv", "parquet", "arrow")]
    for arguments in asked:
        for old in folder.glob("out.*"):
            old.unlink()
        # Through a small process: what a child is forked from counts as memory of the child.
        ran = subprocess.run(
            [sys.executable, "-c", _SPENT, sys.executable, "-m", "pipeline.cli", *arguments],
            capture_output=True,
            text=True,
        )
        name = (
            " ".join(arguments)
            .replace(str(folder), "")
            .replace("/segments.zarr", "STORE")
            .replace("/out", "out")
        )
        if ran.returncode:
            raise AssertionError(f"{name}: {ran.stderr}")
        seconds, most = ran.stdout.split()
        print(f"| {name} | {float(seconds):.2f} | {float(most):.0f} |", flush=True)


if __name__ == "__main__":
    main()
