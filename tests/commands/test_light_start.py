"""The command line is there at once: which modules a command imports, since time says how busy the machine is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli import COMMANDS
from pipeline.commands.lazy_commands import LazyCommand
from tests.store_samples import filled_store

ROOT = Path(__file__).resolve().parents[2]
MODEL = ("torch", "transformers", "timm", "ray", "openvino", "scipy")
VIDEO = ("av", "cv2", "PIL", "pycocotools")
TABLES = ("pandas", "pyarrow", "pydantic", "zarr", "yaml")
LOOKS = ("rich", "pygments", "numpy", "numcodecs", "dateutil")

CODE = """
import sys
from pipeline.cli import main
sys.argv = ["sca", *sys.argv[1:]]
try:
    main()
except SystemExit as leaving:
    code = leaving.code
print("imported:", *sorted({name.split(".")[0] for name in sys.modules}), file=sys.stderr)
sys.exit(code)
"""


def imported(*words: str, cwd: Path) -> tuple[set[str], str]:
    """Top-level modules after `sca WORDS`, and what it printed."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", CODE, *words],
        cwd=cwd, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return set(done.stderr.rsplit("imported:", 1)[1].split()), done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    filled_store(folder / "yard.zarr", 12).close()
    return folder


@pytest.mark.parametrize(
    ("words", "said", "forbidden"),
    [
        (("--help",), "Show what was seen, by time.", MODEL + VIDEO + TABLES + LOOKS),
        (("--version",), "sca ", MODEL + VIDEO + TABLES + LOOKS),
        (("run", "--help"), "--annotate", (*MODEL, *VIDEO, *TABLES, "numpy")),
        (("query", "yard.zarr"), "schöne Katze 3", MODEL + VIDEO + TABLES),
        (("query", "yard.zarr", "--from", "2s", "--to", "5s"), "schöne Katze 3", MODEL + VIDEO + TABLES),
        (("query", "yard.zarr", "--format", "json"), "schöne Katze 3", MODEL + VIDEO + TABLES),
        (("query", "yard.zarr", "--text", "katze"), "schöne Katze 3", MODEL + VIDEO + TABLES),
        (("export", "yard.zarr", "yard.srt"), "", MODEL + VIDEO + ("pandas", "zarr")),
        (("models", "list"), "demo", MODEL + VIDEO + ("pandas", "pyarrow", "zarr")),
        (("config", "show"), "keyframes", MODEL + VIDEO + ("pandas", "pyarrow", "zarr")),
    ],
)  # fmt: skip
def test_a_command_imports_only_what_it_needs(
    folder: Path, words: tuple[str, ...], said: str, forbidden: tuple[str, ...]
) -> None:
    modules, output = imported(*words, cwd=folder)
    assert said in output
    assert not modules & set(forbidden)


def test_numpy_multiplies_with_one_thread_beside_the_engines(folder: Path) -> None:
    code = "import os; " + CODE.replace(
        "sys.exit(code)", "print(os.environ['OPENBLAS_NUM_THREADS'], 'numpy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, "run", "--help"],
        cwd=folder, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "1 False"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_of_each_what_its_own_help_says(folder: Path, name: str) -> None:
    _, output = imported(name, "--help", cwd=folder)
    assert COMMANDS[name].summary.rstrip(".") in " ".join(output.split())


def test_every_command_is_where_the_list_says() -> None:
    for name, command in COMMANDS.items():
        assert isinstance(command, LazyCommand)
        assert (ROOT / command.module.replace(".", "/")).with_suffix(".py").exists(), name
