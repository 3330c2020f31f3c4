"""Ray itself: it listens on loopback only, keeps its files to itself, and its death is told at once."""

from __future__ import annotations

import fcntl
import ipaddress
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.runtime.on_ray.alive import RayWatch, Unanswered, death_text, knock
from pipeline.runtime.on_ray.own_folder import new_token, ray_folder
from pipeline.store import CaptionStore
from tests.duration import by_day
from tests.runtime.test_run import SCA, environment, stored_frame, wait_until
from tests.tiny_checkpoint import LENIENT
from tests.videos import write_video

pytestmark = pytest.mark.promise("ray-own", "ray-death", "home-tmpdir")

PATIENCE_S = 30


def listening(pids: set[int]) -> list[str]:
    """Where these processes take connections."""
    connections = psutil.net_connections("inet")
    return [one.laddr.ip for one in connections if one.pid in pids and one.status == psutil.CONN_LISTEN]


def is_loopback(ip: str) -> bool:
    address = ipaddress.ip_address(ip)
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


@pytest.mark.parametrize("killed", ["raylet", "gcs_server"][: by_day(1, 2)])
def test_on_loopback_in_a_folder_of_its_own_and_its_death_ends_the_run_with_what_was_committed(
    killed: str, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    # A home that nobody can write to: neither Ray nor we need one.
    env = {**environment(), "HOME": "/proc/nowhere", "TMPDIR": str(tmp_path / ("t" * 150)), "LC_ALL": "C"}
    (tmp_path / ("t" * 150)).mkdir()
    clip = write_video(tmp_path / "long.mp4", frames=3000, width=96, height=64)
    settings = [part for setting in (*LENIENT, "recording.commit_s=0.1") for part in ("--set", setting)]
    command = [*SCA, "run", str(clip), "--model", str(tiny_checkpoint), *settings]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=env
    )
    store = tmp_path / "long.zarr"
    wait_until(lambda: stored_frame(store, "long") >= 20, process)
    children = psutil.Process(process.pid).children(recursive=True)
    names = {child.name(): child for child in children}

    found = listening({process.pid, *(child.pid for child in children)})
    assert len(found) > 3
    assert all(map(is_loopback, found)), found
    raylet = " ".join(names["raylet"].cmdline())
    folder = next(part for part in raylet.split() if "sca-ray-" in part).partition("sca-ray-")
    mine = Path(f"/tmp/sca-ray-{folder[2].split('/')[0]}")
    assert stat.S_IMODE(mine.stat().st_mode) == 0o700
    assert stat.S_IMODE((mine / "token").stat().st_mode) == 0o600

    before = frames(store)
    names[killed].kill()
    begun = time.monotonic()
    out, err = process.communicate(timeout=120)
    assert time.monotonic() - begun < PATIENCE_S
    assert process.returncode == 1, err
    told = [line for line in err.splitlines() if line.startswith("sca: ")]
    assert len(told) == 1, err + out
    assert "has died" in told[0]
    assert "the same command goes on" in told[0]
    assert not mine.exists()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive
    assert before <= frames(store)
    assert stored_frame(store, "long") < 2999


def frames(store: Path) -> set[tuple[int, int]]:
    with CaptionStore.open(store) as opened:
        table = opened.observations().to_pandas()
    return set(zip(table["frame"], table["track"], strict=True))


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
            assert first.exists()
            assert second != first
            assert stat.S_IMODE(second.stat().st_mode) == 0o700
            assert stat.S_IMODE(new_token(second).stat().st_mode) == 0o600
        assert not second.exists()
        assert first.exists()
    assert sorted(path.name for path in place.iterdir()) == ["sca-ray-link", "sca-ray-somebody"]


def test_who_is_too_slow_once_is_not_dead_and_who_listens_nowhere_is() -> None:
    answers = iter(["slow", "", "slow", "slow", "slow", "", "refused", "", "refused", "refused"])
    told = threading.Event()

    def knock(address: str) -> None:
        answer = next(answers)
        if answer:
            raise Unanswered(refused=answer == "refused")

    ended: list[str] = []
    watch = RayWatch({"its raylet": "/socket"}, knock=knock, every_s=0.01, last_resort=ended.append)
    until = time.monotonic() + 30
    while watch.death is None and time.monotonic() < until:
        told.wait(0.01)
    assert watch.death == "its raylet"
    assert next(answers, None) is None, "no earlier"
    watch.end()
    assert not ended
    assert "died" in death_text(watch.death)


def test_doors_are_sockets_of_both_kinds(tmp_path: Path) -> None:
    import socket

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
        other = os.open(folder / "lock", os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(other)
