"""What would more pictures bring? Head nouns of regions, told from features that never saw a caption.

    python benchmarks/learning_curve.py DATA [--backbone tf_efficientnet_lite2] [--size 448] [--shares 0.125 0.25 0.5 1]

Pools the ImageNet features of a frozen backbone in every annotated single-box region of the training pictures, trains
a small classifier of the phrase's last word on growing shares of the pictures (each holds the smaller ones), and prints
how often it is right on the validation split, beside what a straight line per doubling foretells. No language model, no
fine-tuning: what grows here grows with the data alone.
"""

from __future__ import annotations

import argparse
import platform
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openvino
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sca.data.annotations import AnnotatedImage
from sca.data.image_cache import read_rgb
from sca.data.jsonl_folder import JsonlFolder
from sca.data.text import head_noun
from sca.data.views import plain_view
from sca.modeling.caption_map import CaptionBackbone
from sca.modeling.mixer import pool_boxes
from sca.modeling.region_reader import place_of
from sca.modeling.timm_encoder import load_backbone_weights

SOURCE = "flickr8k_entities"
GRID = 3
EPOCHS = 14
BATCH = 256
FEWEST = 3  # regions with a head noun that is learnt at all


@dataclass(frozen=True)
class Regions:
    """Pooled features (N, F) float16, the head nouns that people used for each region, and each region's picture."""

    features: Tensor
    heads: list[set[str]]
    pictures: Tensor

    def of_pictures(self, count: int) -> Regions:
        rows = (self.pictures < count).nonzero()[:, 0]
        return Regions(self.features[rows], [self.heads[row] for row in rows.tolist()], self.pictures[rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--backbone", default="tf_efficientnet_lite2")
    parser.add_argument("--size", type=int, default=448)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.125, 0.25, 0.5, 1.0])
    arguments = parser.parse_args()
    print(
        f"{platform.machine()}, {torch.get_num_threads()} threads, {arguments.backbone} at {arguments.size} px"
    )
    network = compiled(arguments.backbone, arguments.size)
    train = pooled(network, flickr(arguments.data, "train"), arguments.size)
    held_out = pooled(network, flickr(arguments.data, "val"), arguments.size)
    total = int(train.pictures.max()) + 1
    points = []
    for share in sorted(arguments.shares):
        part = train.of_pictures(round(share * total))
        right, confident = accuracy(part, held_out)
        points.append((np.log2(share * total), right))
        print(f"{round(share * total):6} pictures {len(part.heads):6} regions: head {right:.3f}, "
              f"more confident half {confident:.3f}")  # fmt: skip
    if len(points) > 1:
        slope, at_one = np.polyfit(*np.array(points).T, 1)
        print(
            f"{slope:+.3f} per doubling: {at_one + slope * np.log2(8 * total):.3f} with eight times the pictures"
        )


def flickr(data: Path, split: str) -> list[AnnotatedImage]:
    images = [image for image in JsonlFolder().images(data, split) if image.source == SOURCE]
    order = np.random.default_rng(0).permutation(len(images))
    return [images[index] for index in order]


def compiled(name: str, size: int) -> openvino.CompiledModel:
    backbone = CaptionBackbone(name, size)
    load_backbone_weights(name, backbone.backbone, backbone.head)
    example = torch.zeros(1, 3, size, size)
    converted = openvino.convert_model(backbone.eval(), example_input=example, input=list(example.shape))
    return openvino.Core().compile_model(converted, "CPU", {"PERFORMANCE_HINT": "LATENCY"})


def pooled(network: openvino.CompiledModel, images: list[AnnotatedImage], size: int) -> Regions:
    features, heads, pictures = [], [], []
    for number, image in enumerate(images):
        regions = [region for region in image.regions if region.boxes_of_phrase == 1 and region.phrases]
        if not regions:
            continue
        view = plain_view(image.width, image.height, image.aspect, size)
        pixels = view.warp(read_rgb(image.path), fill=127.5).astype(np.float32) / 127.5 - 1
        found = network(np.ascontiguousarray(pixels.transpose(2, 0, 1)[None]))
        boxes = view.boxes(np.array([region.box for region in regions], np.float64)).clip(0, size)
        corners = torch.from_numpy(boxes.astype(np.float32))
        columns = [10 * place_of(corners, size)]
        for index in range(3):
            map_ = torch.from_numpy(found[index])
            cells = pool_boxes(map_, corners[None], GRID, size)
            columns += [cells.mean(dim=1), cells[:, GRID * GRID // 2]]
            columns.append(map_.mean(dim=(2, 3)).expand(len(regions), -1))
        features.append(torch.cat(columns, dim=1).half())
        heads += [{head_noun(phrase) for phrase in region.phrases} for region in regions]
        pictures += [number] * len(regions)
    return Regions(torch.cat(features), heads, torch.tensor(pictures))


def accuracy(train: Regions, held_out: Regions) -> tuple[float, float]:
    """Share of held-out regions whose likeliest head noun is one that people used; the same of the confident half."""
    counts = Counter(noun for heads in train.heads for noun in heads)
    nouns = [noun for noun, count in counts.items() if count >= FEWEST]
    place = {noun: index for index, noun in enumerate(nouns)}
    targets = torch.zeros(len(train.heads), len(nouns))
    for row, heads in enumerate(train.heads):
        known = [place[noun] for noun in heads if noun in place]
        targets[row, known] = 1 / max(len(known), 1)
    rows = targets.any(dim=1).nonzero()[:, 0]
    mean = train.features.float().mean(dim=0)
    deviation = train.features.float().std(dim=0) + 1e-2
    torch.manual_seed(0)
    width = train.features.shape[1]
    network = nn.Sequential(
        nn.Dropout(0.5), nn.Linear(width, 1024), nn.GELU(), nn.Dropout(0.5), nn.Linear(1024, len(nouns))
    )
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=0.05)
    steps = EPOCHS * len(rows) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps)
    for _ in range(steps):
        chosen = rows[torch.randint(len(rows), (BATCH,))]
        normal = (train.features[chosen].float() - mean) / deviation
        loss = F.cross_entropy(network(normal), targets[chosen], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.eval()
    with torch.no_grad():
        chances = network((held_out.features.float() - mean) / deviation).softmax(dim=1)
    sure, likeliest = chances.max(dim=1)
    right = torch.tensor(
        [nouns[i] in heads for i, heads in zip(likeliest.tolist(), held_out.heads, strict=True)]
    )
    return float(right.float().mean()), float(right[sure >= sure.median()].float().mean())


if __name__ == "__main__":
    main()
