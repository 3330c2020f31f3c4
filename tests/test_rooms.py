"""The rooms of the program keep their order: pipeline -> engines -> sca, and only thin actors know Ray."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = {
    "sca": {"engines", "pipeline", "ray", "zarr", "av"},
    "engines": {"pipeline", "ray", "zarr", "av"},
}
SOURCES = sorted(path for room in ("sca", "engines", "pipeline") for path in (ROOT / room).rglob("*.py"))


def imported_packages(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("room", ROOMS)
def test_a_lower_room_never_imports_a_higher_one(room: str) -> None:
    offenders = {
        str(path.relative_to(ROOT)): imported_packages(path) & ROOMS[room]
        for path in (ROOT / room).rglob("*.py")
        if imported_packages(path) & ROOMS[room]
    }
    assert not offenders


def test_ray_is_known_only_to_the_runtime() -> None:
    offenders = [
        str(path.relative_to(ROOT))
        for path in SOURCES
        if "ray" in imported_packages(path) and "runtime" not in path.parts and path.name != "doctor.py"
    ]
    assert not offenders


def test_no_file_outgrows_one_idea() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for path in SOURCES
        if (count := len(path.read_text().splitlines())) > 400
    }
    assert not long, "split these files by idea"


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("pipeline.store", ("torch", "ray")),
        # What the source and the recorder processes of a run load.
        ("pipeline.runtime.stages", ("torch", "transformers")),
        ("pipeline.analysed, pipeline.recorder, pipeline.run_plan", ("torch", "transformers", "ray")),
        ("pipeline.cli", ("torch", "ray", "transformers")),
        ("sca", ("ray", "zarr")),
        ("sca.model_names", ("torch", "transformers")),
    ],
)
def test_light_commands_start_without_heavy_libraries(module: str, forbidden: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print(*[name for name in {forbidden!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == ""
