"""What every reader of training data keeps: see `sca.data.annotations.AnnotationReader`."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest

from sca.data.annotations import AnnotatedImage, AnnotationReader, decode_mask
from sca.errors import UserError


class AnnotationReaderTests:
    """Subclass it; say `reader` and write a small `folder`."""

    def reader(self) -> AnnotationReader:
        """The reader."""
        raise NotImplementedError

    def folder(self, path: Path) -> None:
        """Write a small data folder to the empty `path`: both splits, at least one described image each."""
        raise NotImplementedError

    @pytest.fixture
    def images(self, tmp_path: Path) -> list[AnnotatedImage]:
        self.folder(tmp_path)
        return list(self.reader().images(tmp_path))

    def test_splits_part_the_images_and_keep_their_order(
        self, images: list[AnnotatedImage], tmp_path: Path
    ) -> None:
        reader = self.reader()
        parts = {split: list(reader.images(tmp_path, split)) for split in ("train", "val")}
        assert all(image.split == split for split, part in parts.items() for image in part)
        assert all(any(image.described for image in part) for part in parts.values())
        assert [i.id for i in images if i.split == "train"] == [i.id for i in parts["train"]]
        assert [i.id for i in images] == [i.id for i in reader.images(tmp_path)], "the same order each time"
        assert len({i.id for i in images}) == len(images)

    def test_pictures_have_the_size_that_was_told(self, images: list[AnnotatedImage]) -> None:
        for image in images:
            pixels = cv2.imread(str(image.path))
            assert pixels is not None, image.path
            assert pixels.shape[:2] == (image.height, image.width)
            assert image.aspect > 0

    def test_regions_lie_in_their_picture_and_are_named(self, images: list[AnnotatedImage]) -> None:
        assert any(image.regions for image in images)
        for image in images:
            for region in image.regions:
                x0, y0, x1, y1 = region.box
                assert 0 <= x0 < x1 <= image.width
                assert 0 <= y0 < y1 <= image.height
                assert region.boxes_of_phrase >= 1
                assert any(phrase.strip() for phrase in region.phrases)
                if region.counts is not None:
                    mask = decode_mask(region.counts, image.height, image.width)
                    assert mask.any()

    def test_detections_belong_to_images(self, images: list[AnnotatedImage], tmp_path: Path) -> None:
        known = {image.id for image in images}
        for name, found in self.reader().detections(tmp_path).items():
            assert name in known
            assert all(0 <= detection.score <= 1 for detection in found)

    def test_another_folder_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r".{20}"):
            list(self.reader().images(tmp_path / "nothing here"))
