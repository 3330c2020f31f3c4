"""Whole runs on a camera that fails: rows stay whole and in order, outages are stored, no password gets anywhere."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from pipeline.runtime.inline import run_inline
from pipeline.runtime.plan import plan_run
from pipeline.runtime.progress import RunObserver, StopRequest
from pipeline.settings.config import RunConfig, load_config
from pipeline.store import CaptionStore
from sca.predictor import Predictor
from tests.rtsp_camera import RtspCamera, needs_rtsp_server, wait_for
from tests.tiny_checkpoint import LENIENT

pytestmark = needs_rtsp_server

NS = 1_000_000_000
ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "hunter2-is-secret"
STALL_S = 2
LIVE = (
    "keyframes.interval_s=0.2",
    "recording.commit_s=0.2",
    f"sources.stall_timeout_s={STALL_S}",
    "sources.max_backoff_s=2",
)


@pytest.fixture
def config(tiny_checkpoint: Path) -> RunConfig:
    return load_config(
        "live", [*LENIENT, *LIVE], changes={"model": str(tiny_checkpoint), "runtime.kind": "inline"}
    )


class LiveRun:
    """An inline run of one camera in a thread; `stop` ends it as Ctrl-C would."""

    def __init__(self, url: str, config: RunConfig, store: Path, predictor: Predictor) -> None:
        self.store = store
        self._stop = StopRequest()
        self._plan = plan_run([url], config, store=store, name="cam")
        self._thread = threading.Thread(target=self._run, args=(predictor,))
        self.error: Exception | None = None

    def __enter__(self) -> LiveRun:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def wait_rows(self, more: int = 8) -> None:
        """Until so many more observations are stored."""
        before = len(rows(self.store))
        wait_for(
            lambda: len(rows(self.store)) >= before + more or not self._thread.is_alive(), "rows", 120, 0.3
        )
        assert self.error is None, self.error

    def _run(self, predictor: Predictor) -> None:
        try:
            run_inline(self._plan, RunObserver(), self._stop, predictor)
        except Exception as error:
            self.error = error


def rows(store: Path) -> list[tuple[int, int, int]]:
    """(wall ns, frame, track) of every observation, as stored."""
    with CaptionStore.open(store) as opened:
        if not opened.streams():
            return []
        table = opened.observations().to_pandas()
    return list(zip(table["t"].astype("int64"), table["frame"], table["track"], strict=True))


def gaps(store: Path) -> list[tuple[str, int, int]]:
    with CaptionStore.open(store) as opened:
        table = opened.gaps().to_pandas()
    starts, ends = table["t_start"].astype("int64"), table["t_end"].astype("int64")
    return list(zip(table["reason"], starts, ends, strict=True))


def clocks(store: Path) -> list[str]:
    """Which clock held, in order: arrival until the camera told its own, and again when that was an hour off."""
    with CaptionStore.open(store) as opened:
        return list(opened.clocks().to_pandas()["clock"])


def check_rows(store: Path) -> None:
    """Nothing twice, frames in order of time, and nothing seen while nobody watched."""
    stored = rows(store)
    assert len(set(stored)) == len(stored)
    assert [frame for _, frame, _ in stored] == sorted(frame for _, frame, _ in stored)
    for reason, start, end in gaps(store):
        if reason == "outage":
            assert not any(start <= wall < end for wall, _, _ in stored)


def test_a_run_survives_everything_that_happens_to_its_camera(
    tmp_path: Path, config: RunConfig, tiny_predictor: Predictor
) -> None:
    store = tmp_path / "s.zarr"
    with RtspCamera(tmp_path) as camera, LiveRun(camera.url, config, store, tiny_predictor) as run:
        run.wait_rows()
        before = rows(store)
        camera.kill()
        time.sleep(1)
        camera.start()
        run.wait_rows()
        assert rows(store)[: len(before)] == before
        camera.tell("size 640 384")
        run.wait_rows()
        camera.tell("shift -2")
        run.wait_rows()
        wait_for(lambda: clocks(store)[-1] == "rtcp", "the camera's own clock", 60, 0.3)
        camera.set_clock_back(3600)
        wait_for(lambda: clocks(store)[-1] == "arrival", "the camera's clock to be refused", 60, 0.3)
        run.wait_rows()
        camera.tell("stall")
        # The connection is given up and made again. It may stall before its first picture, or right after.
        time.sleep(2 * STALL_S)
        camera.tell("go")
        wait_for(lambda: sum(reason == "outage" for reason, *_ in gaps(store)) >= 2, "both outages", 60, 0.3)
        run.wait_rows()
    check_rows(store)
    with CaptionStore.open(store) as opened:
        boxes = opened.observations().to_pandas()[["x0", "y0", "x1", "y1"]].to_numpy()
        assert opened.resume("cam").epoch >= 2
        assert {"arrival", "rtcp"} == set(clocks(store))
        assert set(opened.clocks().to_pandas()["epoch"]) >= {0, 1, 2}
    # Boxes stay in the pixels of the stream, whatever size the camera switched to.
    assert all(0 <= x1 <= x2 <= 320 and 0 <= y1 <= y2 <= 192 for x1, y1, x2, y2 in boxes)


def test_a_run_goes_on_while_its_camera_is_still_away(
    tmp_path: Path, config: RunConfig, tiny_predictor: Predictor
) -> None:
    store = tmp_path / "s.zarr"
    with RtspCamera(tmp_path) as camera:
        with LiveRun(camera.url, config, store, tiny_predictor) as run:
            run.wait_rows()
        first = rows(store)
        camera.kill()
        with LiveRun(camera.url, config, store, tiny_predictor) as run:
            camera.start()
            run.wait_rows()
    check_rows(store)
    assert rows(store)[: len(first)] == first
    assert any(reason == "outage" and start >= first[-1][0] for reason, start, _ in gaps(store))


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "RAY_BACKEND_LOG_LEVEL": "info", **more}


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Ray's sockets need a short path."""
    folder = Path(tempfile.mkdtemp(prefix="sca"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def command_line(url: str, tiny_checkpoint: Path, *more: str) -> list[str]:
    settings = [part for setting in (*LENIENT, *LIVE) for part in ("--set", setting)]
    return [
        *(sys.executable, "-m", "pipeline.cli", "run", url, "--preset", "live", "--store", "s.zarr"),
        *("--name", "cam", "--model", str(tiny_checkpoint), *settings, *more),
    ]


def check_no_password(folder: Path, *texts: str) -> None:
    """No file below `folder` and none of `texts` holds the password."""
    for text in texts:
        assert PASSWORD not in text
    looked_at = 0
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.name != "camera-login":
            looked_at += 1
            assert PASSWORD.encode() not in path.read_bytes(), path
    assert looked_at


@pytest.mark.promise("no-password")
@pytest.mark.parametrize(("runtime", "given"), [("inline", "by the environment"), ("ray", "in the address")])
def test_no_password_gets_into_store_logs_metrics_titles_or_output(
    tmp_path: Path, short_folder: Path, tiny_checkpoint: Path, runtime: str, given: str
) -> None:
    """With Ray its session logs, which hold what every actor wrote, lie in the folder that is searched."""
    typed = given == "in the address"
    credentials = f"viewer:{PASSWORD}" if typed else "viewer:${CAMERA_PASSWORD}"
    env = environment(RAY_TMPDIR=str(short_folder), **({} if typed else {"CAMERA_PASSWORD": PASSWORD}))
    with RtspCamera(tmp_path, login=f"viewer:{PASSWORD}") as camera:
        port = free_port()
        more = ("--runtime", runtime, "--metrics-port", str(port))
        command = command_line(camera.url_as(credentials), tiny_checkpoint, *more)
        out, err = short_folder / "out.txt", short_folder / "err.txt"
        with out.open("w") as stdout, err.open("w") as stderr:
            process = subprocess.Popen(command, stdout=stdout, stderr=stderr, cwd=short_folder, env=env)
        titles: set[str] = set()
        metrics = ""
        store = short_folder / "s.zarr"

        def running() -> bool:
            nonlocal metrics
            assert process.poll() is None, err.read_text()
            if (store / "zarr.json").exists():
                titles.update(titles_of(process.pid))
            metrics = scraped(port) or metrics
            return (store / "zarr.json").exists() and len(rows(store)) > 10

        wait_for(running, "rows", 240, 0.5)
        camera.kill()
        if runtime == "ray":
            down = 'sca_stream_up{stream="cam"} 0.0'
            wait_for(lambda: running() and down in metrics, "the camera to be told as down", 60, 0.5)
            assert not scraped(port, "/readyz")
        camera.start()
        before = len(rows(store))
        if runtime == "ray":
            wait_for(lambda: running() and scraped(port, "/readyz") == "ok\n", "readiness", 60, 0.5)
            assert 'sca_stream_up{stream="cam"} 1.0' in scraped(port)
        wait_for(lambda: running() and len(rows(store)) > before, "rows after the camera came back", 240, 0.5)
        # Now the camera wants another password. It took this one before, so the run tries again, but slowly, and says so.
        camera.kill()
        (tmp_path / "camera-login").write_text("viewer:changed")
        camera.start()
        refused = "refused, though it was accepted before"
        wait_for(lambda: running() and refused in " ".join(out.read_text().split()), refused, 120, 0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130, err.read_text()
    query = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "query", "s.zarr", "--format", "json"],
        capture_output=True,
        text=True,
        cwd=short_folder,
        env=env,
        check=True,
    )
    assert 'sca_reconnects_total{stream="cam"}' in metrics
    check_no_password(short_folder, query.stdout, metrics, *titles)


def scraped(port: int, path: str = "/metrics") -> str:
    """What the run says of itself; nothing while it is not served yet, or not well."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def titles_of(pid: int) -> set[str]:
    """Names and command lines of a process and all its children, as anybody on the machine may list them."""
    found: set[str] = set()
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            found.add(" ".join([process.name(), *process.cmdline()]))
    return found


def test_an_interrupt_ends_a_first_connection_that_hangs(tmp_path: Path, tiny_checkpoint: Path) -> None:
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"rtsp://127.0.0.1:{silent.getsockname()[1]}/cam"
        process = subprocess.Popen(
            command_line(url, tiny_checkpoint, "--set", "sources.open_timeout_s=600"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=environment(),
        )
        connection, _ = silent.accept()
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        connection.close()
    assert process.returncode == 130, (out, err)
    # A second for us; the rest is the interpreter's, on a machine that may be busy.
    assert time.monotonic() - begun < 5
    assert not (tmp_path / "s.zarr").exists()
