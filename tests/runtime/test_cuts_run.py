"""Whole runs over hard cuts: nothing is followed from one shot into the next."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.cli import main
from tests.tiny_checkpoint import LENIENT, write_tiny_checkpoint

RATE = 10
SHOT = 15


def write_shots(path: Path) -> Path:
    """Three shots of 1.5 s without anything in common but a shape at the same place."""
    rows, columns = np.mgrid[0:96, 0:160]
    grounds = [
        np.stack([rows * 2 % 200, columns % 90, rows % 60], -1),
        np.stack([230 - columns % 120, 255 - rows * 2 % 150, 200 + 0 * rows], -1),
        np.stack([(rows // 12 + columns // 12) % 2 * 200, 90 + 0 * rows, columns], -1),
    ]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        stream.codec_context.options = {"preset": "ultrafast", "threads": "1"}
        for index in range(3 * SHOT):
            rgb = grounds[index // SHOT].astype(np.uint8)
            left = 40 + index % SHOT
            rgb[30:60, left : left + 30] = [(220, 30, 30), (20, 20, 120), (250, 230, 40)][index // SHOT]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        container.mux(stream.encode())
    return path


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, object]]:
    with pytest.raises(SystemExit):
        call(*arguments)
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def call(*arguments: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["sca", *arguments])
        main()


def test_no_track_and_no_caption_lives_on_both_sides_of_a_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    film = write_shots(tmp_path / "shots.mp4")
    model = write_tiny_checkpoint(tmp_path / "tiny")
    settings = [word for setting in (*LENIENT, "runtime.engine=eager") for word in ("--set", setting)]
    with pytest.raises(SystemExit) as ended:
        call(
            "run", str(film), "--model", str(model), "--runtime", "inline", "--quiet", "--profile", *settings
        )
    assert ended.value.code == 0
    told = capsys.readouterr().out
    for stage in ("start", "decode", "keyframe gate", "encode", "prompts", "captions", "commit", "all else"):
        assert stage in told
    assert "First keyframe analysed" in told
    assert "of the rate of the encoder alone" in told
    marks = said(capsys, "query", "shots.zarr", "--gaps", "--format", "json")
    assert [mark["reason"] for mark in marks] == ["cut", "cut"]
    captions = said(capsys, "query", "shots.zarr", "--format", "json")
    length_s = SHOT / RATE
    assert {row["shot"] for row in captions} == {0, 1, 2}
    for row in captions:
        assert int(float(row["start_s"]) // length_s) == row["shot"]  # type: ignore[arg-type]
        assert float(row["end_s"]) < length_s * (row["shot"] + 1)  # type: ignore[arg-type,operator]
    for track in {row["track"] for row in captions}:
        assert len({row["shot"] for row in captions if row["track"] == track}) == 1
    second = said(capsys, "query", "shots.zarr", "--shot", "1", "--format", "json")
    assert second == [row for row in captions if row["shot"] == 1]
