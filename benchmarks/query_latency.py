"""How long a one-minute question takes on a day of captions, beside the same question to plain Zarr arrays.

    python benchmarks/query_latency.py [--rows 100000] [--repeat 50]

Writes generated captions over 24 hours through the store's own writer, and the same rows into pre-sized arrays with
zarr-python as one would without a time index. Both are asked for the same random minutes, in turn, in this process,
with the files in the page cache. Every answer is checked against the other. Times are medians in milliseconds; on a busy machine trust
processor time and ratios.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import zarr

from pipeline.core.clock import NS
from pipeline.core.frame import ClockSource
from pipeline.core.masks import RleMask
from pipeline.core.records import Batch, CaptionEvent, ResumePoint
from pipeline.store import CaptionStore, Compaction, StreamInfo

DAY_S = 86_400
START = 1_790_000_000 * NS // (DAY_S * NS) * DAY_S * NS
BATCH_ROWS = 100
COLORS = ("red", "blue", "white", "black", "green", "yellow", "brown", "grey")
THINGS = (
    "car",
    "dog",
    "bicycle",
    "kayak",
    "person",
    "truck",
    "tree",
    "bench",
    "bus",
    "umbrella",
    "cat",
    "sign",
)
PLACES = ("on the street", "by the wall", "in the water", "near a house", "at the corner", "under a tree")


@dataclass(frozen=True, slots=True)
class PlainArrays:
    """The rows as zarr-python arrays of known length, chunks of 4096, sorted by start."""

    group: zarr.Group

    @classmethod
    def write(cls, path: Path, events: list[CaptionEvent]) -> PlainArrays:
        group = zarr.create_group(path)
        columns = {
            "t_start": np.array([e.start_ns for e in events]),
            "t_end": np.array([e.end_ns for e in events]),
            "track": np.array([e.track for e in events], np.uint32),
            "box": np.array([e.box for e in events], np.float32),
            "score": np.array([e.score for e in events], np.float32),
            "text": np.array([e.text for e in events], np.dtypes.StringDType()),
        }
        for name, values in columns.items():
            array = group.create_array(
                name, shape=values.shape, dtype=values.dtype, chunks=(4096, *values.shape[1:])
            )
            array[...] = values
        return cls(group)

    def captions(self, start: int, end: int) -> dict[str, np.ndarray]:
        hit = (self._read("t_start") <= end) & (self._read("t_end") >= start)
        rows = np.flatnonzero(hit)
        if not len(rows):
            return {}
        first, stop = int(rows[0]), int(rows[-1]) + 1
        return {name: self._read(name, first, stop)[rows - first] for name in self.group.array_keys()}

    def containing(self, text: str) -> dict[str, np.ndarray]:
        rows = np.array([n for n, one in enumerate(self._read("text").tolist()) if text in one], np.int64)
        return {name: self._read(name)[rows] for name in self.group.array_keys()}

    def _read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        array = self.group[name]
        assert isinstance(array, zarr.Array)
        return np.asarray(array[start:stop])


def generate(count: int) -> list[CaptionEvent]:
    """Captions of one to ten seconds spread over a day."""
    random = np.random.default_rng(7)
    starts = np.sort(random.integers(0, DAY_S * NS, count))
    lengths = random.integers(NS, 10 * NS, count)
    picks = random.integers(0, [len(COLORS), len(THINGS), len(PLACES), 60], (count, 4))
    corners = random.uniform(0, 500, (count, 2))
    features = random.normal(size=(count, 128)).astype(np.float16)
    masks = random.bytes(200 * 997)
    events = []
    for n, (start, length, pick, corner) in enumerate(
        zip(starts.tolist(), lengths.tolist(), picks.tolist(), corners.tolist(), strict=True)
    ):
        text = f"a {COLORS[pick[0]]} {THINGS[pick[1]]} {PLACES[pick[2]]}"
        counts = masks[n % 997 * 200 : n % 997 * 200 + 100 + pick[3]]
        events.append(
            CaptionEvent(
                n // 6, START + start, START + start + length, start, start + length, start * 30 // NS,
                (corner[0], corner[1], corner[0] + 80, corner[1] + 60), text, (n % 100) / 100, -0.5,
                features[n], RleMask((720, 1280), counts),
            )
        )  # fmt: skip
    return events


def fill(path: Path, events: list[CaptionEvent]) -> tuple[CaptionStore, list[float]]:
    """Write through the store's writer. Returns seconds of each commit."""
    store = CaptionStore.create(path)
    info = StreamInfo("generated", ClockSource.FILE, START, 1280, 720)
    seconds = []
    with store.writer("cam", info, compaction=Compaction(grace_s=0)) as writer:
        for first in range(0, len(events), BATCH_ROWS):
            rows = tuple(events[first : first + BATCH_ROWS])
            last = rows[-1]
            batch = Batch(captions=rows, resume=ResumePoint(last.end_pts_ns, last.frame, 0, last.end_ns, 0))
            begun = time.perf_counter()
            writer.commit(batch)
            seconds.append(time.perf_counter() - begun)
        writer.compact()
    return store, seconds


def median_ms(questions: list[Callable[[], object]]) -> tuple[float, float]:
    """Median over the questions of wall time and of processor time (all threads), in ms."""
    wall, processor = [], []
    for ask in questions:
        begun = time.perf_counter(), time.process_time()
        ask()
        wall.append((time.perf_counter() - begun[0]) * 1000)
        processor.append((time.process_time() - begun[1]) * 1000)
    return statistics.median(wall), statistics.median(processor)


def compare(store: CaptionStore, plain: PlainArrays, repeat: int) -> None:
    """Ask both for the same minutes and words, and print medians and ratios."""
    random = np.random.default_rng(11)
    windows = [
        (START + int(s) * NS, START + int(s) * NS + 60 * NS) for s in random.integers(0, DAY_S - 60, repeat)
    ]
    found = 0
    for start, end in windows:  # warms both, and checks that they agree
        ours, theirs = store.captions(start, end), plain.captions(start, end)
        assert ours["t_start"].cast(pa.int64()).to_pylist() == theirs["t_start"].tolist()
        assert ours["text"].to_pylist() == theirs["text"].tolist()
        found += len(ours)
    assert (
        store.captions(text="red kayak")["text"].to_pylist() == plain.containing("red kayak")["text"].tolist()
    )
    rows = [
        ("one minute", [lambda w=w: store.captions(*w) for w in windows], [lambda w=w: plain.captions(*w) for w in windows]),
        (
            "one minute, store just opened",
            [lambda w=w: CaptionStore.open(store.path).captions(*w) for w in windows],
            [lambda w=w: PlainArrays(zarr.open_group(plain.group.store.root, mode="r")).captions(*w) for w in windows],
        ),
        (
            "all day, caption contains 'red kayak'",
            [lambda: store.captions(text="red kayak")] * 5,
            [lambda: plain.containing("red kayak")] * 5,
        ),
    ]  # fmt: skip
    print(
        f"{found / repeat:.0f} captions a minute; median ms of wall time (of processor time), {repeat} questions"
    )
    for name, ours_ask, theirs_ask in rows:
        ours_ms, theirs_ms = median_ms(ours_ask), median_ms(theirs_ask)
        print(
            f"{name:40s} store {ours_ms[0]:7.1f} ({ours_ms[1]:.1f})   plain arrays {theirs_ms[0]:7.1f} "
            f"({theirs_ms[1]:.1f})   ratio {theirs_ms[0] / ours_ms[0]:.1f} ({theirs_ms[1] / ours_ms[1]:.1f})"
        )


def size_mb(path: Path) -> float:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6


def machine() -> str:
    """Processor, cores, load and versions."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor()
    return (
        f"{model}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}, "
        f"zarr {zarr.__version__}, numpy {np.__version__}, pyarrow {pa.__version__}, {datetime.now(UTC).date()}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeat", type=int, default=50)
    options = parser.parse_args()
    events = generate(options.rows)
    with tempfile.TemporaryDirectory() as folder:
        store, commits = fill(Path(folder) / "captions.zarr", events)
        plain = PlainArrays.write(Path(folder) / "plain.zarr", events)
        print(machine())
        print(
            f"{options.rows} rows with masks and embeddings: {size_mb(store.path):.0f} MB in "
            f"{sum(1 for _ in store.path.rglob('*.zarr.zip'))} segments; commit of {BATCH_ROWS} rows, with fsync: median "
            f"{statistics.median(commits) * 1000:.1f} ms, 95th percentile {np.percentile(commits, 95) * 1000:.1f} ms"
        )
        print("-- segments")
        compare(store, plain, options.repeat)
        store.archive_closed_days(START + 3 * DAY_S * NS)
        print("-- day archive")
        compare(CaptionStore.open(store.path), plain, options.repeat)


if __name__ == "__main__":
    main()
