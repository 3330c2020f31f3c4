"""Real runs as processes, stopped by a real Ctrl-C: at any moment of a broadcast, and while a server keeps silent."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.runtime.inline import run_inline
from pipeline.runtime.plan import plan_run
from pipeline.runtime.progress import ProgressOnly, StopRequest
from pipeline.settings.config import load_config
from pipeline.store import CaptionStore
from sca.predictor import Predictor
from tests.duration import by_day
from tests.media.films import Film, write_film
from tests.tiny_checkpoint import LENIENT
from tests.videos import picture, write_video
from tests.web_servers import Handler, serving

START = "2026-01-01T12:00:00Z"
START_NS = 1_767_268_800 * 1_000_000_000


def interrupted(
    folder: Path, checkpoint: Path, address: str, ready: Callable[[], bool], wait_s: float, *more: str
) -> tuple[int, str, float]:
    """Start `sca run`, press Ctrl-C `wait_s` after `ready`; its exit code, what it said, and how long it took to end."""
    settings = (*LENIENT, "recording.commit_s=0.1", *more)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "pipeline.cli", "run", address, "--runtime", "inline"),
            *("--model", str(checkpoint), "--store", "s.zarr", "--start", START),
            *(part for setting in settings for part in ("--set", setting)),
        ],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )
    until = time.monotonic() + 120
    while not ready() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(wait_s)
    process.send_signal(signal.SIGINT)
    begun = time.monotonic()
    said, _ = process.communicate(timeout=60)
    return process.returncode, said, time.monotonic() - begun


def to_the_end(film: Path, store: Path, checkpoint: Path, model: Predictor) -> list[int]:
    """Run, or go on, to the end; when something was observed, ns UTC."""
    config = load_config("default", LENIENT, changes={"model": str(checkpoint), "runtime.kind": "inline"})
    start_ns = None if store.exists() else START_NS
    plan = plan_run([str(film)], config, store=store, start_ns=start_ns)
    assert run_inline(plan, ProgressOnly(lambda _: None), StopRequest(), model)[0].finished
    with CaptionStore.open(store) as opened:
        return sorted(set(opened.observations(stream="clip")["t"].to_pylist()))


def test_a_broadcast_stopped_by_ctrl_c_at_any_moment_is_gone_on_with(
    tmp_path: Path, tiny_checkpoint: Path, tiny_predictor: Predictor
) -> None:
    film = write_film(
        Film("ts", count=500, gop=100, bframes=2, size=(160, 96)), tmp_path / "clip.ts", picture
    )
    whole = to_the_end(film, tmp_path / "whole.zarr", tiny_checkpoint, tiny_predictor)
    choose = random.Random(11)
    for number in range(by_day(1, 5)):
        folder = tmp_path / str(number)
        folder.mkdir()
        store = folder / "s.zarr"
        # At its own speed, so that the run is never over before it is stopped.
        code, said, _ = interrupted(
            folder,
            tiny_checkpoint,
            str(film),
            lambda store=store: any(store.rglob("*.zip")),  # type: ignore[misc]
            choose.uniform(0, 6),
            "flow.real_time=true",
        )
        assert code == 130, said
        assert "run the same command to go on" in said
        with CaptionStore.open(store) as opened:
            assert 0 < opened.resume("clip").frame < 499
        assert to_the_end(film, store, tiny_checkpoint, tiny_predictor) == whole
        with CaptionStore.open(store) as opened:
            assert opened.gaps(stream="clip").num_rows == 0


@pytest.mark.parametrize("opened", [False, True][: by_day(1, 2)])
def test_ctrl_c_gets_through_while_a_web_server_keeps_silent(
    tmp_path: Path, tiny_checkpoint: Path, opened: bool
) -> None:
    film = write_video(tmp_path / "clip.mp4", frames=400, width=320, height=180, faststart=True)
    content, silent, asked = film.read_bytes(), threading.Event(), threading.Event()
    until = len(content) // 2 if opened else 4000

    def answer(request: Handler) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        since = int(wanted[1]) if wanted else 0
        place = f"bytes {since}-{len(content) - 1}/{len(content)}"
        request.begin("video/mp4", 206, Content_Length=str(len(content) - since), Content_Range=place)
        request.write(content[since:until] if since < until or not opened else content[since:])
        asked.set()
        silent.wait(90)

    store = tmp_path / "s.zarr"
    with serving(answer) as address:
        code, said, ended_s = interrupted(
            tmp_path,
            tiny_checkpoint,
            f"{address}/clip.mp4",
            (lambda: any(store.rglob("*.zip"))) if opened else asked.is_set,
            2.0,
        )
        silent.set()
    assert code == 130, said
    assert "Traceback" not in said
    assert ended_s < 20
