"""Builds a model's engines before a program starts its workers: once, in a process of its own that gives its memory back.

A note in the cache says what was prepared, so that the next start knows without loading the model or torch. The note only
saves time: who loads an engine checks it all the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engines.cache_root import default_root
from sca.child_processes import child_environment
from sca.small_files import parsed_json

if TYPE_CHECKING:
    from engines.cache import EngineCache
    from sca.compiled.predictor import CompiledPredictor

MARK = "engines: "
"""Begins the lines of the building process that are meant for us: the rest is what libraries print."""

_NOTES = ".prepared"
# A keyframe has three views and as many crops to look at side by side; each lane has memory of its own. A guess.
_MOST_LANES = 4
# Prompts or captions that are computed at a time: fewer than the stages take, for a processor gains nothing from more, and their
# memory grows with it (1100 MiB with five pictures and 48 prompts at a time, 770 with one and 16).
_MOST_PROMPTS = 16
_LEAST_PROMPTS = 4
_COMPILERS = (
    "torch",
    "openvino",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt_rtx",
    "torch-tensorrt",
)
_CODE = (Path(__file__).parent, Path(__file__).parent.parent / "sca")


@dataclass(frozen=True)
class EngineRequest:
    """What is to be prepared. `model`: a name or path; `device`: auto, cpu, cuda or cuda:N; `backend`: auto or a name."""

    model: str
    device: str = "auto"
    backend: str = "auto"


@dataclass(frozen=True)
class Prepared:
    """`origin`: one line per stage on what computes it, and why nothing better does. `folders`: of the engines.

    `essentials`: what the model needs beside them (`sca.compiled.essentials`), a file's name in the cache; empty where
    torch has to compute a part of it.
    """

    origin: tuple[str, ...]
    folders: tuple[str, ...]
    essentials: str = ""

    @classmethod
    def told(cls, content: Mapping[str, Any]) -> Prepared:
        """From JSON. KeyError or TypeError for what is none."""
        return cls(tuple(content["origin"]), tuple(content["folders"]), str(content["essentials"]))


class PreparationFailed(Exception):
    """The engines could not be built; the message says why in one line."""


def find_prepared(request: EngineRequest) -> Prepared | None:
    """What was prepared on this machine for this very request, if its engines are still there. Takes milliseconds."""
    root = default_root()
    try:
        content = parsed_json((root / _NOTES / f"{_digest(request)}.json").read_text(encoding="utf-8"))
        prepared = Prepared.told(content)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    there = all((root / folder).is_dir() for folder in prepared.folders)
    return prepared if there and (root / prepared.essentials).exists() else None


def prepare(request: EngineRequest, report: Callable[[str], None]) -> Prepared:
    """Builds and checks what is missing; `report` takes lines of progress, the first at once.

    Raises:
        PreparationFailed: the process that builds ended without a result.
    """
    report("starting")
    command = [sys.executable, "-P", "-m", "engines.build_process", json.dumps(asdict(request))]
    # Waiting threads that spin would take the processor from whatever else runs.
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, **child_environment()}
    last = ""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if not line.startswith(MARK):
                    last = line.strip() or last
                    continue
                said = parsed_json(line.removeprefix(MARK))
                if isinstance(said, str):
                    report(said)
                else:
                    return Prepared.told(said)
        except BaseException:
            process.kill()
            raise
    raise PreparationFailed(last or f"the process that builds ended with code {process.returncode}")


def open_compiled(
    prepared: Prepared,
    part: Literal["all", "vision", "language"],
    threads: int,
    cache: EngineCache | None = None,
    *,
    most_lanes: int = _MOST_LANES,
) -> CompiledPredictor | None:
    """The model that `prepared` was made of, or the part of it that this process computes, with `threads` threads.

    `most_lanes`: calls of a stage that are computed at once (`sca.lanes`), where there are as many threads.

    None where torch has to compute some of it. EngineRejected or UserError where what was prepared is damaged;
    RuntimeError where the plugin cannot use it.
    """
    from engines.cache import EngineCache as Cache
    from engines.cache import check_files
    from engines.devices import Precision
    from engines.manifest import EngineRejected, Manifest
    from engines.openvino_blob import Runner, load_blob
    from sca.compiled.essentials import Essentials
    from sca.compiled.predictor import Batches, CompiledPredictor, LanguageEngines, VisionEngines
    from sca.lanes import Lanes
    from sca.stages.names import (
        BOX_PROPOSER,
        CAPTION_ENCODER,
        IMAGE_ENCODER,
        LANGUAGE,
        MASK_DECODER,
        MIXER,
        VISION,
        vision_stages,
    )

    root = (cache or Cache()).root
    if not prepared.essentials:
        return None
    lanes = min(threads, most_lanes)
    parts = Essentials.read(root / prepared.essentials)
    found = {name: Manifest.read(root / name) for name in prepared.folders}
    chosen = [
        (root / name, manifest)
        for name, manifest in found.items()
        if part == "all" or (manifest.key.stage in VISION) == (part == "vision")
    ]

    def load(folder: Path, manifest: Manifest) -> Runner:
        check_files(folder, manifest)
        return load_blob(folder, Precision(manifest.key.precision), threads, lanes, warm=True)

    # Digests and plugin let go of the interpreter: the engines are loaded, and make their first calls, side by side.
    with ThreadPoolExecutor(max(1, min(len(chosen), os.cpu_count() or 1))) as pool:
        loaded = pool.map(load, *zip(*chosen, strict=True)) if chosen else ()
        runners = {manifest.key.stage: runner for (_, manifest), runner in zip(chosen, loaded, strict=True)}
    seeing = vision_stages(parts.config)
    wanted = {"all": (*seeing, *LANGUAGE), "vision": seeing, "language": LANGUAGE}[part]
    if missing := [stage for stage in wanted if stage not in runners]:
        raise EngineRejected(f"engines were prepared without {missing[0]}")
    vision = None
    if part != "language":
        vision = VisionEngines(
            runners[IMAGE_ENCODER],
            runners[MASK_DECODER],
            runners[MIXER],
            runners.get(CAPTION_ENCODER),
            runners.get(BOX_PROPOSER),
        )
    language = LanguageEngines(*(runners[stage] for stage in LANGUAGE)) if part != "vision" else None
    batches = Batches(max(_MOST_PROMPTS // lanes, _LEAST_PROMPTS), Lanes(lanes))
    return CompiledPredictor(parts, vision, language, batches, prepared.origin)


def essentials_name(request: EngineRequest) -> str:
    """Where in the cache what the model of this request needs beside its engines is kept."""
    return f"{_NOTES}/{_digest(request)}.safetensors"


def note_prepared(root: Path, request: EngineRequest, prepared: Prepared) -> None:
    """Leaves the note that `find_prepared` finds."""
    note = root / _NOTES / f"{_digest(request)}.json"
    note.parent.mkdir(exist_ok=True)
    temporary = note.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(asdict(prepared)), encoding="utf-8")
    temporary.replace(note)


def _digest(request: EngineRequest) -> str:
    """Of everything that may change which engines serve: model files, code, compilers, machine."""
    from sca.model_names import find_model

    parts: list[object] = [asdict(request), os.environ.get("CUDA_VISIBLE_DEVICES")]
    found = find_model(request.model)
    directory = found if isinstance(found, Path) else found.directory
    files = sorted(directory.iterdir()) if directory is not None and directory.is_dir() else []
    parts += [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    for folder in _CODE:
        parts += [
            (file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(folder.rglob("*.py"))
        ]
    parts += [(name, _version(name)) for name in _COMPILERS]
    parts.append(_machine())
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _machine() -> list[str]:
    """Processor and GPUs, without asking torch."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    first = [
        next((line for line in lines if line.startswith(key)), "")
        for key in ("model name", "flags", "Features")
    ]
    gpus = Path("/proc/driver/nvidia/gpus")
    return first + sorted(str(gpu) for gpu in gpus.iterdir()) if gpus.is_dir() else first
