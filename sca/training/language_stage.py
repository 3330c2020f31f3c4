"""Training the language model alone, on caption tokens computed once: ten times as many phrases an hour."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from sca.data.batches import BatchMaker, click, jitter_box
from sca.data.image_cache import ImageCache
from sca.data.targets import RegionTarget, TrainingImage
from sca.data.tokenizer import token_batch
from sca.data.views import degrade, plain_view
from sca.modeling.sca import IGNORED_LABEL, Sca
from sca.training.config import LossConfig, StageConfig
from sca.training.optimizer import LANGUAGE
from sca.training.step import StepLosses, encode, normalise
from sca.training.workers import Team

log = logging.getLogger(__name__)

_NOISE = 0.1  # on caption tokens of unit scale: no two views of a region give quite the same ones
_SMALLEST = 3.0  # input pixels


@dataclass(frozen=True)
class TokenBatch:
    """Caption tokens (N, Nc, C) of N regions and one phrase for each."""

    tokens: Tensor
    phrases: list[str]


@dataclass(frozen=True)
class TokenTable:
    """Caption tokens (R, Nc, C) float16 of regions in some views; `targets` (R, 2): image and target of each."""

    tokens: Tensor
    targets: np.ndarray

    def batch(self, data: Sequence[TrainingImage], seed: int, step: int, size: int) -> TokenBatch:
        """The regions of a step, drawn by their weight: a pure function of seed and step."""
        rng = np.random.default_rng((seed, step))
        rows: list[int] = []
        phrases: list[str] = []
        while len(rows) < size:
            row = int(rng.integers(len(self.targets)))
            target = self.target(data, row)
            if rng.random() < target.weight:
                rows.append(row)
                phrases.append(str(rng.choice(np.array(target.phrases, dtype=object))))
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        tokens = self.tokens[torch.tensor(rows)].float()
        return TokenBatch(tokens + _NOISE * torch.randn(tokens.shape, generator=generator), phrases)

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
    """The caption tokens of this process's share of `data`, from `folder` if they are there already.

    Each image is seen as inference shows it, then in `stage.views` - 1 augmented views.
    """
    path = folder / f"caption_tokens_{team.rank}_of_{team.size}.pt"
    key = f"{_digest(model)} {stage.size} {stage.views} {seed} {len(data)}"
    if path.exists():
        saved = torch.load(path, map_location="cpu", weights_only=True)
        if saved["key"] == key:
            return TokenTable(saved["tokens"], saved["targets"].numpy())
    parts: list[Tensor] = []
    targets: list[tuple[int, int]] = []
    share = range(team.rank, len(data), team.size)
    for view in range(stage.views):
        for count, index in enumerate(share):
            tokens, seen = _region_tokens(model, data[index], pictures, stage, (seed, view, index))
            parts.append(tokens)
            targets += [(index, target) for target in seen]
            if count % 500 == 0 and team.rank == 0:
                log.info("caption tokens, view %d: %d of %d images", view, count, len(share))
    table = TokenTable(torch.cat(parts), np.array(targets))
    partial = path.with_suffix(".partial")
    torch.save({"key": key, "tokens": table.tokens, "targets": torch.from_numpy(table.targets)}, partial)
    os.replace(partial, path)
    return table


@torch.no_grad()
def _region_tokens(
    model: Sca, entry: TrainingImage, pictures: ImageCache, stage: StageConfig, seed: tuple[int, int, int]
) -> tuple[Tensor, list[int]]:
    """Caption tokens (R, Nc, C) of the targets of one image that its view shows, and their indices."""
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
        width = model.config.mixer.num_caption_tokens, model.config.width
        return torch.zeros(0, *width, dtype=torch.float16), []
    pixels = torch.from_numpy(view.warp(picture, fill=127.5)[None].astype(np.uint8))
    features = encode(model, normalise(pixels, model), frozen_backbone=True)
    prompts = torch.from_numpy(np.stack(boxes).astype(np.float32))
    clicked = not plain and rng.random() < stage.caption_clicks
    points = torch.from_numpy(np.stack([click(rng, box, None, size) for box in boxes]).astype(np.float32))
    labels = torch.ones(len(seen), 1, dtype=torch.int64)
    sparse, dense = model.prompt_encoder(
        (points.unsqueeze(1), labels) if clicked else None, None if clicked else prompts
    )
    tokens, fused = model.mask_decoder.fuse(features.embedding, model.image_pe(), sparse, dense)
    return model.mix(features, tokens, fused, prompts).half(), seen


def language_losses(
    model: Sca, tokenizer: Tokenizer, batch: TokenBatch, *, weights: LossConfig, max_tokens: int
) -> StepLosses:
    """Teacher-forced loss of phrases, given their regions' caption tokens."""
    ids, mask = token_batch(tokenizer, batch.phrases, max_tokens)
    prefix = model.language_prefix(batch.tokens)
    caption = model.caption_loss(prefix, ids, mask, label_smoothing=weights.label_smoothing)
    with torch.no_grad():
        real = caption.labels[:, 1:] != IGNORED_LABEL
        right = caption.logits[:, :-1].argmax(-1) == caption.labels[:, 1:]
    return StepLosses(caption.loss, caption=caption.loss.item(), accuracy=right[real].float().mean().item())


def _digest(model: Sca) -> str:
    """Of all the weights that caption tokens depend on."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if not name.startswith(LANGUAGE):
            digest.update(name.encode() + value.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
