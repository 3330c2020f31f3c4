"""`sca doctor`: what this machine can do, and what is missing."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import typer
from rich.table import Table
from rich.text import Text

from pipeline.commands.extras import DISTRIBUTION, EXTRAS, install, missing
from pipeline.commands.terminal import PlainConsole
from pipeline.core.errors import UserError


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. `remedy` is empty when all is well; `fatal` when `sca run` cannot work."""

    what: str
    found: str
    remedy: str = ""
    fatal: bool = False


def doctor() -> None:
    """Check this machine: libraries, model, processor, memory, GPU. Exit code 1 when something is in the way."""
    findings = [*_machine(), *_libraries(), *_presets(), *_video(), *_gpu(), *_model()]
    table = Table("", "what", "found", "remedy", box=None, pad_edge=False)
    wide = None if sys.stdout.isatty() else 160
    for finding in findings:
        mark = ("✗", "red") if finding.fatal else ("!", "yellow") if finding.remedy else ("✓", "green")
        table.add_row(Text(*mark), finding.what, finding.found, finding.remedy)
    PlainConsole(width=wide).print(table)
    if any(finding.fatal for finding in findings):
        raise typer.Exit(1)


def _machine() -> Iterator[Finding]:
    yield Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield Finding(
        "processors",
        str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
    )
    memory = _memory_gib()
    if memory is not None:
        low = memory < 4
        yield Finding("memory", f"{memory:.1f} GiB", "4 GiB are needed" if low else "")
    shared = shutil.disk_usage("/dev/shm").free / 2**30 if Path("/dev/shm").exists() else 1.0
    remedy = "" if shared > 0.3 else "start the container with --shm-size=1g, or run with --runtime inline"
    yield Finding("shared memory", f"{shared:.1f} GiB", remedy)


def _libraries() -> Iterator[Finding]:
    """What is installed. An extra that was left out is no fault; one of which only a part is there, is."""
    yield Finding("sca", f"{_version(DISTRIBUTION)}; zarr {_version('zarr')}, pyarrow {_version('pyarrow')}")
    absent = missing("run")
    if len(absent) == len(EXTRAS["run"]) or not (find_spec("torch") or find_spec("ray") or find_spec("av")):
        yield Finding("sca run", "not installed: stores can be asked and exported here", install("run"))
        return
    for name in absent:
        yield Finding(name, "missing", install("run"), fatal=True)
    for name in ("torch", "transformers", "ray", "av", "openvino"):
        if name not in absent:
            yield Finding(name, _version(name))


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "of unknown version"


def _presets() -> Iterator[Finding]:
    from pipeline.settings.config import load_config, preset_names

    try:
        names = preset_names()
        for name in names:
            load_config(name)
        yield (
            Finding("presets", ", ".join(names))
            if names
            else Finding("presets", "missing", "install the package again", fatal=True)
        )
    except UserError as error:
        yield Finding("presets", "damaged", str(error), fatal=True)


def _video() -> Iterator[Finding]:
    if find_spec("av") is None:
        return
    import av

    for codec, mode, what, remedy in (
        ("h264", "r", "H.264 decoding", "install the av wheel from PyPI"),
        ("libx264", "w", "H.264 encoding", "--annotate will not work; install the av wheel from PyPI"),
    ):
        try:
            av.Codec(codec, mode)  # type: ignore[arg-type]
            yield Finding(what, codec)
        except ValueError:
            yield Finding(what, "missing", remedy, fatal=mode == "r")


def _gpu() -> Iterator[Finding]:
    if find_spec("torch") is None:
        return
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            capability = ".".join(map(str, torch.cuda.get_device_capability(index)))
            yield Finding(f"GPU {index}", f"{torch.cuda.get_device_name(index)}, capability {capability}")
    else:
        yield Finding("GPU", "none: everything runs on the processor")


def _model() -> Iterator[Finding]:
    if missing("run"):
        return
    from sca.checkpoint_files import check_digests, read_json
    from sca.model_names import SHIPPED_ROOT

    # By its checksums: to load it takes ten seconds of computing, and a minute on a busy machine.
    folder = SHIPPED_ROOT / "demo"
    try:
        entries = read_json(folder / "config.json")
        check_digests(folder, entries["sha256"], "Install the package again")
        yield Finding("demo model", f"whole, input side {entries['model']['image_size']}")
    except (UserError, LookupError, TypeError, AttributeError) as error:
        yield Finding("demo model", "damaged or missing", str(error), fatal=True)


def _memory_gib() -> float | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError, AttributeError):
        return None
