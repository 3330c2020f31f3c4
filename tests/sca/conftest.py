"""A tiny data folder and recipe, for everything that trains."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from sca.data.annotations import encode_mask

_COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220)}
TINY = {
    "imagenet_weights": False,
    "model": {
        "encoder": {"kind": "timm", "backbone": "tf_efficientnet_lite0", "out_channels": 32,
                    "region_stride": 8, "region_channels": 16},
        "mask_decoder": {"depth": 1, "mlp_dim": 32, "num_heads": 4, "iou_head_hidden_dim": 32},
        "mixer": {"depth": 1, "mlp_dim": 32, "num_heads": 4, "num_caption_tokens": 2, "region_grid": 2},
        "num_task_tokens": 1,
        "pixel_mean": [0.5, 0.5, 0.5],
        "pixel_std": [0.5, 0.5, 0.5],
    },
    "language": {"width": 32, "layers": 1, "heads": 2, "vocab_size": 300, "dropout": 0.0},
    "stages": [
        {"name": "heads", "steps": 40, "size": 64, "images": 2, "regions": 2, "learning_rate": 3e-3,
         "warmup_steps": 1, "mask_every": 3, "mask_regions": 2, "refined_masks": 2, "ema": 0.9},
        {"name": "whole", "steps": 2, "size": 96, "images": 2, "regions": 2, "backbone": "late",
         "warmup_steps": 1, "mask_every": 2, "mask_regions": 2, "refined_masks": 2},
    ],
}  # fmt: skip

WITH_READER = {
    **TINY["model"],  # type: ignore[dict-item]
    "encoder": {
        **TINY["model"]["encoder"],
        "caption_channels": 24,  # type: ignore[call-overload, index]
        "caption_backbone": "tf_efficientnet_lite0",
        "caption_size": 96,
    },
    "reader": {"grid": 2, "num_heads": 4, "mlp_dim": 32, "dropout": 0.0},
}


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four squashed pictures, each with a square and a disc of known colour."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    rows = []
    for index, split in enumerate(["train"] * 4 + ["val"]):
        picture = np.full((64, 64, 3), 128, np.uint8)
        regions = []
        for shape, left in (("square", 6), ("disc", 36)):
            name = list(_COLOURS)[int(rng.integers(3))]
            mask = np.zeros((64, 64), np.uint8)
            if shape == "square":
                mask[20:44, left : left + 22] = 1
            else:
                cv2.circle(mask, (left + 11, 32), 11, 1, -1)
            picture[mask > 0] = _COLOURS[name]
            columns, lines = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
            box = [columns[0], lines[0], columns[-1] + 1, lines[-1] + 1]
            regions.append(
                {"b": [float(v) for v in box], "p": [f"a {name} {shape}"], "t": ["other"], "n": 1,
                 "c": shape, "rle": encode_mask(mask)}
            )  # fmt: skip
        cv2.imwrite(str(folder / f"{index}.png"), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        rows.append(
            {"id": str(index), "file": f"{index}.png", "src": "flickr8k_entities", "split": split, "w": 64,
             "h": 64, "ow": 80, "oh": 64, "captions": ["A square and a disc ."], "scene": [], "regions": regions}
        )  # fmt: skip
    with gzip.open(folder / "annotations.jsonl.gz", "wt") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)
    with gzip.open(folder / "pseudo_coco80.jsonl.gz", "wt") as stream:
        stream.write(json.dumps({"id": "0", "d": [["car", 0.9, [1.0, 1.0, 9.0, 9.0]]]}) + "\n")
    return folder
