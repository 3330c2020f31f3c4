"""Rows that are a function of their number, so that any process can check every byte of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.core.frame import ClockSource
from pipeline.core.masks import RleMask
from pipeline.core.records import Batch, CaptionEvent, ClosedTrack, Gap, Observation, ResumePoint
from pipeline.store import CaptionStore, Compaction, StreamInfo
from pipeline.store.archive_reader import DayArchiveReader
from pipeline.store.place import LocalPlace

S = 10**9
T0 = 1_790_000_000 * S
INFO = StreamInfo("file.mp4", ClockSource.FILE, T0, 640, 480)
MERGING = Compaction(fan_in=4, grace_s=0.05)
BY_HAND = Compaction(fan_in=3, grace_s=0.0, enabled=False)


def opened_archive(path: Path) -> DayArchiveReader:
    """A day archive of a stream's directory."""
    return DayArchiveReader(LocalPlace(path.parent.parent), f"day/{path.name}")


def batch(number: int) -> Batch:
    """Batch `number` of an endless stream, one second each. Track 1 has an event that grows over five batches."""
    t = T0 + number * S
    grown = number // 5 * 5
    box = (float(number % 100), 2.5, number % 100 + 30.25, 40.0)
    return Batch(
        observations=tuple(
            Observation(t + k, number * S + k, number * 30, k, box, 0.25 * k, observed_mask(number, k))
            for k in range(number % 4)
        ),
        captions=(
            CaptionEvent(
                1, T0 + grown * S, t + S, grown * S, (number + 1) * S, grown, box, f"growing {grown}", 0.5, -0.25
            ),
            CaptionEvent(
                100 + number, t + S // 2, t + S, number * S, (number + 1) * S, number, box,
                f"schöne Katze {number % 7}", (number % 8) / 8, -0.5,
                embedding=np.array([0.5, -0.25, number % 16 / 16], np.float32),
                mask=RleMask((480, 640), bytes([number % 251]) * (number % 9 + 1)),
            ),
        ),
        tracks=(ClosedTrack(100 + number, t, t + S, number, f"ended {number % 3}"),) if number % 4 == 3 else (),
        gaps=(Gap(t, t + S // 4, "dropped", number),) if number % 11 == 5 else (),
        resume=ResumePoint(number * S, number, 0, t, number + 2),
    )  # fmt: skip


def observed_mask(number: int, k: int) -> RleMask | None:
    """Of every observation but the first of a batch."""
    return RleMask((36, 48), bytes([number % 249 + k]) * (number % 5 + k)) if k else None


def newest_events(batches: Sequence[Batch]) -> list[CaptionEvent]:
    """What a reader must see of the events in `batches`, ordered by start and track."""
    events: dict[tuple[int, int], CaptionEvent] = {}
    for one in batches:
        for event in one.captions:
            before = events.get((event.track, event.start_ns))
            if before is None or event.end_ns >= before.end_ns:
                events[event.track, event.start_ns] = event
    return sorted(events.values(), key=lambda e: (e.start_ns, e.track))


def embeddings(events: Sequence[CaptionEvent]) -> list[list[float]]:
    """What equal events may still differ in."""
    return [event.embedding.tolist() for event in events]


def stored_events(table: pa.Table) -> list[CaptionEvent]:
    """The events of a table that has the columns EVERYTHING."""
    rows = table.set_column(2, "t_start", table["t_start"].cast(pa.int64()))
    rows = rows.set_column(3, "t_end", table["t_end"].cast(pa.int64())).to_pylist()
    return [
        CaptionEvent(
            row["track"], row["t_start"], row["t_end"], round(row["start_s"] * S), round(row["end_s"] * S),
            row["frame"], (row["x0"], row["y0"], row["x1"], row["y1"]), row["text"], row["score"], row["logprob"],
            np.array(row["embedding"] or (), np.float32),
            RleMask(tuple(row["mask"]["size"]), row["mask"]["counts"]) if row["mask"] else None,
        )
        for row in rows
    ]  # fmt: skip


EVERYTHING = (
    "stream", "track", "t_start", "t_end", "start_s", "end_s", "text", "score", "logprob", "x0", "y0", "x1", "y1",
    "frame", "mask", "embedding",
)  # fmt: skip


def check_everything(store: CaptionStore, count: int, stream: str = "cam", maskless: int = 0) -> None:
    """Assert that the stream holds exactly the batches 0..count-1, the first `maskless` of them without masks of observations."""
    batches = [batch(n) for n in range(count)]
    stored, wanted = stored_events(store.captions(stream=stream, columns=EVERYTHING)), newest_events(batches)
    assert stored == wanted
    assert embeddings(stored) == embeddings(wanted)
    observations = store.observations(stream=stream, columns=("t", "x0", "mask"))
    wanted = [o for b in batches for o in b.observations]
    masks = [o.mask for n, b in enumerate(batches) for o in b.observations if n >= maskless]
    stored_masks = [m and RleMask(tuple(m["size"]), m["counts"]) for m in observations["mask"].to_pylist()]
    assert stored_masks == [None] * (len(wanted) - len(masks)) + masks
    assert observations["t"].cast(pa.int64()).to_pylist() == [o.wall_ns for o in wanted]
    assert observations["x0"].to_pylist() == [o.box[0] for o in wanted]
    gaps = store.gaps(stream=stream)
    assert gaps["frames"].to_pylist() == [g.frames for b in batches for g in b.gaps]
    tracks = store.tracks(stream=stream)
    assert [tuple(r.values()) for r in tracks.select(["track", "observations", "text"]).to_pylist()] == [
        (c.track, c.observations, c.best_text) for b in batches for c in b.tracks
    ]
    assert store.resume(stream) == (batches[-1].resume if batches else ResumePoint())


def filled_store(path: Path, count: int, compaction: Compaction = BY_HAND) -> CaptionStore:
    """A store whose stream `cam` holds the batches 0..count-1."""
    store = CaptionStore.create(path)
    with store.writer("cam", INFO, compaction=compaction) as writer:
        for number in range(count):
            writer.commit(batch(number))
    return store


def write_forever(path: Path, acknowledged: Path, compaction: Compaction, pause_s: float = 0.0) -> None:
    """Go on from the store's resume point until killed; after each commit append its number to a file, and pause."""
    with (
        CaptionStore.create(path).writer("cam", INFO, compaction=compaction) as writer,
        open(acknowledged, "ab", buffering=0) as log,
    ):
        number = writer.resume.frame + 1
        while True:
            writer.commit(batch(number))
            log.write(b"%d\n" % number)
            number += 1
            time.sleep(pause_s)
