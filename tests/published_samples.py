"""Three pictures with regions, written as each published collection lays its files out."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

SIZE = (48, 64)
REGIONS = (
    (11, 1, (4, 3, 30, 20), "a red bicycle"),
    (12, 1, (10, 12, 40, 30), "the man's hat"),
    (21, 2, (0, 0, 20, 20), "two dogs on grass"),
    (31, 3, (30, 20, 34, 28), "a white T-shirt"),
)
"""Region, image, box as x, y, width, height, and what was written."""


def write_pictures(folder: Path, name: Callable[[int], str]) -> None:
    for number in (1, 2, 3):
        path = folder / name(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        cv2.imwrite(str(path), pixels)


def _dump(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def visual_genome(folder: Path) -> Path:
    write_pictures(folder, lambda n: f"VG_100K{'_2' if n == 2 else ''}/{n}.jpg")
    _dump(
        folder / "image_data.json",
        [
            {
                "image_id": n,
                "url": f"https://cs.example/rak248/VG_100K{'_2' if n == 2 else ''}/{n}.jpg",
                "width": 64,
                "height": 48,
                "coco_id": None,
                "flickr_id": None,
            }
            for n in (1, 2, 3, 4)
        ],
    )
    described = [
        {
            "id": n,
            "regions": [
                {
                    "region_id": r,
                    "width": b[2],
                    "height": b[3],
                    "image_id": n,
                    "phrase": text,
                    "y": b[1],
                    "x": b[0],
                }
                for r, i, b, text in REGIONS
                if i == n
            ],
        }
        for n in (1, 2, 3, 4)
    ]
    _dump(folder / "region_descriptions.json", described)
    _dump(folder / "densecap_splits.json", {"train": [4], "val": [], "test": [1, 2, 3]})
    return folder


def _coco(names: Callable[[int], str], **of_region: Any) -> dict[str, Any]:
    return {
        "images": [{"id": n, "file_name": names(n), "width": 64, "height": 48} for n in (1, 2, 3)],
        "annotations": [
            {
                "id": r,
                "image_id": i,
                "bbox": list(map(float, b)),
                "area": b[2] * b[3],
                "iscrowd": 0,
                "category_id": 17,
                "segmentation": [
                    [b[0], b[1], b[0] + b[2], b[1], b[0] + b[2], b[1] + b[3], b[0], b[1] + b[3]]
                ],
            }
            | {key: value(text) for key, value in of_region.items()}
            for r, i, b, text in REGIONS
        ],
        "categories": [{"id": 17, "name": "cat", "supercategory": "animal"}],
    }


def grit(folder: Path) -> Path:
    write_pictures(folder, lambda n: f"images/{n}.jpg")
    _dump(folder / "annotations" / "test.json", _coco(lambda n: f"{n}.jpg", caption=lambda text: text))
    return folder


def coco(folder: Path) -> Path:
    write_pictures(folder, lambda n: f"val2017/{n:012}.jpg")
    _dump(folder / "annotations" / "instances_val2017.json", _coco(lambda n: f"{n:012}.jpg"))
    return folder


def refcoco(folder: Path) -> Path:
    write_pictures(folder, lambda n: f"train2014/COCO_train2014_{n:012}.jpg")
    _dump(folder / "instances.json", _coco(lambda n: f"COCO_train2014_{n:012}.jpg"))
    refs = [
        {
            "ref_id": 100 + r,
            "ann_id": r,
            "image_id": i,
            "file_name": f"COCO_train2014_{i:012}_{r}.jpg",
            "category_id": 17,
            "split": "val",
            "sent_ids": [r],
            "sentences": [
                {"tokens": text.split(), "raw": text, "sent_id": r, "sent": text},
                {"tokens": ["that"], "raw": "that", "sent_id": r + 1, "sent": "that"},
            ],
        }
        for r, i, _, text in REGIONS
    ]
    refs.append({**refs[0], "ref_id": 999, "split": "train"})
    (folder / "refs(google).p").write_bytes(pickle.dumps(refs, protocol=0))
    return folder


def flickr30k(folder: Path) -> Path:
    write_pictures(folder, lambda n: f"flickr30k-images/{n}.jpg")
    (folder / "test.txt").write_text("1\n2\n3\n")
    for number in (1, 2, 3):
        own = [(r, b, text) for r, i, b, text in REGIONS if i == number]
        sentences = " and ".join(f"[/EN#{r}/other {text}]" for r, _, text in own)
        place = folder / "Sentences" / f"{number}.txt"
        place.parent.mkdir(exist_ok=True)
        place.write_text(
            f"{sentences} .\n[/EN#{own[0][0]}/other Something] stands in [/EN#0/notvisual the] sun .\n"
        )
        objects = "".join(
            f"<object><name>{r}</name><bndbox><xmin>{b[0] + 1}</xmin><ymin>{b[1] + 1}</ymin><xmax>{b[0] + b[2]}</xmax><ymax>{b[1] + b[3]}</ymax></bndbox></object>"
            for r, b, _ in own
        )
        path = folder / "Annotations" / f"{number}.xml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            f"<annotation><filename>{number}.jpg</filename>{objects}<object><name>0</name><scene>1</scene><nobndbox>0</nobndbox></object></annotation>"
        )
    return folder


def jsonl(folder: Path) -> Path:
    write_pictures(folder, lambda n: f"{n}.png")
    rows = [
        {
            "image": f"{n}.png",
            "id": n,
            "regions": [
                {"id": r, "box": [b[0], b[1], b[0] + b[2], b[1] + b[3]], "phrases": [text]}
                for r, i, b, text in REGIONS
                if i == n
            ],
        }
        for n in (1, 2, 3)
    ]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


SAMPLES = {
    "vg": visual_genome,
    "grit": grit,
    "coco": coco,
    "refcoco": refcoco,
    "flickr30k": flickr30k,
    "jsonl": jsonl,
}
