"""The language models that can be trained keep what every family keeps, and so does the reader of the data folder."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from sca.data.annotations import encode_mask
from sca.data.jsonl_folder import JsonlFolder
from sca.errors import UserError
from sca.modeling.language_model import LanguageFamily, language_family
from sca.testing.data_readers import AnnotationReaderTests
from sca.testing.language_models import LanguageFamilyTests


class TestFamilies(LanguageFamilyTests):
    @pytest.fixture(autouse=True, params=["gpt2", "llama", "qwen2"])
    def _choose(self, request: pytest.FixtureRequest) -> None:
        self.name = request.param

    def family(self) -> LanguageFamily:
        return language_family(self.name)


def test_an_unknown_family_is_told() -> None:
    with pytest.raises(UserError, match="unknown language model type 'gpt-two'"):
        language_family("gpt-two")


class TestJsonlFolder(AnnotationReaderTests):
    def reader(self) -> JsonlFolder:
        return JsonlFolder()

    def folder(self, path: Path) -> None:
        mask = np.zeros((40, 60), np.uint8)
        mask[10:20, 10:30] = 1
        region = {"b": [10, 10, 30, 20], "p": ["a red square"], "n": 1, "rle": encode_mask(mask)}
        rows = []
        for index, split in enumerate(["train", "val", "train"]):
            cv2.imwrite(str(path / f"{index}.png"), np.full((40, 60, 3), 40 * index, np.uint8))
            source = "elsewhere" if index == 2 else "flickr8k_entities"
            rows.append(
                {"id": str(index), "file": f"{index}.png", "src": source, "split": split, "w": 60, "h": 40,
                 "regions": [region]}
            )  # fmt: skip
        with gzip.open(path / "annotations.jsonl.gz", "wt") as stream:
            stream.writelines(json.dumps(row) + "\n" for row in rows)
        with gzip.open(path / "pseudo_coco80.jsonl.gz", "wt") as stream:
            stream.write(json.dumps({"id": "0", "d": [["car", 0.9, [1.0, 1.0, 9.0, 9.0]]]}) + "\n")

    def test_only_one_collection_was_described_by_people(self, tmp_path: Path) -> None:
        self.folder(tmp_path)
        assert [image.described for image in self.reader().images(tmp_path)] == [True, True, False]
