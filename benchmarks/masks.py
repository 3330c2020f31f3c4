"""What masks cost in a store: megabytes an hour, and the time of a commit, for each `recording.masks`.

    sca run CLIP --store clips.zarr --set recording.masks=all      # one or several clips
    python benchmarks/masks.py clips.zarr [--minutes 30]

The rows of each stream are written again and again into a new store, with times and track numbers that go on, a commit for each second
of the stream, until so many minutes are full; then everything is merged as hours of running would have merged it. Sizes are
those of the files. Beside it, what the masks of the observations would take and keep on other grids: their IoU with
themselves, drawn at the size of the picture.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import numcodecs
import numpy as np
import pyarrow as pa

from pipeline.core import masks as core_masks
from pipeline.core.clock import NS
from pipeline.core.masks import RleMask, decode_mask, encode_masks
from pipeline.core.records import Batch, CaptionEvent, Observation, ResumePoint
from pipeline.recording.recorder import KeptMasks
from pipeline.store import CaptionStore, Compaction, StreamInfo

GRIDS = (64, 80, 96, 128, 160, 240)


@dataclass(frozen=True, slots=True)
class Recording:
    """The rows of one stream, times in ns from its start; `length_ns` of it were watched."""

    name: str
    info: StreamInfo
    observations: tuple[Observation, ...]
    captions: tuple[CaptionEvent, ...]
    length_ns: int

    @classmethod
    def read(cls, store: CaptionStore, name: str) -> Recording:
        info = store.streams()[name]
        span = store.span(name)
        assert span is not None
        seen = store.observations(
            stream=name, columns=("track", "t", "score", "x0", "y0", "x1", "y1", "frame", "mask")
        )
        told = store.captions(
            stream=name,
            columns=(
                "track", "t_start", "t_end", "text", "score", "logprob", "x0", "y0", "x1", "y1", "frame", "mask", "embedding",
            ),
        )  # fmt: skip
        observations = tuple(
            Observation(t, t, row["frame"], row["track"], _box(row), row["score"], _mask(row))
            for t, row in _since(seen, "t", span.start)
        )
        ends = (told["t_end"].cast(pa.int64()).to_numpy() - span.start).tolist()
        captions = tuple(
            CaptionEvent(
                row["track"], t, end, t, end, row["frame"], _box(row), row["text"], row["score"], row["logprob"],
                np.array(row["embedding"] or (), np.float32), _mask(row),
            )
            for (t, row), end in zip(_since(told, "t_start", span.start), ends, strict=True)
        )  # fmt: skip
        return cls(name, info, observations, captions, span.end - span.start)

    def seconds(self, kept: KeptMasks, length_ns: int) -> Iterator[Batch]:
        """Second after second of the recording, again and again, `length_ns` of it."""
        most = 1 + max((row.track for row in self.observations), default=0)
        bare = kept is not KeptMasks.ALL
        for again in count():
            for second in range(-(-self.length_ns // NS)):
                begin = again * self.length_ns + second * NS
                if begin >= length_ns:
                    return
                shift, tracks = self.info.start_wall_ns + again * self.length_ns, again * most
                seen = [o for o in self.observations if o.wall_ns // NS == second]
                told = [c for c in self.captions if c.start_ns // NS == second]
                yield Batch(
                    tuple(
                        replace(
                            o,
                            wall_ns=o.wall_ns + shift,
                            track=o.track + tracks,
                            mask=None if bare else o.mask,
                        )
                        for o in seen
                    ),
                    tuple(
                        replace(
                            c,
                            start_ns=c.start_ns + shift,
                            end_ns=c.end_ns + shift,
                            track=c.track + tracks,
                            mask=None if kept is KeptMasks.NONE else c.mask,
                        )
                        for c in told
                    ),
                    resume=ResumePoint(begin, begin // NS, 0, self.info.start_wall_ns + begin, tracks),
                )


def _since(table: pa.Table, time_column: str, start_ns: int) -> Iterator[tuple[int, dict[str, object]]]:
    times = (table[time_column].cast(pa.int64()).to_numpy() - start_ns).tolist()
    return zip(times, table.drop([name for name in table.column_names if name.startswith("t_") or name == "t"]).to_pylist(), strict=True)  # fmt: skip


def _box(row: dict[str, object]) -> tuple[float, float, float, float]:
    return row["x0"], row["y0"], row["x1"], row["y1"]


def _mask(row: dict[str, object]) -> RleMask | None:
    return RleMask(tuple(row["mask"]["size"]), row["mask"]["counts"]) if row["mask"] else None


def written(recording: Recording, kept: KeptMasks, length_ns: int) -> tuple[float, float, float]:
    """Megabytes an hour, and the median of a commit in ms of wall and of processor time."""
    commits = []
    with tempfile.TemporaryDirectory() as folder:
        store = CaptionStore.create(Path(folder) / "a.zarr")
        with store.writer("cam", recording.info, compaction=Compaction(enabled=False, grace_s=0)) as writer:
            for batch in recording.seconds(kept, length_ns):
                begun = time.perf_counter(), time.thread_time()
                writer.commit(batch)
                commits.append((time.perf_counter() - begun[0], time.thread_time() - begun[1]))
            writer.compact()
        size = sum(file.stat().st_size for file in store.path.rglob("*.zarr.zip"))
    wall, processor = (statistics.median(each) * 1000 for each in zip(*commits, strict=True))
    return size / 1e6 * 3600 * NS / length_ns, wall, processor


def on_grids(recording: Recording) -> None:
    masks = [row.mask for row in recording.observations if row.mask is not None]
    if not masks:
        return
    zstd = numcodecs.Zstd(level=3)
    size = (recording.info.height, recording.info.width)
    per_hour = 3600 * NS / recording.length_ns / 1e6
    drawn = [core_masks.drawn(mask, size) for mask in masks]
    for grid in GRIDS:
        core_masks.GRID = grid
        codes = [encode_masks(mask[None], size)[0][0] for mask in drawn]
        again = [core_masks.drawn(code, size) for code in codes]
        iou = [(a & b).sum() / (a | b).sum() for a, b in zip(drawn, again, strict=True)]
        raw = b"".join(code.counts for code in codes)
        bits = b"".join(np.packbits(decode_mask(code)).tobytes() for code in codes)
        print(
            f"  grid {grid:3d}: {len(raw) / len(masks):4.0f} bytes a mask, compressed {len(zstd.encode(raw)) / len(masks):4.0f} "
            f"({len(zstd.encode(raw)) * per_hour:5.2f} MB an hour; as bits {len(zstd.encode(bits)) * per_hour:5.2f}), "
            f"IoU {np.mean(iou):.3f}, one in ten below {np.percentile(iou, 10):.3f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", type=Path)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument(
        "--grids", action="store_true", help="and what other grids cost; from masks at full size"
    )
    options = parser.parse_args()
    length_ns = round(options.minutes * 60 * NS)
    with CaptionStore.open(options.store) as store:
        for name in store.streams():
            recording = Recording.read(store, name)
            seconds = recording.length_ns / NS
            print(
                f"{name}: {len(recording.observations) / seconds:.1f} observations and "
                f"{len(recording.captions) / seconds:.1f} captions a second"
            )
            for kept in KeptMasks:
                megabytes, wall, processor = written(recording, kept, length_ns)
                print(
                    f"  masks {kept:6s} {megabytes:6.2f} MB an hour; a commit {wall:.2f} ms ({processor:.2f} of processor)"
                )
            if options.grids:
                on_grids(recording)


if __name__ == "__main__":
    main()
