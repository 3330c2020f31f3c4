"""Outputs that a user names: only regular files are replaced, and what they were stays."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.core.errors import UserError
from pipeline.core.output_files import check_output, output_by_name, writing_output

pytestmark = pytest.mark.promise("outputs-regular")


def write(path: Path, data: bytes = b"new") -> None:
    with writing_output(path) as file:
        file.write(data)


def test_a_device_stays_a_device(tmp_path: Path) -> None:
    link = tmp_path / "null.csv"
    link.symlink_to("/dev/null")
    for path in (Path("/dev/null"), link):
        write(path)
        assert stat.S_ISCHR(os.stat(path).st_mode)
    assert link.is_symlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
def test_a_device_of_ones_own_stays_one_for_root_too(tmp_path: Path) -> None:
    device = tmp_path / "zero.csv"
    try:
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("this container makes no devices")
    # A file system without devices refuses to write; what counts is that it still is one.
    with contextlib.suppress(PermissionError):
        write(device)
    assert stat.S_ISCHR(os.stat(device).st_mode)


def test_a_fifo_and_a_socket_are_written_to(tmp_path: Path) -> None:
    fifo = tmp_path / "pipe.csv"
    os.mkfifo(fifo)
    writer = threading.Thread(target=write, args=(fifo,))
    writer.start()
    assert fifo.read_bytes() == b"new"
    writer.join()
    assert fifo.is_fifo()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        writer = threading.Thread(target=write, args=(tmp_path / "s",))
        writer.start()
        with listening.accept()[0] as connection:
            assert connection.makefile("rb").read() == b"new"
        writer.join()
    assert (tmp_path / "s").is_socket()


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "a.csv", tmp_path / "b.csv"
    link.symlink_to(target)
    for data in (b"first", b"second"):  # the first time, the target is not there yet
        write(link, data)
        assert link.is_symlink()
        assert target.read_bytes() == data
        assert not target.is_symlink()
    loop = tmp_path / "loop.csv"
    loop.symlink_to(loop)
    with pytest.raises(UserError, match=r"cannot write .*loop\.csv"):
        write(loop)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_the_mode_stays(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"old")
    path.chmod(mode)
    write(path)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == mode
    with output_by_name(path) as (name, seekable):
        assert seekable
        assert (
            stat.S_IMODE(name.stat().st_mode) == mode
        )  # never readable to more than the old one, not even for a moment
        name.write_bytes(b"video")
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"video", mode)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_the_owner_stays_where_root_writes(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"old")
    os.chown(path, 1234, 2345)
    write(path)
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 2345)


def test_what_fails_leaves_everything_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"old")

    def half() -> None:
        with writing_output(path) as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.csv"]


@pytest.mark.promise("outputs-elsewhere")
def test_folders_inputs_and_stores_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="folder"):
        write(tmp_path)
    clip, store = tmp_path / "clip.mp4", tmp_path / "s.zarr"
    clip.write_bytes(b"video")
    store.mkdir()
    for name in ("link", "hard"):
        getattr(os, "symlink" if name == "link" else "link")(clip, tmp_path / name)
        with pytest.raises(UserError, match="the input itself"):
            check_output(tmp_path / name, source=str(clip))
    (tmp_path / "inside").symlink_to(store / "zarr.json")
    for path in (store / "cam" / "a.csv", tmp_path / "inside", store):
        with pytest.raises(UserError, match=r"inside the store|folder"):
            check_output(path, store=store)
    check_output(tmp_path / "s.zarr.csv", source=str(clip), store=store)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to everything")
def test_a_file_that_may_not_be_written_to_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"old")
    path.chmod(0o400)
    with pytest.raises(UserError, match="permissions"):
        write(path)
    assert path.read_bytes() == b"old"


@pytest.mark.promise("standard-output")
@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_streams_to_a_pipe_and_behind_what_a_file_holds(tmp_path: Path, name: str) -> None:
    code = (
        "import sys; from pathlib import Path; from pipeline.core.output_files import writing_output\n"
        "with writing_output(Path(sys.argv[1])) as file: file.write(b'new')"
    )
    piped = subprocess.run([sys.executable, "-c", code, name], capture_output=True, check=True)
    assert piped.stdout == b"new"
    log = tmp_path / "log"
    log.write_bytes(b"old ")
    inode = log.stat().st_ino
    with open(log, "ab") as file:
        subprocess.run([sys.executable, "-c", code, name], stdout=file, check=True)
    assert (log.read_bytes(), log.stat().st_ino) == (b"old new", inode)
