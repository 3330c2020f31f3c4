"""A whole Ray run that is killed again and again, and checked after every death; a test and a benchmark use it."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from pipeline.store import CaptionStore
from tests.tiny_checkpoint import QUICK
from tests.videos import write_video

# Frames from one keyframe to the next.
STEP = 5
_FRAMES_A_KILL = 320
"""Sixty-four keyframes: long enough that no run reaches the end before the last kill, which comes a second after a commit at most."""
_TIMEOUT_S = 300


def start(clip: Path, store: Path, checkpoint: Path) -> subprocess.Popen[str]:
    settings = (*QUICK, "recording.commit_s=0.05", "keyframes.interval_s=0.2", "keyframes.change=0")
    root = str(Path(__file__).resolve().parents[2])
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "pipeline.cli",
            "run",
            str(clip),
            "--store",
            str(store),
            "--model",
            str(checkpoint),
        ]
        + [part for setting in settings for part in ("--set", setting)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    )


def kill_tree(process: subprocess.Popen[str]) -> None:
    """End the process and everything it started, all at once, without a word."""
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        member.suspend()
    for member in family:
        member.kill()
    process.wait(timeout=30)
    psutil.wait_procs(family, timeout=30)


def stored(store: Path) -> tuple[int, list[tuple[int, int]]]:
    """The frame of the resume point, and every (frame, track) that is stored."""
    with CaptionStore.open(store) as opened:
        if "clip" not in opened.streams():
            return -1, []
        frame = opened.resume("clip").frame
        table = opened.observations(stream="clip").to_pandas()
    return frame, list(zip(table["frame"].tolist(), table["track"].tolist(), strict=True))


def killed_runs(
    folder: Path, checkpoint: Path, kills: int, report: Callable[[str], None] = lambda line: None
) -> None:
    """Kill a run at `kills` random moments, let it end, and assert that nothing was lost and nothing repeated."""
    frames_of_clip = _FRAMES_A_KILL * kills
    clip = write_video(folder / "clip.mp4", frames=frames_of_clip, width=96, height=64)
    store = folder / "clip.zarr"
    moments = random.Random(20231130)
    rows: list[tuple[int, int]] = []
    reached = -1
    resumed_behind = {-1}
    for kill in range(kills):
        process = start(clip, store, checkpoint)
        begun = time.monotonic()
        # The first of several kills may come while things still start; the others wait until this run has committed something.
        while (kill or kills == 1) and (not (store / "zarr.json").exists() or stored(store)[0] <= reached):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() - begun < _TIMEOUT_S
            time.sleep(0.05)
        time.sleep(moments.uniform(0, 1.0))
        before_kill = stored(store) if (store / "zarr.json").exists() else (-1, [])
        kill_tree(process)
        if not (store / "zarr.json").exists():
            continue
        reached, after = stored(store)
        # What a reader saw was acknowledged or about to be: it must still be there, and so must all before it.
        assert set(before_kill[1]) <= set(after)
        assert set(rows) <= set(after)
        assert len(set(after)) == len(after)
        assert all(frame <= reached for frame, _ in after)
        rows = after
        resumed_behind.add(reached)
        report(
            f"kill {kill + 1}: {len(before_kill[1])} rows seen before it, {len(after)} whole ones after it"
        )
    assert len(resumed_behind) >= max(kills, 2), "too few kills fell into the midst of a run"
    process = start(clip, store, checkpoint)
    output, _ = process.communicate(timeout=1200)
    assert process.returncode == 0, output
    reached, after = stored(store)
    assert reached == frames_of_clip - 1
    assert set(rows) <= set(after)
    assert len(set(after)) == len(after)
    frames = sorted({frame for frame, _ in after})
    assert frames[-1] == frames_of_clip - 1
    # A track gets its number at its second sighting: only the keyframe that a start begins with may lack rows.
    missing = set(range(frames[0], frames_of_clip, STEP)) - set(frames)
    assert missing <= {frame + STEP for frame in resumed_behind}
    report(f"{kills} kills: none of {len(after)} rows lost, none repeated")
