"""Whole runs on a real, tiny model: from a video file to the store, on both runtimes, stopped, resumed and refused."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from pipeline.cli import main
from pipeline.core.masks import RleMask, decode_mask, grid_of
from pipeline.runtime.inline import run_inline
from pipeline.runtime.plan import plan_run
from pipeline.runtime.progress import ProgressOnly, RunObserver, StopRequest, StreamProgress
from pipeline.settings.config import RunConfig, load_config
from pipeline.sources import SourceKind
from pipeline.store import CaptionStore
from sca.predictor import Predictor
from tests.hostile_folder import LIBRARIES, OURS, fill_hostile, imported_from
from tests.sources.test_sources import damage, packets_of
from tests.tiny_checkpoint import LENIENT
from tests.videos import write_video

NS = 1_000_000_000
SCA = [sys.executable, "-m", "pipeline.cli"]


@pytest.fixture
def config(tiny_checkpoint: Path) -> RunConfig:
    return load_config("default", LENIENT, changes={"model": str(tiny_checkpoint), "runtime.kind": "inline"})


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Four seconds, 25 pictures a second."""
    return write_video(tmp_path / "clip.mp4", frames=100)


def run(
    config: RunConfig, clip: Path, store: Path, tiny_predictor: Predictor, stop_after: int = 10**9
) -> StreamProgress:
    stop = StopRequest()
    calls = 0

    def count(progress: StreamProgress) -> None:
        nonlocal calls
        calls += 1
        if calls >= stop_after:
            stop.set()

    (progress,) = run_inline(
        plan_run([str(clip)], config, store=store), ProgressOnly(count), stop, tiny_predictor
    )
    return progress


def observations(store: Path) -> list[tuple[float, int, int]]:
    with CaptionStore.open(store) as opened:
        table = opened.observations().to_pandas()
    return list(zip(table["t_s"], table["frame"], table["track"], strict=True))


def test_run_stores_observations_captions_and_tracks(
    config: RunConfig, clip: Path, tmp_path: Path, tiny_predictor: Predictor
) -> None:
    store = tmp_path / "s.zarr"
    progress = run(config, clip, store, tiny_predictor)
    assert progress.finished
    assert (progress.frames, progress.keyframes) == (100, 9)
    assert progress.captions > 0
    rows = observations(store)
    assert len(rows) == progress.regions > 0
    assert len(set(rows)) == len(rows)
    keyframes = [0, 13, 26, 39, 52, 65, 78, 91, 99]
    assert sorted({frame for _, frame, _ in rows}) == keyframes
    assert all(t == pytest.approx(frame / 25, abs=1e-8) for t, frame, _ in rows)
    with CaptionStore.open(store) as opened:
        captions = opened.captions().to_pandas()
        tracks = opened.tracks().to_pandas()
        assert opened.resume("clip").frame == 99
        assert opened.gaps().num_rows == 0
        masks = [row["mask"] for row in opened.observations(columns=["mask"]).to_pylist()]
        picture = opened.streams()["clip"]
    grid = grid_of((picture.height, picture.width))
    assert any(masks)
    assert all(decode_mask(RleMask(grid, mask["counts"])).any() for mask in masks if mask)
    assert all(tuple(mask["size"]) == grid for mask in masks if mask)
    assert set(captions["track"]) <= set(tracks["track"])
    assert (captions["text"].str.len() > 0).all()
    assert tracks["observations"].sum() == len(rows)


def test_stopped_run_goes_on_where_it_stopped(
    config: RunConfig, clip: Path, tmp_path: Path, tiny_predictor: Predictor
) -> None:
    store = tmp_path / "s.zarr"
    first = run(config, clip, store, tiny_predictor, stop_after=4)
    assert not first.finished
    with CaptionStore.open(store) as opened:
        point = opened.resume("clip")
    assert point.frame > 0
    before = observations(store)
    second = run(config, clip, store, tiny_predictor)
    assert second.finished
    after = observations(store)
    assert after[: len(before)] == before
    assert len(set(after)) == len(after)
    assert min(frame for _, frame, _ in after[len(before) :]) > point.frame
    assert {track for *_, track in before}.isdisjoint({track for *_, track in after[len(before) :]})
    assert first.frames + second.frames >= 100


def test_complete_run_is_recognised(
    config: RunConfig, clip: Path, tmp_path: Path, tiny_predictor: Predictor
) -> None:
    store = tmp_path / "s.zarr"
    run(config, clip, store, tiny_predictor)
    (stream,) = plan_run([str(clip)], config, store=store).streams
    assert stream.complete


def test_another_video_under_the_same_name_is_refused(
    config: RunConfig, clip: Path, tmp_path: Path, tiny_predictor: Predictor
) -> None:
    store = tmp_path / "s.zarr"
    run(config, clip, store, tiny_predictor, stop_after=2)
    other = write_video(tmp_path / "other.mp4", frames=30)
    with pytest.raises(ValueError, match="another video"):
        plan_run([str(other)], config, store=store, name="clip")
    assert [s.stream for s in plan_run([str(other)], config, store=store).streams] == ["other"]


def test_a_copy_of_the_video_keeps_the_first_wall_clock(
    config: RunConfig, clip: Path, tmp_path: Path, tiny_predictor: Predictor
) -> None:
    store = tmp_path / "s.zarr"
    run(config, clip, store, tiny_predictor, stop_after=2)
    (tmp_path / "moved").mkdir()
    copy = Path(shutil.copyfile(clip, tmp_path / "moved" / "clip.mp4"))
    os.utime(copy, (1, 1))
    (stream,) = plan_run([str(copy)], config, store=store).streams
    with CaptionStore.open(store) as opened:
        assert stream.start_ns == opened.streams()["clip"].start_wall_ns
    with pytest.raises(ValueError, match="another start time"):
        plan_run([str(clip)], config, store=store, start_ns=5)


def test_corrupt_frame_becomes_a_stored_gap(
    config: RunConfig, clip: Path, tmp_path: Path, tiny_predictor: Predictor
) -> None:
    victim = max(packets_of(clip)[40:47], key=lambda packet: packet[2])
    damage(clip, victim, "zeros")
    store = tmp_path / "s.zarr"
    progress = run(config, clip, store, tiny_predictor)
    assert progress.finished
    assert progress.corrupt >= 1
    with CaptionStore.open(store) as opened:
        gaps = opened.gaps().to_pandas()
        start = opened.streams()["clip"].start_wall_ns
    assert set(gaps["reason"]) == {"corrupt"}
    assert gaps["frames"].sum() == progress.corrupt
    assert gaps["t_start"].astype("int64").iloc[0] == start + victim[0] * NS // 12800


def test_a_stream_behind_a_camera_would_never_begin_inline(
    config: RunConfig, tmp_path: Path, tiny_predictor: Predictor
) -> None:
    clips = [write_video(tmp_path / f"{name}.mp4", frames=5) for name in ("left", "right")]
    plan = plan_run([str(clip) for clip in clips], config, store=tmp_path / "s.zarr")
    camera = replace(plan.streams[0].source, kind=SourceKind.LIVE)
    plan = replace(plan, streams=(replace(plan.streams[0], source=camera), plan.streams[1]))
    with pytest.raises(ValueError, match="right would wait for ever"):
        run_inline(plan, RunObserver(), StopRequest(), tiny_predictor)


def test_two_streams_in_one_store(config: RunConfig, tmp_path: Path, tiny_predictor: Predictor) -> None:
    clips = [write_video(tmp_path / f"{name}.mp4", frames=30) for name in ("left", "right")]
    plan = plan_run([str(clip) for clip in clips], config, store=tmp_path / "s.zarr")
    results = run_inline(plan, RunObserver(), StopRequest(), tiny_predictor)
    assert [result.finished for result in results] == [True, True]
    with CaptionStore.open(tmp_path / "s.zarr") as opened:
        assert set(opened.streams()) == {"left", "right"}
        assert set(opened.observations().to_pandas()["stream"]) == {"left", "right"}


def test_films_of_one_name_are_told_apart_and_one_given_twice_is_refused(
    config: RunConfig, tmp_path: Path
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    clips = [str(write_video(tmp_path / folder / "x.mp4", frames=2)) for folder in "ab"]
    plan = plan_run(clips, config, store=tmp_path / "s.zarr")
    assert [stream.stream for stream in plan.streams] == ["x-a", "x-b"]
    with pytest.raises(ValueError, match="two inputs would both be stream 'x'"):
        plan_run([clips[0], clips[0]], config, store=tmp_path / "s.zarr")


def call(arguments: list[str], directory: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """`sca ARGUMENTS` in this process, from `directory`; the exit code."""
    monkeypatch.chdir(directory)
    monkeypatch.setattr(sys, "argv", ["sca", *arguments])
    with pytest.raises(SystemExit) as exit_:
        main()
    return int(exit_.value.code or 0)


def sca(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`sca ARGUMENTS` as a process of its own."""
    command = [*SCA, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment(), check=False)


def environment() -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[2])
    return {**os.environ, "PYTHONPATH": root, "COLUMNS": "200"}


def foreign_store(path: Path) -> None:
    path.mkdir()
    (path / "zarr.json").write_text(
        '{"zarr_format": 3, "node_type": "group", "attributes": {"schema": "other/9"}}'
    )


@pytest.mark.promise("before-loading")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "missing.mp4"], ["missing.mp4", "no such file"]),
        (["run", "empty.mp4"], ["empty.mp4", "empty"]),
        (["run", "text.mp4"], ["text.mp4", "not a video"]),
        (["run", "clip.mp4", "--store", "file.txt/s.zarr"], ["file.txt"]),
        (["run", "clip.mp4", "--store", "foreign.zarr"], ["foreign.zarr", "schema"]),
        (["run", "clip.mp4", "--preset", "defualt"], ["did you mean 'default'"]),
        (["run", "clip.mp4", "--set", "keyframe.interval_s=1"], ["did you mean 'keyframes'"]),
        (["run", "clip.mp4", "--start", "yesterday"], ["yesterday", "2026-"]),
        (["run", "clip.mp4", "--start", "2099-01-01"], ["clip.mp4", "2099-01-01", "ahead", "--start"]),
        (["run", "clip.mp4", "--annotate", "nowhere/out.mp4"], ["nowhere"]),
        (["run", "clip.mp4", "--annotate", "clip.mp4"], ["the input itself"]),
        (["run", "clip.mp4", "--model", "dmeo", "--runtime", "inline"], ["dmeo", "demo"]),
        (["run", "*.avi"], ["nothing matches"]),
        (["run", "rtsp://admin:hunter2@127.0.0.1:9/x"], ["rtsp://127.0.0.1:9/x", "cannot connect"]),
        (["rnu"], ["rnu"]),
        (["run"], ["INPUT"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    tmp_path: Path,
    arguments: list[str],
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_video(tmp_path / "clip.mp4", frames=3)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video\n" * 50)
    (tmp_path / "file.txt").write_text("a file")
    foreign_store(tmp_path / "foreign.zarr")
    assert call(arguments, tmp_path, monkeypatch) == 2
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1
    assert shown.err.startswith("sca: ")
    assert all(word in shown.err for word in words), shown.err
    assert "hunter2" not in shown.err + shown.out


def test_bad_input_as_a_process_of_its_own(tmp_path: Path) -> None:
    done = sca("run", "missing.mp4", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


@pytest.mark.parametrize("command", [[], ["run"], ["query"], ["models"], ["doctor"]])
def test_help_says_something(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call([*command, "--help"], tmp_path, monkeypatch) == 0
    assert "Usage" in capsys.readouterr().out


class TestRay:
    """The same on real Ray, through the command line. One run each: starting Ray takes seconds."""

    def command(self, clip: Path, tiny_checkpoint: Path, *more: str) -> list[str]:
        settings = [part for setting in LENIENT for part in ("--set", setting)]
        return [*SCA, "run", str(clip), "--model", str(tiny_checkpoint), *settings, *more]

    @pytest.mark.promise("beside-the-video")
    def test_ray_run_gives_what_the_inline_run_gives_whatever_lies_beside_the_video(
        self,
        config: RunConfig,
        clip: Path,
        tmp_path: Path,
        tiny_checkpoint: Path,
        tiny_predictor: Predictor,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        run(config, clip, tmp_path / "inline.zarr", tiny_predictor)
        video = tmp_path / "drawn.mp4"
        command = self.command(
            clip, tiny_checkpoint, "--annotate", str(video), "--set", "display.min_score=0"
        )
        # As the console script: Python has not put the working directory, where the film lies, on the path.
        fill_hostile(tmp_path, *OURS, *LIBRARIES)
        command.insert(1, "-P")
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env=environment(), check=False
        )
        assert imported_from(tmp_path) == [], done.stderr
        assert done.returncode == 0, done.stderr
        for file in tmp_path.glob("*.py"):
            file.unlink()
        assert observations(tmp_path / "clip.zarr") == observations(tmp_path / "inline.zarr")
        query = next(line for line in done.stdout.splitlines() if line.startswith("Try: sca "))
        assert call(query.removeprefix("Try: sca ").split(), tmp_path, monkeypatch) == 0
        assert video.stat().st_size > 1000
        capsys.readouterr()
        assert call(["run", str(clip), "--model", str(tiny_checkpoint)], tmp_path, monkeypatch) == 0
        assert "complete" in capsys.readouterr().out

    @pytest.mark.promise("stops-in-order")
    @pytest.mark.parametrize(
        ("number", "runtime", "send"),
        [
            # As a terminal does: to every process of the group.
            (signal.SIGINT, "ray", os.killpg),
            # As `kill`, `docker stop` and service managers do.
            (signal.SIGTERM, "ray", os.kill),
            # As a terminal does that is closed.
            (signal.SIGHUP, "inline", os.killpg),
        ],
    )
    def test_a_signal_commits_what_is_done_and_leaves_nothing_running(
        self,
        tmp_path: Path,
        tiny_checkpoint: Path,
        number: signal.Signals,
        runtime: str,
        send: Callable[[int, int], None],
    ) -> None:
        clip = write_video(tmp_path / "long.mp4", frames=3000, width=96, height=64)
        process = subprocess.Popen(
            self.command(clip, tiny_checkpoint, "--set", "recording.commit_s=0.1", "--runtime", runtime),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=environment(),
            start_new_session=True,
            # Of tests under nohup the run would inherit that it does not hear it.
            preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
        )
        store = tmp_path / "long.zarr"
        wait_until(lambda: stored_frame(store, "long") >= 20, process)
        children = psutil.Process(process.pid).children(recursive=True)
        send(process.pid, number)
        # `timeout` sends its signal to the process and to its group, a terminal that goes sends several: one wish.
        send(process.pid, number)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 130, err
        assert "Stopped" in out
        assert "run the same command to go on" in out
        assert 0 < stored_frame(store, "long") < 2999
        _, alive = psutil.wait_procs(children, timeout=30)
        assert not alive


@pytest.mark.promise("no-reader")
def test_a_run_goes_on_when_nobody_reads_what_it_says(tmp_path: Path, tiny_checkpoint: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", frames=100, width=96, height=64)
    settings = [part for setting in LENIENT for part in ("--set", setting)]
    command = [*SCA, "run", str(clip), "--model", str(tiny_checkpoint), "--runtime", "inline", *settings]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment()
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    assert process.wait(120) == 0, err
    assert stored_frame(tmp_path / "clip.zarr", "clip") == 99


def stored_frame(store: Path, stream: str) -> int:
    try:
        with CaptionStore.open(store) as opened:
            return opened.resume(stream).frame
    except ValueError:
        return -1


def wait_until(condition, process: subprocess.Popen[str], timeout_s: float = 300) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.promise("before-loading")
def test_names_that_are_not_utf8_work_inline(
    tmp_path: Path, tiny_checkpoint: Path, tiny_predictor: Predictor
) -> None:
    """On Ray they are refused: tests/commands/test_early_refusals.py."""
    bare = tmp_path / os.fsdecode(b"f\xfflm")
    bare.mkdir()
    clip, store = bare / os.fsdecode(b"c\xe9.mp4"), bare / os.fsdecode(b"s\xff.zarr")
    shutil.copy(write_video(tmp_path / "clip.mp4", frames=30), clip)
    config = load_config(
        "default", LENIENT, changes={"model": str(tiny_checkpoint), "runtime.kind": "inline"}
    )
    (progress,) = run_inline(
        plan_run([str(clip)], config, store=store),
        ProgressOnly(lambda _: None),
        StopRequest(),
        tiny_predictor,
    )
    assert progress.finished
    assert observations(store)
