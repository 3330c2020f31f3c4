"""A disk that runs full in the midst of a run: one clear line, and everything committed is still there."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.runtime.on_ray.driver import run_on_ray
from pipeline.runtime.plan import plan_run
from pipeline.runtime.progress import RunObserver, StopRequest, StreamProgress
from pipeline.settings.config import load_config
from pipeline.store import CaptionStore
from tests.rtsp_camera import RtspCamera, needs_rtsp_server
from tests.tiny_checkpoint import QUICK
from tests.videos import write_video

pytestmark = pytest.mark.promise("full-disk")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"NOT TESTED: a full disk; mounting a small tmpfs needs root ({mounted.stderr.strip()})")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


class FillsTheDisk(RunObserver):
    """Takes all room that is left once the run has stored something; notes what a reader saw then."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self.before: list[tuple[int, int]] = []

    def progress(self, now: StreamProgress) -> None:
        if self.before or now.keyframes < 20:
            return
        self.before = observations(self._store)
        if not self.before:
            return
        with contextlib.suppress(OSError), (self._store.parent / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(os.urandom(4096))


def observations(store: Path) -> list[tuple[int, int]]:
    with CaptionStore.open(store) as opened:
        table = opened.observations().to_pandas()
    return list(zip(table["frame"].tolist(), table["track"].tolist(), strict=True))


@pytest.mark.slow
@pytest.mark.usefixtures("shared_ray")
def test_a_full_disk_ends_the_run_with_the_remedy_and_the_next_run_goes_on(
    small_disk: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    clip = write_video(tmp_path / "clip.mp4", frames=240, width=96, height=64)
    store = small_disk / "s.zarr"
    settings = (*QUICK, "recording.commit_s=0.05", "keyframes.change=0", "keyframes.interval_s=0.2")
    config = load_config("default", settings, changes={"model": str(tiny_checkpoint)})
    filler = FillsTheDisk(store)
    with pytest.raises(ValueError, match="the disk is full: free some space, then go on"):
        run_on_ray(plan_run([str(clip)], config, store=store), filler, StopRequest())
    kept = observations(store)
    assert set(filler.before) <= set(kept)
    (small_disk / "filler").unlink()
    (progress,) = run_on_ray(plan_run([str(clip)], config, store=store), RunObserver(), StopRequest())
    assert progress.finished
    after = observations(store)
    assert after[: len(kept)] == kept
    assert len(set(after)) == len(after)
    with CaptionStore.open(store) as opened:
        assert opened.resume("clip").frame == 239


class FreesTheDisk(FillsTheDisk):
    """Takes all room, gives it back once the stream has broken on that, and stops the run when rows come again."""

    def __init__(self, store: Path, stop: StopRequest) -> None:
        super().__init__(store)
        self._stop = stop
        self.broke = 0
        self.kept: list[tuple[int, int]] = []

    def restarted(self, what: str, stream: str) -> None:
        self.broke += 1
        filler = self._store.parent / "filler"
        if filler.exists():
            filler.unlink()
            self.kept = observations(self._store)

    def progress(self, now: StreamProgress) -> None:
        super().progress(now)
        if self.kept and len(observations(self._store)) >= len(self.kept) + 10:
            self._stop.set()


@pytest.mark.slow
@needs_rtsp_server
@pytest.mark.usefixtures("shared_ray")
def test_a_camera_goes_on_when_a_full_disk_has_room_again(
    small_disk: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    store = small_disk / "s.zarr"
    settings = (*QUICK, "recording.commit_s=0.05", "keyframes.change=0", "keyframes.interval_s=0.2")
    config = load_config("live", settings, changes={"model": str(tiny_checkpoint)})
    stop = StopRequest()
    watch = FreesTheDisk(store, stop)
    with RtspCamera(tmp_path) as camera:
        run_on_ray(plan_run([camera.url], config, store=store, name="cam"), watch, stop)
    assert watch.broke >= 1
    after = observations(store)
    assert set(watch.before) <= set(watch.kept) <= set(after)
    assert len(set(after)) == len(after) > len(watch.kept)
