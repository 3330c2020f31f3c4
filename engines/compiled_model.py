"""A model from its prepared engines alone, where all of them are OpenVINO's: without torch, and without its weights."""

from __future__ import annotations

from typing import Literal

from engines.cache import EngineCache, check_files
from engines.devices import Precision
from engines.manifest import EngineRejected, Manifest
from engines.openvino_blob import ArrayRunner, load_blob
from engines.preparation import Prepared
from sca.compiled.essentials import Essentials
from sca.compiled.predictor import Batches, CompiledPredictor, LanguageEngines, VisionEngines
from sca.stages.names import LANGUAGE, MAX_FRAMES, MAX_PROMPTS, VISION


def open_compiled(
    prepared: Prepared,
    part: Literal["all", "vision", "language"],
    threads: int,
    cache: EngineCache | None = None,
) -> CompiledPredictor | None:
    """The model that `prepared` was made of, or the part of it that this process computes, with `threads` threads.

    None where torch has to compute some of it. EngineRejected or UserError where what was prepared is damaged;
    RuntimeError where the plugin cannot use it.
    """
    root = (cache or EngineCache()).root
    if not prepared.essentials:
        return None
    parts = Essentials.read(root / prepared.essentials)
    runners: dict[str, ArrayRunner] = {}
    for name in prepared.folders:
        manifest = Manifest.read(root / name)
        stage = manifest.key.stage
        if part != "all" and (stage in VISION) != (part == "vision"):
            continue
        check_files(root / name, manifest)
        runners[stage] = load_blob(root / name, Precision(manifest.key.precision), threads)
    wanted = {"all": (*VISION, *LANGUAGE), "vision": VISION, "language": LANGUAGE}[part]
    if missing := [stage for stage in wanted if stage not in runners]:
        raise EngineRejected(f"engines were prepared without {missing[0]}")
    vision = VisionEngines(*(runners[stage] for stage in VISION)) if part != "language" else None
    language = LanguageEngines(*(runners[stage] for stage in LANGUAGE)) if part != "vision" else None
    return CompiledPredictor(parts, vision, language, Batches(MAX_FRAMES, MAX_PROMPTS), prepared.origin)
