"""The recorder writes whole keyframes, commits on time, and never forgets what a failed commit held."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.core.clock import NS
from pipeline.core.frame import FrameTime
from pipeline.core.masks import RleMask
from pipeline.core.records import Batch, Gap, ResumePoint, StoredCaption
from pipeline.core.regions import EndedTrack, RegionCaption, Regions
from pipeline.recording.events import CaptionEventOptions
from pipeline.recording.recorder import KeptMasks, Recorder, RecordingOptions
from pipeline.store import CaptionStore
from tests.store_samples import INFO

WALL = 1_700_000_000 * NS
MASK = RleMask((10, 10), b"0")


class FullDisk:
    """A writer whose disk is full until it is told otherwise."""

    def __init__(self) -> None:
        self.full = False
        self.batches: list[Batch] = []
        self.resume = ResumePoint()

    def commit(self, batch: Batch) -> None:
        if self.full:
            raise ValueError("no space left")
        self.batches.append(batch)
        self.resume = batch.resume


def regions(index: int, tracks: list[int]) -> Regions:
    time = FrameTime(index * NS, WALL + index * NS)
    count = len(tracks)
    boxes = np.tile(np.array([1, 2, 5, 6], np.float32), (count, 1))
    return Regions(
        "s",
        index,
        time,
        (10, 10),
        boxes,
        (MASK,) * count,
        np.ones(count, np.float32),
        np.ones((count, 2), np.float32),
        np.array(tracks, np.int64),
    )


def caption(index: int, track: int, text: str) -> RegionCaption:
    time = FrameTime(index * NS, WALL + index * NS)
    return RegionCaption(
        track, index, time, (1, 2, 5, 6), MASK, np.array([1, 0], np.float32), text, 0.5, -1.0
    )


def recorder(writer: object, now: list[int], **options: float) -> Recorder:
    return Recorder(writer, RecordingOptions(**options), CaptionEventOptions(), lambda: now[0])


def test_commits_by_time_and_by_rows() -> None:
    writer, now = FullDisk(), [0]
    by_time = recorder(writer, now, commit_s=1, commit_rows=1000)
    by_time.keyframe(regions(0, [1, -1]), [caption(0, 1, "a dog")], [], 2)
    assert not writer.batches
    now[0] = NS
    by_time.keyframe(regions(1, [1]), [], [], 2)
    (batch,) = writer.batches
    assert [row.track for row in batch.observations] == [1, 1]
    assert batch.resume == ResumePoint(NS, 1, 0, WALL + NS, 2)
    by_rows = recorder(writer, now, commit_s=1000, commit_rows=3)
    by_rows.keyframe(regions(2, [1, 2, 3]), [], [], 4)
    assert len(writer.batches) == 2


def test_failed_commit_keeps_the_rows_for_the_next() -> None:
    writer, now = FullDisk(), [0]
    writer.full = True
    record = recorder(writer, now, commit_s=1000, commit_rows=1)
    with pytest.raises(ValueError, match="no space"):
        record.keyframe(regions(0, [1]), [caption(0, 1, "a dog")], [], 2)
    writer.full = False
    record.gap(Gap(WALL, WALL + 1, "corrupt", 1))
    record.commit()
    (batch,) = writer.batches
    assert (len(batch.observations), len(batch.captions), len(batch.gaps)) == (1, 1, 1)


def test_captions_are_told_once_and_only_when_they_are_durable() -> None:
    writer, now = FullDisk(), [0]
    options = RecordingOptions(commit_s=1000, commit_rows=1000)
    record = Recorder(writer, options, CaptionEventOptions(), lambda: now[0], lambda: WALL + 99)
    record.keyframe(regions(0, [1]), [caption(0, 1, "a dog")], [], 2)
    assert record.report().stored == ()
    writer.full = True
    with pytest.raises(ValueError, match="no space"):
        record.commit()
    assert record.report().stored == ()
    writer.full = False
    record.commit()
    (told,) = record.report().stored
    assert told == StoredCaption(1, WALL, WALL, 0, 0, (1, 2, 5, 6), "a dog", 0.5, WALL + 99)
    assert record.report().stored == ()
    record.keyframe(regions(1, [1]), [], [], 2)
    record.finish([EndedTrack(1, WALL, WALL + NS, 2)], None)
    assert [(event.start_ns, event.end_ns) for event in record.report().stored] == [(WALL, WALL + NS)]


def test_end_of_stream_closes_tracks_and_moves_the_resume_point_to_the_last_frame() -> None:
    writer, now = FullDisk(), [0]
    record = recorder(writer, now)
    record.keyframe(regions(0, [1]), [caption(0, 1, "a dog")], [], 2)
    record.keyframe(regions(1, [1]), [None], [], 2)
    record.finish([EndedTrack(1, WALL, WALL + NS, 2)], ResumePoint(3 * NS, 3, 0, WALL + 3 * NS))
    batch = writer.batches[-1]
    assert batch.resume == ResumePoint(3 * NS, 3, 0, WALL + 3 * NS, 2)
    assert [(track.track, track.observations, track.best_text) for track in batch.tracks] == [(1, 2, "a dog")]
    newest = {(row.track, row.start_ns): row for row in batch.captions}
    assert [(row.end_ns - WALL) // NS for row in newest.values()] == [1]


def test_what_is_recorded_can_be_queried(tmp_path) -> None:
    now = [0]
    with CaptionStore.create(tmp_path / "s.zarr").writer("cam", INFO) as writer:
        record = recorder(writer, now)
        for index in range(20):
            captions = [caption(index, 1, "a dog" if index < 10 else "a red car")] if index % 5 == 0 else []
            record.keyframe(regions(index, [1]), captions, [], 2)
        record.finish([EndedTrack(1, WALL, WALL + 19 * NS, 20)], None)
        assert record.report().observations == 20
        assert record.report().events == 2
    with CaptionStore.open(tmp_path / "s.zarr") as store:
        table = store.captions().to_pandas()
        assert table["text"].tolist() == ["a dog", "a red car"]
        assert table["start_s"].tolist() == [0, 10]
        assert table["end_s"].tolist() == [10, 19]
        assert len(store.observations()) == 20
        assert store.resume("cam").frame == 19


@pytest.mark.parametrize(
    ("kept", "observed", "told"),
    [(KeptMasks.NONE, None, None), (KeptMasks.EVENTS, None, MASK), (KeptMasks.ALL, MASK, MASK)],
)
def test_masks_are_kept_as_the_setting_says(
    kept: KeptMasks, observed: RleMask | None, told: RleMask | None
) -> None:
    writer, now = FullDisk(), [0]
    record = Recorder(writer, RecordingOptions(masks=kept), CaptionEventOptions(), lambda: now[0])
    record.keyframe(regions(0, [1, 2]), [caption(0, 1, "a dog")], [], 3)
    record.commit()
    (batch,) = writer.batches
    assert [row.mask for row in batch.observations] == [observed, observed]
    assert [event.mask for event in batch.captions] == [told]
