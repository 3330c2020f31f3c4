"""What lies beside a video is never run: not by the command, not by the processes that it starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.store import CaptionStore
from tests.hostile_folder import LIBRARIES, OURS, fill_hostile, imported_from
from tests.tiny_checkpoint import LENIENT, write_tiny_checkpoint
from tests.videos import write_video

pytestmark = pytest.mark.promise("beside-the-video")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize(
    ("runtime", "start", "names"),
    [
        # As the console script: Python has not put the working directory on the path. (On Ray: test_run.py.)
        ("inline", ("-P",), OURS + LIBRARIES),
        # `python -m` itself finds `pipeline` there before any line of ours; everything after that does not.
        ("inline", (), LIBRARIES),
    ],
)
def test_modules_beside_the_video_are_not_imported(
    tmp_path: Path, checkpoint: Path, runtime: str, start: tuple[str, ...], names: tuple[str, ...]
) -> None:
    write_video(tmp_path / "clip.mp4", frames=30)
    fill_hostile(tmp_path, *names)
    settings = [word for setting in LENIENT for word in ("--set", setting)]
    command = ["run", "clip.mp4", "--runtime", runtime, "--model", str(checkpoint), *settings, "--quiet"]
    done = subprocess.run(
        [sys.executable, *start, "-m", "pipeline.cli", *command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert imported_from(tmp_path) == [], done.stderr
    assert done.returncode == 0, done.stderr
    with CaptionStore.open(tmp_path / "clip.zarr") as store:
        assert store.observations().num_rows
