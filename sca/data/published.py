"""Published region data as its authors give it out: pictures, boxes and what people wrote about them."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

from sca.data.plain_pickle import read_plain_pickle
from sca.errors import MalformedFile, UserError
from sca.setting_errors import did_you_mean
from sca.small_files import parsed_json, read_small

Box = tuple[float, float, float, float]
_LARGEST = 1 << 31
_PICTURE_FOLDERS = (
    "",
    "images",
    "VG_100K",
    "VG_100K_2",
    "train2014",
    "val2014",
    "val2017",
    "train2017",
    "flickr30k-images",
)


@dataclass(frozen=True, slots=True)
class ReferenceRegion:
    """A region that people described. `box`: xyxy in pixels of the picture; `phrases`: all that was written of it, the
    first one first; `mask`: COCO run lengths or polygons, None if there is none.
    """

    id: int | str
    box: Box
    phrases: tuple[str, ...]
    mask: Any = None


@dataclass(frozen=True, slots=True)
class ReferenceImage:
    """A picture with its regions, in the file's order."""

    id: int | str
    path: Path
    regions: tuple[ReferenceRegion, ...]


def read_published(kind: str, folder: Path, split: str | None = None) -> list[ReferenceImage]:
    """The images of a split of one kind of data folder (see `KINDS`); without a split, that of the kind's protocol.

    UserError names an unknown kind, the file that is missing or malformed, and a split that is not there.
    """
    if kind not in KINDS:
        raise UserError(
            f"unknown kind of data {kind!r}{did_you_mean(kind, list(KINDS))}; use one of {', '.join(KINDS)}"
        )
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: name the one that holds the data")
    read, default, needs = KINDS[kind]
    try:
        images = list(read(folder, split or default))
    except (KeyError, TypeError, AttributeError, ValueError, IndexError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise MalformedFile(
            f"{folder} is not in {kind}'s layout ({type(error).__name__}: {str(error)[:100]}): it needs {needs}"
        ) from error
    if not images:
        raise UserError(
            f"{folder} has no images in the split {split or default!r}: choose another with --split"
        )
    regions = [(image, region) for image in images for region in image.regions]
    if not regions:
        raise UserError(f"no image of the split {split or default!r} in {folder} has a region to caption")
    for image, region in regions:
        if not all(math.isfinite(value) for value in region.box):
            raise MalformedFile(
                f"{folder}: region {region.id} of {image.path.name} has the box {region.box}: give four finite numbers"
            )
    return images


def _visual_genome(folder: Path, split: str) -> Iterator[ReferenceImage]:
    """image_data.json, region_descriptions.json and, of the densecap project, densecap_splits.json."""
    splits = _json(folder / "densecap_splits.json")
    if split not in splits:
        raise UserError(f"densecap_splits.json has no split {split!r}: use one of {', '.join(splits)}")
    wanted = set(splits[split])
    places = {row["image_id"]: row for row in _json(folder / "image_data.json") if row["image_id"] in wanted}
    for row in _json(folder / "region_descriptions.json"):
        image = row.get("id", row.get("image_id"))
        if image not in places:
            continue
        parts = PurePosixPath(str(places[image].get("url") or f"{image}.jpg")).parts[-2:]
        regions = tuple(
            ReferenceRegion(region["region_id"], _xywh(region["x"], region["y"], region["width"], region["height"]), (region["phrase"],))
            for region in row["regions"]
        )  # fmt: skip
        yield ReferenceImage(image, _picture(folder, "/".join(parts)), regions)


def _grit(folder: Path, split: str) -> Iterator[ReferenceImage]:
    """GRiT's own Visual Genome files, {split}.json in COCO's layout with a caption a box."""
    path = next(
        (p for p in (folder / f"{split}.json", folder / "annotations" / f"{split}.json") if p.is_file()), None
    )
    values = _json(path or folder / f"{split}.json")
    yield from _coco_like(folder, values, lambda row: (str(row.get("caption") or row["object_description"]),))


def _coco(folder: Path, split: str) -> Iterator[ReferenceImage]:
    """COCO's instances_{split}.json; what is said of a region is the name of its class."""
    name = f"instances_{split}.json"
    path = folder / "annotations" / name
    values = _json(path if path.is_file() else folder / name)
    names = {row["id"]: row["name"] for row in values["categories"]}
    yield from _coco_like(folder, values, lambda row: (names[row["category_id"]],))


def _refcoco(folder: Path, split: str) -> Iterator[ReferenceImage]:
    """refs(unc|google|umd).p and instances.json of RefCOCO, RefCOCO+ or RefCOCOg."""
    files = sorted(folder.glob("refs(*).p"))
    if len(files) != 1:
        found = ", ".join(path.name for path in files) or "none"
        raise UserError(f"{folder} must hold one refs(...).p, it holds {found}: keep the one of the protocol")
    values = _json(folder / "instances.json")
    boxes = {row["id"]: row for row in values["annotations"]}
    names = {row["id"]: row["file_name"] for row in values["images"]}
    by_image: dict[Any, list[ReferenceRegion]] = defaultdict(list)
    for ref in read_plain_pickle(files[0]):
        if ref["split"] != split:
            continue
        row = boxes[ref["ann_id"]]
        phrases = tuple(str(sentence["sent"]) for sentence in ref["sentences"])
        by_image[ref["image_id"]].append(
            ReferenceRegion(ref["ref_id"], _xywh(*row["bbox"]), phrases, row.get("segmentation"))
        )
    for image, regions in by_image.items():
        yield ReferenceImage(image, _picture(folder, names[image]), tuple(regions))


_MARKED = re.compile(r"\[/EN#(\d+)((?:/[\w-]+)+) ([^\]]*)\]")


def _flickr30k(folder: Path, split: str) -> Iterator[ReferenceImage]:
    """Flickr30k Entities: Annotations/*.xml, Sentences/*.txt and the list {split}.txt."""
    listing = folder / f"{split}.txt"
    if not listing.is_file():
        raise UserError(f"{listing} does not exist: it lists the images of the split")
    for image in _text(listing).split():
        phrases: dict[str, list[str]] = defaultdict(list)
        for chain, _, words in _MARKED.findall(_text(folder / "Sentences" / f"{image}.txt")):
            if words not in phrases[chain]:
                phrases[chain].append(words)
        if not phrases:
            raise MalformedFile(f"Sentences/{image}.txt marks no phrase, as all of them do: fetch it again")
        regions: list[ReferenceRegion] = []
        text = _text(folder / "Annotations" / f"{image}.xml")
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise MalformedFile(
                f"Annotations/{image}.xml declares entities, which Flickr30k's files do not: fetch it again"
            )
        try:
            tree = ElementTree.fromstring(text)
        except ElementTree.ParseError as error:
            raise MalformedFile(
                f"Annotations/{image}.xml is not readable XML ({error}): fetch it again"
            ) from error
        for entry in tree.iter("object"):
            frame = entry.find("bndbox")
            if frame is None:
                continue
            corners = [float(frame.findtext(name) or "nan") for name in ("xmin", "ymin", "xmax", "ymax")]
            for chain in (element.text or "" for element in entry.findall("name")):
                if phrases.get(chain):
                    # Their corners are pixels, counted from 1, both inside.
                    x0, y0, x1, y1 = corners
                    box = (x0 - 1, y0 - 1, x1, y1)
                    regions.append(ReferenceRegion(f"{chain}-{len(regions)}", box, tuple(phrases[chain])))
        yield ReferenceImage(image, _picture(folder, f"{image}.jpg"), tuple(regions))


def _jsonl(folder: Path, split: str) -> Iterator[ReferenceImage]:
    """{split}.jsonl: {"image": ..., "regions": [{"box": [x0, y0, x1, y1], "phrases": [...], "id": ..., "mask": ...}]}."""
    for number, line in enumerate(_text(folder / f"{split}.jsonl").splitlines(), 1):
        if not line.strip():
            continue
        row = parsed_json(line)
        regions = []
        for index, region in enumerate(row["regions"]):
            x0, y0, x1, y1 = (float(value) for value in region["box"])
            if not isinstance(region["phrases"], list) or not region["phrases"]:
                raise ValueError(f"line {number}: region {index} has no list of phrases")
            said = tuple(str(phrase) for phrase in region["phrases"])
            regions.append(
                ReferenceRegion(region.get("id", index), (x0, y0, x1, y1), said, region.get("mask"))
            )
        yield ReferenceImage(row.get("id", number), _picture(folder, str(row["image"])), tuple(regions))


Reader = Callable[[Path, str], Iterator[ReferenceImage]]
KINDS: Mapping[str, tuple[Reader, str, str]] = {
    "vg": (_visual_genome, "test", "image_data.json, region_descriptions.json and densecap_splits.json"),
    "grit": (_grit, "test", "GRiT's test.json and the pictures"),
    "refcoco": (_refcoco, "val", "refs(...).p, instances.json and COCO's train2014 pictures"),
    "coco": (_coco, "val2017", "instances_val2017.json and the pictures"),
    "flickr30k": (_flickr30k, "test", "Annotations, Sentences, test.txt and flickr30k-images"),
    "jsonl": (_jsonl, "test", "test.jsonl and the pictures"),
}
"""Name to reader, the split that is read if none is named, and what the folder holds."""


def _coco_like(
    folder: Path, values: Mapping[str, Any], say: Callable[[Mapping[str, Any]], tuple[str, ...]]
) -> Iterator[ReferenceImage]:
    by_image: dict[Any, list[ReferenceRegion]] = defaultdict(list)
    for row in values["annotations"]:
        region = ReferenceRegion(row["id"], _xywh(*row["bbox"]), say(row), row.get("segmentation"))
        by_image[row["image_id"]].append(region)
    for image in values["images"]:
        # As in the reference, pictures without annotations are left out.
        if regions := by_image.get(image["id"]):
            yield ReferenceImage(image["id"], _picture(folder, image["file_name"]), tuple(regions))


def _xywh(x: float, y: float, width: float, height: float) -> Box:
    """The reference keeps whole numbers, cut and not rounded."""
    x, y, width, height = (int(value) for value in (x, y, width, height))
    return float(x), float(y), float(x + width), float(y + height)


def _picture(folder: Path, name: str) -> Path:
    """Where a picture lies: as the file says, or in one of the folders that its kind uses. It need not exist yet."""
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts:
        raise MalformedFile(f"{folder} names a picture outside itself, {name!r}: do not use it")
    candidates = [folder / name, *(folder / place / parts.name for place in _PICTURE_FOLDERS)]
    return next((path for path in candidates if path.is_file()), candidates[0])


def _text(path: Path) -> str:
    try:
        return read_small(path, _LARGEST).decode()
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: give the folder that holds it") from error
    except (OSError, ValueError) as error:
        raise MalformedFile(f"{path} cannot be read ({error}): fetch it again") from error


def _json(path: Path) -> Any:
    text = _text(path)
    try:
        return parsed_json(text)
    except (ValueError, RecursionError) as error:
        raise MalformedFile(f"{path} is not readable JSON ({error}): fetch it again") from error
