"""Training the language model and the region reader, on features computed once: ten times as many phrases an hour."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sca.data.batches import Batch, BatchMaker, click, jitter_box
from sca.data.image_cache import ImageCache
from sca.data.targets import RegionTarget, TrainingImage
from sca.data.views import degrade, plain_view
from sca.modeling.caption_map import CaptionSources
from sca.modeling.mixer import pool_boxes
from sca.modeling.region_reader import place_of
from sca.modeling.sca import Sca
from sca.modeling.timm_encoder import Pyramid, TimmEncoder
from sca.training.config import StageConfig
from sca.training.optimizer import LANGUAGE, READER
from sca.training.steps import fuse_prompts, normalise
from sca.training.workers import Team

# The image encoder's maps of one picture after another, when nothing of it learns any more: compiled, three times as fast.


class EncoderMaps(NamedTuple):
    """The neck's two maps, without the caption map, and what the caption map is made of."""

    pyramid: Pyramid
    sources: CaptionSources


class FrozenMaps:
    """Calls take normalised pixels (1, 3, S, S). Uses as many threads as torch does."""

    def __init__(self, model: Sca) -> None:
        import openvino

        encoder = model.image_encoder
        assert isinstance(encoder, TimmEncoder)
        size = model.config.image_size
        modes = [(part, part.training) for part in encoder.modules()]
        try:
            # Not checked by tracing it a second time: nothing in it depends on the pixels.
            traced = torch.jit.trace(_Maps(encoder).eval(), torch.zeros(1, 3, size, size), check_trace=False)
            converted = openvino.convert_model(traced, input=[1, 3, size, size])
        finally:
            for part, training in modes:
                part.training = training
        options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        self._network = openvino.Core().compile_model(converted, "CPU", options)

    def __call__(self, pixels: Tensor) -> EncoderMaps:
        found = self._network(pixels.contiguous().numpy())
        embedding, fine, x16, x32, head = (torch.from_numpy(found[i]) for i in range(5))
        return EncoderMaps(Pyramid(embedding, fine), CaptionSources(x16, x32, head))


class _Maps(nn.Module):
    def __init__(self, encoder: TimmEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        maps = self.encoder.backbone_maps(pixels)
        pyramid: Pyramid = self.encoder.neck(*maps)
        return (*pyramid, *self.encoder.caption_sources(pixels, maps))


log = logging.getLogger(__name__)

# What a few ten thousand phrases would otherwise be learnt by heart from.
_NOISE = 0.1  # on caption tokens of unit scale: no two views of a region give quite the same ones
_TOKEN_DROPOUT = 0.3
_DROPOUT = 0.5  # of the backbone's features
_SMALLEST = 3.0  # input pixels


@dataclass(frozen=True)
class RegionFeatures:
    """What is known of R regions before the trained part begins.

    tokens (R, Nc, C): the mixer's caption tokens. For a model with a region reader, else empty: cells (R, r * r, Cs)
    and scene (R, Cs) pooled from the sources of the caption map, place (R, 6).
    """

    tokens: Tensor
    cells: Tensor
    scene: Tensor
    place: Tensor

    def of(self, rows: Tensor) -> RegionFeatures:
        """Some of the regions, in float32."""
        return RegionFeatures(*(part[rows].float() for part in self._parts()))

    def space_for(self, regions: int) -> RegionFeatures:
        """Uninitialised features of `regions` regions, of the same kind."""
        return RegionFeatures(*(part.new_empty(regions, *part.shape[1:]) for part in self._parts()))

    def put(self, start: int, features: RegionFeatures) -> None:
        """Write features of regions `start`, `start` + 1, ..."""
        for mine, given in zip(self._parts(), features._parts(), strict=True):
            mine[start : start + len(given)] = given

    def first(self, count: int) -> RegionFeatures:
        return RegionFeatures(*(part[:count] for part in self._parts()))

    def _parts(self) -> list[Tensor]:
        return [getattr(self, part.name) for part in fields(self)]


@dataclass(frozen=True)
class TokenBatch:
    """Features of N regions, one phrase for each, and all that people called it."""

    features: RegionFeatures
    phrases: list[str]
    references: list[tuple[str, ...]]


@dataclass(frozen=True)
class TokenTable:
    """Features (float16) of R regions in some views; `targets` (R, 2): image and target of each."""

    features: RegionFeatures
    targets: np.ndarray

    def batch(
        self, data: Sequence[TrainingImage], seed: int, step: int, size: int, sentences: float
    ) -> TokenBatch:
        """The regions of a step, drawn by their weight: a pure function of seed and step.

        sentences: factor on the weight of whole-picture captions.
        """
        rng = np.random.default_rng((seed, step))
        rows: list[int] = []
        phrases: list[str] = []
        references: list[tuple[str, ...]] = []
        while len(rows) < size:
            row = int(rng.integers(len(self.targets)))
            target = self.target(data, row)
            if rng.random() < target.weight * (sentences if target.sentence else 1.0):
                rows.append(row)
                phrases.append(str(rng.choice(np.array(target.phrases, dtype=object))))
                references.append(target.phrases)
        return TokenBatch(self.features.of(torch.tensor(rows)), phrases, references)

    def target(self, data: Sequence[TrainingImage], row: int) -> RegionTarget:
        """What the annotators said of a row."""
        image, index = self.targets[row]
        return data[image].targets[index]


def token_table(
    model: Sca,
    data: Sequence[TrainingImage],
    pictures: ImageCache,
    stage: StageConfig,
    seed: int,
    folder: Path,
    team: Team,
) -> TokenTable:
    """The region features of this process's share of `data`, from `folder` if they are there already.

    Each image is seen as inference shows it, then in `stage.views` - 1 augmented views.
    """
    path = folder / f"region_features_{team.rank}_of_{team.size}.pt"
    key = f"{_digest(model)} {stage.size} {stage.views} {seed} {len(data)} {sum(len(entry.targets) for entry in data)}"
    if path.exists():
        saved = torch.load(path, map_location="cpu", weights_only=True)
        if saved["key"] == key:
            return TokenTable(RegionFeatures(**saved["features"]), saved["targets"].numpy())
    share = range(team.rank, len(data), team.size)
    maps = FrozenMaps(model)
    space: RegionFeatures | None = None
    targets: list[tuple[int, int]] = []
    for view in range(stage.views):
        for count, index in enumerate(share):
            features, seen = region_features(model, maps, data[index], pictures, stage, (seed, view, index))
            if features is not None:
                if space is None:
                    # At once: many small results kept among large ones that are freed would fragment the memory.
                    space = features.space_for(stage.views * sum(len(data[i].targets) for i in share))
                space.put(len(targets), features)
                targets += [(index, target) for target in seen]
            if count % 500 == 0 and team.rank == 0:
                log.info("region features, view %d: %d of %d images", view, count, len(share))
    assert space is not None
    table = TokenTable(space.first(len(targets)), np.array(targets))
    partial = path.with_suffix(".partial")
    torch.save(
        {"key": key, "features": asdict(table.features), "targets": torch.from_numpy(table.targets)}, partial
    )
    os.replace(partial, path)
    return table


@torch.no_grad()
def region_features(
    model: Sca,
    maps: FrozenMaps,
    entry: TrainingImage,
    pictures: ImageCache,
    stage: StageConfig,
    seed: tuple[int, int, int],
) -> tuple[RegionFeatures | None, list[int]]:
    """Features of the targets of one image that its view shows, and their indices.

    seed: of the run, number of the view (0: as inference shows it), index of the image.
    """
    rng = np.random.default_rng(seed)
    image, picture, size = entry.image, pictures[entry.image.id], stage.size
    plain = seed[1] == 0
    if plain:
        view = plain_view(image.width, image.height, image.aspect, size)
        moved = view.boxes(np.array([target.box for target in entry.targets], dtype=np.float64)).clip(0, size)
        seen = [i for i, box in enumerate(moved) if (box[2:] - box[:2]).min() >= _SMALLEST]
        boxes = [moved[i] for i in seen]
    else:
        maker = BatchMaker([entry], pictures, seed=0, size=size, images=1, regions=1, zoom=stage.zoom)
        view, shown = maker.view(rng, entry)
        picture = degrade(rng, picture)
        order = {id(target): i for i, target in enumerate(entry.targets)}
        seen = [order[id(target)] for target, _ in shown]
        boxes = [jitter_box(rng, box, maker.box_jitter, size) for _, box in shown]
    if not seen:
        return None, []
    pixels = torch.from_numpy(view.warp(picture, fill=127.5)[None].astype(np.uint8))
    prompts = torch.from_numpy(np.stack(boxes).astype(np.float32))
    points = None
    if not plain and rng.random() < stage.caption_clicks:
        points = torch.from_numpy(np.stack([click(rng, box, None, size) for box in boxes]).astype(np.float32))
    return _features(model, maps, pixels, prompts, points), seen


def _features(
    model: Sca, maps: FrozenMaps, pixels: Tensor, boxes: Tensor, points: Tensor | None
) -> RegionFeatures:
    """Features of boxes (R, 4) on pixels (1, S, S, 3), prompted by the boxes or by points (R, 2)."""
    encoder = model.image_encoder
    assert isinstance(encoder, TimmEncoder)
    pyramid, sources = maps(normalise(pixels, model))
    clicks = None if points is None else (points.unsqueeze(1), torch.ones(len(points), 1, dtype=torch.int64))
    with half_precision(boxes.device):
        sparse, dense = model.prompt_encoder(clicks, boxes if clicks is None else None)
        tokens, fused = model.mask_decoder.fuse(pyramid.embedding, model.image_pe(), sparse, dense)
        regions = None
        if model.region_pooler is not None:
            regions = model.region_pooler(pyramid.embedding, pyramid.fine, boxes.unsqueeze(0))
        mixed = model.mixer(tokens, fused, model.image_pe(), regions).half()
    if encoder.caption_map is None or model.region_reader is None:
        nothing = mixed.new_zeros(len(mixed), 0)
        return RegionFeatures(mixed, nothing, nothing, nothing)
    stacked = encoder.caption_map.stacked(sources, pyramid.fine.shape[-1])
    size = model.config.image_size
    cells = pool_boxes(stacked, boxes.unsqueeze(0), model.region_reader.grid, size).half()
    scene = stacked.mean(dim=(2, 3)).half().expand(len(boxes), -1)
    return RegionFeatures(mixed, cells, scene, place_of(boxes, size).half())


def half_precision(device: torch.device) -> torch.autocast:
    """Matrix products in bfloat16 where that is faster: on a GPU always."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type != "cpu" or _native_bfloat16())


@lru_cache
def _native_bfloat16() -> bool:
    """Whether the processor multiplies in bfloat16 itself, which is then the faster way to train; else the far slower."""
    found = torch.cpu.get_capabilities()
    return any(bool(found.get(name)) for name in ("avx512_bf16", "amx_bf16"))


@torch.no_grad()
def features_of_batch(model: Sca, batch: Batch, clicks: bool) -> TokenBatch:
    """The features of a batch's regions, computed anew, where that costs less than keeping them: on a GPU."""
    encoder = model.image_encoder
    assert isinstance(encoder, TimmEncoder)
    pixels = normalise(batch.pixels, model)
    boxes = batch.prompt_boxes.unflatten(0, (len(pixels), -1))
    with half_precision(pixels.device):
        maps = encoder.backbone_maps(pixels)
        pyramid = Pyramid(*(part.float() for part in encoder.neck(*maps)))
        tokens, fused = fuse_prompts(model, pyramid.embedding, model.image_pe(), batch, clicks)
        regions = None
        if model.region_pooler is not None:
            regions = model.region_pooler(pyramid.embedding, pyramid.fine, boxes)
        mixed = model.mixer(tokens, fused, model.image_pe(), regions).float()
        sources = CaptionSources(*(part.float() for part in encoder.caption_sources(pixels, maps)))
    if encoder.caption_map is None or model.region_reader is None:
        nothing = mixed.new_zeros(len(mixed), 0)
        return TokenBatch(RegionFeatures(mixed, nothing, nothing, nothing), batch.phrases, batch.references)
    stacked = encoder.caption_map.stacked(sources, pyramid.fine.shape[-1])
    size = model.config.image_size
    cells = pool_boxes(stacked, boxes, model.region_reader.grid, size)
    scene = stacked.mean(dim=(2, 3)).repeat_interleave(boxes.shape[1], dim=0)
    place = place_of(batch.prompt_boxes, size)
    return TokenBatch(RegionFeatures(mixed, cells, scene, place), batch.phrases, batch.references)


@torch.no_grad()
def measure_caption_map(
    model: Sca, data: Sequence[TrainingImage], pictures: ImageCache, images: int = 64
) -> None:
    """Give a fresh caption map the mean and deviation of its sources over some training images."""
    encoder = model.image_encoder
    assert isinstance(encoder, TimmEncoder)
    assert encoder.caption_map is not None
    found = []
    for entry in data[:: max(1, len(data) // images)]:
        image = entry.image
        view = plain_view(image.width, image.height, image.aspect, model.config.image_size)
        pixels = torch.from_numpy(view.warp(pictures[image.id], fill=127.5)[None].astype(np.uint8))
        normal = normalise(pixels.to(encoder.caption_map.mean.device), model)
        sources = encoder.caption_sources(normal, encoder.backbone_maps(normal))
        found.append(encoder.caption_map.stacked(sources, view.size // 32))
    encoder.caption_map.measure(torch.cat(found))


def _digest(model: Sca) -> str:
    """Of all the weights that region features depend on."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if not name.startswith((*LANGUAGE, *READER)):
            digest.update(name.encode() + value.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
