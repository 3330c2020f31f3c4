"""A writer that is killed at any moment, and readers that look on while it writes."""

import multiprocessing
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.store import CaptionStore, Compaction
from tests.duration import LONG, by_day
from tests.killed_writers import context, killed_writers, last_acknowledged
from tests.store_samples import INFO, MERGING, batch, check_everything, newest_events, write_forever

pytestmark = pytest.mark.promise("kill")

ROOT = Path(__file__).resolve().parents[2]
KILLS = by_day(4, otherwise=60)


@pytest.fixture(scope="module")
def processes() -> multiprocessing.context.BaseContext:
    return context()


def test_kill_loses_no_acknowledged_row_and_repeats_none(tmp_path: Path) -> None:
    tally = killed_writers(tmp_path, KILLS, readers=by_day(0, otherwise=2))
    if LONG:
        assert tally.archives >= 10
        assert tally.reads >= 60
    path, stored = tmp_path / "killed.zarr", tally.stored
    assert len(list((path / "streams/cam/epoch").iterdir())) <= KILLS
    with CaptionStore.open(path) as store:
        with store.writer("cam", INFO, compaction=Compaction(fan_in=4, grace_s=0, enabled=False)) as after:
            for number in range(stored, stored + 20):
                after.commit(batch(number))
            after.compact()
        check_everything(store, stored + 20)
    files = [file.name for file in (path / "streams/cam/hot").iterdir()]
    assert all(file.endswith(".zarr.zip") for file in files)
    assert len(files) < 10
    assert any(".L2." in file for file in files)


@pytest.mark.skipif(
    not LONG, reason="hundreds of processes that fail or are killed by the kernel: make test-all"
)
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace injects the errors: apt install strace")
@pytest.mark.parametrize("work", ["commit", "merge", "archive", "forget", "erase"])
def test_an_error_or_a_kill_at_any_system_call_loses_and_invents_nothing(work: str) -> None:
    command = [sys.executable, str(ROOT / "benchmarks/store_faults.py"), "--works", work, "--most", "5"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3600)
    if "strace cannot trace" in ran.stderr:
        pytest.skip("this machine allows no tracing")
    assert ran.returncode == 0, ran.stderr
    assert "no other" in ran.stdout


def test_a_reader_sees_whole_batches_while_another_process_writes_and_merges(
    tmp_path: Path, processes: multiprocessing.context.BaseContext
) -> None:
    path, log = tmp_path / "live.zarr", tmp_path / "acknowledged"
    writer = processes.Process(target=write_forever, args=(path, log, MERGING, 0.01))
    writer.start()
    try:
        while last_acknowledged(log) < 0:
            assert writer.is_alive()
            time.sleep(0.01)
        held, seen, reads = CaptionStore.open(path), 0, 0
        while reads <= by_day(20, otherwise=600) or seen <= 20:
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
