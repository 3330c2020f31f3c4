"""The wheel as a stranger installs it: into an empty environment, without extras, far from the source tree."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest

from sca.registry import load
from tests.duration import LONG
from tests.released_folders import PHRASES, train_pieces, write_llama
from tests.store_samples import filled_store

ROOT = Path(__file__).resolve().parent.parent
UV = [sys.executable, "-m", "uv"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that nothing is left in the tree."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    for name in ("sca", "engines", "pipeline", "configs"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    _uv("build", "--quiet", "--wheel", "--out-dir", tree / "dist", tree)
    (made,) = (tree / "dist").glob("*.whl")
    return made


@pytest.fixture(scope="module")
def sca(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The console script of an environment that holds the wheel and its core dependencies, and nothing else."""
    home = tmp_path_factory.mktemp("environment") / "venv"
    _uv("venv", "--quiet", "--python", sys.executable, home)
    python = home / "bin" / "python"
    _uv("pip", "install", "--quiet", "--python", python, "--constraint", ROOT / "constraints.txt", wheel)
    return home / "bin" / "sca"


def _uv(*words: object) -> None:
    done = subprocess.run([*UV, *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode and "error sending request" in done.stderr:
        pytest.skip("no package index can be reached, and the packages are not cached")
    assert not done.returncode, done.stderr


def _call(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return subprocess.run(
        [str(word) for word in words], cwd=cwd, env=clean, capture_output=True, text=True, check=False
    )


def test_the_wheel_holds_presets_marks_of_typing_and_weights_and_installs_three_packages(wheel: Path) -> None:
    names = set(ZipFile(wheel).namelist())
    presets = {f"pipeline/settings/presets/{path.name}" for path in (ROOT / "configs").glob("*.yaml")}
    assert presets
    assert presets <= names
    assert {"sca/py.typed", "engines/py.typed", "pipeline/py.typed"} <= names
    assert {"sca/shipped/demo/model.safetensors", "engines/reference_frames/coffee.jpg"} <= names
    tree = {
        str(path.relative_to(ROOT))
        for part in ("sca", "engines", "pipeline")
        for path in (ROOT / part).rglob("*.py")
    }
    assert {name for name in names if name.endswith(".py")} == tree
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {
        "sca",
        "engines",
        "pipeline",
    }


def test_without_extras_a_store_is_asked_and_exported_and_presets_are_checked(
    sca: Path, tmp_path: Path
) -> None:
    filled_store(tmp_path / "yard.zarr", 12).close()
    doctor = _call(sca, "doctor", cwd=tmp_path)
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr
    assert "pip install 'segment-caption-stream[run]'" in doctor.stdout
    asked = _call(sca, "query", "yard.zarr", "--text", "katze", "--format", "json", cwd=tmp_path)
    assert asked.returncode == 0, asked.stderr
    assert [json.loads(line)["text"] for line in asked.stdout.splitlines()] == [
        f"schöne Katze {number % 7}" for number in range(12)
    ]
    table = _call(sca, "query", "yard.zarr", "--from", "2s", "--to", "5s", cwd=tmp_path)
    assert "schöne Katze 3" in table.stdout, table.stderr
    assert "schöne Katze 6" not in table.stdout
    written = _call(sca, "export", "yard.zarr", "yard.srt", cwd=tmp_path)
    assert written.returncode == 0, written.stderr
    assert "schöne Katze 1" in (tmp_path / "yard.srt").read_text()
    shown = _call(sca, "config", "show", "--preset", "live", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    check = "from pipeline.settings.config import load_config, preset_names as n; print(*n(), *map(load_config, n()))"
    presets = _call(sca.with_name("python"), "-c", check, cwd=tmp_path)
    assert presets.returncode == 0, presets.stderr
    assert presets.stdout.split()[:5] == sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (("run", "clip.mp4"), "run"),
        (("engines", "list"), "run"),
        (("models", "verify"), "run"),
        (("evaluate", "data"), "run"),
        (("caption", "street.jpg"), "run"),
        (("train", "recipe.yaml", "--data", "data", "--out", "out"), "train"),
    ],
)
def test_a_command_whose_extra_is_missing_says_what_to_install(
    sca: Path, tmp_path: Path, words: tuple[str, ...], extra: str
) -> None:
    done = _call(sca, *words, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"pip install 'segment-caption-stream[{extra}]'" in done.stderr
    assert not list(tmp_path.iterdir())


def test_help_is_whole_without_extras(sca: Path, tmp_path: Path) -> None:
    for command in (
        "run",
        "caption",
        "query",
        "export",
        "config",
        "train",
        "evaluate",
        "score",
        "engines",
        "doctor",
        "models",
    ):
        done = _call(sca, command, "--help", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert f"Usage: sca {command}" in done.stdout
    assert "--annotate" in _call(sca, "run", "--help", cwd=tmp_path).stdout


@pytest.mark.skipif(not LONG, reason="installs three gigabytes of packages; `make test-all` does")
def test_a_released_llama_model_loads_with_the_wheel_and_its_extra_alone(wheel: Path, tmp_path: Path) -> None:
    """As a stranger has it: a folder whose only tokenizer file is `tokenizer.model`, and nothing of this tree."""
    home = tmp_path / "venv"
    _uv("venv", "--quiet", "--python", sys.executable, home)
    python = home / "bin" / "python"
    wanted = f"segment-caption-stream[run] @ {wheel.as_uri()}"
    _uv("pip", "install", "--quiet", "--python", python, "--constraint", ROOT / "constraints.txt", wanted)
    official = ROOT.parent / "shared" / "parity" / "data"
    (tmp_path / "pieces").mkdir()
    pieces = official / "llama" if official.is_dir() else train_pieces(tmp_path / "pieces")
    folder = write_llama(tmp_path / "llama", pieces)
    phrases = list(PHRASES)
    if official.is_dir():
        data = json.loads((official / "data.json").read_text())
        pairs = [
            (region["phrases"][0], ids)
            for regions, rows in zip(data["regions"], data["llama"]["input_ids"], strict=True)
            for region, ids in zip(regions, rows, strict=False)
        ]
        phrases = [phrase for phrase, _ in pairs]
    code = (
        "import json, sys, numpy, sca\n"
        "folder, phrases = sys.argv[1], json.loads(sys.argv[2])\n"
        "predictor = sca.load(folder)\n"
        "picture = numpy.arange(60 * 100 * 3).reshape(60, 100, 3).astype(numpy.uint8)\n"
        "found = predictor.describe(picture, [[5, 4, 60, 40], [20.5, 10, 90, 55]], beams=3)\n"
        "print(json.dumps({'said': [c.token_ids for c in found], 'ids': [predictor.tokenizer.encode(p) for p in phrases]}))\n"
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    done = _call(python, "-c", code, folder, json.dumps(phrases), cwd=empty)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert not list(empty.iterdir())
    here = load(folder)
    picture = np.arange(60 * 100 * 3).reshape(60, 100, 3).astype(np.uint8)
    said = here.describe(picture, [[5, 4, 60, 40], [20.5, 10, 90, 55]], beams=3)
    assert found["said"] == [list(caption.token_ids) for caption in said]
    if official.is_dir():
        assert [[*ids[:18], 2] for ids in found["ids"]] == [ids for _, ids in pairs]
