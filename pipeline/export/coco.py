"""COCO's JSON of objects (https://cocodataset.org/#format-data): a picture for each moment at which captions begin."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from typing import Any, BinaryIO

from pipeline.core.clock import iso_text
from pipeline.core.shown_text import json_text
from pipeline.export.full_masks import full_mask
from pipeline.query.rows import CaptionRow


class CocoObjects:
    """Captions as annotations of COCO, with `caption`, `track_id` and `score`; each text is a category.

    With masks `segmentation` has compressed run lengths over the whole picture, and pictures have their size. Pictures are
    numbered by stream and time, since none of them is kept.
    """

    one_stream = False
    holds_masks = True

    def write(self, rows: Iterable[CaptionRow], out: BinaryIO) -> None:
        categories: dict[str, int] = {}
        images: dict[str, int] = {}
        moment, count = None, 0
        # Pictures are told behind the annotations, and there may be as many.
        with tempfile.TemporaryFile() as listed:
            out.write(b'{"info": {"description": "captions"}, "annotations": [')
            for number, row in enumerate(rows, 1):
                if row.start_ns != moment:
                    moment, images = row.start_ns, {}
                if row.stream not in images:
                    count += 1
                    images[row.stream] = count
                    listed.write((", " if count > 1 else "").encode() + _text(_image(row, count)))
                category = categories.setdefault(row.text, len(categories) + 1)
                annotation = _annotation(row, number, images[row.stream], category)
                out.write((",\n" if number > 1 else "\n").encode() + _text(annotation))
            out.write(b'],\n"images": [')
            listed.seek(0)
            while part := listed.read(1 << 20):
                out.write(part)
        named = [{"id": number, "name": text} for text, number in categories.items()]
        out.write(b'],\n"categories": ' + _text(named) + b"}\n")


def _text(document: Any) -> bytes:
    return json_text(document).encode()


def _image(row: CaptionRow, number: int) -> dict[str, object]:
    image: dict[str, object] = {
        "id": number,
        "file_name": f"{row.stream}/{row.start_ns}",
        "date_captured": iso_text(row.start_ns),
    }
    if row.mask is not None:
        image |= {"height": row.mask.picture[0], "width": row.mask.picture[1]}
    return image


def _annotation(row: CaptionRow, number: int, image: int, category: int) -> dict[str, object]:
    x0, y0, x1, y1 = row.box
    area = (x1 - x0) * (y1 - y0)
    annotation: dict[str, object] = {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": [round(edge, 2) for edge in (x0, y0, x1 - x0, y1 - y0)],
        "iscrowd": 0,
        "score": round(row.score, 4),
        "track_id": row.track,
        "caption": row.text,
    }
    if row.mask is not None:
        segmentation, area = full_mask(row.mask)
        annotation["segmentation"] = segmentation
    return {**annotation, "area": round(area, 2)}
