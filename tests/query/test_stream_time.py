"""Times that are shown and drawn go on over PTS resets and restarts."""

import json
import re
from itertools import pairwise
from pathlib import Path

import av
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from pipeline.commands.export import export
from pipeline.commands.query import query
from pipeline.commands.run_report import show_result
from pipeline.core.records import Batch, CaptionEvent, Observation
from pipeline.drawing.annotate import labels_at, track_paths, write_annotated
from pipeline.drawing.drawing import DisplayOptions
from pipeline.runtime.plan import plan_run
from pipeline.settings.config import load_config
from pipeline.sources import DecodedFrame, open_source
from pipeline.store import CaptionStore
from tests.store_samples import INFO, T0, S
from tests.videos import write_video

FRAMES = 25
MS = 10**6
BOXES = ((5.0, 5.0, 45.0, 45.0), (105.0, 45.0, 155.0, 90.0))
TEXTS = ("a dog", "a cat")

app = typer.Typer()
app.command()(query)
app.command()(export)


def sca(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Two recordings of a second each, one behind the other in one file: its PTS start anew in the middle."""
    parts = [write_video(tmp_path / f"{n}.ts", frames=FRAMES, bframes=0) for n in range(2)]
    path = tmp_path / "clip.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def frames_of(clip: Path) -> list[DecodedFrame]:
    source = open_source(str(clip), start_ns=T0)
    frames = [event for event in source if isinstance(event, DecodedFrame)]
    source.close()
    assert [frame.time.epoch for frame in frames] == [0] * FRAMES + [1] * FRAMES
    assert frames[FRAMES].time.pts_ns == 0
    return frames


@pytest.fixture
def store(clip: Path, tmp_path: Path) -> Path:
    """A dog in the first recording and a cat in the second; a bird, by the same track number, in both."""
    frames = frames_of(clip)
    observations, captions = [], []
    for frame in frames:
        time, part = frame.time, frame.time.epoch
        for track, box in ((1 + part, BOXES[part]), (3, (60.0, 5.0 + 40 * part, 90.0, 35.0 + 40 * part))):
            observations.append(Observation(time.wall_ns, time.pts_ns, frame.index, track, box, 0.9))
    for part, text in enumerate(TEXTS):
        first, last = (frames[part * FRAMES + n].time for n in (0, 20))
        times = (first.wall_ns, last.wall_ns, first.pts_ns, last.pts_ns)
        captions.append(CaptionEvent(1 + part, *times, 0, BOXES[part], text, 0.6 + part / 5, -1))
    path = CaptionStore.create(tmp_path / "clip.zarr").path
    with CaptionStore.open(path).writer("clip", INFO) as writer:
        writer.commit(Batch(observations=tuple(observations), captions=tuple(captions)))
    return path


def test_subtitles_and_rows_of_a_second_recording_follow_the_first(store: Path, tmp_path: Path) -> None:
    for name in ("out.srt", "out.vtt"):
        sca("export", store, tmp_path / name)
        times = re.findall(r"00:00:(\d\d.\d{3}) --> 00:00:(\d\d.\d{3})", (tmp_path / name).read_text())
        assert [t.replace(",", ".") for cue in times for t in cue] == ["00.000", "00.800", "01.000", "01.800"]
    rows = [json.loads(line) for line in sca("query", store, "--format", "json").splitlines()]
    assert [(row["text"], row["start_s"], row["end_s"]) for row in rows] == [
        ("a dog", 0, 0.8),
        ("a cat", 1, 1.8),
    ]
    assert "00:00:01.0  00:00:01.8      2  a cat" in sca("query", store, "--from", "0.9s")


def test_each_recording_is_drawn_with_its_own_boxes_at_its_own_time(
    store: Path, clip: Path, tmp_path: Path
) -> None:
    with CaptionStore.open(store) as opened:
        paths = track_paths(opened, "clip")
    display = DisplayOptions(min_score=0.3, sure_score=0.3)
    drawn = [
        [(label.text, label.box) for label in labels_at(paths, at_ms * MS, S, display)]
        for at_ms in (400, 1400)
    ]
    assert drawn == [[("a dog", BOXES[0])], [("a cat", BOXES[1])]]
    assert {path.track: len(path.boxes) for path in paths} == {1: FRAMES, 2: FRAMES, 3: 2 * FRAMES}
    source = open_source(str(clip), start_ns=T0)
    heard: list[int] = []
    count = write_annotated(
        source, paths, tmp_path / "out.mp4", max_gap_s=1, display=display, on_frame=heard.append
    )
    source.close()
    assert count == 2 * FRAMES
    with av.open(str(tmp_path / "out.mp4")) as container:
        shown = [float(frame.pts * frame.time_base) for frame in container.decode(video=0)]
    assert [after - before for before, after in pairwise(shown)] == pytest.approx([0.04] * (count - 1))
    assert [at / S for at in heard] == pytest.approx(shown)


def test_the_query_to_try_after_a_run_finds_what_it_shows(
    store: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_config("default", ["display.min_score=0.3"])
    show_result(plan_run([str(clip)], config, store=store), Console(width=200))
    shown = capsys.readouterr().out
    (words,) = re.findall(r"Try: \S+ (query .*)", shown)
    assert re.search(r"00:00:01\.0 .* 0\.8 s .* a cat", shown)
    assert "a cat" in sca(*words.split())
    assert "--from 1s --to 2s" in words


def test_offsets_of_a_camera_that_was_off_are_those_that_can_be_asked_for(tmp_path: Path) -> None:
    store = CaptionStore.create(tmp_path / "a.zarr")
    with store.writer("cam", INFO) as writer:
        for wall, pts, text in ((10 * S, 10 * S, "a dog"), (7200 * S, 11 * S, "a cat")):
            event = CaptionEvent(1, T0 + wall, T0 + wall + S, pts, pts + S, 0, BOXES[0], text, 0.5, -1)
            writer.commit(Batch(captions=(event,)))
    assert "02:00:00.0  02:00:01.0      1  a cat" in sca("query", store.path, "--from", "2h")
    assert "a dog" not in sca("query", store.path, "--from", "2h")
