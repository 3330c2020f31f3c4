"""As nobody, with a home that cannot be written, 16 MiB of shared memory, 256 open files, a long TMPDIR, no network and no locale."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.store import CaptionStore
from tests.bare_machine import BareMachine, bare_machine, cannot
from tests.duration import LONG
from tests.store_samples import filled_store
from tests.tiny_checkpoint import LENIENT
from tests.videos import write_video

ROOT = Path(__file__).resolve().parents[2]
SCA = ("-P", "-m", "pipeline.cli")

pytestmark = pytest.mark.promise("bare-machine")


@pytest.fixture
def machine() -> Iterator[BareMachine]:
    if why := cannot():
        pytest.skip(f"NOT TESTED: runs without rights, network and shared memory: {why}")
    with bare_machine() as machine:
        yield machine


def test_questions_and_mistakes(machine: BareMachine) -> None:
    filled_store(machine.work / "a.zarr", 3)
    done = machine.run([*SCA, "export", "a.zarr", "a.srt"], ROOT)
    assert done.returncode == 0, done.stderr
    assert (machine.work / "a.srt").stat().st_size
    for place in ("../home/a.srt", "/etc/a.srt"):
        done = machine.run([*SCA, "export", "a.zarr", place], ROOT)
        assert done.returncode == 2, done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr


def test_a_store_that_cannot_be_written_is_told_before_a_model_loads(machine: BareMachine) -> None:
    filled_store(machine.work / "kept.zarr", 3).close()
    for folder in (machine.work / "kept.zarr" / "streams", machine.work / "kept.zarr"):
        folder.chmod(0o555)
    write_video(machine.work / "clip.mp4", frames=4)
    done = machine.run([*SCA, "run", "clip.mp4", "--store", "kept.zarr"], ROOT)
    assert done.returncode == 2, done.stderr
    assert "cannot write to kept.zarr: no permission" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not done.stdout


@pytest.mark.skipif(not LONG, reason="starts whole runs, half a minute of computing: make test-all")
@pytest.mark.parametrize("runtime", ["inline", "ray"])
@pytest.mark.parametrize("engine", ["eager", "auto"])
def test_whole_runs(machine: BareMachine, tiny_checkpoint: Path, runtime: str, engine: str) -> None:
    write_video(machine.work / "clip.mp4", frames=30)
    shutil.copytree(tiny_checkpoint, machine.work / "tiny")
    settings = [part for setting in (*LENIENT, f"runtime.engine={engine}") for part in ("--set", setting)]
    done = machine.run(
        [
            *SCA,
            "run",
            "clip.mp4",
            "--model",
            "tiny",
            "--runtime",
            runtime,
            "--annotate",
            "out.mp4",
            *settings,
        ],
        ROOT,
    )
    assert done.returncode == 0, (
        f"exit code {done.returncode} (-9: killed, for memory perhaps)\n{done.stderr}"
    )
    assert "Traceback" not in done.stderr
    assert (machine.work / "out.mp4").stat().st_size
    with CaptionStore.open(machine.work / "clip.zarr") as store:
        assert store.observations().num_rows
