"""What `sca run` says to input that it cannot take: one line, the true cause, exit code 2, and no model loaded."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline import cli
from pipeline.commands.run_report import nothing_captioned
from pipeline.core.errors import UserError
from pipeline.runtime.on_ray.own_folder import temporary_directory
from tests.videos import write_video


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def loaded(*arguments: object, **named: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("sca.load", loaded)
    monkeypatch.setattr("pipeline.commands.run_steps.with_engines", loaded)
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "clip.mp4", frames=3)
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["sca", *arguments])
    assert cli._run() == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.promise("before-loading")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([""], "an input is empty: is a variable of your shell unset"),
        (["clip.mp4", ""], "an input is empty"),
        (["gopher://u:hunter2@cam"], "gopher:// is no address that can be read"),
        (["clip.mp4", "--name", "a/b"], "stream name 'a/b': use up to 100 bytes"),
        (["clip.mp4", "--name", ""], "stream name ''"),
        (
            ["clip.mp4", "--track", "4"],
            "clip.mp4: there is no video track 4; there are 1 (h264, 160x96, default)",
        ),
        (["clip.mp4", "--track", "0"], "greater than or equal to 1"),
        (["clip.mp4", "clip.mp4"], "two inputs would both be stream 'clip'"),
        (["clip.mp4", "--store", ""], "the name of the store is empty: is a variable of your shell unset"),
        (["no:such.mp4"], "no:such.mp4: no such file"),
        (["*.avi"], "nothing matches this pattern"),
        (["empty"], "empty: this folder is empty"),
        (["clip.mp4", "--start", "2026-10-25T02:30"], "came twice"),
    ],
)
def test_bad_input_is_one_line(
    here: Path,
    arguments: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (here / "empty").mkdir()
    monkeypatch.setenv("TZ", "Europe/Berlin")
    line = said(capsys, monkeypatch, "run", *arguments, "--runtime", "inline")
    assert words in line
    assert "hunter2" not in line


def test_a_file_that_looks_like_an_option_is_explained(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy("clip.mp4", "-clip.mp4")
    assert "write ./-clip.mp4" in said(capsys, monkeypatch, "run", "-clip.mp4")


def test_a_temporary_directory_that_is_too_long_is_told_before_anything_starts(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    long = here / ("t" * 90)
    long.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(long))
    line = said(capsys, monkeypatch, "run", "clip.mp4")
    assert "RAY_TMPDIR=" in line
    assert "too long for the sockets" in line
    assert "busy" not in line


def test_ray_would_refuse_what_we_refuse() -> None:
    from ray._private.utils import validate_socket_filepath

    session = f"sca-ray-12345678/r/session_2026-11-28_01-25-55_123456_{os.getpid()}/sockets/plasma_store"
    for length in range(20, 90):
        directory = "/" + "t" * length
        try:
            validate_socket_filepath(os.path.join(directory, session))
            refused = False
        except OSError:
            refused = True
        if refused:
            with pytest.raises(UserError, match="bytes too long"):
                temporary_directory({"RAY_TMPDIR": directory})
        else:
            assert temporary_directory({"RAY_TMPDIR": directory}) == directory
    # Whoever sets TMPDIR thinks of no sockets.
    assert temporary_directory({"TMPDIR": "/" + "t" * 150}) == "/tmp"


def test_a_run_without_regions_does_not_speak_of_regions_in_its_store(tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    assert nothing_captioned(0, store).startswith(
        f"No region was found, so {store} holds none and no captions"
    )
    assert f"{store} holds 7 regions, and the language model found words for none" in nothing_captioned(
        7, store
    )


def test_what_is_read_of_several_tracks_and_deep_pictures_is_told_once(
    here: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    cv2.imwrite("deep.png", np.full((64, 96), 7000, np.uint16) + np.arange(96, dtype=np.uint16))
    (here / "notes.txt").write_text("x")
    monkeypatch.setattr(sys, "argv", ["sca", "run", ".", "--runtime", "inline"])
    monkeypatch.setattr("pipeline.commands.run._execute", lambda *arguments: True)
    assert cli._run() == 130
    assert [m for m in caplog.messages if "left out: notes.txt" in m] != []
    assert len([m for m in caplog.messages if "pixels of uint16: 7000 to 7095 became 0 to 255" in m]) == 1
