"""Our own formats keep what every format keeps, read by other programs' parsers."""

from __future__ import annotations

import contextlib
import csv
import html
import io
import json
import re
import tempfile
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from pycocotools.coco import COCO

from pipeline.core.masks import decode_mask, encode_masks
from pipeline.export.interface import EXPORTERS, Exporter
from pipeline.query.rows import CaptionRow, RowMask
from pipeline.testing.exporters import ExporterTests, sample_rows

CUE = re.compile(r"-->.*\n\[\d+\] (.*)\n")


def texts_of(name: str, data: bytes) -> list[str]:
    if name == "parquet":
        return pyarrow.parquet.read_table(io.BytesIO(data))["text"].to_pylist()
    if name == "arrow":
        return pa.ipc.open_file(data).read_all()["text"].to_pylist()
    text = data.decode()
    if name == "coco":
        with contextlib.redirect_stdout(io.StringIO()), tempfile.NamedTemporaryFile("w") as file:
            file.write(text)
            file.flush()
            read = COCO(file.name)
        names = {category["id"]: category["name"] for category in read.loadCats(read.getCatIds())}
        return [names[one["category_id"]] for one in read.loadAnns(read.getAnnIds())]
    if name == "jsonl":
        return [json.loads(line)["text"] for line in text.splitlines()]
    if name == "csv":
        # The apostrophe that keeps a spreadsheet from computing a cell is not shown there.
        return [row["text"].removeprefix("'") for row in csv.DictReader(io.StringIO(text, newline=""))]
    if name == "vtt":
        return [html.unescape(cue) for cue in CUE.findall(text)]
    # SubRip has no escapes: what would be markup is written with look-alikes, which a person reads as the same.
    return [cue.translate(str.maketrans("\u2039\u203a", "<>")) for cue in CUE.findall(text)]


class TestFormats(ExporterTests):
    @pytest.fixture(autouse=True, params=list(EXPORTERS.own))
    def _choose(self, request: pytest.FixtureRequest) -> None:
        self.name = request.param

    def exporter(self) -> Exporter:
        return EXPORTERS.get(self.name)()

    def texts(self, data: bytes) -> list[str]:
        return texts_of(self.name, data)


def masked_rows() -> list[CaptionRow]:
    pixels = np.zeros((1, 300, 400), bool)
    pixels[0, 30:120, 200:333] = True
    (mask,), _ = encode_masks(pixels, (300, 400))
    rows = sample_rows(3)
    return [
        replace(row, mask=RowMask(mask, (300, 400)) if n else None, masks=True) for n, row in enumerate(rows)
    ]


def written(name: str, rows: list[CaptionRow]) -> bytes:
    out = io.BytesIO()
    EXPORTERS.get(name)().write(iter(rows), out)
    return out.getvalue()


@pytest.mark.parametrize("name", ["parquet", "arrow"])
def test_tables_hold_times_to_the_nanosecond_and_masks(name: str) -> None:
    rows = masked_rows()
    data = written(name, [replace(row, start_ns=row.start_ns + 7) for row in rows])
    table = (
        pyarrow.parquet.read_table(io.BytesIO(data))
        if name == "parquet"
        else pa.ipc.open_file(data).read_all()
    )
    assert table["t_start"].cast(pa.int64()).to_pylist() == [row.start_ns + 7 for row in rows]
    assert table["stream"].to_pylist() == ["yard"] * 3
    assert [
        m and (tuple(m["size"]), m["counts"], tuple(m["picture"])) for m in table["mask"].to_pylist()
    ] == [row.mask and (row.mask.mask.size, row.mask.mask.counts, row.mask.picture) for row in rows]
    assert table["x1"].to_pylist() == [row.box[2] for row in rows]


def test_coco_masks_are_drawn_over_the_whole_picture() -> None:
    rows = masked_rows()
    with contextlib.redirect_stdout(io.StringIO()), tempfile.NamedTemporaryFile() as file:
        file.write(written("coco", rows))
        file.flush()
        read = COCO(file.name)
    annotations = read.loadAnns(read.getAnnIds())
    assert "segmentation" not in annotations[0]
    assert annotations[0]["bbox"] == [1, 2, 29.5, 38.25]
    assert [one["track_id"] for one in annotations] == [row.track for row in rows]
    drawn = read.annToMask(annotations[1])
    assert rows[1].mask is not None
    cells = decode_mask(rows[1].mask.mask)
    assert drawn.shape == (300, 400)
    assert drawn.mean() == pytest.approx(cells.mean(), abs=0.01)
    assert drawn[75, 260]
    assert not drawn[75, 150]
    assert annotations[1]["area"] == drawn.sum()
    assert len(read.getImgIds()) == 3
