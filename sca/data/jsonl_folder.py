"""A data folder with one JSON object an image: `annotations.jsonl.gz` and, beside it, weak detections."""

from __future__ import annotations

from pathlib import Path

from sca.data.annotations import AnnotatedImage, Box, Detection, RegionAnnotation
from sca.small_files import json_lines

# Of the collections in such a folder the one in which people described region by region.
_DESCRIBED = "flickr8k_entities"
# By which the folder marks regions that a weak detector found.
_DETECTOR = "nanodet"


class JsonlFolder:
    """The folder that the shipped model was trained on."""

    def images(self, data_dir: Path, split: str | None = None) -> list[AnnotatedImage]:
        """Every image of `split` ("train", "val"; None: all) in `data_dir`/annotations.jsonl.gz, in file order.

        UserError if the file is missing.
        """
        images = []
        for row in json_lines(Path(data_dir) / "annotations.jsonl.gz"):
            if split is not None and row["split"] != split:
                continue
            width, height = row["w"], row["h"]
            # Of some squashed pictures nobody knows the size any more, and their shape is guessed.
            wide, high = row.get("aspect_guess") or (width, height)
            regions = tuple(
                RegionAnnotation(
                    box=_box(r["b"]),
                    phrases=tuple(r["p"]),
                    boxes_of_phrase=r["n"],
                    chain=str(r.get("c", "")),
                    types=tuple(r.get("t") or ()),
                    category=r.get("cls"),
                    counts=r.get("rle"),
                    score=float(r.get("s", 1.0)) if r.get("src") == _DETECTOR else 1.0,
                    loose=bool(r.get("loose")),
                )
                for r in row["regions"]
            )
            images.append(
                AnnotatedImage(
                    id=row["id"],
                    path=Path(data_dir) / row["file"],
                    source=row["src"],
                    split=row["split"],
                    width=width,
                    height=height,
                    aspect=(row.get("ow") or wide) / (row.get("oh") or high),
                    captions=tuple(row.get("captions") or ()),
                    scene_phrases=tuple(row.get("scene") or ()),
                    regions=regions,
                    described=row["src"] == _DESCRIBED,
                )
            )
        return images

    def detections(self, data_dir: Path) -> dict[str, tuple[Detection, ...]]:
        """Weak detections by image id, from `data_dir`/pseudo_coco80.jsonl.gz."""
        return {
            row["id"]: tuple(Detection(name, score, _box(box)) for name, score, box in row["d"])
            for row in json_lines(Path(data_dir) / "pseudo_coco80.jsonl.gz")
        }


def _box(values: list[float]) -> Box:
    x0, y0, x1, y1 = (float(v) for v in values)
    return x0, y0, x1, y1
