"""Our own formats keep what every format keeps, read by other programs' parsers."""

from __future__ import annotations

import csv
import html
import io
import json
import re

import pytest

from pipeline.export.interface import EXPORTERS, Exporter
from pipeline.testing.exporters import ExporterTests

CUE = re.compile(r"-->.*\n\[\d+\] (.*)\n")


def texts_of(name: str, data: bytes) -> list[str]:
    text = data.decode()
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
