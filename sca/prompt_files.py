"""Prompts from files: boxes, points and masks of one picture or of several, as other tools write them."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np

from sca.errors import MalformedFile, UserError
from sca.model_pictures import Size
from sca.picture_size import MOST_PIXELS, can_be_decoded
from sca.prompts import Prompts
from sca.run_lengths import MaskMalformed, decoded_mask
from sca.small_files import parsed_json

if TYPE_CHECKING:
    from sca.model_pictures import Size

Kind = Literal["boxes", "points", "masks"]
_LARGEST = 1 << 28  # bytes; a COCO file of a whole validation set has 20 MB
_MOST_CELLS = 1 << 29  # of all masks of a picture together: one byte each
_WIDTH = {"boxes": 4, "points": 2}
_SAYS = {
    "boxes": "x0, y0, x1, y1",
    "points": "x, y, or several such pairs for one region",
    "masks": "COCO run lengths or polygons",
}


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that prompts are for. `size`: (height, width)."""

    path: Path
    size: Size


class PromptFile:
    """The prompts of a file (of masks: also of a folder), by picture. UserError, naming the file, where it is none.

    Boxes and points, as JSON, JSON lines, CSV or text: a list for the only picture, an object by file name, objects
    with `image` and `box` or `point` (what `sca caption --format jsonl` writes), or COCO's layout. Masks: a picture or
    .npy of numbered regions (0 is none), a folder with one such picture for each of several, or JSON as above with
    `mask` or COCO's `segmentation`.
    """

    def __init__(self, kind: Kind, path: Path) -> None:
        self.kind, self.path = kind, path
        self._named: dict[str, list[Any]] | None = None
        self._alike: list[Any] | None = None
        if path.is_dir() and kind == "masks":
            return
        if not path.is_file():
            raise UserError(f"{path} does not exist: name a file of {kind}")
        if kind == "masks" and not _is_text(path):
            return
        if path.stat().st_size > _LARGEST:
            raise MalformedFile(
                f"{path} is larger than {_LARGEST >> 20} MiB: give the prompts of fewer pictures"
            )
        self._read(_decoded(path.read_bytes()))

    def of(self, picture: Picture, *, only: bool) -> Prompts | None:
        """The prompts of a picture, None if the file has none for it. `only`: it is the only picture.

        UserError where an entry is no prompt, and where a file of one picture's prompts is given for several.
        """
        if self._named is not None:
            entries = self._named.get(picture.path.name) or self._named.get(str(picture.path)) or []
        elif not only and not self.path.is_dir():
            raise UserError(
                f"{self.path} does not say which picture its {self.kind} are for: give one picture, or name them in it"
            )
        else:
            entries = list(self._numbered(picture)) if self._alike is None else self._alike
        return self._prompts(entries, picture) if len(entries) else None

    def strangers(self, pictures: Sequence[Path]) -> str | None:
        """The pictures that the file names, in words, if none of these is among them; None if one is, or it names none."""
        names = self._named or {}
        if not names or any(path.name in names or str(path) in names for path in pictures):
            return None
        return ", ".join([*list(names)[:3], *(["..."] if len(names) > 3 else [])])

    def _read(self, text: str) -> None:
        value = _parsed(text, self.path)
        if isinstance(value, Mapping) and value.keys() == {self.kind}:
            value = value[self.kind]
        if not isinstance(value, (Mapping, list)):
            raise self._bad(f"it is {json.dumps(value)[:40]}, no list")
        if isinstance(value, Mapping) and {"images", "annotations"} <= value.keys():
            self._named = self._from_coco(value)
        elif isinstance(value, Mapping) and ("image" in value or self._key in value):
            self._from_rows([value])
        elif isinstance(value, Mapping):
            wrong = next((name for name, rows in value.items() if not isinstance(rows, list)), None)
            if wrong is not None:
                raise self._bad(f"{wrong!r} is no list")
            self._named = {str(name): rows for name, rows in value.items()}
        elif value and all(isinstance(row, Mapping) and self._key in row for row in value):
            self._from_rows(value)
        else:
            self._from_lists(value)

    @property
    def _key(self) -> str:
        return {"boxes": "box", "points": "point", "masks": "mask"}[self.kind]

    def _from_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        entries = [(row.get("image"), row.get(self._key)) for row in rows]
        missing = next((number for number, (_, entry) in enumerate(entries, 1) if entry is None), None)
        if missing is not None:
            raise self._bad(f"entry {missing} has no {self._key}")
        self._divide((None if name is None else str(name), entry) for name, entry in entries)

    def _from_lists(self, rows: Sequence[Any]) -> None:
        """Lists of numbers, each perhaps behind the name of its picture."""
        named = [
            (row[0], list(row[1:]))
            if isinstance(row, list) and row and isinstance(row[0], str)
            else (None, row)
            for row in rows
        ]
        self._divide(named)

    def _divide(self, entries: Iterable[tuple[str | None, Any]]) -> None:
        by_name: dict[str, list[Any]] = defaultdict(list)
        alike = []
        for name, entry in entries:
            if name is None:
                alike.append(entry)
            else:
                by_name[PurePath(name).name].append(entry)
        if by_name and alike:
            raise self._bad("some entries name their picture and some do not")
        self._named, self._alike = (None, alike) if alike else (dict(by_name), None)

    def _from_coco(self, value: Mapping[str, Any]) -> dict[str, list[Any]]:
        try:
            names = {image["id"]: PurePath(str(image["file_name"])).name for image in value["images"]}
            found: dict[str, list[Any]] = defaultdict(list)
            for row in value["annotations"]:
                if self.kind == "masks":
                    entry: Any = row["segmentation"]
                elif self.kind == "boxes":
                    x, y, width, height = (float(number) for number in row["bbox"])
                    entry = [x, y, x + width, y + height]
                else:
                    raise self._bad("COCO's layout has no points; give --boxes or --masks")
                found[names[row["image_id"]]].append(entry)
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            if isinstance(error, UserError):
                raise
            raise self._bad(f"it is not whole in COCO's layout ({type(error).__name__}: {error})") from error
        return dict(found)

    def _prompts(self, entries: Sequence[Any], picture: Picture) -> Prompts:
        if self.kind == "masks":
            if len(entries) * picture.size[0] * picture.size[1] > _MOST_CELLS:
                raise self._bad(
                    f"{len(entries)} masks of {picture.size[1]} x {picture.size[0]} pixels are more than {_MOST_CELLS >> 20} "
                    "million pixels at once"
                )
            masks = np.stack([self._mask(entry, picture.size) for entry in entries])
            empty = np.flatnonzero(~masks.any(axis=(1, 2)))
            if len(empty):
                raise self._bad(f"mask {empty[0] + 1} is empty")
            return Prompts(masks=masks)
        width = _WIDTH[self.kind]
        height, across = picture.size
        groups: list[np.ndarray] = []
        for number, entry in enumerate(entries, 1):
            try:
                values = np.asarray(entry, dtype=np.float64)
            except (TypeError, ValueError, OverflowError):
                values = np.zeros(0)
            good = values.size and values.size % width == 0 and bool(np.isfinite(values).all())
            if not good or (self.kind == "boxes" and values.size != width):
                raise self._bad(f"entry {number} is {repr(entry)[:60]}")
            corners = values.reshape(-1, 2)
            reach = (
                corners.max(axis=0),
                corners.min(axis=0),
            )  # of a box one corner may lie outside, of points none
            low, high = reach if self.kind == "boxes" else reach[::-1]
            if (low < 0).any() or (high >= (across, height)).any():
                raise self._bad(
                    f"entry {number}, {repr(entry)[:60]}, lies outside {picture.path.name}, which is {across} x {height}"
                )
            # What reaches beyond an edge ends there, as in the evaluation.
            groups.append(np.clip(corners, 0, (across, height)).reshape(-1, width))
        if self.kind == "boxes":
            boxes = np.concatenate(groups)
            empty = np.flatnonzero((boxes[:, 2:] <= boxes[:, :2]).any(axis=1))
            if len(empty):
                raise self._bad(
                    f"box {empty[0] + 1} is empty: its second corner is not right below its first"
                )
            return Prompts(boxes=boxes)
        most = max(len(group) for group in groups)
        points, labels = np.zeros((len(groups), most, 2)), np.full((len(groups), most), -1, np.int64)
        for index, group in enumerate(groups):
            points[index, : len(group)], labels[index, : len(group)] = group, 1
        return Prompts(points=points, labels=labels)

    def _numbered(self, picture: Picture) -> np.ndarray:
        """Masks bool (P, H, W) of the numbered regions in a picture or array."""
        path = self.path
        if path.is_dir():
            candidates = [path / f"{picture.path.stem}{ending}" for ending in (".png", ".npy", ".tif")]
            path = next((candidate for candidate in candidates if candidate.is_file()), candidates[0])
            if not path.is_file():
                return np.zeros((0, *picture.size), bool)
        labels = _label_map(path)
        if labels.ndim == 3 and labels.shape[1:] == picture.size:
            return labels != 0
        if labels.shape != picture.size:
            raise MalformedFile(
                f"{path} has the shape {labels.shape}, {picture.path.name} is {picture.size[1]} x {picture.size[0]}: "
                "give masks of the picture's size"
            )
        numbers = [value for value in np.unique(labels) if value]
        if len(numbers) * labels.size > _MOST_CELLS:
            raise self._bad(
                f"it has {len(numbers)} numbers, as a photograph has colours; give one number a region"
            )
        return np.stack([labels == value for value in numbers]) if numbers else labels[:0]

    def _mask(self, entry: Any, size: Size) -> np.ndarray:
        if isinstance(entry, np.ndarray):
            return entry
        try:
            return decoded_mask(entry, size)
        except MaskMalformed as error:
            raise self._bad(f"a mask cannot be read ({error})") from error

    def _bad(self, reason: str) -> MalformedFile:
        return MalformedFile(
            f"{self.path}: {reason}; {self.kind} are {_SAYS[self.kind]}, in pixels of the picture"
        )


def _decoded(data: bytes) -> str:
    """The text of a file in UTF-8, or in UTF-16 with its mark in front, as spreadsheets write it."""
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    return data.decode("utf-16" if wide else "utf-8-sig", errors="replace")


def _is_text(path: Path) -> bool:
    """Whether a file of masks is JSON rather than a picture or an array."""
    with path.open("rb") as file:
        return file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"[", b"{")


def _parsed(text: str, path: Path) -> Any:
    """What a JSON, JSON lines, CSV or text file says: an object, or a list of objects or of lists."""
    start = text.lstrip("\ufeff \t\r\n")[:1]
    try:
        if start in ("[", "{"):
            try:
                return parsed_json(text.lstrip("\ufeff"))
            except ValueError:
                if path.suffix.lower() == ".json":
                    raise
                return [parsed_json(line) for line in text.splitlines() if line.strip()]
    except (ValueError, RecursionError) as error:
        raise MalformedFile(f"{path} is not readable JSON ({error}): write it again") from error
    rows = []
    try:
        found = list(csv.reader(text.replace(";", ",").replace("\t", ",").splitlines()))
    except csv.Error as error:
        raise MalformedFile(f"{path} is no CSV ({error}): write it again") from error
    for row in found:
        cells = [cell.strip() for cell in row if cell.strip()]
        if len(cells) == 1:
            cells = cells[0].split()
        if cells and not cells[0].startswith("#"):
            rows.append([_number(cell) for cell in cells])
    # A line that names columns has no number in it.
    return rows[1:] if rows and all(isinstance(cell, str) for cell in rows[0]) else rows


def _number(cell: str) -> float | str:
    try:
        return float(cell)
    except ValueError:
        return cell


def _sensible(numbers: np.ndarray) -> np.ndarray:
    if numbers.size > MOST_PIXELS:
        raise ValueError(f"more than {MOST_PIXELS // 10**6} million numbers")
    if numbers.dtype.kind not in "biuf" or not np.isfinite(numbers).all():
        raise ValueError(f"it holds {numbers.dtype} and not numbers of regions")
    return np.array(numbers)


def _label_map(path: Path) -> np.ndarray:
    try:
        if path.suffix.lower() == ".npy":
            # Mapped, so that a head that tells of terabytes costs nothing.
            return _sensible(np.load(path, mmap_mode="r", allow_pickle=False))
        pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if can_be_decoded(path) else None
    except (OSError, ValueError, EOFError, cv2.error) as error:
        raise MalformedFile(
            f"{path} cannot be read as an array ({error}): save it with numpy.save"
        ) from error
    if pixels is None:
        raise MalformedFile(f"{path} cannot be read as a picture of numbered regions: use PNG")
    # Colours are numbers too: each is a region of its own.
    if pixels.ndim == 3:
        wide = pixels[..., :3].astype(np.int64)
        pixels = wide[..., 0] + (wide[..., 1] << 8) + (wide[..., 2] << 16)
    return np.asarray(pixels)
