"""`sca query` as a user runs it."""

import csv
import io
import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from typer.testing import CliRunner, Result

from pipeline.cli import app as sca
from pipeline.commands.export import export
from pipeline.commands.query import query
from pipeline.core.errors import UserError
from pipeline.core.masks import RleMask, encode_masks
from pipeline.core.records import Batch, CaptionEvent, EffortName, EffortStep, Gap, GapReason, ResumePoint
from pipeline.query.rows import CaptionRow, coalesce
from pipeline.store import CaptionStore, StreamInfo
from tests.store_samples import INFO, T0, S, batch, filled_store

app = typer.Typer()
app.command()(query)
app_export = typer.Typer()
app_export.command()(export)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return filled_store(tmp_path_factory.mktemp("query") / "a.zarr", 20).path


def run(path: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, [str(path), *arguments])


def objects(path: Path, *arguments: str) -> list[dict[str, object]]:
    result = run(path, "--format", "json", *arguments)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_json_is_one_object_a_line(path: Path) -> None:
    first = objects(path, "--limit", "1")[0]
    assert first == {
        "stream": "cam",
        "track": 1,
        "t_start": "2026-09-21T14:13:20.000000Z",
        "t_end": "2026-09-21T14:13:25.000000Z",
        "start_s": 0.0,
        "end_s": 5.0,
        "text": "growing 0",
        "score": 0.5,
        "box": [4.0, 2.5, 34.25, 40.0],
        "shot": 0,
    }
    assert len(objects(path)) == 24
    assert "schöne" in run(path, "--format", "json").output


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("7s", "9s"),
        ("00:00:07", "00:00:09"),
        ("14:13:27", "14:13:29"),
        ("2026-09-21T14:13:27Z", "2026-09-21T16:13:29+02:00"),
    ],
)
def test_a_window_may_be_offsets_clock_times_or_iso(path: Path, start: str, end: str) -> None:
    rows = objects(path, "--utc", "--from", start, "--to", end)
    assert sorted(int(str(row["track"])) for row in rows) == [1, 106, 107, 108]
    starts = [datetime.fromisoformat(str(row["t_start"])) for row in rows]
    assert starts == sorted(starts)


def test_filters(path: Path) -> None:
    assert {row["text"] for row in objects(path, "--text", "KATZE 3")} == {"schöne Katze 3"}
    assert {row["track"] for row in objects(path, "--track", "104")} == {104}
    assert min(float(str(row["score"])) for row in objects(path, "--min-score", "0.6")) >= 0.6
    assert objects(path, "--text", "zebra") == []
    assert len(objects(path, "--stream", "cam", "--limit", "7")) == 7


def test_csv_holds_the_same_rows(path: Path) -> None:
    lines = list(csv.DictReader(io.StringIO(run(path, "--format", "csv").stdout)))
    rows = objects(path)
    assert [line["text"] for line in lines] == [row["text"] for row in rows]
    assert [line["t_start"] for line in lines] == [row["t_start"] for row in rows]
    assert [[float(line[edge]) for edge in ("x0", "y0", "x1", "y1")] for line in lines] == [
        r["box"] for r in rows
    ]


def test_the_table_shows_clock_and_offset_and_what_was_not_watched(path: Path) -> None:
    output = run(path, "--utc", "--from", "5s", "--to", "8s").output
    assert "14:13:25.0  00:00:05.0  00:00:10.0      1  growing 5" in output
    assert "captions of 5 tracks" in output
    assert "cam: 91.7% of the window was watched (1 gap: dropped)" in output


def test_the_table_joins_what_a_track_says_again_and_limits_what_it_shows(tmp_path: Path) -> None:
    store = CaptionStore.create(tmp_path / "a.zarr")
    with store.writer("cam", INFO) as writer:
        for n in range(4):
            start, text = T0 + n * 60 * S, "a [red] dog" if n < 3 else "a cat"
            event = CaptionEvent(
                1, start, start + 60 * S, n * 60 * S, (n + 1) * 60 * S, n, (0, 0, 9, 9), text, n / 4, -1
            )
            writer.commit(Batch(captions=(event,)))
    lines = [line for line in run(tmp_path / "a.zarr", "--utc").output.splitlines() if " a " in line]
    assert [line.split()[1:3] for line in lines] == [
        ["00:00:00.0", "00:03:00.0"],
        ["00:03:00.0", "00:04:00.0"],
    ]
    assert "a [red] dog" in lines[0]
    assert "0.50" in lines[0]
    assert "1 caption of 1 track, more beyond --limit" in run(tmp_path / "a.zarr", "--limit", "1").output


def test_nothing_found_tells_what_was_recorded(path: Path) -> None:
    output = run(path, "--utc", "--text", "zebra").output
    assert "No captions match." in output
    assert "cam was recorded from 2026-09-21 14:13:20 to 2026-09-21 14:13:40 UTC" in output


def test_an_empty_store_and_a_stream_without_captions(tmp_path: Path) -> None:
    store = CaptionStore.create(tmp_path / "a.zarr")
    assert "The store holds nothing yet." in run(store.path).output
    with store.writer("cam", INFO) as writer:
        writer.commit(Batch(gaps=(Gap(T0, T0 + S, "outage"),), resume=ResumePoint(0, 0, 0, T0 + 2 * S, 1)))
    assert "cam: 50.0% of the window was watched (1 gap: outage)" in run(store.path).output
    assert objects(store.path) == []


def test_offsets_count_from_the_start_of_each_stream(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "a.zarr", 4)
    with store.writer("later", StreamInfo("l.mp4", INFO.clock, T0 + 10 * S, 64, 48)) as writer:
        writer.commit(batch(11))
    rows = objects(store.path, "--from", "1s", "--to", "1.6s")
    assert {row["stream"] for row in rows} == {"cam", "later"}
    assert "later" in run(store.path).output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from", "9s", "--to", "8s"], "--from 9s .* is after --to 8s .*: swap them"),
        (["--from", "14:13:30", "--to", "14:13:20", "--utc"], "is after"),
        (["--from", "teatime"], "cannot read the time 'teatime': give a clock time"),
        (["--stream", "camm"], "no stream 'camm' .* did you mean 'cam'"),
    ],
)
def test_bad_requests_are_refused_with_the_remedy(path: Path, arguments: list[str], message: str) -> None:
    result = run(path, *arguments)
    assert isinstance(result.exception, ValueError)
    with pytest.raises(ValueError, match=message):
        raise result.exception


def test_a_store_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "does not exist: give the .zarr directory" in str(run(tmp_path / "none.zarr").exception)


@pytest.mark.parametrize("output", ["json", "csv", "table"])
def test_a_reader_that_goes_away_is_no_error(tmp_path: Path, output: str) -> None:
    store = CaptionStore.create(tmp_path / "a.zarr")
    events = tuple(
        CaptionEvent(n, T0 + n, T0 + n, n, n, n, (0, 0, 1, 1), f"thing number {n}", 0.5, -1)
        for n in range(1500)
    )
    with store.writer("cam", INFO) as writer:
        writer.commit(Batch(captions=events))
    script = "import typer; from pipeline.commands.query import query; typer.run(query)"
    command = [sys.executable, "-c", script, str(store.path), "--format", output]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


rows = st.builds(
    CaptionRow,
    stream=st.sampled_from("ab"),
    track=st.integers(0, 1),
    start_ns=st.integers(0, 20),
    end_ns=st.integers(20, 40),
    start_s=st.just(0.0),
    end_s=st.just(1.0),
    text=st.sampled_from(["x", "y"]),
    score=st.floats(0, 1),
    box=st.just((0.0, 0.0, 1.0, 1.0)),
)


@settings(deadline=None)
@given(st.lists(rows, max_size=12).map(lambda found: sorted(found, key=lambda row: row.start_ns)))
def test_coalescing_keeps_the_time_that_each_track_says_each_thing(found: list[CaptionRow]) -> None:
    def said(some: list[CaptionRow]) -> set[tuple[str, int, str, int]]:
        return {(r.stream, r.track, r.text, t) for r in some for t in range(r.start_ns, r.end_ns + 1)}

    joined = coalesce(found, gap_ns=0)
    assert said(joined) == said(found)
    assert coalesce(joined, gap_ns=0) == joined
    assert len(joined) <= len(found)


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten seconds of one stream, of which two were dropped, with a change of effort in between."""
    path = tmp_path_factory.mktemp("gaps") / "a.zarr"
    gaps = (Gap(T0 + 2 * S, T0 + 4 * S, GapReason.DROPPED, 7),)
    efforts = (EffortStep(T0 + 5 * S, EffortName.HALF_PROBES),)
    with CaptionStore.create(path).writer("cam", INFO) as writer:
        writer.commit(Batch(gaps=gaps, efforts=efforts, resume=ResumePoint(10 * S, 100, 0, T0 + 10 * S)))
    return path


def test_gaps_and_shed_steps_can_be_asked_for(troubled: Path) -> None:
    found = objects(troubled, "--gaps")
    assert [(row["reason"], row["frames"]) for row in found] == [("dropped", 7), ("effort:half-probes", 0)]
    assert found[1]["t_start"] == found[1]["t_end"] == "2026-09-21T14:13:25.000000Z"
    assert [row["reason"] for row in objects(troubled, "--gaps", "--from", "4.5s")] == ["effort:half-probes"]
    lines = list(csv.DictReader(io.StringIO(run(troubled, "--gaps", "--format", "csv").output)))
    assert [line["stream"] for line in lines] == ["cam", "cam"]
    table = run(troubled, "--gaps").output
    assert "effort:half-probes" in table
    assert "80.0% of the window was watched" in table


def test_a_change_of_effort_is_no_gap(troubled: Path) -> None:
    shown = run(troubled).output
    assert "80.0% of the window was watched (1 gap: dropped)" in shown


@pytest.fixture
def masked(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A store with a caption that has a mask, one that has none and one whose mask is none; and the first one's pixels."""
    pixels = np.zeros((1, INFO.height, INFO.width), bool)
    pixels[0, 100:300, 50:200] = True
    (code,), _ = encode_masks(pixels, (INFO.height, INFO.width))
    events = tuple(
        CaptionEvent(track, T0, T0 + S, 0, S, 0, (50, 100, 200, 300), "a door", 0.9, -0.1, mask=mask)
        for track, mask in ((1, code), (2, None), (3, RleMask((36, 48), b"nonsense")))
    )
    with CaptionStore.create(tmp_path / "a.zarr").writer("cam", INFO) as writer:
        writer.commit(Batch(captions=events, resume=ResumePoint(S, 1, 0, T0 + S, 4)))
    return tmp_path / "a.zarr", pixels[0]


@pytest.mark.promise("damaged-masks")
def test_masks_come_with_their_geometry_and_a_damaged_one_is_told_and_left_out(
    masked: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    path, pixels = masked
    result = run(path, "--format", "json", "--masks")
    assert result.exit_code == 3
    assert "the mask of track 3 at 0.0 s of cam is damaged" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    first, second, third = (json.loads(line)["mask"] for line in result.stdout.splitlines())
    assert first["picture"] == [480, 640]
    cells = coco_mask.decode(first)
    assert list(cells.shape) == first["size"] == [96, 128]
    assert (np.kron(cells, np.ones((5, 5))) != pixels).mean() < 0.01
    assert second is third is None
    assert all("mask" not in row for row in objects(path))
    strict = run(path, "--format", "json", "--masks", "--strict")
    assert isinstance(strict.exception, UserError)
    assert strict.stdout == ""
    exported = CliRunner().invoke(app_export, [str(path), str(tmp_path / "a.jsonl"), "--masks"])
    assert exported.exit_code == 3
    assert (tmp_path / "a.jsonl").read_text() == result.stdout


@pytest.mark.parametrize("arguments", [("--masks",), ("--masks", "--format", "csv"), ("--masks", "--gaps")])
def test_masks_are_refused_where_they_cannot_be_given(path: Path, arguments: tuple[str, ...]) -> None:
    refused = run(path, *arguments)
    assert isinstance(refused.exception, UserError)
    assert "add --format json" in str(refused.exception)
    exported = CliRunner().invoke(app_export, [str(path), "o.csv", "--masks"])
    assert "csv holds no masks; write jsonl" in str(exported.exception)


@pytest.mark.parametrize(
    "typed",
    [
        ["--stream", ""],
        ["--stream", "."],
        ["--stream", "cam/"],
        ["--stream", "../streams/cam"],
        ["--like-track", "\N{SUPERSCRIPT TWO}"],
        ["--min-score", "nan"],
    ],
    ids=lambda typed: "=".join(typed),
)
def test_what_names_nothing_is_refused_and_not_answered_with_nothing(
    tmp_path: Path, typed: list[str]
) -> None:
    filled_store(tmp_path / "a.zarr", 3)
    for command in (
        ["query", str(tmp_path / "a.zarr")],
        ["export", str(tmp_path / "a.zarr"), str(tmp_path / "o.csv")],
    ):
        refused = CliRunner().invoke(sca, [*command, *typed], standalone_mode=False).exception
        assert isinstance(refused, UserError), typed
        assert "damaged" not in str(refused)


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "America/Adak"])
def test_the_ends_of_the_calendar_can_be_typed(
    tmp_path: Path, zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", zone)
    filled_store(tmp_path / "a.zarr", 3)
    for first, last in (
        ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00"),
        ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"),
    ):
        typed = ["query", str(tmp_path / "a.zarr"), "--format", "csv", "--from", first, "--to", last]
        result = CliRunner().invoke(sca, typed, catch_exceptions=False)
        assert (result.exit_code, len(result.stdout.splitlines())) == (0, 5)
