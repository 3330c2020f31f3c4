"""A writer that is killed at any moment, and readers that look on while it writes."""

import multiprocessing
import random
import time
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.store import CaptionStore, Compaction
from tests.duration import by_day
from tests.store_samples import INFO, MERGING, batch, check_everything, newest_events, write_forever

pytestmark = pytest.mark.promise("kill")

KILLS = by_day(6, otherwise=30)


@pytest.fixture(scope="module")
def processes() -> multiprocessing.context.BaseContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "pytest", "pipeline.store", "tests.store_samples"])
    return context


def last_acknowledged(log: Path) -> int:
    """Number of the last commit that returned; -1 without any. The last line may be cut off."""
    lines = log.read_bytes().split(b"\n")[:-1] if log.exists() else []
    return int(lines[-1]) if lines else -1


def test_kill_loses_no_acknowledged_row_and_repeats_none(
    tmp_path: Path, processes: multiprocessing.context.BaseContext
) -> None:
    moments = random.Random(20231130)
    path, log = tmp_path / "killed.zarr", tmp_path / "acknowledged"
    for _ in range(KILLS):
        before = last_acknowledged(log)
        writer = processes.Process(target=write_forever, args=(path, log, MERGING))
        writer.start()
        while last_acknowledged(log) == before:
            assert writer.is_alive()
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.25))
        writer.kill()
        writer.join()
        writer.close()
        with CaptionStore.open(path) as store:
            stored = store.resume("cam").frame + 1
            assert stored >= last_acknowledged(log) + 1
            check_everything(store, stored)
    assert len(list((path / "streams/cam/epoch").iterdir())) == KILLS
    with CaptionStore.open(path) as store:
        with store.writer("cam", INFO, compaction=Compaction(fan_in=4, grace_s=0, enabled=False)) as after:
            while stored < 20:  # on a busy machine a writer is killed before it has done much
                after.commit(batch(stored))
                stored += 1
            after.compact()
        check_everything(store, stored)
    files = [file.name for file in (path / "streams/cam/hot").iterdir()]
    assert all(file.endswith(".zarr.zip") for file in files)
    assert len(files) < stored / 2
    assert any(".L2." in file for file in files)


def test_a_reader_sees_whole_batches_while_another_process_writes_and_merges(
    tmp_path: Path, processes: multiprocessing.context.BaseContext
) -> None:
    path, log = tmp_path / "live.zarr", tmp_path / "acknowledged"
    writer = processes.Process(target=write_forever, args=(path, log, MERGING))
    writer.start()
    try:
        while last_acknowledged(log) < 0:
            assert writer.is_alive()
            time.sleep(0.01)
        held, seen, reads = CaptionStore.open(path), 0, 0
        while reads <= by_day(20, otherwise=2000) or seen <= 20:
            acknowledged = last_acknowledged(log)
            for store in (held, CaptionStore.open(path)):
                table = store.captions(columns=("track", "t_start", "t_end", "text"))
                count = max(table["track"].to_pylist()) - 99
                assert count >= max(seen, acknowledged + 1)
                wanted = newest_events([batch(n) for n in range(count)])
                assert table["t_end"].cast(pa.int64()).to_pylist() == [e.end_ns for e in wanted]
                assert table["text"].to_pylist() == [e.text for e in wanted]
                seen, reads = count, reads + 1
            assert writer.is_alive()
    finally:
        writer.kill()
        writer.join()
