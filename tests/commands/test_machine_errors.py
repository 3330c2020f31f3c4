"""What the machine refuses is one line with a remedy and exit code 2, wherever it comes up; a fault of ours keeps its traceback."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.commands.machine_errors import machine_error

pytestmark = pytest.mark.promise("machine-refuses")


def ended(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["sca", *arguments])
    # What main sets for a process of its own.
    with warnings.catch_warnings(), pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


@pytest.mark.parametrize(
    "arguments",
    [
        ["query", "s" * 300],
        ["run", "clip.mp4", "--store", "s" * 300],
        ["run", "clip.mp4", "--model", "m" * 5000],
        ["run", "s" * 5000],
        ["export", "e" * 300, "x.srt"],
        ["run", "clip.mp4", "--preset", "p" * 5000 + ".yaml"],
    ],
)
def test_names_that_no_disk_takes(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.videos import write_video

    write_video(tmp_path / "clip.mp4", frames=2)
    monkeypatch.chdir(tmp_path)
    assert ended(arguments, monkeypatch) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sca: ")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EMFILE, errno.EROFS, errno.EIO])
def test_it_is_named_with_the_remedy(number: int) -> None:
    told = machine_error(OSError(number, os.strerror(number), "yard\x1b[2J.zarr"))
    assert told is not None
    assert told.startswith("yard")
    assert os.strerror(number) in told
    assert "; " in told


def test_what_may_be_our_own_fault_is_not_taken_for_the_machines() -> None:
    assert machine_error(FileNotFoundError(errno.ENOENT, "No such file", "x")) is None
    assert machine_error(ConnectionResetError(errno.ECONNRESET, "reset")) is None
    assert machine_error(OSError("no number")) is None
