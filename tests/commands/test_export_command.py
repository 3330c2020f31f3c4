"""`sca export` as a user runs it."""

import csv
import json
import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from pipeline.commands.export import export
from pipeline.core.records import Batch, CaptionEvent
from pipeline.store import CaptionStore, StreamInfo
from tests.store_samples import INFO, T0, S

app = typer.Typer()
app.command()(export)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    store = CaptionStore.create(tmp_path / "a.zarr")
    with store.writer("cam", INFO) as writer:
        for start, text in ((0, "a dog <left> & co"), (1, "a dog <left> & co"), (3661, "a\n\ncat")):
            at = T0 + start * S
            event = CaptionEvent(7, at, at + S, start * S, (start + 1) * S, 0, (0, 0, 1, 1), text, 0.5, -1)
            writer.commit(Batch(captions=(event,)))
    return store.path


def test_json_lines_and_csv_hold_every_event(path: Path, tmp_path: Path) -> None:
    for name in ("out.jsonl", "out.csv"):
        assert run(path, tmp_path / name).exit_code == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    with open(tmp_path / "out.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == [line["text"] for line in lines]
    assert [row["start_s"] for row in rows] == [0, 1, 3661]


def test_subtitles_join_what_is_said_again_and_keep_one_line_a_cue(path: Path, tmp_path: Path) -> None:
    assert run(path, tmp_path / "out.srt").exit_code == 0
    assert (tmp_path / "out.srt").read_text() == (
        "1\n00:00:00,000 --> 00:00:02,000\n[7] a dog \u2039left\u203a & co\n\n"
        "2\n01:01:01,000 --> 01:01:02,000\n[7] a cat\n\n"
    )
    assert run(path, tmp_path / "named", "--format", "vtt", "--to", "10s").exit_code == 0
    assert (tmp_path / "named").read_text() == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:02.000\n[7] a dog &lt;left&gt; &amp; co\n\n"
    )


def test_a_player_reads_the_subtitles(path: Path, tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    for name in ("out.srt", "out.vtt"):
        run(path, tmp_path / name)
        with av.open(str(tmp_path / name)) as container:
            starts = [packet.pts * packet.time_base for packet in container.demux() if packet.pts is not None]
        assert [float(start) for start in starts] == [0, 3661]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["out.xyz"], "cannot tell the format of .*out.xyz: end it in .jsonl, .csv, .srt, .vtt"),
        (["missing/out.csv"], "cannot write .*missing/out.csv"),
        (["out.srt"], re.escape("subtitles hold one stream: choose it with --stream cam|yard")),
    ],
)
def test_bad_requests_are_refused_with_the_remedy(
    path: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    with CaptionStore.open(path).writer("yard", StreamInfo("y.mp4", INFO.clock, T0, 64, 48)) as writer:
        writer.commit(Batch(captions=(CaptionEvent(1, T0, T0, 0, 0, 0, (0, 0, 1, 1), "x", 1, 0),)))
    result = run(path, tmp_path / arguments[0])
    assert isinstance(result.exception, ValueError)
    with pytest.raises(ValueError, match=message):
        raise result.exception
