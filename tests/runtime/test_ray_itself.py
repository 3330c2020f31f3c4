"""Ray itself: it listens on loopback only, keeps its files to itself, and its death is told at once."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import itertools
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from pipeline.runtime.driver.remote import death_text
from pipeline.runtime.on_ray.alive import RayWatch, Unanswered, knock
from pipeline.runtime.on_ray.own_folder import new_token, ray_folder
from pipeline.store import CaptionStore
from tests.duration import LONG, by_day
from tests.runtime.test_run import SCA, environment, stored_frame, wait_until
from tests.tiny_checkpoint import LENIENT
from tests.videos import write_video

pytestmark = pytest.mark.promise("ray-own", "ray-death", "home-tmpdir")

PATIENCE_S = 30
# Frames of the film from one keyframe to the next: two seconds where nothing changes.
LONGEST_STEP = 50


def listening(pids: set[int]) -> list[str]:
    """Where these processes take connections."""
    connections = psutil.net_connections("inet")
    return [one.laddr.ip for one in connections if one.pid in pids and one.status == psutil.CONN_LISTEN]


def is_loopback(ip: str) -> bool:
    address = ipaddress.ip_address(ip)
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


@pytest.fixture
def long_run(tmp_path: Path, tiny_checkpoint: Path) -> Iterator[Callable[..., LongRun]]:
    """Starts `sca run` on a film that it does not come to the end of, where nobody can write to the home and TMPDIR is long."""
    started: list[LongRun] = []

    def start(*options: str) -> LongRun:
        started.append(LongRun(tmp_path, tiny_checkpoint, options))
        return started[-1]

    yield start
    for run in started:
        run.end()


class LongRun:
    """A run that has committed something. `told`: the lines of its standard error so far, and when each came."""

    def __init__(self, folder: Path, checkpoint: Path, options: Sequence[str]) -> None:
        # A home that nobody can write to: neither Ray nor we need one.
        env = {
            **environment(),
            "HOME": "/proc/nowhere",
            "TMPDIR": str(folder / ("t" * 150)),
            "XDG_STATE_HOME": str(folder / "state"),
            "LC_ALL": "C",
        }
        (folder / ("t" * 150)).mkdir()
        clip = write_video(folder / "long.mp4", frames=20000, width=96, height=64)
        settings = [part for setting in (*LENIENT, "recording.commit_s=0.1") for part in ("--set", setting)]
        command = [
            *SCA,
            "run",
            str(clip),
            "--model",
            str(checkpoint),
            "--metrics-port",
            "0",
            "--log-format",
            "json",
            *settings,
            *options,
        ]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=env,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        self.store = folder / "long.zarr"
        self.told: list[tuple[float, str]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.reach(20)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.told.append((time.monotonic(), line.rstrip()))

    @property
    def frame(self) -> int:
        return stored_frame(self.store, "long")

    def reach(self, frame: int) -> None:
        wait_until(lambda: self.frame >= frame, self.process)

    def line(self, words: str, after: float) -> float:
        """When a line with these words came."""

        def moments() -> list[float]:
            return [moment for moment, line in self.told if words in line and moment > after]

        wait_until(lambda: bool(moments()), self.process)
        return moments()[0]

    def health(self, wanted: int, path: str = "/healthz") -> None:
        """Wait until that is answered."""
        port = (
            next(line for _, line in self.told if "metrics on port" in line)
            .partition("port ")[2]
            .partition('"')[0]
        )

        def answer() -> int:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as reply:
                    return int(reply.status)
            except urllib.error.HTTPError as error:
                return error.code
            except OSError:  # a busy machine: asked again
                return 0

        wait_until(lambda: answer() == wanted, self.process)

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def over(self) -> int:
        code = self.process.wait(timeout=180)
        self._reader.join(timeout=30)
        return code

    def end(self) -> None:
        if self.process.poll() is None:
            family = self.family()
            self.process.kill()
            for member in family:
                with contextlib.suppress(psutil.Error):
                    member.kill()
            self.process.wait(timeout=60)


def own_folders(family: Sequence[psutil.Process]) -> tuple[Path, Path]:
    """Where the Ray that these are of keeps its files, and the folder in which the path begins that it was given."""
    raylet = next(one for one in family if one.name() == "raylet")
    shown = next(word for word in raylet.cmdline() if "/sca-ray-" in word and "/session_" in word)
    path = Path("/" + shown.partition("/")[2].partition("/session_")[0])
    return path.resolve().parent, path.parent


@pytest.mark.parametrize("killed", ["raylet", "gcs_server"][: by_day(1, 2)])
def test_on_loopback_in_a_folder_of_its_own_and_its_death_ends_a_run_that_may_not_restart(
    killed: str, long_run: Callable[..., LongRun]
) -> None:
    run = long_run("--set", "restarts.policy=never")
    family = run.family()
    found = listening({run.process.pid, *(one.pid for one in family)})
    assert len(found) > 3
    assert all(map(is_loopback, found)), found
    # Of Ray's own there is what a run on one machine needs: agents, monitors and dashboards are not.
    titles = [" ".join(one.cmdline())[:200].replace("ray::IDLE", "") for one in family]
    stages = [title for title in titles if title.startswith("ray::")]
    assert len(stages) <= 4, titles
    assert not [
        title
        for title in titles
        if title.partition(" --")[0].endswith(("dashboard.py", "monitor.py", "agent.py"))
    ]
    mine, link = own_folders(family)
    assert mine.is_relative_to(run.store.parent / "state")
    for folder in (mine.parent, mine, link):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((mine / "token").stat().st_mode) == 0o600

    before = frames(run.store)
    next(one for one in family if one.name() == killed).kill()
    begun = time.monotonic()
    assert run.over() == 1, run.told
    (told,) = [(moment, line) for moment, line in run.told if line.startswith("sca: ")]
    assert told[0] - begun < PATIENCE_S
    assert "has died" in told[1]
    assert "the same command goes on" in told[1]
    assert not mine.exists()
    assert not link.exists()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive
    assert before <= frames(run.store)
    assert run.frame < 19999


@pytest.mark.skipif(not LONG, reason="starts Ray twice more, half a minute of computing: make test-all")
@pytest.mark.parametrize("killed", [("raylet", "gcs_server"), ("gcs_server", "raylet")])
def test_a_run_goes_on_with_a_new_ray_when_its_own_was_killed(
    killed: Sequence[str], long_run: Callable[..., LongRun]
) -> None:
    run = long_run()
    for number, name in enumerate(killed):
        family, before, reached = run.family(), frames(run.store), run.frame
        mine, link = own_folders(family)
        begun = time.monotonic()
        next(one for one in family if one.name() == name).kill()
        run.health(503)
        assert run.line("a new Ray is started", after=begun) - begun < PATIENCE_S
        run.health(200)
        run.health(200, "/readyz")
        _, alive = psutil.wait_procs(family, timeout=60)
        assert not alive, "processes of the dead Ray are left"
        assert not mine.exists()
        assert not link.exists()
        run.reach(reached + 50)
        assert before <= frames(run.store)
        assert len([line for _, line in run.told if "a new Ray is started" in line]) == number + 1
    family = run.family()
    assert all(stat.S_IMODE(folder.stat().st_mode) == 0o700 for folder in own_folders(family))
    assert all(map(is_loopback, listening({run.process.pid, *(one.pid for one in family)})))
    run.process.send_signal(signal.SIGINT)
    assert run.over() == 130, run.told
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive
    rows = frames_in_order(run.store)
    assert len(set(rows)) == len(rows), "repeated"
    keyframes = sorted({frame for frame, _ in rows})
    assert max(after - before for before, after in itertools.pairwise(keyframes)) <= 2 * LONGEST_STEP
    assert not any("Traceback" in line for _, line in run.told), [line for _, line in run.told]


@pytest.mark.skipif(not LONG, reason="starts Ray six times: make test-all")
@pytest.mark.promise("stops-in-order")
@pytest.mark.parametrize("after_s", [0.5, 2, 3, 4, 5, 7])
def test_sigterm_while_ray_starts_is_a_first_ctrl_c(
    tmp_path: Path, tiny_checkpoint: Path, after_s: float
) -> None:
    """Ray and its native library set handlers of their own meanwhile."""
    clip = write_video(tmp_path / "long.mp4", frames=20000, width=96, height=64)
    settings = [part for setting in LENIENT for part in ("--set", setting)]
    process = subprocess.Popen(
        [*SCA, "run", str(clip), "--model", str(tiny_checkpoint), *settings],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=environment(),
    )
    # Python's own start is no part of what is tried.
    wait_until(lambda: Path(f"/proc/{process.pid}/maps").read_text().count("numpy") > 0, process)
    time.sleep(after_s)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=180)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "***" not in err
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive


_WHILE_IT_CONNECTS = """
import ctypes, os, signal
signal.signal(signal.SIGTERM, lambda number, frame: print("heard"))
import ray._raylet as native
from pipeline.runtime.on_ray.cluster import _INSTALL_HANDLERS, _signals_stay_ours
with _signals_stay_ours():
    getattr(ctypes.CDLL(native.__file__), _INSTALL_HANDLERS)(None, False)  # as its constructor does, before it connects
    os.kill(os.getpid(), signal.SIGTERM)
"""


def test_sigterm_while_ray_connects_is_ours() -> None:
    """Ray waits for its own processes there, for seconds on a machine that is busy."""
    done = subprocess.run(
        [sys.executable, "-c", _WHILE_IT_CONNECTS],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr


def frames_in_order(store: Path) -> list[tuple[int, int]]:
    with CaptionStore.open(store) as opened:
        table = opened.observations().to_pandas()
    return list(zip(table["frame"], table["track"], strict=True))


def frames(store: Path) -> set[tuple[int, int]]:
    return set(frames_in_order(store))


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a short path, as sockets need it."""
    with tempfile.TemporaryDirectory(prefix="sca") as folder:
        yield Path(folder)


def test_what_killed_runs_left_behind_goes_and_what_is_in_use_stays(place: Path) -> None:
    environment = {"RAY_TMPDIR": str(place)}
    command = (
        "import os, sys, signal; from pipeline.runtime.on_ray.own_folder import ray_folder; "
        "context = ray_folder({'RAY_TMPDIR': sys.argv[1]}); context.__enter__(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", command, str(place)], check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = place.iterdir()
    (place / "sca-ray-somebody").mkdir()
    (place / "sca-ray-link").symlink_to(place)
    with ray_folder(environment) as first:
        assert not left.exists()
        with ray_folder(environment) as second:
            assert first.path.exists()
            assert second.path != first.path
            assert stat.S_IMODE(second.path.stat().st_mode) == 0o700
            assert stat.S_IMODE(new_token(second.path).stat().st_mode) == 0o600
        assert not second.path.exists()
        assert first.path.exists()
    assert sorted(path.name for path in place.iterdir()) == ["sca-ray-link", "sca-ray-somebody"]


def test_files_lie_in_the_state_directory_and_sockets_have_short_paths(place: Path) -> None:
    (place / "t").mkdir()
    for home in (place / "state", place / ("s" * 150)):
        environment = {"XDG_STATE_HOME": str(home), "TMPDIR": str(place / "t")}
        with ray_folder(environment) as folder:
            assert folder.path.is_relative_to(home)
            assert stat.S_IMODE(folder.path.parent.stat().st_mode) == 0o700
            assert folder.shown.resolve().is_relative_to(folder.path.resolve())
            session = folder.shown / f"session_2026-11-28_01-25-55_123456_{os.getpid()}" / "sockets"
            session.mkdir(parents=True)
            with socket.socket(socket.AF_UNIX) as door:
                door.bind(str(session / "plasma_store"))
        assert not any(place.rglob("sca-ray-*"))


def test_where_the_state_directory_is_no_place_the_temporary_one_is(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "file").touch()
    (place / "t").mkdir()
    for home in ("/proc/nowhere", str(place / "file"), "/dev/full"):
        with ray_folder({"XDG_STATE_HOME": home, "TMPDIR": str(place / "t")}) as folder:
            assert folder.path.parent == place / "t"
            assert folder.shown.parent == folder.path
    # As root in the home of somebody else, whose folders would then be root's.
    (place / "theirs").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    real = Path.stat

    def theirs(path: Path, **options: bool) -> os.stat_result:
        found = list(real(path, **options))
        found[stat.ST_UID] = 1000
        return os.stat_result(found)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", theirs)
        with ray_folder({"XDG_STATE_HOME": str(place / "theirs"), "TMPDIR": str(place / "t")}) as folder:
            assert folder.path.parent == place / "t"
    assert not any((place / "theirs").iterdir())


def test_who_is_too_slow_for_a_while_is_not_dead_and_who_listens_nowhere_is() -> None:
    answers = iter(["slow", "", *["slow"] * 30, "", "refused", "", "refused", "slow", "refused"])

    def knock(address: str) -> None:
        answer = next(answers)
        if answer:
            raise Unanswered(refused=answer == "refused")

    watch, ended = watched(knock, silent_s=3600)
    assert watch.death == "its raylet"
    assert next(answers, None) is None, "no earlier"
    assert not ended
    assert "died" in death_text(watch.death)


def test_who_stays_silent_is_dead() -> None:
    asked: list[str] = []

    def knock(address: str) -> None:
        asked.append(address)
        raise Unanswered(refused=False)

    watch, _ = watched(knock, silent_s=0.2)
    assert watch.death == "its raylet"
    assert len(asked) > 1


def watched(knock: Callable[[str], None], silent_s: float) -> tuple[RayWatch, list[str]]:
    """Until a death is told."""
    ended: list[str] = []
    watch = RayWatch(
        {"its raylet": "/socket"}, knock=knock, every_s=0.01, silent_s=silent_s, last_resort=ended.append
    )
    until = time.monotonic() + 30
    while watch.death is None and time.monotonic() < until:
        time.sleep(0.01)
    watch.end()
    return watch, ended


def test_doors_are_sockets_of_both_kinds(tmp_path: Path) -> None:
    path = tmp_path / "door"
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(path))
        unix.listen()
        knock(f"127.0.0.1:{tcp.getsockname()[1]}")
        knock(str(path))
        port = tcp.getsockname()[1]
    for address in (f"127.0.0.1:{port}", str(path)):
        with pytest.raises(Unanswered) as raised:
            knock(address)
        assert raised.value.refused


def test_a_lock_is_held_by_the_process_that_made_it(place: Path) -> None:
    with ray_folder({"RAY_TMPDIR": str(place)}) as folder:
        other = os.open(folder.path / "lock", os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(other)
