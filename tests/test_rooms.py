"""The house keeps its order: folders stand on floors, nobody imports upwards, and no room is a sliver."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(path for part in ("sca", "engines", "pipeline") for path in (ROOT / part).rglob("*.py"))
MAY_IMPORT = {
    "sca": {"sca/*"},
    "sca/modeling": {"sca"},
    "sca/checkpoints": {"sca", "sca/modeling"},
    "sca/decoding": {"sca", "sca/modeling"},
    "sca/stages": {"sca", "sca/modeling", "sca/decoding"},
    "sca/compiled": {"sca", "sca/decoding", "sca/stages"},
    "sca/data": {"sca"},
    "sca/evaluation": {"sca", "sca/modeling", "sca/data"},
    "sca/testing": {"sca", "sca/modeling", "sca/decoding", "sca/data"},
    "sca/training": {"sca", "sca/modeling", "sca/checkpoints", "sca/data", "sca/evaluation"},
    "engines": {"engines/backends", "sca", "sca/*"},
    "engines/backends": {"engines", "sca", "sca/stages"},
    "pipeline/core": {"sca"},
    "pipeline/sources": {"pipeline/core", "sca"},
    "pipeline/keyframes": {"pipeline/core", "pipeline/sources"},
    "pipeline/perception": {"pipeline/core", "sca"},
    "pipeline/tracking": {"pipeline/core", "sca"},
    "pipeline/captioning": {"pipeline/core", "sca"},
    "pipeline/recording": {"pipeline/core"},
    "pipeline/store": {"pipeline/core", "sca"},
    "pipeline/query": {"pipeline/core", "pipeline/store"},
    "pipeline/export": {"pipeline/core", "pipeline/query", "pipeline/store", "sca"},
    "pipeline/drawing": {"pipeline/core", "pipeline/sources", "pipeline/store", "pipeline/query"},
    "pipeline/settings": {
        "pipeline/core",
        "pipeline/sources",
        "pipeline/keyframes",
        "pipeline/perception",
        "pipeline/tracking",
        "pipeline/captioning",
        "pipeline/recording",
        "pipeline/drawing",
        "engines/backends",
        "sca",
    },
    "pipeline/runtime": {
        "pipeline/core",
        "pipeline/sources",
        "pipeline/keyframes",
        "pipeline/perception",
        "pipeline/tracking",
        "pipeline/captioning",
        "pipeline/recording",
        "pipeline/store",
        "pipeline/settings",
        "engines",
        "sca",
    },
    "pipeline/runtime/driver": {
        "pipeline/core",
        "pipeline/sources",
        "pipeline/keyframes",
        "pipeline/recording",
        "pipeline/settings",
        "pipeline/runtime",
    },
    "pipeline/runtime/on_ray": {
        "pipeline/core",
        "pipeline/sources",
        "pipeline/keyframes",
        "pipeline/perception",
        "pipeline/captioning",
        "pipeline/recording",
        "pipeline/store",
        "pipeline/settings",
        "pipeline/runtime",
        "pipeline/runtime/driver",
        "sca",
    },
    "pipeline/evaluation": {
        "pipeline/core",
        "pipeline/store",
        "pipeline/drawing",
        "pipeline/settings",
        "pipeline/runtime",
        "sca",
    },
    "pipeline/serving": {"pipeline/core", "pipeline/runtime"},
    "pipeline/testing": {
        "pipeline/core",
        "pipeline/sources",
        "pipeline/keyframes",
        "pipeline/tracking",
        "pipeline/captioning",
        "pipeline/store",
        "pipeline/query",
        "pipeline/export",
    },
    "pipeline/commands": {"pipeline/*", "engines", "engines/*", "sca", "sca/*"},
    "pipeline": {"pipeline/*", "sca"},
}
"""What each folder may import, from the ground up. `x/*`: any folder below x."""

ONE_PART_A_FILE = {"engines/backends", "pipeline/export", "pipeline/testing", "sca/testing"}
"""Folders of seams: each file is one part that a registry knows, or one suite, however short."""

SHORT = 60
LONG = 400


def folder_of(path: Path) -> str:
    return str(path.parent.relative_to(ROOT))


@cache
def modules_imported(path: Path) -> set[str]:
    """Dotted names of what a file imports, at its top or later; `from a import b` is `a.b` where that is a file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            folder = ROOT / node.module.replace(".", "/")
            for alias in node.names:
                below = folder / alias.name
                inside = below.with_suffix(".py").exists() or below.is_dir()
                names.add(f"{node.module}.{alias.name}" if inside else node.module)
    return names


def file_of(module: str) -> Path | None:
    """The file of one of our own modules."""
    path = ROOT / module.replace(".", "/")
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if module.split(".")[0] in ("sca", "engines", "pipeline") and candidate.exists():
            return candidate
    return None


@cache
def imports() -> dict[Path, set[Path]]:
    """Which of our own files each of our own files imports. Read by the first test, not by every worker that collects."""
    return {path: {file for name in modules_imported(path) if (file := file_of(name))} for path in SOURCES}


def allowed(folder: str, other: str) -> bool:
    rules = MAY_IMPORT[folder]
    return other == folder or other in rules or any(f"{up}/*" in rules for up in parents(other))


def parents(folder: str) -> list[str]:
    parts = folder.split("/")
    return ["/".join(parts[:n]) for n in range(1, len(parts))]


def test_every_folder_has_its_place() -> None:
    folders = {folder_of(path) for path in SOURCES}
    assert folders == set(MAY_IMPORT), "say in MAY_IMPORT what a new folder may import"


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_a_folder_imports_only_what_stands_below_it(folder: str) -> None:
    offenders = [
        f"{path.relative_to(ROOT)} -> {other.relative_to(ROOT)}"
        for path, others in imports().items()
        if folder_of(path) == folder
        for other in others
        if not allowed(folder, folder_of(other))
    ]
    assert not offenders


def test_the_stages_share_values_and_not_each_other() -> None:
    stages = {f"pipeline/{name}" for name in ("perception", "tracking", "captioning", "recording", "store")}
    assert not [(stage, MAY_IMPORT[stage] & stages) for stage in stages if MAY_IMPORT[stage] & stages]


def test_no_files_import_each_other_in_a_circle() -> None:
    below: dict[Path, set[Path]] = defaultdict(set)

    def reach(path: Path, trail: tuple[Path, ...]) -> set[Path]:
        if path in trail:
            circle = [str(p.relative_to(ROOT)) for p in (*trail[trail.index(path) :], path)]
            raise AssertionError(" -> ".join(circle))
        if path not in below:
            # A package's face hands on names of its own files; they may name the package in turn only through it.
            below[path] = set().union(*(reach(p, (*trail, path)) | {p} for p in imports()[path]))
        return below[path]

    for path in SOURCES:
        if path.name != "__init__.py":
            reach(path, ())


def test_ray_is_known_only_to_the_runtime() -> None:
    offenders = [
        str(path.relative_to(ROOT))
        for path in SOURCES
        if any(name.split(".")[0] == "ray" for name in modules_imported(path))
        and "on_ray" not in path.parts
        and path.name != "doctor.py"
    ]
    assert not offenders


def test_the_model_knows_neither_video_nor_stores() -> None:
    foreign = {"engines", "pipeline", "ray", "zarr", "av"}
    offenders = {
        str(path.relative_to(ROOT)): found
        for path in SOURCES
        if path.is_relative_to(ROOT / "sca")
        and (found := {name.split(".")[0] for name in modules_imported(path)} & foreign)
    }
    assert not offenders


def test_few_files_stand_on_the_ground_of_the_pipeline() -> None:
    assert len(list((ROOT / "pipeline").glob("*.py"))) <= 3


def test_no_file_outgrows_one_idea() -> None:
    long = {str(p.relative_to(ROOT)): n for p in SOURCES if (n := len(p.read_text().splitlines())) > LONG}
    assert not long, "split these files by idea"


def is_protocol(path: Path) -> bool:
    classes = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)]
    return any(ast.unparse(base).startswith("Protocol") for node in classes for base in node.bases)


def test_a_short_file_is_a_protocol_or_serves_two_rooms() -> None:
    users: dict[Path, set[Path]] = defaultdict(set)
    for path, others in imports().items():
        for other in others:
            users[other].add(path)
    slivers = [
        str(path.relative_to(ROOT))
        for path in SOURCES
        if path.name != "__init__.py"
        and len(path.read_text().splitlines()) < SHORT
        and not is_protocol(path)
        and len(users[path]) < 2
        and folder_of(path) not in ONE_PART_A_FILE
        and not is_entry(path)
    ]
    assert not slivers, "fold these files into the rooms that use them"


def is_entry(path: Path) -> bool:
    """A command, or a program that is started as a process of its own: nobody imports those."""
    return folder_of(path) == "pipeline/commands" or '__name__ == "__main__"' in path.read_text()


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("pipeline.store", ("torch", "ray")),
        # What the source and the recorder processes of a run load.
        ("pipeline.runtime.stages", ("torch", "transformers")),
        # What perception and captioner wait for before they load the model.
        ("pipeline.runtime.model_loading", ("torch", "transformers", "av", "cv2", "numpy")),
        ("pipeline.runtime.on_ray.actors", ("torch", "ray", "av", "cv2", "numcodecs")),
        # What its perception and its captioner load where all engines are OpenVINO's.
        (
            "engines.openvino_blob, engines.cache, sca.compiled.predictor, pipeline.runtime.stream_analysis",
            ("torch", "transformers", "timm"),
        ),
        (
            "pipeline.core.regions, pipeline.recording.recorder, pipeline.runtime.plan",
            ("torch", "transformers", "ray"),
        ),
        ("pipeline.cli", ("torch", "ray", "transformers")),
        ("pipeline.settings.stream_list", ("torch", "ray", "av", "cv2", "scipy")),
        ("sca", ("ray", "zarr")),
        ("sca.model_names", ("torch", "transformers")),
        ("sca.registry", ("torch", "transformers", "timm", "segment_anything")),
    ],
)
def test_light_commands_start_without_heavy_libraries(module: str, forbidden: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print(*[name for name in {forbidden!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == ""
