"""`sca engines`: compile a model's stages for a device, list what is stored, check it again, clear it away."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from pipeline.commands.terminal import PlainConsole, say
from sca.model_names import find_model

if TYPE_CHECKING:
    from engines.cache import EngineCache
    from engines.devices import Device
    from engines.manifest import Manifest

engines = typer.Typer(
    name="engines",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Compile the model's stages for a device, and check them.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


class PrecisionName(StrEnum):
    """The precisions that can be named on the command line."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


COLUMNS = ["stage", "back end", "precision", "built for", "built in", "size", "check"]

ModelOption = Annotated[str, typer.Option("--model", "-m", help="A model's name or directory.")]
CacheOption = Annotated[
    Path | None,
    typer.Option(
        "--cache", help="Where engines are kept. Default: $SCA_ENGINE_CACHE or the user's cache folder."
    ),
]
MaxPromptsOption = Annotated[
    int, typer.Option("--max-prompts", min=1, max=4096, help="Largest batch of prompts to build for.")
]


@engines.command()
def build(
    model: ModelOption = "demo",
    backend: Annotated[
        str,
        typer.Option(
            "--backend",
            "-b",
            metavar="NAME",
            help="auto (the best for this machine), tensorrt, torch-tensorrt, inductor, openvino, onnxruntime, or one of "
            "an installed package.",
        ),
    ] = "auto",
    precision: Annotated[
        PrecisionName, typer.Option("--precision", "-p", help="auto: what the device computes natively.")
    ] = PrecisionName.AUTO,
    max_prompts: MaxPromptsOption = 64,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Build even what is stored.")] = False,
    cache: CacheOption = None,
) -> int:
    """Compile every stage of a model, check it against eager float32, and store it.

    `--backend tensorrt` also works without a GPU, through the package tensorrt_rtx: the plans are for RTX GPUs and are
    checked when they are first loaded on one.
    """
    started = time.monotonic()
    progress = _progress(started)
    from engines.backends import BACKENDS

    if backend != "auto" and not BACKENDS.knows(backend):
        raise BACKENDS.unknown(backend)
    find_model(model)
    progress(f"loading model {model}")
    import sca
    from engines.probes import ModelProbes
    from engines.selection import stages_for
    from engines.workshop import BuildPolicy, Workshop

    device = _device()
    predictor = sca.load(model, device=device.kind)
    store = _open_cache(cache)
    store.sweep()
    workshop = Workshop(store, device, progress)
    policy = BuildPolicy.ALWAYS if rebuild else BuildPolicy.IF_NEEDED
    probes = ModelProbes(predictor.model)
    rows: list[tuple[str, ...]] = []
    reasons: list[str] = []
    for stage, chosen, kind in stages_for(predictor.model, backend, precision, device, max_prompts):
        if backend == "auto":
            ready = workshop.obtain(
                stage, partial(probes.of, stage.name), backend=chosen, precision=kind, policy=policy
            )
            reasons += [f"{stage.name}: {reason}" for reason in ready.refused]
            manifest = ready.manifest
            rows.append(
                _row(stage.name, manifest, device, store) if manifest else (stage.name, ready.backend)
            )
        elif chosen == backend:
            manifest = workshop.build_and_verify(
                stage, partial(probes.of, stage.name), chosen, precision=kind, policy=policy
            )
            rows.append(_row(stage.name, manifest, device, store))
        else:
            reasons.append(f"{stage.name}: on a GPU its steps run as one captured CUDA graph")
    _print_table(COLUMNS, rows)
    for reason in reasons:
        say(f"not used: {reason}" if backend == "auto" else f"not built: {reason}", error=True)
    say(f"{len(rows)} engines in {store.root} after {time.monotonic() - started:.1f} s")
    return 0


@engines.command("list")
def list_engines(cache: CacheOption = None) -> int:
    """Show the stored engines, and what is wrong with those that cannot be used."""
    store, device = _open_cache(cache), _device()
    rows: list[tuple[str, ...]] = []
    for entry in store.entries():
        if entry.manifest is None:
            rows.append((*_named(entry.folder), "", "", _megabytes(entry.size), f"unusable: {entry.problem}"))
        else:
            rows.append(_row(entry.manifest.key.stage, entry.manifest, device, store))
    if not rows:
        say(f"No engines in {store.root}. To make some: sca engines build")
        return 0
    _print_table(COLUMNS, rows)
    say(f"{len(rows)} engines in {store.root}")
    return 0


@engines.command()
def verify(model: ModelOption = "demo", max_prompts: MaxPromptsOption = 64, cache: CacheOption = None) -> int:
    """Compare a model's stored engines with eager float32 again. Exit code 1 if one differs too much."""
    started = time.monotonic()
    progress = _progress(started)
    progress(f"loading model {model}")
    import sca
    from engines.backends import backend_named
    from engines.backends.interface import EngineBuildError
    from engines.devices import Precision
    from engines.probes import ModelProbes
    from engines.workshop import Workshop
    from sca.stages.language import language_stages
    from sca.stages.vision import model_stages

    device, store = _device(), _open_cache(cache)
    predictor = sca.load(model, device=device.kind)
    workshop = Workshop(store, device, progress)
    probes = ModelProbes(predictor.model)
    known = (*model_stages(predictor.model, max_prompts), *language_stages(predictor.model, max_prompts))
    stages = {stage.name: stage for stage in known}
    rows: list[tuple[str, ...]] = []
    failed = 0
    for entry in store.entries():
        found = entry.manifest
        stage = stages.get(found.key.stage) if found else None
        if found is None or stage is None:
            failed += found is None
            rows.append(
                (entry.folder.name, "", f"unusable: {entry.problem}" if entry.problem else "another model")
            )
            continue
        compiler = backend_named(found.key.backend)
        wanted = workshop.key(stage, compiler, Precision(found.key.precision))
        if wanted != found.key:
            rows.append((found.key.stage, found.key.backend, f"stale: {wanted.differences(found.key)}"))
            continue
        reason = compiler.unavailable(device)
        if reason is not None:
            rows.append((found.key.stage, found.key.backend, f"cannot be checked here: {reason}"))
            continue
        try:
            made = workshop.verify(stage, found, probes.of(stage.name))
        except EngineBuildError as error:
            failed += 1
            rows.append((found.key.stage, found.key.backend, f"FAILED: {error}"))
            continue
        failed += bool(made.failures())
        verdict = "FAILED" if made.failures() else "passed"
        rows.append((found.key.stage, found.key.backend, f"{verdict}: {made.report}, {made.timing}"))
    if not rows:
        say(f"No engines in {store.root}. To make some: sca engines build")
        return 0
    _print_table(["stage", "back end", "check"], rows)
    return 1 if failed else 0


@engines.command()
def prune(
    everything: Annotated[bool, typer.Option("--all", help="Remove every engine.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    cache: CacheOption = None,
) -> int:
    """Remove engines that cannot serve here: damaged, refused, or made by other versions of the compilers."""
    store, device = _open_cache(cache), _device()
    freed = count = 0
    for entry in list(store.entries()):
        reason = "--all was given" if everything else entry.problem or _obsolete(entry.manifest, device)
        if reason is None:
            continue
        count += 1
        freed += entry.size
        say(f"{'would remove' if dry_run else 'removed'} {entry.folder.name}: {reason}")
        if not dry_run:
            store.discard(entry.folder)
    swept = 0 if dry_run else store.sweep()
    left = f", and {swept} unfinished builds" if swept else ""
    say(f"{count} engines, {_megabytes(freed)}{left}")
    return 0


def _obsolete(manifest: Manifest | None, device: Device) -> str | None:
    """Why a sound engine will never be asked for again, None if it may be."""
    import torch

    from engines.backends import BACKENDS, backend_named
    from engines.verdicts import GATE_VERSION

    assert manifest is not None
    key = manifest.key
    made = manifest.verified_on(device.fingerprint)
    if made is not None and made.failures():
        return f"refused by the gate: {', '.join(made.failures())}"
    if key.gate != GATE_VERSION:
        return f"checked by gate {key.gate}, now it is {GATE_VERSION}"
    if key.torch_version != torch.__version__:
        return f"made from torch {key.torch_version}, now it is {torch.__version__}"
    if not BACKENDS.knows(key.backend):
        return f"back end {key.backend} is gone"
    compiler = backend_named(key.backend)
    if compiler.cannot_build(device) is None and compiler.version(device) != key.backend_version:
        return f"made by {key.backend_version}, now it is {compiler.version(device)}"
    return None


def _device() -> Device:
    import torch

    from engines.devices import probe

    return probe("cuda" if torch.cuda.is_available() else "cpu")


def _open_cache(root: Path | None) -> EngineCache:
    from engines.cache import EngineCache

    return EngineCache(root)


def _progress(started: float) -> Callable[[str], None]:
    """Each line of progress on stderr with the seconds since the start."""

    def show(line: str) -> None:
        say(f"{time.monotonic() - started:6.1f} s  {line}", error=True)
        sys.stderr.flush()

    return show


def _row(stage: str, manifest: Manifest, device: Device, store: EngineCache) -> tuple[str, ...]:
    made = manifest.verified_on(device.fingerprint)
    if made is None:
        check = "on first load there" if manifest.built_for != device.capability else "not yet"
    else:
        check = f"{'REFUSED' if made.failures() else 'passed'}: {made.report}, {made.timing}"
    size = sum(artefact.size for artefact in manifest.artefacts)
    key = manifest.key
    return (
        stage,
        key.backend_version.split(" recipe")[0],
        key.precision,
        manifest.built_for,
        f"{manifest.build_seconds:.1f} s",
        _megabytes(size),
        "; ".join((check, *manifest.notes)),
    )


def _named(folder: Path) -> tuple[str, str, str]:
    """Stage, back end and precision, as the name of a folder gives them."""
    stage, backend, precision, *_ = (*folder.name.split("."), "", "")
    return stage, backend, precision


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _print_table(columns: list[str], rows: list[tuple[str, ...]]) -> None:
    table = Table(box=None, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    PlainConsole(width=None if sys.stdout.isatty() else 200).print(table)
