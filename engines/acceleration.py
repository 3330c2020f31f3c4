"""A predictor whose stages run on engines: the same prompts in, the same results out, computed faster."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from engines.backends.interface import Engine, Report
from engines.cache import EngineCache
from engines.devices import probe
from engines.probes import ModelProbes
from engines.selection import AUTO, ModelPart, stages_for
from engines.typed_module import TypedBody, in_precision
from engines.workshop import BuildPolicy, ReadyEngine, Workshop
from sca.decoding.shared import SharedDecoding
from sca.decoding.slots import SlotDecoder, StagedSteps
from sca.errors import UserError
from sca.modeling import ImageFeatures, Sca
from sca.modeling.box_proposals import ProposedBoxes
from sca.modeling.mask_decoder import MaskDecoding
from sca.predictor import Predictor
from sca.stages.computations import Stages, eager_stages
from sca.stages.language import StepStage, prefix_length
from sca.stages.names import (
    BOX_PROPOSER,
    CAPTION_ENCODER,
    IMAGE_ENCODER,
    LANGUAGE,
    MASK_DECODER,
    MAX_FRAMES,
    MAX_PROMPTS,
    MIXER,
)
from sca.stages.spec import Stage
from sca.stages.vision import MAX_PROMPT_TOKENS, mixer_tokens

LOGGER = logging.getLogger("engines")


def accelerate(
    predictor: Predictor,
    backend: str = AUTO,
    *,
    precision: str = AUTO,
    max_prompts: int = MAX_PROMPTS,
    part: ModelPart = ModelPart.ALL,
    policy: BuildPolicy = BuildPolicy.IF_NEEDED,
    cache: EngineCache | None = None,
    frames: Sequence[np.ndarray] | None = None,
    report: Report | None = None,
) -> Predictor:
    """The same model with its stages on the best engines that pass the parity gate on this machine.

    Engines come from the cache or are built (seconds to minutes, once). A stage that no engine serves stays eager;
    `Predictor.stages.origin` says for each stage what computes it and why nothing better does.

    Args:
        backend, precision: `auto`, or what to try first.
        max_prompts: the largest batch of prompts that engines are built for; larger ones are cut.
        part: the stages that this process needs; the others stay eager, and cost no memory.
        policy: whether engines may be, must be or must not be built.
        cache: where engines are kept; by default `$SCA_ENGINE_CACHE` or the user's cache folder.
        frames: RGB uint8 (H, W, 3) frames to check on; by default photographs that come with the package.
        report: takes each line of progress; by default the log.

    Raises:
        UserError: an unknown back end or precision, or a cache that cannot be written.
    """
    model = predictor.model
    made = obtain_engines(
        predictor,
        backend,
        precision=precision,
        max_prompts=max_prompts,
        part=part,
        policy=policy,
        cache=cache,
        frames=frames,
        report=report,
    )
    stages = replace(eager_stages(model), origin=())
    language = [(stage, ready) for stage, ready in made if stage.name in LANGUAGE]
    vision = {stage.name: ready for stage, ready in made if stage.name not in LANGUAGE}
    if vision:
        stages = engine_stages(model, vision, max_prompts=max_prompts)
    if language:
        stages = with_language_engines(stages, model, language, slots=max_prompts)
    for line in stages.origin:
        LOGGER.info("%s", line)
    return predictor.with_stages(stages)


def obtain_engines(
    predictor: Predictor,
    backend: str = AUTO,
    *,
    precision: str = AUTO,
    max_prompts: int = MAX_PROMPTS,
    part: ModelPart = ModelPart.ALL,
    policy: BuildPolicy = BuildPolicy.IF_NEEDED,
    cache: EngineCache | None = None,
    frames: Sequence[np.ndarray] | None = None,
    report: Report | None = None,
) -> list[tuple[Stage, ReadyEngine]]:
    """Every stage of a predictor's model with the engine that `accelerate` would put in its place."""
    device = probe(str(predictor.device))
    workshop = Workshop(cache or EngineCache(), device, report)
    probes = ModelProbes(predictor.model, frames, predictor.automatic)
    made = []
    for stage, chosen, kind in stages_for(predictor.model, backend, precision, device, max_prompts, part):
        make_probes = partial(probes.of, stage.name)
        ready = workshop.obtain(stage, make_probes, backend=chosen, precision=kind, policy=policy)
        made.append((stage, ready))
    return made


def engine_stages(model: Sca, vision: Mapping[str, ReadyEngine], *, max_prompts: int) -> Stages:
    """Engines, by the names of their stages, in the place of a model's modules. What one was not built for goes to the module."""
    eager = eager_stages(model)
    encoder, decoder, mixer = (vision[name] for name in (IMAGE_ENCODER, MASK_DECODER, MIXER))
    captions, proposer = vision.get(CAPTION_ENCODER), vision.get(BOX_PROPOSER)

    def encode_image(pixels: Tensor) -> ImageFeatures:
        maps = in_chunks(encoder.engine, MAX_FRAMES, (pixels,), ())
        if captions is not None:
            (caption_map,) = in_chunks(captions.engine, MAX_FRAMES, (pixels,), ())
            return ImageFeatures(maps[0], torch.cat([maps[1], caption_map], dim=1))
        return ImageFeatures(maps[0], maps[1] if len(maps) > 1 else None)

    def decode_masks(embedding: Tensor, sparse: Tensor, dense: Tensor, multimask: bool) -> MaskDecoding:
        if len(embedding) != 1 or len(dense) != 1 or sparse.shape[1] > MAX_PROMPT_TOKENS:
            return eager.decode_masks(embedding, sparse, dense, multimask)

        def run(sparse: Tensor, *image: Tensor) -> tuple[Tensor, ...]:
            return decoder.engine(image[0], sparse, image[1])

        masks, iou, tokens, features = in_chunks(run, max_prompts, (sparse,), (embedding, dense))
        chosen = slice(1, None) if multimask else slice(0, 1)
        return MaskDecoding(masks[:, chosen], iou[:, chosen], tokens, features)

    def mix(image: ImageFeatures, tokens: Tensor, features: Tensor, boxes: Tensor | None) -> Tensor:
        if len(image.embedding) != 1 or tokens.shape[1] > mixer_tokens(model)[1]:
            return eager.mix(image, tokens, features, boxes)
        if not model.needs_boxes:
            return in_chunks(mixer.engine, max_prompts, (tokens, features), ())[0]
        if boxes is None:
            raise UserError("this model pools features inside each region: give the boxes of the regions")
        maps = [image.embedding] if image.region_map is None else [image.embedding, image.region_map]

        def run(tokens: Tensor, features: Tensor, boxes: Tensor, *maps: Tensor) -> tuple[Tensor, ...]:
            return mixer.engine(tokens, features, *maps, boxes)

        return in_chunks(run, max_prompts, (tokens, features, boxes.float()), maps)[0]

    def propose(image: ImageFeatures) -> ProposedBoxes:
        assert proposer is not None
        finer, _ = model.split_region_map(image.region_map)
        assert finer is not None
        parts = [proposer.engine(image.embedding[i : i + 1], finer[i : i + 1]) for i in range(len(finer))]
        return ProposedBoxes(*(torch.cat(rows) for rows in zip(*parts, strict=True)))

    origin = tuple(ready.summary() for ready in vision.values())
    return replace(
        eager,
        encode_image=encode_image,
        decode_masks=decode_masks,
        mix=mix,
        propose=eager.propose if proposer is None else propose,
        origin=origin,
    )


def with_language_engines(
    stages: Stages, model: Sca, language: Sequence[tuple[Stage, ReadyEngine]], *, slots: int
) -> Stages:
    """Greedy captions from the engines of prefill and step, in slots that all callers share.

    On a GPU the steps are those of the module in the engines' precision, captured as graphs. On a CPU where not both
    stages have a compiled engine, decoding stays as it is: slots gain nothing there.
    """
    (_, prefill_engine), (step, step_engine) = language
    origin = (*stages.origin, prefill_engine.summary(), step_engine.summary())
    on_gpu = next(model.parameters()).device.type == "cuda"
    if not on_gpu and "eager" in (prefill_engine.backend, step_engine.backend):
        return replace(stages, origin=origin)
    language_model, steps = model.language_model, None
    if on_gpu:
        typed = in_precision(step, step_engine.precision).module
        body = typed.body if isinstance(typed, TypedBody) else typed
        assert isinstance(body, StepStage)
        language_model = body.language_model
    else:
        steps = StagedSteps(prefill_engine.engine, step_engine.engine)

    def make() -> SlotDecoder:
        return SlotDecoder(language_model, prefix_length(model), slots=slots, steps=steps)

    return replace(stages, decode_text=SharedDecoding(make, stages.decode_text), origin=origin)


def in_chunks(
    run: Engine | Callable[..., tuple[Tensor, ...]],
    largest: int,
    batched: Sequence[Tensor],
    shared: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    """Calls `run(*batched, *shared)` with at most `largest` rows of the batched tensors at a time."""
    count = len(batched[0])
    if count <= largest:
        return run(*batched, *shared)
    parts = [
        run(*(value[start : start + largest] for value in batched), *shared)
        for start in range(0, count, largest)
    ]
    return tuple(torch.cat(pieces) for pieces in zip(*parts, strict=True))
