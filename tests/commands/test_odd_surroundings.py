"""Commands where standard streams are closed, and where the environment says what nobody means."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.store_samples import filled_store

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.promise("odd-surroundings")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd")
    filled_store(folder / "yard.zarr", 3).close()
    return folder


def sca(words: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """What a shell does with `sca WORDS`."""
    command = f"exec {sys.executable} -P -m pipeline.cli {words}"
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("query yard.zarr >&-", 0),
        ("export yard.zarr - --format jsonl >&-", 2),
        ("export yard.zarr out.jsonl <&- >&- 2>&-", 0),
        ("query nowhere.zarr 2>&-", 2),
    ],
)
def test_streams_that_are_closed_are_no_fault(folder: Path, words: str, code: int) -> None:
    """And nothing that is printed lands in a file that was opened in their place."""
    done = sca(words, folder)
    assert done.returncode == code, done.stderr
    assert len(done.stderr.splitlines()) <= 1
    if "out.jsonl" in words:
        lines = (folder / "out.jsonl").read_text().splitlines()
        assert len(lines) == 4
        assert all(line.startswith("{") and line.endswith("}") for line in lines)


@pytest.mark.parametrize(
    ("environment", "code"),
    [
        ({"PYTHONIOENCODING": "ascii"}, 0),
        ({"TZ": "UTC+99"}, 2),
        ({"COLUMNS": "99999999999", "TERM": "x" * 5000, "LC_ALL": "nowhere", "OMP_NUM_THREADS": "-1"}, 0),
    ],
)
def test_an_environment_that_nobody_means_is_no_fault(
    folder: Path, environment: dict[str, str], code: int
) -> None:
    done = sca("query yard.zarr", folder, **environment)
    assert done.returncode == code, done.stderr
    assert "Katze" in done.stdout or "TZ=UTC+99" in done.stderr


@pytest.mark.parametrize("option", ["--newest", "--shot"])
def test_a_number_that_no_machine_counts_to_is_a_mistake(folder: Path, option: str) -> None:
    done = sca(f"query yard.zarr {option}={'9' * 400}", folder)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
